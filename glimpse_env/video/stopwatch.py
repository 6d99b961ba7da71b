"""Time spent on each activity of a long piece of work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Seconds spent, by activity."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the time that the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({activity: time.perf_counter() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds measured elsewhere."""
        for activity, value in seconds.items():
            self.seconds[activity] = self.seconds.get(activity, 0.0) + value
