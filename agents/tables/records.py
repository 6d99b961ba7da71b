"""Records of finished runs, grouped by model and number of glimpses, and the differences between models.

If runs cover several official splits (folds), a seed counts with the mean over its folds, each fold alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glimpse_env import EpisodeRules

from ..learning.config import PATHS, Config, format_settings
from ..learning.models import MODELS, Model, ModelName, is_own
from ..playing.evaluation import MEASURES, Evaluation
from ..runs.folder import RunFolder, RunRecord, RunResult
from ..runs.jobs import OF_A_MODEL
from .intervals import Interval, crossed_interval, mean_interval

MAY_DIFFER = {"model", "glimpses", "seed", "fold", "device"}  # between runs of one table
ETAS = tuple(round(0.1 * step, 1) for step in range(1, 10))
COLUMNS = MEASURES | {"validation_accuracy": "validation accuracy", "train_seconds": "seconds of training"}
"""Names of a run's numbers in tables."""


@dataclass(frozen=True)
class Record:
    """One finished run."""

    run: RunFolder
    record: RunRecord
    result: RunResult

    @property
    def model(self) -> Model:
        return MODELS[self.record.config.model]

    @property
    def glimpses(self) -> int | None:
        """Number m of glimpses; None if the model does not depend on it."""
        return self.record.config.task.glimpses if self.model.has_budget else None

    @property
    def seed(self) -> int:
        return self.record.config.training.seed

    @property
    def fold(self) -> int:
        return self.record.config.task.fold

    @property
    def settings(self) -> Config:
        """All settings but the device, and the path of a source that has a fingerprint: it may have moved."""
        unnamed = {"source": "synthetic"} if self.record.source.identity is not None else {}
        return self.record.config.with_settings({"device": "cpu"} | unnamed)

    @property
    def test(self) -> Evaluation:
        """Measures of the test split."""
        return self.result.measured

    def number(self, name: str) -> float | None:
        """Return one of COLUMNS; None if it is unknown."""
        if name == "validation_accuracy":
            return None if self.result.validation is None else self.result.validation.accuracy
        value: float | None = self.result.train_seconds if name == "train_seconds" else getattr(self.test, name)
        return value

    def by_eta(self, eta: float) -> tuple[float, float] | None:
        """Return precision and recall of the segments of scores above a threshold: the best one for `eta` (eq. 7).

        Validation chooses the threshold. None if clips are trimmed; precision is NaN if nothing scores as high.
        """
        chosen_on, test = self.result.validation, self.test
        if chosen_on is None or chosen_on.segment_counts is None or not test.segment_counts or not test.segments:
            return None
        rewards = EpisodeRules(frames=1, eta=eta).reward(*np.array(chosen_on.segment_counts).T)
        right, wrong = test.segment_counts[int(np.argmax(rewards))]
        return right / (right + wrong) if right + wrong else float("nan"), right / test.segments

    def own_settings(self) -> dict[str, object]:
        """Return the settings that a model may have for itself."""
        return {name: self.record.config.setting(name) for name in OF_A_MODEL}


def read_records(runs: Iterable[RunFolder]) -> list[Record]:
    """Read the finished runs among some folders.

    Raises:
        FileNotFoundError: none is finished.
        ValueError: they differ in more than MAY_DIFFER; runs of one model differ in its own settings; or two runs of an
            agent that was trained elsewhere have the same seed and fold.
    """
    folders = {run.path.resolve(): run for run in runs}  # a run that is named twice counts once
    records = [
        Record(run, run.record(), result) for run in folders.values() if (result := run.result()) and result.test
    ]
    if not records:
        raise FileNotFoundError("none of these runs is finished: finish one with videoglimpse train --resume RUN")
    check_alike([(record.run.path, record.record) for record in records])
    _check_different(records)
    return records


def check_alike(runs: Iterable[tuple[Path, RunRecord]]) -> None:
    """Check that one table can hold some runs, given by their folders and records.

    Raises:
        ValueError: they differ in more than MAY_DIFFER, or runs of one model differ in its own settings.
    """
    shared, of_task = PATHS.keys() - MAY_DIFFER - OF_A_MODEL, {name for name, path in PATHS.items() if "task" in path}
    first: dict[ModelName, tuple[Path, RunRecord]] = {}
    for run in sorted(runs, key=lambda run: is_own(run[1].config.model)):
        model = run[1].config.model
        names = of_task - MAY_DIFFER if is_own(model) else shared  # agents trained elsewhere share the task alone
        _check_pair(run, next(iter(first.values()), run), names)
        _check_pair(run, first.setdefault(model, run), OF_A_MODEL)


def _check_different(records: Sequence[Record]) -> None:
    known: dict[Config, Record] = {}
    for record in records:
        other = known.setdefault(record.settings, record)
        if other is not record and is_own(record.model.name):  # our own training gives the same result again
            raise ValueError(
                f"{other.run.path} and {record.run.path} are both of {record.model.name}, seed {record.seed}, fold "
                f"{record.fold}: leave one out, or give each its own seed (seed= of save_run)"
            )


