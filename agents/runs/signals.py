"""Signals that ask a run to stop, such as Ctrl-C or a cluster's preemption."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A signal asked training to stop; its state is saved, and `remedy` says how to resume."""

    def __init__(self, signum: int, done: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after {done}")
        self.signum, self.remedy = signum, "run the same command again to resume"


class Interruption:
    """Records the first SIGTERM or SIGINT inside its block as `signum`, 0 if there was none.

    A second one acts at once, as without this class. A signal that did not end the block is raised again after it.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # only this thread may handle signals
            self._handlers = {name: signal.signal(name, self._record) for name in SIGNALS}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if self.signum and error is None:
            signal.raise_signal(self.signum)

    def _restore(self) -> None:
        while self._handlers:
            name, handler = self._handlers.popitem()
            signal.signal(name, signal.SIG_DFL if handler is None else handler)

    def _record(self, signum: int, _: FrameType | None) -> None:
        if self.signum:
            self._restore()
            signal.raise_signal(signum)
            return
        self.signum = signum
        os.write(2, b"\nsaving after the current step; a second signal stops at once\n")
