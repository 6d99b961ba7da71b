"""Figures of a comparison: accuracy against glimpses, frames seen and compute."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..runs.files import write_file

MARKERS = "os^Dv<>PX*ph"


def budget_figure(
    curves: Sequence[tuple[str, Sequence[tuple[int, float, float]]]], levels: Sequence[tuple[str, float]]
) -> Figure:
    """Draw accuracy against glimpses per frame.

    Args:
        curves: name of each model, and its points: m, mean accuracy, and half its interval (none is drawn if infinite).
        levels: mean accuracies of models that do not depend on m, drawn as horizontal lines.
    """
    figure, axis = _axes("glimpses per frame")
    for name, points in curves:
        budgets, means, halves = (np.array(column, float) for column in zip(*points, strict=True))
        halves = np.where(np.isfinite(halves), halves, 0.0)
        axis.errorbar(budgets, means, halves, label=name, marker="o", markersize=3, capsize=2, linewidth=1.2)
    for number, (name, level) in enumerate(levels):
        axis.axhline(level, label=name, linestyle=(0, (4, 1 + number)), linewidth=1.0, color=f"C{number + len(curves)}")
    axis.set_xscale("log")
    ticks = sorted({budget for _, points in curves for budget, _, _ in points})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def anytime_figure(curves: Sequence[tuple[str, Sequence[Sequence[float]]]]) -> Figure:
    """Draw the accuracy of the mean score of the first n frames against n, for each model the mean over its seeds."""
    figure, axis = _axes("frames seen")
    for name, seeds in curves:
        mean = np.asarray(seeds, float).mean(0)
        axis.plot(np.arange(1, len(mean) + 1), mean, label=name, linewidth=1.2)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def compute_figure(points: Sequence[tuple[str, float, float, float]]) -> Figure:
    """Draw accuracy against compute: name, MACs per clip, mean accuracy and half its interval of each model."""
    figure, axis = _axes("MACs per clip, without the CNN")
    for number, (name, macs, mean, half) in enumerate(points):
        error = half if np.isfinite(half) else 0.0
        marker = MARKERS[number % len(MARKERS)]  # hollow and different, so that models at one place stay visible
        axis.errorbar(macs, mean, error, label=name, marker=marker, markersize=7, fillstyle="none", linestyle="none")
    axis.set_xscale("log")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_file(path, buffer.getvalue())


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_xlabel(label)
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)
    return figure, axis
