"""What the runs of a comparison came to: records, grouped by model and budget, and models set against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..learning.config import Config
from ..playing.rollout import Looking
from ..runs.folder import read_json
from ..runs.results import arm_folder, arms_on_disk
from .statistics import mean_and_interval

BUDGETED: tuple[Looking, ...] = ("learned", "gumbel", "soft_top", "random", "centre", "oracle")
TITLES: dict[Looking, str] = {
    "learned": "REINFORCE, m glimpses",
    "unlimited": "REINFORCE, any number of glimpses",
    "gumbel": "Gumbel straight-through, m glimpses",
    "soft": "soft attention, content and state",
    "soft_hidden": "soft attention, state alone",
    "soft_top": "soft attention, its m likeliest cells",
    "random": "random, m cells",
    "centre": "centre, m cells",
    "oracle": "oracle, m cells",
    "mean": "mean of all cells",
    "max": "maximum over all cells",
    "all": "all cells, through the agent's encoder",
}


@dataclass(frozen=True)
class Record:
    """What one arm of one run came to on the test split."""

    looking: Looking
    budget: int
    seed: int
    measured: dict[str, Any]
    run: dict[str, Any]  # of the run's config.json
    folder: Path


def read_records(out: Path) -> list[Record]:
    """Read every finished arm of a comparison.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the runs differ in more than seed, budget and models; one was tested before films were told.
    """
    records, first, untold = [], None, list[Path]()
    settings: dict[Looking, tuple[Path, Any]] = {}
    for path in sorted(out.glob("m*/seed*/config.json")):
        run = read_json(path)
        config = Config.from_json(run["config"])
        alike = dataclasses.replace(config, seed=0, glimpses=1, controls=(), arm_settings={})
        if first is None:
            first = (path, alike)
        if alike != first[1]:
            names = [name for name, value in alike.to_json().items() if value != first[1].to_json()[name]]
            raise ValueError(f"{path} differs from {first[0]} in {', '.join(names)}: compare like with like")
        for looking in arms_on_disk(path.parent):
            own = config.arm_settings.get(looking)
            earlier = settings.setdefault(looking, (path, own))
            if own != earlier[1]:
                raise ValueError(
                    f"{path} differs from {earlier[0]} in the settings of {looking!r}: compare like with like"
                )
            tested = arm_folder(path.parent, looking) / "evaluation.json"
            evaluation = read_json(tested)
            if "films" not in evaluation["test"]:
                untold.append(tested)
                continue
            measured = evaluation["test"] | {
                name: evaluation[name] for name in ("validation_accuracy", "train_seconds")
            }
            measured["git_commit"] = evaluation.get("git_commit") or run["git_commit"]
            records.append(Record(looking, config.glimpses, config.seed, measured, run, path.parent))
    if untold:
        raise ValueError(
            f"{len(untold)} files, {untold[0]} the first, do not tell which film each test video was cut from: remove "
            f"every evaluation.json under {out}, and the command that trained the runs tests them again"
        )
    if not records:
        raise FileNotFoundError(f"no finished runs in {out}: train them first, without --only-table")
    return records


@dataclass(frozen=True)
class Row:
    """One model at one budget: the records of its seeds."""

    looking: Looking
    budget: int | None  # None where the model does not depend on m
    records: tuple[Record, ...]

    def values(self, name: str) -> list[float]:
        """Return what was measured, a value for each seed; none where it is unknown for some."""
        values = [record.measured.get(name) for record in self.records]
        return [] if any(value is None for value in values) else values  # type: ignore[return-value]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Group records by model and budget, in the order of TITLES, smaller budgets first."""
    groups: dict[tuple[Looking, int | None], list[Record]] = {}
    for record in sorted(records, key=lambda record: (list(TITLES).index(record.looking), record.budget, record.seed)):
        key = (record.looking, record.budget if record.looking in BUDGETED else None)
        group = groups.setdefault(key, [])
        # What does not depend on m may have been trained beside several: each seed counts once.
        if record.seed not in [other.seed for other in group]:
            group.append(record)
    return [Row(looking, budget, tuple(group)) for (looking, budget), group in groups.items()]


def gains(row: Row, rows: Sequence[Row]) -> list[float]:
    """Return the accuracies less those of random glimpses at the same m and seed, for the seeds that have both; empty
    for random glimpses and for what has no m.
    """
    if row.budget is None or row.looking == "random":
        return []
    control = {
        record.seed: record.measured["accuracy"]
        for other in rows
        if other.looking == "random" and other.budget == row.budget
        for record in other.records
    }
    return [record.measured["accuracy"] - control[record.seed] for record in row.records if record.seed in control]


def lead(row: Row, rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return by how much REINFORCE is more accurate than a model beside it, and half the 95 % interval over films.

    Both have played the same videos with the same seeds, so each video's difference is taken, averaged over the seeds
    of the model; videos that were cut from one film count together. None for REINFORCE itself, and where it lacks one
    of these seeds at `beside(row)` glimpses.
    """
    learned = {
        record.seed: record.measured["correct"]
        for other in rows
        if other.looking == "learned" and other.budget == beside(row)
        for record in other.records
    }
    if row.looking == "learned" or not learned.keys() >= {record.seed for record in row.records}:
        return None
    differences = [np.subtract(learned[record.seed], record.measured["correct"], dtype=float) for record in row.records]
    return mean_and_interval(np.mean(differences, axis=0), row.records[0].measured["films"])


def beside(row: Row) -> int:
    """Return the number of glimpses at which REINFORCE is compared with a model: its own, or where it does not depend
    on m, the smallest beside which it was trained.
    """
    return row.records[0].budget if row.budget is None else row.budget


def name_of(row: Row) -> str:
    """Return how a row is called in figures and in macs.json."""
    return TITLES[row.looking] + ("" if row.budget is None else f" (m = {row.budget})")
