"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from math import isfinite

from .intervals import Interval, comparisons_sentence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(header), ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return CSV; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def format_interval(interval: Interval | None, *, digits: int = 3) -> str:
    """Return a mean with its interval; "-" for None."""
    return "-" if interval is None else interval.text(digits=digits)


def format_gain(interval: Interval | None) -> str:
    """Return a difference with its sign and interval, and "*" if the interval excludes zero; "-" for None."""
    return "-" if interval is None else interval.text(signed=True) + " *" * interval.excludes_zero


def cells_of(interval: Interval | None) -> list[float | None]:
    """Return a mean and half its interval for `comma_separated`; None if unknown."""
    return [None, None] if interval is None else [interval.mean, interval.half if isfinite(interval.half) else None]


def notes_on(differences: Sequence[Interval]) -> list[str]:
    """Return the paragraphs below a table of differences: their number, and each note of an interval once."""
    notes = {note for difference in differences for note in difference.note.split("; ") if note}
    return [
        "Differences have 95 % intervals over films and seeds, and a * if the interval excludes zero. "
        + comparisons_sentence(len(differences)),
        *(f"Of some differences: {note}." for note in sorted(notes)),
    ]
