"""Put runs that differ in their seed alone together: means, 95 % intervals, and differences to random paired by seed.

python -m agents.tables.statistics RUN [RUN ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import ArrayLike
from scipy import stats

from ..learning.config import Config
from ..runs.folder import read_json

HEADER = ["glimpses", "accuracy", "minus random", "vote", "focus", "focus per look"]
COLUMNS = ("accuracy", "vote_accuracy", "focus", "focus_per_look")


@dataclass(frozen=True)
class Arguments:
    """Print a Markdown table of finished runs that differ in their seed alone."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""


def mean_and_interval(values: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float]:
    """Return the mean of n values and half the width of Student's 95 % interval; infinite for a single group.

    Args:
        values: (n,).
        groups: (n,) what each belongs to: values of one group may depend on each other, and the interval is that over
            G independent groups; without it every value is a group of its own.

    Source: the cluster-robust standard error of a mean (Liang and Zeger, "Longitudinal data analysis using generalized
    linear models", 1986), with G / (G - 1) and G - 1 degrees of freedom for few groups.
    """
    numbers = np.asarray(values, np.float64)
    mean = float(numbers.mean())
    group = np.arange(len(numbers)) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    sums = np.bincount(group, numbers - mean)
    count = len(sums)
    if count < 2:
        return mean, np.inf
    error = float(np.sqrt(count / (count - 1) * np.square(sums).sum())) / len(numbers)
    return mean, error * float(stats.t.ppf(0.975, count - 1))


def read_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the results of runs.

    Raises:
        FileNotFoundError: a folder is not that of a finished run.
        ValueError: the runs differ in more than their seed, or two share one.
    """
    if not folders:
        raise ValueError("name at least one run's folder")
    configs = [_complete(read_json(folder / "config.json")["config"]) for folder in folders]
    seeds = [config.pop("seed") for config in configs]
    for folder, config in zip(folders, configs, strict=True):
        differing = [name for name in config | configs[0] if config.get(name) != configs[0].get(name)]
        if differing:
            raise ValueError(f"{folder} differs from {folders[0]} in {', '.join(differing)}: compare like with like")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two runs share a seed: {sorted(seeds)}")
    return [read_json(folder / "result.json") for folder in folders]


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the defaults of fields that were added since it was begun."""
    defaults = Config().to_json()
    return defaults | config | {"policy": defaults["policy"] | config.get("policy", {})}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table, an arm a row."""
    lines = [HEADER, ["---"] * len(HEADER), *rows(results)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells below `HEADER`, an arm a row."""
    lines = []
    for arm in results[0]["accuracy"]:
        cells = [shown(_of_all([result[name].get(arm) for result in results])) for name in COLUMNS]
        random = [result["accuracy"].get("random") for result in results]
        gains = [
            None if base is None else result["accuracy"][arm] - base
            for result, base in zip(results, random, strict=True)
        ]
        cells.insert(1, "-" if arm == "random" else shown(_of_all(gains), signed=True))
        lines.append([arm, *cells])
    return lines


def shown(values: Sequence[float], *, signed: bool = False, digits: int = 3) -> str:
    """Spell the mean of values with half its interval, as far as a single value has one; "-" where there are none."""
    if not values:
        return "-"
    mean, half = mean_and_interval(values)
    return f"{mean:{'+' if signed else ''}.{digits}f}" + ("" if np.isinf(half) else f" ± {half:.{digits}f}")


def _of_all(values: Sequence[float | None]) -> list[float]:
    """Return the values, or none where one is unknown."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def main(arguments: Arguments) -> None:
    """Print the table of the runs named."""
    results = read_runs(arguments.runs)
    seconds = [result["train_seconds"] for result in results]
    print(table(results))
    print(
        f"\n{len(results)} seeds, {results[0]['test_clips']} test clips; "
        f"the policy was trained in {min(seconds):.0f} to {max(seconds):.0f} s"
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
