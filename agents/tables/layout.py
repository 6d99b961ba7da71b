"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from .intervals import Interval


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
