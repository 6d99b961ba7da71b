"""Meters around the methods of other objects: seconds, or MACs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Meter:
    """Growth of a running total inside metered functions, without the growth in metered functions that they call."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.spent: dict[str, float] = {}  # by part
        self._read, self._inner = read, [0.0]

    @contextmanager
    def on(self, functions: Iterable[tuple[str, Any, str]]) -> Iterator[None]:
        """Meter functions inside the block, each given as a part, its owner, and the owner's attribute."""
        with ExitStack() as stack:
            for part, owner, name in functions:
                stack.enter_context(self._one(part, owner, name))
            yield

    @contextmanager
    def _one(self, part: str, owner: Any, name: str) -> Iterator[None]:
        original, is_own = getattr(owner, name), name in vars(owner)

        def metered(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            before = self._read()
            result = original(*args, **kwargs)
            taken = self._read() - before
            self.spent[part] = self.spent.get(part, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken
            return result

        setattr(owner, name, metered)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)


def clocks(device: torch.device) -> Meter:
    """Return a meter of seconds."""
    return Meter(lambda: now(device))
