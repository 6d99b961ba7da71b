"""Draw the learning curves of REINFORCE, random glimpses and Stable-Baselines3 on the same number of steps.

    pip install -e ".[agents]"
    python agents/reinforce.py --seed 1 --out runs/s1
    python examples/train_sb3.py --steps 2048000 --seed 1 --out runs/ppo1.json
    python examples/learning_curves.py --runs runs/s1 --sb3 runs/ppo1.json --out learning_curves.png

The vertical axis is the reward (eq. 7), which all algorithms share. A line is the mean over the seeds; the band is
their range.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import installed_by


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw learning curves on the synthetic source.")
    parser.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="Run folders written by videoglimpse train."
    )
    parser.add_argument(
        "--sb3", type=Path, nargs="+", required=True, help="JSON files written by examples/train_sb3.py."
    )
    parser.add_argument("--out", type=Path, default=Path("learning_curves.png"), help="Picture file to write.")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next import, so that --help works without it

with installed_by('pip install -e ".[agents]"'):
    import matplotlib.pyplot as plt
    from glimpse_agents.runs.folder import RunFolder


def reinforce_curve(path: Path) -> np.ndarray:
    """Return (points, 2): environment steps and validation reward of one model of a run."""
    run = RunFolder(path)
    record = run.record()
    steps_per_update = record.config.training.clips * record.config.training.rollouts * record.source.frames
    validated = [line for line in run.metrics() if "validation/reward" in line]
    return np.array([(line["update"] * steps_per_update, line["validation/reward"]) for line in validated])


def draw(axes: plt.Axes, label: str, curves: list[np.ndarray]) -> None:
    """Draw the mean of curves that share their steps, and their range."""
    shortest = min(map(len, curves))
    steps, rewards = curves[0][:shortest, 0], np.stack([curve[:shortest, 1] for curve in curves])
    (line,) = axes.plot(steps, rewards.mean(0), label=f"{label} ({len(curves)} seeds)")
    axes.fill_between(steps, rewards.min(0), rewards.max(0), color=line.get_color(), alpha=0.2)


def main(runs: list[Path], sb3: list[Path], out: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    draw(axes, "REINFORCE", [reinforce_curve(run / "reinforce") for run in runs])
    draw(axes, "REINFORCE, random glimpses", [reinforce_curve(run / "random") for run in runs])
    by_name: dict[str, list[np.ndarray]] = {}
    for path in sb3:
        result = json.loads(path.read_text())
        by_name.setdefault(result["algorithm"], []).append(np.array(result["curve"])[:, [0, 2]])
    for name, curves in by_name.items():
        draw(axes, name, curves)
    axes.set(xlabel="environment steps", ylabel="validation reward, of at most 8")
    axes.axhline(-6, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("guessing", (0, -5.9), color="grey")
    axes.legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    try:
        main(**vars(ARGUMENTS))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
