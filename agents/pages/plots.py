"""The plots of a report: learning curves, accuracy against the frames seen, and where was looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..pictures.strips import arm_name

CURVES = {"eval/accuracy": "accuracy on validation", "train/focus": "focus in training"}

Lines = Mapping[str, Sequence[Mapping[str, float]]]  # by arm, the lines of its metrics.jsonl


def learning_curves(metrics: Lines) -> Figure | None:
    """Draw what the arms came to over their updates, or nothing where nothing was logged."""
    logged = {name: {arm: _curve(lines, name) for arm, lines in metrics.items()} for name in CURVES}
    known = {name: curves for name, curves in logged.items() if any(points for points in curves.values())}
    if not known:
        return None
    figure = _figure(5.8 * len(known), 3.0)
    for axis, (name, curves) in zip(figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True):
        for number, (arm, points) in enumerate(curves.items()):
            if points:
                axis.plot(*zip(*points, strict=True), label=arm_name(arm), color=f"C{number}", lw=1.3)
        _finish(axis, x="update", y=CURVES[name])
    return figure


def accuracy_over_frames(accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Draw by arm the accuracy on the test split, had all episodes ended after frame 1, 2 and so on."""
    figure = _figure(5.8, 3.0)
    axis = figure.subplots()
    for arm, values in accuracies.items():
        axis.plot(range(1, len(values) + 1), values, label=arm_name(arm), lw=1.3)
    _finish(axis, x="frames seen", y="accuracy")
    return figure


def visit_maps(visits: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw by arm the (K, K) share of looks that fell on each cell, in one scale for all: that of square roots, since
    some look at few cells and others everywhere.
    """
    figure = _figure(2.4 * len(visits) + 0.8, 2.6)
    top = max(float(np.max(shares)) for shares in visits.values())
    axes = figure.subplots(1, len(visits), squeeze=False)[0]
    for axis, (arm, shares) in zip(axes, visits.items(), strict=True):
        image = axis.imshow(np.asarray(shares), norm=PowerNorm(0.5, 0, top), cmap="magma")
        axis.set_title(arm_name(arm), fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=list(axes), label="share of looks")
    return figure


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
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
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside what there may be many curves of
