"""Records of finished runs, grouped by model and number of glimpses, and the differences between models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..learning.config import PATHS
from ..learning.models import MODELS, Model, ModelName
from ..playing.evaluation import Evaluation
from ..runs.folder import RunFolder, RunRecord, RunResult
from ..runs.jobs import OF_A_MODEL
from .intervals import Interval, crossed_interval, mean_interval

MAY_DIFFER = {"model", "glimpses", "seed", "device"}  # between runs of one table


@dataclass(frozen=True)
class Record:
    """One finished run."""

    run: RunFolder
    record: RunRecord
    result: RunResult

    @property
    def model(self) -> Model:
        """Model that was trained."""
        return MODELS[self.record.config.model]

    @property
    def glimpses(self) -> int | None:
        """Number m of glimpses; None if the model does not depend on it."""
        return self.record.config.task.glimpses if self.model.has_budget else None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.record.config.training.seed

    @property
    def test(self) -> Evaluation:
        """Measures of the test split."""
        return self.result.measured

    def own_settings(self) -> dict[str, object]:
        """Return the settings that a model may have for itself."""
        return {name: self.record.config.setting(name) for name in OF_A_MODEL}


def read_records(runs: Iterable[RunFolder]) -> list[Record]:
    """Read the finished runs among some folders.

    Raises:
        FileNotFoundError: none is finished.
        ValueError: they differ in more than model, glimpses and seed; or runs of one model differ in its own settings.
    """
    records = [Record(run, run.record(), result) for run in runs if (result := run.result()) and result.test]
    if not records:
        raise FileNotFoundError("none of these runs is finished: train them first")
    shared = PATHS.keys() - MAY_DIFFER - OF_A_MODEL
    first: dict[ModelName, Record] = {}
    for record in records:
        _check_alike(record, records[0], shared)
        _check_alike(record, first.setdefault(record.model.name, record), OF_A_MODEL)
    return records


def _check_alike(one: Record, other: Record, names: Iterable[str]) -> None:
    config, reference = one.record.config, other.record.config
    differing = sorted(name for name in names if config.setting(name) != reference.setting(name))
    if one.record.source.identity != other.record.source.identity:
        differing.append("the manifest of the store")
    if differing:
        raise ValueError(
            f"{one.run.path} differs from {other.run.path} in {', '.join(differing)}: compare runs with equal settings"
        )


@dataclass(frozen=True)
class Row:
    """The runs of one model with one number of glimpses, one for each seed."""

    model: Model
    glimpses: int | None
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Name in figures."""
        return self.model.title + ("" if self.glimpses is None else f" (m = {self.glimpses})")

    def values(self, measure: str) -> list[float]:
        """Return a measure of the test split, one value for each seed; none if it is unknown for some."""
        values = [getattr(record.test, measure) for record in self.records]
        return [] if any(value is None for value in values) else values

    def mean(self, measure: str) -> Interval | None:
        """Return the mean of a measure with its interval over seeds; None if it is unknown."""
        return mean_if_known(self.values(measure))

    def accuracy_gain(self, other: Row | None) -> Interval | None:
        """Return the accuracy minus that of another row; None without another row."""
        if other is None or other is self:
            return None
        return accuracy_gain(*([record.test for record in row.records] for row in (self, other)))


def mean_if_known(values: Sequence[float | None]) -> Interval | None:
    """Return the mean of a measure with its interval over seeds; None if it is unknown for some seed, or for all."""
    known = [value for value in values if value is not None]
    return mean_interval(known) if known and len(known) == len(values) else None


def accuracy_gain(runs: Sequence[Evaluation], others: Sequence[Evaluation]) -> Interval:
    """Return the accuracy of one model minus that of another, with the interval over films and seeds.

    Args:
        runs: of one model, one for each seed.
        others: of the other model, on the same videos; their seeds may differ.
    """
    return crossed_interval([run.correct for run in runs], runs[0].films, [run.correct for run in others])


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Group records by model and glimpses, in the order of MODELS, fewer glimpses first; each seed counts once."""
    order = list(MODELS)
    groups: dict[tuple[ModelName, int | None], dict[int, Record]] = {}
    for record in sorted(records, key=lambda one: (order.index(one.model.name), one.glimpses or 0, one.seed)):
        groups.setdefault((record.model.name, record.glimpses), {}).setdefault(record.seed, record)
    return [Row(MODELS[name], glimpses, tuple(group.values())) for (name, glimpses), group in groups.items()]


def find_row(rows: Sequence[Row], model: ModelName, glimpses: int | None) -> Row | None:
    """Return the row of a model at a number of glimpses; with None, at the smallest number."""
    found = [row for row in rows if row.model.name == model and glimpses in (None, row.glimpses)]
    return found[0] if found else None
