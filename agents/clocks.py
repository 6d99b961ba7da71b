"""Clocks around functions of others, and what the machine can do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agents.costs import Cost


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the machine can do, measured."""

    flops_per_second: float
    """Of a large float32 matrix product."""
    bytes_per_second: float
    """Of a large copy, read and written."""

    def seconds(self, cost: Cost) -> float:
        """Return the least time that a cost can take."""
        return max(cost.flops / self.flops_per_second, cost.bytes / self.bytes_per_second)

    def best(self, other: Limits) -> Limits:
        """Return the higher of each of two measurements."""
        return Limits(
            flops_per_second=max(self.flops_per_second, other.flops_per_second),
            bytes_per_second=max(self.bytes_per_second, other.bytes_per_second),
        )

    def bound(self, cost: Cost) -> Literal["compute", "memory"]:
        """Return which of the two limits a cost meets first."""
        is_compute = cost.flops / self.flops_per_second > cost.bytes / self.bytes_per_second
        return "compute" if is_compute else "memory"


def measure_limits(device: torch.device, *, size: int | None = None, copied: int | None = None) -> Limits:
    """Measure the best of five matrix products and of five copies.

    Args:
        size: of the square float32 matrices; 2048, or 8192 on a GPU.
        copied: float32 numbers to copy; 2**26, or 2**28 on a GPU.
    """
    is_gpu = device.type == "cuda"
    size, copied = size or (8192 if is_gpu else 2048), copied or (2**28 if is_gpu else 2**26)
    factor, product = torch.rand(size, size, device=device), torch.empty(size, size, device=device)
    numbers, copy = torch.rand(copied, device=device), torch.empty(copied, device=device)

    def best(function: Callable[[], object]) -> float:
        function()
        times = []
        for _ in range(5):
            begun = now(device)
            function()
            times.append(now(device) - begun)
        return min(times)

    return Limits(
        flops_per_second=2 * size**3 / best(lambda: torch.mm(factor, factor, out=product)),
        bytes_per_second=8 * copied / best(lambda: copy.copy_(numbers)),
    )


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
