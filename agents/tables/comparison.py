"""A comparison as a table: Markdown and CSV from the records alone, with what others published below."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..learning.config import Config, spelled
from ..playing.evaluation import MEASURES
from .records import TITLES, Record, beside, gains, lead, rows_of
from .statistics import mean_and_interval, shown

SHOWN = (
    "accuracy", "top3", "mean_average_precision", "hit_at_1", "hit_at_3", "vote_accuracy", "reward", "true_positives",
    "false_positives", "focus", "focus_per_look", "attention_on_actor", "entropy", "glimpses_per_frame",
)  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """A figure that others published."""

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
        raise FileNotFoundError(f"no figures to report at {path}: it is a CSV file of model, measure, value and source")
    figures = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                figure = Reported(line["model"], line["measure"], float(line["value"]), line["source"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: needs model, measure, value and source ({error})") from error
            if figure.measure not in SHOWN:
                raise ValueError(f"{path}, line {number}: measure must be one of {SHOWN}, got {figure.measure!r}")
            figures.append(figure)
    return figures


def markdown(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return the comparison as a Markdown table, a model at a budget each row, published figures last."""
    rows = rows_of(records)
    published = {figure.measure for figure in reported}
    names = [name for name in SHOWN if name in published or any(row.values(name) for row in rows)]
    head = [
        "model",
        "m",
        "seeds",
        "accuracy",
        "minus random",
        "REINFORCE minus it",
        *(MEASURES[name] for name in names if name != "accuracy"),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [TITLES[row.looking], "-" if row.budget is None else str(row.budget), str(len(row.records))]
        cells += [shown(row.values("accuracy")), shown(gains(row, rows), signed=True)]
        led = lead(row, rows)
        cells.append("-" if led is None else f"{led[0]:+.3f} ± {led[1]:.3f} (m = {beside(row)})")
        cells += [shown(row.values(name)) for name in names if name != "accuracy"]
        lines.append("| " + " | ".join(cells) + " |")
    for model, source in dict.fromkeys((figure.model, figure.source) for figure in reported):
        known = {
            figure.measure: f"{figure.value:g}"
            for figure in reported
            if (figure.model, figure.source) == (model, source)
        }
        cells = [f"{model} (reported by {source})", "-", "-", known.get("accuracy", "-"), "-", "-"]
        cells += [known.get(name, "-") for name in names if name != "accuracy"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return as CSV what the Markdown table says, a measure of a model at a budget a line.

    `interval` is half of the 95 % interval, empty for a single seed; `m` that of REINFORCE where it is set against a
    model, and empty for what does not depend on it; `reported_by` names who published a figure.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "m", "seeds", "measure", "mean", "interval", "reported_by"])
    rows = rows_of(records)
    for row in rows:
        named = {name: row.values(name) for name in MEASURES} | {"accuracy_minus_random": gains(row, rows)}
        lines = [
            (row.budget, len(values), name, *mean_and_interval(values)) for name, values in named.items() if values
        ]
        if (led := lead(row, rows)) is not None:
            lines.append((beside(row), len(row.records), "reinforce_minus_it", *led))
        for budget, count, name, mean, half in lines:
            writer.writerow([row.looking, budget, count, name, mean, half if isfinite(half) else "", ""])
    writer.writerows([figure.model, "", "", figure.measure, figure.value, "", figure.source] for figure in reported)
    return buffer.getvalue()


def comma_separated(records: Sequence[Record]) -> str:
    """Return the records as CSV, one arm of one run a line."""
    buffer = io.StringIO()
    names = ["model", "m", "seed", *MEASURES, "validation_accuracy", "train_seconds", "git_commit"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows_of(records):
        for record in row.records:
            known = record.measured | {"model": row.looking, "m": record.budget, "seed": record.seed}
            writer.writerow([known.get(name) for name in names])
    return buffer.getvalue()


def page(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return what table.md holds: the table, and what it takes to make it again."""
    commits = sorted({str(record.measured["git_commit"]) for record in records})
    machines = sorted({f"{record.run['machine']}, {record.run['threads']} threads" for record in records})
    config = Config.from_json(records[0].run["config"])
    said = [
        f"Source `{config.source}`, fold {config.fold}, preset {config.preset}, reward {config.reward}, "
        f"{config.updates} updates of {config.clips} clips x {config.rollouts} rollouts; "
        f"{_counted(records[0].measured['films'])}.",
        f"Code {', '.join(commits)}; {'; '.join(machines)}.",
        *_tuned(records),
        "Means over seeds with 95 % intervals; checkpoints chosen by validation. REINFORCE minus a model: of each test "
        "video the mean over seeds, with the interval over films. Soft attention reads every slice to score it, its m "
        "likeliest cells too, and begins from the mean of all frames, so it has seen the whole clip at frame 1. Costs "
        "of looks are taken off the reward of those alone who choose what to see.",
    ]
    return markdown(records, reported) + "\n\n" + "\n".join(said) + "\n"


def _counted(films: Sequence[int]) -> str:
    """Say how many test videos there are, of how many films."""
    if len(set(films)) < len(films):
        return f"{len(films)} test videos of {len(set(films))} films"
    return (
        f"{len(films)} test videos, each taken for a film of its own, as their names tell nothing else: where they "
        "share footage, intervals over films are too narrow"
    )


def _tuned(records: Sequence[Record]) -> list[str]:
    """Say which models were trained with settings of their own, and which with the base's where some were."""
    own = {
        record.looking: Config.from_json(record.run["config"]).arm_settings.get(record.looking) for record in records
    }
    lines = [f"Tuned for itself: {TITLES[arm]}: {spelled(settings)}." for arm, settings in own.items() if settings]
    rest = [TITLES[arm] for arm, settings in own.items() if not settings]
    return [*lines, f"Not tuned for itself: {'; '.join(rest)}."] if lines and rest else lines
