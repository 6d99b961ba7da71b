"""The table of a comparison: Markdown and CSV from the records alone, with published figures below."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..learning.config import format_settings
from ..playing.evaluation import MEASURES
from .intervals import Interval
from .layout import cells_of, comma_separated, format_gain, format_interval, markdown, notes_on
from .records import Record, Row, find_row, rows_of

SHOWN = (
    "accuracy", "top3", "mean_average_precision", "hit_at_1", "hit_at_3", "vote_accuracy", "reward", "true_positives",
    "false_positives", "focus", "focus_per_look", "attention_on_actor", "entropy", "glimpses_per_frame",
)  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """A published figure."""

    model: str
    measure: str
    value: float
    source: str


def read_reported(path: Path) -> list[Reported]:
    """Read published figures.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a measure is unknown or a value is no number.
    """
    if not path.exists():
        raise FileNotFoundError(f"no published figures at {path}: it must be a CSV of model, measure, value and source")
    figures = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                figure = Reported(line["model"], line["measure"], float(line["value"]), line["source"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: needs model, measure, value and source ({error})") from error
            if figure.measure not in SHOWN:
                raise ValueError(
                    f"{path}, line {number}: measure must be one of {', '.join(SHOWN)}, got {figure.measure!r}"
                )
            figures.append(figure)
    return figures


@dataclass(frozen=True)
class Differences:
    """Differences of a row's accuracy to two reference models at the same number of glimpses."""

    minus_random: Interval | None
    reinforce_minus_it: Interval | None
    reference_glimpses: int | None
    """Glimpses of the REINFORCE row."""

    @classmethod
    def of(cls, row: Row, rows: Sequence[Row]) -> Differences:
        """Compare a row; one without a number of glimpses is compared with REINFORCE at its smallest number."""
        random = find_row(rows, "random", row.glimpses) if row.glimpses is not None else None
        reinforce = find_row(rows, "reinforce", row.glimpses)
        return cls(
            row.accuracy_gain(random),
            reinforce.accuracy_gain(row) if reinforce and row.model.name != "reinforce" else None,
            None if reinforce is None else reinforce.glimpses,
        )

    def both(self) -> list[Interval]:
        """Return the differences that there are."""
        return [gain for gain in (self.minus_random, self.reinforce_minus_it) if gain is not None]


def comparison_table(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return the comparison as a Markdown table, one row for each model and number of glimpses."""
    rows = rows_of(records)
    published = {figure.measure for figure in reported}
    names = [name for name in SHOWN if name in published or any(row.values(name) for row in rows)]
    others = [name for name in names if name != "accuracy"]
    header = ["model", "m", "seeds", "accuracy", "minus random", "REINFORCE minus it", *(MEASURES[n] for n in others)]
    lines = []
    for row in rows:
        differences = Differences.of(row, rows)
        against = format_gain(differences.reinforce_minus_it)
        if differences.reinforce_minus_it and row.glimpses is None:
            against += f" (m = {differences.reference_glimpses})"
        cells = [row.model.title, "-" if row.glimpses is None else str(row.glimpses), str(len(row.records))]
        cells += [format_interval(row.mean("accuracy")), format_gain(differences.minus_random), against]
        lines.append(cells + [format_interval(row.mean(name)) for name in others])
    for model, source in dict.fromkeys((figure.model, figure.source) for figure in reported):
        known = {f.measure: f"{f.value:g}" for f in reported if (f.model, f.source) == (model, source)}
        cells = [f"{model} (reported by {source})", "-", "-", known.get("accuracy", "-"), "-", "-"]
        lines.append(cells + [known.get(name, "-") for name in others])
    return markdown(header, lines)


def summary(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return the table's numbers as CSV, one line for each measure of a model at a number of glimpses.

    `interval` is half of the 95 % interval, empty if it is unknown; `m` is that of REINFORCE for differences to it;
    `reported_by` names the source of a published figure.
    """
    lines: list[list[object]] = []
    rows = rows_of(records)
    for row in rows:
        differences, seeds = Differences.of(row, rows), len(row.records)
        measured = [(row.glimpses, name, row.mean(name)) for name in MEASURES]
        measured.append((row.glimpses, "accuracy_minus_random", differences.minus_random))
        measured.append((differences.reference_glimpses, "reinforce_minus_it", differences.reinforce_minus_it))
        for glimpses, name, value in measured:
            if value is not None:
                lines.append([row.model.name, glimpses, seeds, name, *cells_of(value), value.note, None])
    for figure in reported:
        lines.append([figure.model, None, None, figure.measure, figure.value, None, None, figure.source])
    return comma_separated(["model", "m", "seeds", "measure", "mean", "interval", "note", "reported_by"], lines)


def records_as_csv(records: Sequence[Record]) -> str:
    """Return one line for each run."""
    names = ["model", "m", "seed", *MEASURES, "validation_accuracy", "train_seconds", "trained_by"]
    lines = [
        [
            record.model.name, record.glimpses, record.seed, *(getattr(record.test, name) for name in MEASURES),
            record.result.validation.accuracy, record.result.train_seconds, record.result.trained_by,
        ]
        for row in rows_of(records)
        for record in row.records
    ]  # fmt: skip
    return comma_separated(names, lines)


def page(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return the contents of table.md: the table, and the facts needed to read and repeat it."""
    rows, first = rows_of(records), records[0].record
    config, videos = first.config, records[0].test.films
    commits = sorted({str(record.result.trained_by) for record in records})
    machines = sorted({f"{one.record.machine}, {one.record.threads} threads" for one in records})
    differences = [gain for row in rows for gain in Differences.of(row, rows).both()]
    lines = [
        f"Source `{config.task.source}`, fold {config.task.fold}, preset {config.preset}, reward "
        f"{config.training.reward}, {config.training.updates} updates of {config.training.clips} clips x "
        f"{config.training.rollouts} rollouts; {len(videos)} test videos of {len(set(videos))} films; chance "
        f"{1 / len(first.source.class_names):.3f}.",
        f"Code {', '.join(commits)}; {'; '.join(machines)}.",
        *_own_settings(records),
        "Means have 95 % intervals over seeds.",
        *notes_on(differences),
        "Validation chose the checkpoints. Soft attention reads every slice in order to score it, and begins from the "
        "mean of all frames, so it has seen the whole clip at frame 1.",
    ]
    if len(set(videos)) == len(videos):
        lines.append("The names of the videos contain no film: if videos share footage, intervals are too narrow.")
    return comparison_table(records, reported) + "\n" + "\n\n".join(lines) + "\n"


def _own_settings(records: Sequence[Record]) -> list[str]:
    """Return the settings of each model that differ from those of most models."""
    settings = {record.model.name: record.own_settings() for record in records}
    usual = {name: _most_common([own[name] for own in settings.values()]) for name in next(iter(settings.values()))}
    lines = []
    for record in {record.model.name: record for record in records}.values():
        own = {name: value for name, value in record.own_settings().items() if value != usual[name]}
        if own:
            lines.append(f"Own settings of {record.model.title}: {format_settings(dict(sorted(own.items())))}.")
    return lines


def _most_common(values: Sequence[object]) -> object:
    return max(values, key=values.count)
