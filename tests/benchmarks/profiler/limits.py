"""Limits of the machine: the best speed of a matrix product and of a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from glimpse_agents.cost.clocks import now

from profiler.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Measured limits of the machine."""

    flops_per_second: float
    """Speed of a large float32 matrix product."""
    bytes_per_second: float
    """Speed of a large copy, counting reads and writes."""

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
            start = now(device)
            function()
            times.append(now(device) - start)
        return min(times)

    return Limits(
        flops_per_second=2 * size**3 / best(lambda: torch.mm(factor, factor, out=product)),
        bytes_per_second=8 * copied / best(lambda: copy.copy_(numbers)),
    )
