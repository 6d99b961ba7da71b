"""Cost against size: seconds of training iterations while one size changes at a time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from glimpse_agents.learning.config import Config
from glimpse_agents.playing.envs import check_device

from glimpse_env import ClipSource
from profiler.costs import rollout_costs, update_costs
from profiler.iteration import iterate, make_trainer, random_features, sizes_of

SWEPT_FRAMES, SWEPT_GRIDS, SWEPT_GLIMPSES = (8, 30, 60, 120, 240), (7, 14), (1, 5, 15, 30, 49)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Training at one size of a sweep."""

    varied: Literal["T", "K*K", "m"]
    size: int
    seconds_per_clip: float
    flops_per_clip: float
    """Counted by profiler/costs.py."""
    rollout_share: float


def sweep(config: Config, grid_size: int, depth: int, frames: int, *, iterations: int = 2) -> list[Point]:
    """Time training iterations on random features while T, K and m change, one at a time."""
    check_device(config.training.device)
    base = {"T": frames, "K*K": grid_size**2, "m": config.task.glimpses}
    if base["m"] > base["K*K"]:
        raise ValueError(f"{base['m']} glimpses do not fit {grid_size} x {grid_size} cells: set --glimpses")
    points = []
    for varied, swept in (("T", SWEPT_FRAMES), ("K*K", [size**2 for size in SWEPT_GRIDS]), ("m", SWEPT_GLIMPSES)):
        for size in swept:
            sizes = base | {varied: size}
            if sizes["m"] <= sizes["K*K"]:
                side = round(sizes["K*K"] ** 0.5)
                features = random_features(side, depth, sizes["T"], config.training.clips)
                chosen = config.with_settings({"glimpses": sizes["m"]})
                points.append(_point(cast(Any, varied), size, chosen, features, iterations))
    return points


def _point(varied: Literal["T", "K*K", "m"], size: int, config: Config, source: ClipSource, iterations: int) -> Point:
    trainer = make_trainer(config, source)
    sizes, clips = sizes_of(trainer), config.training.clips
    iterated = [iterate(trainer).seconds for _ in range(iterations + 1)][1:]
    played, updated = (statistics.median(one[name] for one in iterated) for name in ("rollout", "update"))
    costs = (rollout_costs(sizes) | update_costs(sizes)).values()
    return Point(
        varied=varied,
        size=size,
        seconds_per_clip=(played + updated) / clips,
        flops_per_clip=sum(cost.flops for cost in costs) / clips,
        rollout_share=played / (played + updated),
    )


def straight_line(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of the line values = a + b * sizes with the least squared error."""
    b, a = np.polyfit(sizes, values, 1)
    return float(a), float(b)


def sweep_table(points: list[Point]) -> str:
    """Return a sweep as a table, with straight lines through the times and the FLOPs of each size."""
    lines = [f"{'':4}{'size':>6}{'clips/s':>9}{'ms/clip':>9}{'GFLOP/clip':>12}{'GFLOP/s':>9}{'rollout':>9}"]
    for varied in dict.fromkeys(point.varied for point in points):
        chosen = [point for point in points if point.varied == varied]
        times = [1e3 * point.seconds_per_clip for point in chosen]
        needs = [point.flops_per_clip / 1e9 for point in chosen]
        for point, time_taken, need in zip(chosen, times, needs, strict=True):
            lines.append(
                f"{varied:4}{point.size:6}{1e3 / time_taken:9.2f}{time_taken:9.1f}{need:12.3f}"
                f"{1e3 * need / time_taken:9.1f}{point.rollout_share:9.0%}"
            )
        if len(chosen) > 1:
            a, b = straight_line([point.size for point in chosen], times)
            least, more = straight_line([point.size for point in chosen], needs)
            lines.append(
                f"    ms per clip = {a:.1f} + {b:.3f} {varied}; GFLOP per clip = {least:.3f} + {more:.5f} {varied}"
            )
    return "\n".join(lines)
