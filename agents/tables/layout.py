"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from .intervals import Interval, comparisons_sentence

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, and the sentences below it."""

    header: list[str]
    lines: list[list[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        rows = [self.header, ["---"] * len(self.header)]
        rows += [[cell.replace("|", "\\|") for cell in line] for line in self.lines]
        return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)

    def latex(self) -> str:
        """Return a tabular of booktabs, whose first column is left-aligned."""
        rows = [
            " & ".join("".join(LATEX.get(letter, letter) for letter in cell) for cell in line) + r" \\"
            for line in (self.header, *self.lines)
        ]
        rows = [re.sub(r"(?<![\w.])-(?=\d)", "$-$", row) for row in rows]  # minus signs, not hyphens
        columns = "l" + "r" * (len(self.header) - 1)
        return "\n".join(
            [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule",
             r"\end{tabular}", ""]
        )  # fmt: skip


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
    if not differences:
        return []
    notes = {note for difference in differences for note in difference.note.split("; ") if note}
    return [
        "Differences have 95 % intervals over films and seeds, and a * if the interval excludes zero. "
        + comparisons_sentence(len(differences)),
        *(f"Note on some differences: {note}." for note in sorted(notes)),
    ]
