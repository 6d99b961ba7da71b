"""Signals that ask a training run to stop, as a cluster's preemption does, obeyed between two updates."""

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
        update: the last update that is saved.
    """

    def __init__(self, signum: int, update: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after update {update}")
        self.signum = signum


class Interruption:
    """Notes SIGTERM and SIGINT while it is entered, instead of letting them end the process.

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

    def __exit__(self, *_: object) -> None:
        for name, handler in self._handlers.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
