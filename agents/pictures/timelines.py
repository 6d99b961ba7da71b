"""Time lines: one row for the true segments of a clip, if they are known, and one for the predictions of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glimpse_env import Segment

from ..learning.policy import class_probabilities
from ..playing.joined import JoinedFrames, JoinedVideo
from .strips import MARKS, Played, colour_of

OVERLAP = 0.5  # temporal IoU that a right segment exceeds


def joined_video(played: Played, episode: int) -> JoinedVideo:
    """Return the frames of an episode as those of its video."""
    rollout, frames = played.rollout.rows(slice(episode, episode + 1)), JoinedFrames(played.source)
    frames.add(rollout, class_probabilities(rollout.class_logits, len(played.source.class_names)).cpu())
    return frames.videos()[0]


def timeline(models: Sequence[Played], episode: int) -> Figure:
    """Draw the true segments of a clip, if it has any, and the runs of equal predictions of several models below."""
    videos, names = [joined_video(played, episode) for played in models], models[0].source.class_names
    figure = Figure(figsize=(8.0, 0.45 * len(models) + 1.3), layout="constrained")
    axis, first = figure.subplots(), videos[0]
    labels: list[str] = [played.model.name for played in models]
    if first.truths:
        labels.insert(0, "truth")
        _draw(axis, 0, [(one, None, names[one.label]) for one in first.truths], "tab:grey")
    for row, video in enumerate(videos, len(labels) - len(videos)):
        runs = [one.segment for one in video.runs()]
        right = video.right(runs, OVERLAP)
        marked = [index in right if first.truths else None for index in range(len(runs))]
        parts = [(one, mark, names[one.label]) for one, mark in zip(runs, marked, strict=True)]
        _draw(axis, row, parts, "tab:blue")
    half = 0.5 / first.frames_per_second
    axis.set(xlim=(first.times[0] - half, first.times[-1] + half), ylim=(len(labels) - 0.5, -0.5))
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    marks = f"; ✓ overlaps a true segment of its class by more than {OVERLAP:g} (temporal IoU), ✗ does not"
    axis.set_xlabel("seconds" + marks * bool(first.truths), fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    title = f"{models[0].clip_id(episode)}, truth: {models[0].truth_names(episode)}"
    axis.set_title(title, fontsize=9, parse_math=False)
    return figure


def _draw(axis: Axes, row: int, segments: Sequence[tuple[Segment, bool | None, str]], unknown: str) -> None:
    for (start, end, _), is_right, name in segments:
        colour = colour_of(is_right, unknown=unknown)
        (bar,) = axis.barh(row, end - start, left=start, height=0.7, color=colour, edgecolor="white")
        label = f"{MARKS[is_right]} {name}".strip()
        words: dict[str, Any] = {"fontsize": 7, "color": "white", "va": "center", "parse_math": False, "clip_on": True}
        axis.text(start, row, f" {label}", **words).set_clip_path(bar)  # a label is cut at the end of its bar
