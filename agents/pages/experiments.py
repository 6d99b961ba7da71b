"""Experiments: the finished runs that a report shows together in one section."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..learning.models import MODELS
from ..runs.folder import RunFolder, find_runs
from ..tables.records import Record, Row, rows_of

WATCHED = 4  # models that are shown side by side
FIRST = ("reinforce", "soft", "random")  # of these, if they were trained


@dataclass(frozen=True)
class Experiment:
    """Finished runs on the same task and source; model, glimpses, seed, fold and settings may differ."""

    name: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The first run; all runs share its source and, apart from glimpses and fold, its task."""
        return self.records[0]

    @cached_property
    def rows(self) -> list[Row]:
        return rows_of(self.records)

    @cached_property
    def watched(self) -> list[Record]:
        """Runs of different models whose clips are shown: REINFORCE first, then soft attention and random cells.

        Of several REINFORCE rows, the one with the best validation accuracy; the others have as many glimpses as it, or
        do not depend on them. All have one fold, and if possible one seed.
        """
        rows = [row for row in self.rows if row.model.name == "reinforce"] or self.rows or [Row(self.records)]
        best = max(rows, key=lambda row: sum(row.values("validation_accuracy")) / len(row.seeds))
        ours = best.records[0]
        budgets = [ours.glimpses] if ours.glimpses else [row.glimpses for row in self.rows if row.glimpses][:1]
        chosen = {best.model.name: ours}
        for row in sorted(self.rows, key=lambda row: row.model.name not in FIRST):
            if row.glimpses in (None, *budgets):
                same = [record for record in row.records if record.fold == ours.fold]
                same.sort(key=lambda record: record.seed != ours.seed)
                if same:
                    chosen.setdefault(row.model.name, same[0])
        order: list[str] = [*FIRST, *MODELS]
        playable = [record for record in chosen.values() if record.model.name in order]
        watched = sorted(playable, key=lambda record: order.index(record.model.name))[:WATCHED]
        return watched if ours in watched else [ours, *watched[: WATCHED - 1]]


def read_finished(paths: Sequence[Path]) -> list[Record]:
    """Read runs; unfinished ones are left out if their folder holds others, and named.

    Raises:
        FileNotFoundError: a run is not finished, or a folder has no finished run.
        ValueError: a run is named twice, or its test split was not played.
    """
    records = []
    for path in paths:
        runs = find_runs(path)
        finished = [run for run in runs if run.result() is not None] or runs[:1]
        for run in runs:
            if run not in finished:
                print(f"{run.path} is not finished, and left out", file=sys.stderr)
        records += [_read(run) for run in finished]
    names = [record.run.path.resolve() for record in records]
    if repeated := [str(name) for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{', '.join(repeated)} is named twice: name each run once")
    return records


def _read(run: RunFolder) -> Record:
    record = Record(run, run.record(), run.finished())
    if record.result.test is None:
        raise ValueError(f"the test split was not played with {run.path}: leave it out, or --resume it")
    return record


def experiments_of(records: Sequence[Record]) -> list[Experiment]:
    """Group runs by task and source; an experiment is called like its source, or with a number if others are too."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        task = record.settings.with_settings({"glimpses": 1, "fold": 1}).task
        groups.setdefault((task, record.record.source.identity), []).append(record)
    names = [Path(group[0].record.config.task.source).name for group in groups.values()]
    return [
        Experiment(name if names.count(name) == 1 else f"{name} ({names[:number].count(name) + 1})", tuple(group))
        for number, (name, group) in enumerate(zip(names, groups.values(), strict=True))
    ]