def _check_pair(run: tuple[Path, RunRecord], other: tuple[Path, RunRecord], names: Iterable[str]) -> None:
    (path, one), (other_path, reference) = run, other
    has_identity = None not in (one.source.identity, reference.source.identity)
    compared = set(names) - ({"source"} if has_identity else set())  # the path may differ, as in a packed run
    differing = sorted(name for name in compared if one.config.setting(name) != reference.config.setting(name))
    if one.source.identity != reference.source.identity:
        differing.append("the store or wall")
    if differing:
        raise ValueError(
            f"{path} differs from {other_path} in {', '.join(differing)}: compare runs with equal settings"
        )


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed and the fold alone: every seed has the same folds, in order."""

    records: tuple[Record, ...]
    distinction: str = ""
    """Settings in which the row differs from others of its model and number of glimpses."""

    @property
    def model(self) -> Model:
        return self.records[0].model

    @property
    def glimpses(self) -> int | None:
        return self.records[0].glimpses

    @property
    def name(self) -> str:
        """Name in figures and sentences, such as "random, 5 cells"."""
        name = self.title
        if is_own(self.model.name):
            return f"{name}, {self.glimpses} cell{'s' * (self.glimpses != 1)}"
        if self.glimpses is not None:
            name = re.sub(r"\bm\b", str(self.glimpses), name)
        return re.sub(r"(glimpse|cell)s\b", r"\1", name) if self.glimpses == 1 else name

    @property
    def title(self) -> str:
        """Title of the model, with the settings that set the row apart."""
        return f"{self.model.title} ({self.distinction})" if self.distinction else self.model.title

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(record.seed for record in self.records))

    def _by_seed(self) -> list[list[Record]]:
        return [[record for record in self.records if record.seed == seed] for seed in self.seeds]

    def values(self, name: str) -> list[float]:
        """Return one of COLUMNS for each seed, averaged over its folds; none if it is unknown for some run."""
        values = [[record.number(name) for record in folds] for folds in self._by_seed()]
        known = [[value for value in folds if value is not None] for folds in values]
        return [float(np.mean(folds)) for folds in known] if known == values else []

    def mean(self, name: str) -> Interval | None:
        """Return the mean of a column with its interval over seeds; None if it is unknown."""
        values = self.values(name)
        return mean_interval(values) if values else None

    def by_eta(self) -> NDArray[np.float64] | None:
        """Return (2, len(ETAS)), the mean precision and recall of events by eta; None if they are unknown."""
        curves = [[record.by_eta(eta) for eta in ETAS] for record in self.records]
        if any(point is None for curve in curves for point in curve):
            return None
        return np.asarray(np.mean(np.array(curves), axis=0).T, np.float64)

    @property
    def films(self) -> NDArray[np.intp]:
        """(V,) the film of each test video; several folds may test on one film."""
        films = [film for record in self._by_seed()[0] for film in record.test.films]
        return np.unique(films, return_inverse=True)[1].ravel()

    def correct(self) -> NDArray[np.float64]:
        """Return (seeds, V): whether each video is right, weighted so that its mean is the mean over folds."""
        videos = len(self.films)
        return np.array(
            [
                np.concatenate(
                    [np.array(one.test.correct, float) * videos / (len(folds) * len(one.test.correct)) for one in folds]
                )
                for folds in self._by_seed()
            ]
        )

    def accuracy_gain(self, other: Row | None) -> Interval | None:
        """Return the accuracy minus that of another row, over films and seeds; None without another row."""
        if other is None or other is self:
            return None
        return crossed_interval(self.correct(), self.films, other.correct())


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Group records that differ in seed and fold alone, in the order of MODELS, fewer glimpses first.

    Each seed counts once for each fold; seeds that lack a fold of the others are left out.
    """
    every_fold = {record.fold for record in records}
    groups: dict[Config, dict[int, dict[int, Record]]] = {}
    for one in sorted(records, key=lambda one: (MODELS.place(one.model.name), one.glimpses or 0, one.seed, one.fold)):
        same = {"seed": 1, "fold": 1} | ({} if one.model.has_budget else {"glimpses": 1})
        folds = groups.setdefault(one.settings.with_settings(same), {}).setdefault(one.seed, {})
        folds.setdefault(one.fold, one)
    rows = [
        tuple(record for folds in seeds.values() if len(folds) == len(every_fold) for record in folds.values())
        for seeds in groups.values()
    ]
    named = [row for row in rows if row]
    return [Row(row, _differing(row, named)) for row in named]


def _differing(row: tuple[Record, ...], rows: Sequence[tuple[Record, ...]]) -> str:
    """Return the settings in which a row differs from others of its model and number of glimpses; often none."""
    twins = [one[0].settings for one in rows if (one[0].model, one[0].glimpses) == (row[0].model, row[0].glimpses)]
    names = [name for name in sorted(PATHS.keys() - MAY_DIFFER) if len({twin.setting(name) for twin in twins}) > 1]
    return format_settings({name: row[0].settings.setting(name) for name in names})


def find_row(rows: Sequence[Row], model: ModelName, glimpses: int | None) -> Row | None:
    """Return the row of a model at a number of glimpses; with None, at the smallest number."""
    found = [row for row in rows if row.model.name == model and glimpses in (None, row.glimpses)]
    return found[0] if found else None
