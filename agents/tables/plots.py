"""Figures of finished runs. Each model has one colour, marker and dash in all figures and on the page of a report."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..cost.macs import ClipMacs
from ..learning.models import ModelName
from ..playing.evaluation import MEASURES
from .records import ETAS, Record, Row

CURVES = {"validation/accuracy": "accuracy on validation", "train/focus": "focus in training"}


class Style(NamedTuple):
    """Appearance of a model: a colour of Okabe and Ito's palette for all colour vision, a marker and a dash."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


STYLES: dict[ModelName, Style] = {
    "reinforce": Style("#0072b2", "o", "-"),
    "unlimited": Style("#56b4e9", "D", (0, (5, 1))),
    "gumbel": Style("#cc79a7", "v", (0, (3, 1, 1, 1))),
    "soft": Style("#009e73", "s", (0, (5, 2))),
    "soft_hidden": Style("#4fb89a", "P", (0, (1, 1))),
    "soft_top": Style("#7a9a01", "X", (0, (5, 2, 1, 2))),
    "random": Style("#d55e00", "^", (0, (2, 2))),
    "centre": Style("#e69f00", "<", (0, (4, 1, 1, 1, 1, 1))),
    "oracle": Style("#9467bd", "*", "-"),
    "norm": Style("#404fa0", "d", (0, (3, 2, 1, 2))),
    "mean": Style("#7f7f7f", "p", (0, (4, 4))),
    "max": Style("#a5714e", "h", (0, (1, 3))),
    "all": Style("#b8860b", ">", (0, (6, 1))),
}


def style_of(model: ModelName) -> Style:
    """Return the appearance of a model; agents that were trained elsewhere share one."""
    return STYLES.get(model, Style("#d6336c", "+", "-"))


def comparison_figures(rows: Sequence[Row], macs: Mapping[str, ClipMacs]) -> dict[str, tuple[str, Figure]]:
    """Return the figures of a comparison with their captions, by name; `macs` are by the name of a row."""
    figures = {}
    if any(len([row for row in rows if row.model == other.model]) > 1 for other in rows):
        caption = "Test accuracy against the glimpses per frame, with 95 % intervals over seeds"
        figures["accuracy_by_glimpses"] = caption, _by_glimpses(rows)
    figures["accuracy_by_frames"] = "Test accuracy against the frames seen", _by_frames(rows)
    if any(row.by_eta() is not None for row in rows):
        caption = "Precision and recall of events by the weight eta of eq. 7, for which validation chose a threshold"
        figures["events_by_eta"] = caption, _by_eta(rows)
    if spent := [row for row in rows if row.name in macs]:
        caption = "Test results against the GMACs (billions of multiply-accumulates) of a clip, " + (
            "with those of the network that makes the features"
            if _with_network(spent, macs)
            else "without those of a network that makes the features"
        )
        figures["accuracy_by_compute"] = caption, _by_compute(spent, macs)
    return figures


def _by_glimpses(rows: Sequence[Row]) -> Figure:
    figure, axis = _accuracy_axes("glimpses per frame", rows)
    budgets = sorted({row.glimpses for row in rows if row.glimpses is not None})
    for model in dict.fromkeys(row.model.name for row in rows):
        points = [row for row in rows if row.model.name == model]
        if points[0].glimpses is None:
            level = np.mean(points[0].values("accuracy"))
            axis.plot(budgets, [level] * len(budgets), label=points[0].model.title, **_line(model, marker=""))
        else:
            _errorbar(axis, [float(row.glimpses or 0) for row in points], points, points[0].model.title)
    axis.set_xscale("log")
    axis.set_xticks(budgets, [str(budget) for budget in budgets])
    axis.set_xticks([], minor=True)
    return _with_legend(figure, axis)


