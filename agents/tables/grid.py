"""Flags of the commands that train a grid of runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SeededOutput:
    """Flags of a command that trains each run for several seeds and tabulates them."""

    out: Path
    """Folder of the runs and of the tables; finished runs in it are kept."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; every run is trained once for each, and --seed has no effect."""
    only_table: bool = False
    """Train nothing, and write the tables of the finished runs in --out."""

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"--{field.name} must be different, got {' '.join(map(str, values))}")
        if not self.seeds:
            raise ValueError("--seeds names no seed: give at least one")
