"""The table that a training command prints: accuracy with its interval, chance, and looks on the actor."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from ..learning.models import ModelName
from ..playing.evaluation import Evaluation
from .intervals import mean_interval


def results_table(measured: Sequence[tuple[ModelName, Evaluation]], chance: float) -> str:
    """Return the test results of models as lines of text.

    The 95 % interval of the accuracy covers the films of the test videos, not the seeds of training.
    """
    lines = [f"{'':12}{'accuracy':>9}{'95 % interval':>17}{'vote':>8}{'focus':>8}{'per look':>10}"]
    for model, result in measured:
        accuracy = mean_interval(result.correct, result.films)
        low, high = max(accuracy.mean - accuracy.half, 0), min(accuracy.mean + accuracy.half, 1)
        interval = f"{low:.3f} to {high:.3f}" if isfinite(accuracy.half) else "-"
        cells = [result.vote_accuracy, result.focus, result.focus_per_look]
        vote, focus, per_look = ("-" if value is None else f"{value:.3f}" for value in cells)
        lines.append(f"{model:12}{accuracy.mean:9.3f}{interval:>17}{vote:>8}{focus:>8}{per_look:>10}")
    notes = {mean_interval(result.correct, result.films).note for _, result in measured}
    videos, films = len(measured[0][1].correct), len(set(measured[0][1].films))
    lines.append(f"chance {chance:.3f}; {videos} test videos of {films} films; the interval covers films, not seeds")
    return "\n".join([*lines, *(f"of some intervals: {note}" for note in sorted(notes) if note)])
