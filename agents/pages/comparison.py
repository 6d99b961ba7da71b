"""The part of a report that shows a comparison: what agents.compare left in its folder, as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .html import Markup, picture, table, tag

FIGURES = {  # by file, what each shows
    "accuracy_by_glimpses.png": "Test accuracy against the glimpses of a frame, with 95 % intervals over seeds",
    "accuracy_by_frames.png": "Test accuracy against the frames seen",
    "accuracy_by_compute.png": "Test accuracy against the multiply-adds of a clip, those of the CNN left out",
}


def comparison_section(folder: Path) -> Markup:
    """Lay out a comparison's table, what is said below it, and its figures.

    Raises:
        FileNotFoundError: there is no table.
    """
    path = folder / "table.md"
    if not path.exists():
        raise FileNotFoundError(f"no table.md in {folder}: it is not the folder of a comparison, see agents.compare")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    header, _, *rows = (_cells(line) for line in lines if line.startswith("|"))
    said = [tag("p", line) for line in lines if not line.startswith("|")]
    return tag("section", tag("h2", "Comparison"), table(header, rows), *said, *_figures(folder), id="comparison")


def _cells(line: str) -> Sequence[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _figures(folder: Path) -> list[Markup]:
    known = {folder / name: caption for name, caption in FIGURES.items()}
    return [picture(path.read_bytes(), caption) for path, caption in known.items() if path.exists()]
