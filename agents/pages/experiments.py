"""Experiments: the finished runs that a report shows together in one section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs.folder import RunFolder
from ..tables.records import Record, Row


@dataclass(frozen=True)
class Experiment:
    """Finished runs of different models, in one folder, on the same task and with the same seed.

    Attributes:
        name: on the page.
        records: at least one, in the order of the models.
    """

    name: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The first run; all runs share its task, seed and source."""
        return self.records[0]

    @property
    def path(self) -> Path:
        """Folder of the run, or of the runs."""
        return self.first.run.path if len(self.records) == 1 else self.first.run.path.parent


def read_finished(runs: Sequence[RunFolder]) -> list[Record]:
    """Read runs.

    Raises:
        FileNotFoundError: a run is not finished.
        ValueError: a run is named twice, or its test split was not played.
    """
    paths = [run.path.resolve() for run in runs]
    if repeated := [str(path) for path in dict.fromkeys(paths) if paths.count(path) > 1]:
        raise ValueError(f"{', '.join(repeated)} is named twice: name each run once")
    records = [Record(run, run.record(), run.finished()) for run in runs]
    for record in records:
        if record.result.test is None:
            raise ValueError(f"the test split was not played with {record.run.path}: leave it out, or --resume it")
    return records


def experiments_of(records: Sequence[Record]) -> list[Experiment]:
    """Group runs; an experiment is called like its folder, or by its whole path if others share that name."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        shared = (
            record.run.path.resolve().parent,
            record.record.config.task,
            record.seed,
            record.record.source.identity,
        )
        number = 0
        while any(other.model == record.model for other in groups.get((*shared, number), [])):
            number += 1  # a second run of the model belongs to another experiment
        groups.setdefault((*shared, number), []).append(record)
    experiments = [Experiment("", tuple(group)) for group in groups.values()]
    names = [experiment.path.resolve().name for experiment in experiments]
    return [
        Experiment(name if names.count(name) == 1 else str(experiment.path), experiment.records)
        for name, experiment in zip(names, experiments, strict=True)
    ]


def rows_over_seeds(records: Sequence[Record]) -> list[list[Row]]:
    """Group runs that differ only in the seed into rows, and rows on the same task and source into lists."""
    groups: dict[Any, dict[Any, dict[int, Record]]] = {}
    for record in records:
        config = record.record.config.with_settings({"seed": 0, "device": "cpu"})
        task = groups.setdefault((config.task, record.record.source.identity), {})
        task.setdefault(config, {}).setdefault(record.seed, record)
    return [
        [
            Row(runs[0].model, runs[0].glimpses, tuple(runs))
            for runs in (list(seeds.values()) for seeds in task.values())
        ]
        for task in groups.values()
    ]