def _by_frames(rows: Sequence[Row]) -> Figure:
    figure, axis = _accuracy_axes("frames seen", rows)
    for row in rows:
        mean = np.mean([record.test.accuracy_by_frames for record in row.records], axis=0)
        label = row.name + (", knowing the clip's mean" if row.model.is_soft else "")
        line = _line(row.model.name, markevery=max(1, len(mean) // 8))
        axis.plot(np.arange(1, len(mean) + 1), mean, label=label, **line)
    axis.locator_params(axis="x", integer=True)
    return _with_legend(figure, axis)


def _by_eta(rows: Sequence[Row]) -> Figure:
    figure = _figure(5.4, 5.6)
    axes = figure.subplots(2, 1)
    for row in rows:
        if (curves := row.by_eta()) is not None:
            for axis, values in zip(axes, curves, strict=True):
                axis.plot(ETAS, values, label=row.name, **_line(row.model.name))
    for axis, name in zip(axes, ("precision", "recall"), strict=True):
        axis.set(xlabel="eta", ylabel=f"{name} of events", ylim=(0, 1), xticks=ETAS)
        axis.grid(alpha=0.3)
    return _with_legend(figure, axes[-1])


def _with_network(rows: Sequence[Row], macs: Mapping[str, ClipMacs]) -> bool:
    return all(macs[row.name].network is not None for row in rows)


def _by_compute(rows: Sequence[Row], macs: Mapping[str, ClipMacs]) -> Figure:
    """Draw accuracies, or the mAPs of untrimmed clips, over GMACs; the numbers at the points are m."""
    measure = "mean_average_precision" if all(row.values("detection_map") for row in rows) else "accuracy"
    with_network = _with_network(rows, macs)
    figure, axis = _accuracy_axes(f"GMACs per clip{', without the network' * (not with_network)}", rows, measure)
    for model in dict.fromkeys(row.model for row in rows):
        points = [row for row in rows if row.model == model]
        spent = [macs[row.name].policy + (macs[row.name].network or 0.0) * with_network for row in points]
        _errorbar(axis, [work / 1e9 for work in spent], points, model.title, measure)
        for row, work in zip(points, spent, strict=True):
            mean = row.mean(measure)
            if row.glimpses is not None and mean is not None:
                place = (work / 1e9, mean.mean)
                axis.annotate(str(row.glimpses), place, (4, 4), textcoords="offset points", fontsize=7)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    return _with_legend(figure, axis)


def learning_figure(records: Sequence[Record]) -> Figure | None:
    """Draw the logged scalars of runs over their updates; None if nothing was logged."""
    logged = [(record.model, record.run.metrics()) for record in records]
    names = [name for name in CURVES if any(name in line for _, lines in logged for line in lines)]
    if not names:
        return None
    figure = _figure(5.4, 3.0 * len(names))
    for axis, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        for model, lines in logged:
            if points := [(line["update"], line[name]) for line in lines if name in line]:
                line = _line(model.name, markevery=max(1, len(points) // 8))
                axis.plot(*zip(*points, strict=True), label=model.title, **line)
        axis.set(xlabel="update", ylabel=CURVES[name], ylim=(0, 1))
        axis.locator_params(axis="x", integer=True)
        _with_legend(figure, axis)
    return figure


def visits_figure(records: Sequence[Record]) -> Figure | None:
    """Draw each model's share of looks on each cell, in one scale of square roots; None if no run knows it."""
    visits = {one.model.name: np.asarray(one.test.visits) for one in records if one.test.visits is not None}
    if not visits:
        return None
    figure = _figure(2.4 * len(visits) + 0.8, 2.6)
    axes = figure.subplots(1, len(visits), squeeze=False)[0]
    for axis, (model, shares) in zip(axes, visits.items(), strict=True):
        norm = PowerNorm(0.5, 0, max(float(one.max()) for one in visits.values()))
        image = axis.imshow(shares, norm=norm, cmap="magma")
        axis.set_title(model, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(axes), label="share of looks")
    return figure


def png(figure: Figure, dpi: int = 130) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _accuracy_axes(label: str, rows: Sequence[Row], measure: str = "accuracy") -> tuple[Figure, Axes]:
    figure = _figure(5.4, 3.2)
    axis = figure.subplots()
    if measure == "accuracy":
        chance = 1 / len(rows[0].records[0].record.source.class_names)
        axis.axhline(chance, color="#808080", linestyle=":", linewidth=1.0, label="chance")
    axis.set(xlabel=label, ylabel=MEASURES[measure], ylim=(0, 1))
    return figure, axis


def _line(model: ModelName, **others: Any) -> dict[str, Any]:
    style = style_of(model)
    line = {"color": style.colour, "marker": style.marker, "linestyle": style.dash, "linewidth": 1.3, "markersize": 4}
    return line | others


def _errorbar(axis: Axes, places: Sequence[float], rows: Sequence[Row], label: str, measure: str = "accuracy") -> None:
    """Draw a measure of rows with its intervals, cut to [0, 1]; unknown intervals are not drawn."""
    found = [mean for row in rows if (mean := row.mean(measure)) is not None]
    means, halves = (np.array([getattr(one, name) for one in found]) for name in ("mean", "half"))
    halves = np.where(np.isfinite(halves), halves, 0.0)
    errors = np.minimum(halves, [means, 1 - means])
    axis.errorbar(places, means, errors, label=label, capsize=2, **_line(rows[0].model.name, markersize=5))


def _with_legend(figure: Figure, axis: Axes) -> Figure:
    axis.grid(alpha=0.3)
    legend = axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), frameon=False)  # there may be many
    figure.set_figheight(figure.get_figheight() + 0.17 * len(legend.get_texts()))
    return figure
