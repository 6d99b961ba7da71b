"""Meters around the methods of other objects: seconds, or multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Meter:
    """What a running total grows by inside functions that are metered from outside, without what it grows by in metered
    functions that they call.

    Args:
        read: returns the total.

    Attributes:
        spent: by part.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.spent: dict[str, float] = {}
        self._read, self._inner = read, [0.0]

    @contextmanager
    def on(self, part: str, owner: Any, name: str, *, seen: list[Any] | None = None) -> Iterator[None]:
        """Meter `owner.name` inside the block; its arguments and result are put into `seen`."""
        original, is_own = getattr(owner, name), name in vars(owner)

        def metered(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begun = self._read()
            result = original(*args, **kwargs)
            taken = self._read() - begun
            self.spent[part] = self.spent.get(part, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken
            if seen is not None:
                seen[:] = [args, kwargs, result]
            return result

        setattr(owner, name, metered)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)


class Clocks(Meter):
    """Seconds spent inside functions, by part."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(lambda: now(device))

    @property
    def seconds(self) -> dict[str, float]:
        """What was spent."""
        return self.spent
