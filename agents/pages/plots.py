"""Plots of a report: learning curves, accuracy against the frames seen, and maps of the looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..learning.models import ModelName

CURVES = {"validation/accuracy": "accuracy on validation", "train/focus": "focus in training"}

Lines = Mapping[ModelName, Sequence[Mapping[str, float]]]  # by model, the lines of its metrics.jsonl


def learning_curves(metrics: Lines) -> Figure | None:
    """Draw the logged scalars of models over their updates; None if nothing was logged."""
    logged = {name: {model: _curve(lines, name) for model, lines in metrics.items()} for name in CURVES}
    known = {name: curves for name, curves in logged.items() if any(curves.values())}
    if not known:
        return None
    figure = _figure(5.8 * len(known), 3.0)
    for axis, (name, curves) in zip(figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True):
        for number, (model, points) in enumerate(curves.items()):
            if points:
                axis.plot(*zip(*points, strict=True), label=model, color=f"C{number}", lw=1.3)
        _finish(axis, x="update", y=CURVES[name])
    return figure


def accuracy_over_frames(accuracies: Mapping[ModelName, Sequence[float]]) -> Figure:
    """Draw the models' accuracy on the test split if all episodes ended after frame 1, 2 and so on."""
    figure = _figure(5.8, 3.0)
    axis = figure.subplots()
    for model, values in accuracies.items():
        axis.plot(range(1, len(values) + 1), values, label=model, lw=1.3)
    _finish(axis, x="frames seen", y="accuracy")
    return figure


def visit_maps(visits: Mapping[ModelName, Sequence[Sequence[float]]]) -> Figure:
    """Draw the models' (K, K) shares of looks in one scale, of square roots: some models look at few cells."""
    figure = _figure(2.4 * len(visits) + 0.8, 2.6)
    top = max(float(np.max(shares)) for shares in visits.values())
    axes = figure.subplots(1, len(visits), squeeze=False)[0]
    for axis, (model, shares) in zip(axes, visits.items(), strict=True):
        image = axis.imshow(np.asarray(shares), norm=PowerNorm(0.5, 0, top), cmap="magma")
        axis.set_title(model, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=list(axes), label="share of looks")
    return figure


def _curve(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(line["update"], line[name]) for line in lines if name in line]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axis: Axes, *, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # outside, as there may be many curves
