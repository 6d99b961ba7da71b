"""Draw how REINFORCE, its random-glimpse control and one of Stable-Baselines3's algorithms learn on the same budget.

    python agents/reinforce.py --seed 1 --out runs/s1
    python examples/train_sb3.py --steps 2048000 --seed 1 --out runs/ppo1.json
    python examples/learning_curves.py --runs runs/s1 --sb3 runs/ppo1.json --out examples/learning_curves.png

The reward (eq. 7) is what all of them have. A line is the mean over the seeds given, the band their range.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def reinforce_curve(folder: Path, frames: int) -> np.ndarray:
    """Return (points, 2): environment steps and validation reward of one arm of a run."""
    root = folder if (folder / "config.json").exists() else folder.parent.parent
    config = json.loads((root / "config.json").read_text())["config"]
    a_step = config["clips"] * config["rollouts"] * frames
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([(line["update"] * a_step, line["eval/reward"]) for line in lines if "eval/reward" in line])


def draw(axes: plt.Axes, label: str, curves: list[np.ndarray]) -> None:
    """Draw the mean of curves that share their steps, and their range."""
    shortest = min(map(len, curves))
    steps, rewards = curves[0][:shortest, 0], np.stack([curve[:shortest, 1] for curve in curves])
    (line,) = axes.plot(steps, rewards.mean(0), label=f"{label} ({len(curves)} seeds)")
    axes.fill_between(steps, rewards.min(0), rewards.max(0), color=line.get_color(), alpha=0.2)


def main(runs: list[Path], sb3: list[Path], out: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    frames = 16  # of the synthetic source
    draw(axes, "REINFORCE", [reinforce_curve(run, frames) for run in runs])
    draw(axes, "REINFORCE, random glimpses", [reinforce_curve(run / "controls" / "random", frames) for run in runs])
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
    parser = argparse.ArgumentParser(description="Draw learning curves on the synthetic source.")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of agents/reinforce.py")
    parser.add_argument("--sb3", type=Path, nargs="+", required=True, help="files of examples/train_sb3.py --out")
    parser.add_argument("--out", type=Path, default=Path("learning_curves.png"))
    main(**vars(parser.parse_args()))
