"""Signals that ask a run to stop, as a cluster's preemption does, obeyed between two updates or two tests."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """Training was asked to stop by a signal, and has saved what it had.

    Args:
        signum: number of the signal.
        done: the last that was finished and saved.
    """

    def __init__(self, signum: int, done: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after {done}")
        self.signum = signum


class Interruption:
    """Notes SIGTERM and SIGINT while it is entered, instead of letting them end the process.

    What came too late to be heeded goes on to whoever handles signals after the block.

    Attributes:
        signum: the last of them, 0 while there was none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # others may not handle signals
            self._handlers = {name: signal.signal(name, self._note) for name in SIGNALS}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for name, handler in self._handlers.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)
        if self.signum and error is None:
            signal.raise_signal(self.signum)

    def _note(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
