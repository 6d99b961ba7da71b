"""Comparison section of a report: the numbers and figures that agents.compare wrote."""

from __future__ import annotations

import csv
from pathlib import Path

from ..learning.models import MODELS
from ..playing.evaluation import MEASURES
from ..tables.intervals import Interval
from ..tables.layout import format_gain, format_interval, notes_on
from .html import Markup, picture, table, tag

FIGURES = {  # captions by file
    "accuracy_by_glimpses.png": "Test accuracy against the glimpses per frame, with 95 % intervals over seeds",
    "accuracy_by_frames.png": "Test accuracy against the frames seen",
    "accuracy_by_compute.png": "Test accuracy against the multiply-adds of a clip, without those of the CNN",
}
DIFFERENCES = {"accuracy_minus_random": "minus random", "reinforce_minus_it": "REINFORCE minus it"}


def comparison_section(folder: Path) -> Markup:
    """Return a comparison's table, notes and figures.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: the table is of another version.
    """
    path = folder / "summary.csv"
    if not path.exists():
        raise FileNotFoundError(f"no summary.csv in {folder}: name a folder that agents.compare wrote")
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    names, differences = set[str](), list[Interval]()
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                half = float(line["interval"] or "inf")
                value, name = Interval(float(line["mean"]), half, line["note"]), line["measure"]
                model, glimpses, reported_by = line["model"], line["m"], line["reported_by"]
                title = f"{model} (reported by {reported_by})" if reported_by else MODELS[model].title  # type: ignore[index]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}: of another version ({error}); run agents.compare again"
                ) from error
            text = format_gain(value) if name in DIFFERENCES else format_interval(value)
            row = rows.get((title, glimpses, line["seeds"]))
            if name == "reinforce_minus_it" and row is None:  # the model has no m, and m is that of REINFORCE
                row, text = rows[title, "", line["seeds"]], f"{text} (m = {glimpses})"
            row = rows.setdefault((title, glimpses, line["seeds"]), {}) if row is None else row
            row[name] = text
            names.add(name)
            differences += [value] * (name in DIFFERENCES)
    titles = {"accuracy": MEASURES["accuracy"]} | DIFFERENCES | MEASURES
    shown = {name: title for name, title in titles.items() if name in names}
    cells = [[*(cell or "-" for cell in key), *(row.get(name, "-") for name in shown)] for key, row in rows.items()]
    parts = [tag("h2", "Comparison"), tag("p", "Means have 95 % intervals over seeds.")]
    parts += [
        table(["model", "m", "seeds", *shown.values()], cells),
        *(tag("p", note) for note in notes_on(differences)),
    ]
    figures = {folder / name: caption for name, caption in FIGURES.items()}
    parts += [picture(path.read_bytes(), caption) for path, caption in figures.items() if path.exists()]
    return tag("section", *parts, id="comparison")
