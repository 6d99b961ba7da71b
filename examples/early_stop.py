"""Train agents that jump over frames and stop early, and draw accuracy against the frames that they observe.

    pip install -e ".[agents]"
    python examples/early_stop.py --source synthetic --costs 0 0.1 0.3 --strides 1 2 4 8 --out runs/early

For each cost of a frame this trains REINFORCE to choose cells, class and jump to the next frame. A jump past the end
stops. The controls observe every j-th frame, and learn where to look in the same way. Every agent is trained into a
folder of its own, and the same command resumes after an interruption. The figure shows the mAP if clips are untrimmed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import installed_by

with installed_by('pip install -e ".[agents]"'):
    import tyro
    from glimpse_agents.learning.config import Config
    from glimpse_agents.learning.presets import preset_for
    from glimpse_agents.playing.evaluation import MEASURES, Evaluation
    from glimpse_agents.reinforce import train
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draw accuracy against observed frames, for learned jumps and for strides."""

    out: Path
    """Folder of the runs, of table.csv and of curve.png."""
    source: str = "synthetic"
    """Source of the clips."""
    jumps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Jumps to choose from. One as long as a clip lets the agent stop after the first frame."""
    costs: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Costs of an observed frame."""
    strides: tuple[int, ...] = (1, 2, 4, 8)
    """Strides of the controls."""
    updates: int | None = None
    """Optimiser steps of each agent; those of the preset by default."""
    glimpses: int | None = None
    """Number m of cells that are looked at in a frame; that of the preset by default."""
    seed: int = 1
    """Seed of all agents."""


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return tyro.cli(Arguments, args=arguments)


def configs_of(arguments: Arguments) -> dict[tuple[str, float], Config]:
    """Return the configuration of each agent, by the name of its curve and its cost or stride."""
    given = {"updates": arguments.updates, "seed": arguments.seed, "glimpses": arguments.glimpses}
    shared = {name: value for name, value in given.items() if value is not None}
    base = preset_for(arguments.source).with_settings(shared)
    learned = {
        ("jumps", cost): base.with_settings({"jumps": arguments.jumps, "frame_cost": cost}) for cost in arguments.costs
    }
    strides = {("strides", float(stride)): base.with_settings({"jumps": (stride,)}) for stride in arguments.strides}
    return learned | strides


def main(arguments: Arguments) -> None:
    """Train the agents, print a row for each, and write the table and the figure."""
    curves: dict[str, list[tuple[float, float]]] = {}
    measure, rows = "accuracy", ["agent,value,frames observed,accuracy,mAP,reward"]
    for (name, value), config in configs_of(arguments).items():
        found = train(config, arguments.out / f"{name}{value:g}").measured
        measure = "accuracy" if found.detection_map is None else "mean_average_precision"
        curves.setdefault(name, []).append((found.frames_observed or 0.0, getattr(found, measure) or 0.0))
        rows.append(f"{name},{value:g},{_row(found)}")
        print(rows[-1], flush=True)
    (arguments.out / "table.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axis.set(xlabel="frames observed", ylabel=MEASURES[measure], ylim=(0, 1))
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.savefig(arguments.out / "curve.png", dpi=130)


def _row(found: Evaluation) -> str:
    numbers = (found.frames_observed, found.accuracy, found.mean_average_precision, found.reward)
    return ",".join("" if number is None else f"{number:.4g}" for number in numbers)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
