"""Detection of events in time: predicted segments with scores, and their average precision.

Segments are runs of equal predictions (`detections_of_runs`), or runs of frames in which the score of a class reaches
one of several thresholds (`detections_of_scores`). `activitynet_map` and `thumos_map` measure them as the official code
of the two benchmarks does, except that detections of equal scores are retrieved together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse_env import Segment
from glimpse_env.rules import claimed_segments, predicted_segments, temporal_iou

from .metrics import Truths, average_precision

ACTIVITYNET_OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.5, 0.55, ..., 0.95
THUMOS_OVERLAPS = tuple(round(0.1 * step, 1) for step in range(1, 8))  # 0.1, 0.2, ..., 0.7
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))  # of scores
MOST_OVERLAP = 0.5  # temporal IoU of two detections of a class


class Detection(NamedTuple):
    """A predicted segment and its score."""

    segment: Segment
    score: float


Matching = Callable[[Sequence[Detection], Sequence[Segment], Sequence[float]], Truths]
"""Takes a video's detections of a class, the best first, its true segments of that class, and temporal IoUs; returns
(overlaps, detections), which of the detections are right."""


def detections_of_runs(
    predictions: NDArray[np.int64],
    scores: NDArray[np.floating],
    times: NDArray[np.float64],
    *,
    frames_per_second: float,
) -> list[Detection]:
    """Return the runs of equal predictions; a run's score is the mean of its class's scores.

    Args:
        predictions: (T,) classes; C means "no prediction".
        scores: (T, C).
        times: (T,) seconds, ascending; a frame stands for half a frame before and after its time.
        frames_per_second: rate of the frames.
    """
    segments = predicted_segments(predictions, times, frame_seconds=1 / frames_per_second, num_classes=scores.shape[1])
    return [Detection(one, float(scores[_frames(one, times), one.label].mean())) for one in segments]


def segments_above(
    threshold: float, scores: NDArray[np.floating], times: NDArray[np.float64], *, frames_per_second: float
) -> list[Segment]:
    """Return the runs of frames in which a class's score reaches a threshold; arguments as in `detections_of_runs`."""
    segments, classes, seconds = list[Segment](), scores.shape[1], 1 / frames_per_second
    for label in np.flatnonzero(scores.max(0) >= threshold).tolist():
        predictions = np.where(scores[:, label] >= threshold, label, classes)
        segments += predicted_segments(predictions, times, frame_seconds=seconds, num_classes=classes)
    return segments


def detections_of_scores(
    scores: NDArray[np.floating],
    times: NDArray[np.float64],
    *,
    frames_per_second: float,
    thresholds: Iterable[float] = THRESHOLDS,
) -> list[Detection]:
    """Return the `segments_above` several thresholds. Of two that overlap, the worse one is left out.

    A segment's score is the mean of its class's scores inside, minus the mean over a quarter of its length on either
    side. Of two segments with a temporal IoU above one half the better one is kept.

    Source: Shou et al., "AutoLoc", ECCV 2018, for the score (outer-inner contrast).
    """
    found = dict.fromkeys(
        one
        for threshold in thresholds
        for one in segments_above(threshold, scores, times, frames_per_second=frames_per_second)
    )
    kept = list[Detection]()
    for one in sorted((Detection(one, _contrast(one, scores, times)) for one in found), key=lambda one: -one.score):
        same = (other.segment for other in kept if other.segment.label == one.segment.label)
        if all(temporal_iou(one.segment, other) <= MOST_OVERLAP for other in same):
            kept.append(one)
    return kept


def activitynet_map(
    detections: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Segment]],
    overlaps: Sequence[float] = ACTIVITYNET_OVERLAPS,
) -> NDArray[np.float64] | None:
    """Return (overlaps,) the mean of the classes' interpolated average precisions; None without a true segment.

    Detections claim true segments, the best score first: each takes the free one that it overlaps most, if their
    temporal IoU is at least the given one.

    Args:
        detections: of each video.
        truths: of each video; a class that is true nowhere is left out.
        overlaps: temporal IoUs.

    Source: ActivityNet's `eval_detection.py`, whose average mAP is the mean of these values.
    """
    return _mean_average_precisions(detections, truths, overlaps, _detections_claim, interpolated=True)


def thumos_map(
    detections: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Segment]],
    overlaps: Sequence[float] = THUMOS_OVERLAPS,
) -> NDArray[np.float64] | None:
    """Return (overlaps,) the mean of the classes' plain average precisions; None without a true segment.

    True segments claim detections, in order of time, as in the environment's reward: each takes the free one that it
    overlaps most, if their temporal IoU exceeds the given one; ties go to the best score.

    Source: `TH14evalDet` of THUMOS Challenge 2014's evaluation kit (version of 2015-09-30). It has no class
    "ambiguous" here.
    """
    return _mean_average_precisions(detections, truths, overlaps, _truths_claim, interpolated=False)


def _mean_average_precisions(
    detections: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Segment]],
    overlaps: Sequence[float],
    match: Matching,
    *,
    interpolated: bool,
) -> NDArray[np.float64] | None:
    positives: dict[int, int] = {}
    scores: dict[int, list[float]] = {}
    right: dict[int, list[Truths]] = {}
    for found, true in zip(detections, truths, strict=True):
        ranked = sorted(found, key=lambda one: -one.score)
        for segment in true:
            positives[segment.label] = positives.get(segment.label, 0) + 1
        for label in {one.segment.label for one in ranked}:
            mine = [one for one in ranked if one.segment.label == label]
            scores.setdefault(label, []).extend(one.score for one in mine)
            same = [segment for segment in true if segment.label == label]
            right.setdefault(label, []).append(match(mine, same, overlaps))
    if not positives:
        return None
    values = np.zeros((len(positives), len(overlaps)))
    for row, (label, count) in zip(values, positives.items(), strict=True):
        if label in scores:
            all_scores, all_right = np.array(scores[label]), np.concatenate(right[label], axis=1)
            row[:] = [
                average_precision(all_scores, one, interpolated=interpolated, positives=count) for one in all_right
            ]
    return np.asarray(values.mean(0), np.float64)


def _detections_claim(found: Sequence[Detection], true: Sequence[Segment], overlaps: Sequence[float]) -> Truths:
    right = np.zeros((len(overlaps), len(found)), np.bool_)
    if not true:
        return right
    wanted, rows = np.array(overlaps), np.arange(len(overlaps))
    claimed = np.zeros((len(overlaps), len(true)), np.bool_)
    for column, one in enumerate(found):
        shared = np.where(claimed, -1.0, [temporal_iou(one.segment, segment) for segment in true])
        best = shared.argmax(1)
        right[:, column] = shared[rows, best] >= wanted
        claimed[rows, best] |= right[:, column]
    return right


def _truths_claim(found: Sequence[Detection], true: Sequence[Segment], overlaps: Sequence[float]) -> Truths:
    segments, right = [one.segment for one in found], np.zeros((len(overlaps), len(found)), np.bool_)
    for row, overlap in zip(right, overlaps, strict=True) if true else ():
        row[list(claimed_segments(segments, true, overlap_threshold=overlap))] = True
    return right


def _frames(segment: Segment, times: NDArray[np.float64]) -> slice:
    """Return the frames of a segment that begins and ends between frames."""
    return slice(*np.searchsorted(times, (segment.start, segment.end)).tolist())


def _contrast(segment: Segment, scores: NDArray[np.floating], times: NDArray[np.float64]) -> float:
    frames, own = _frames(segment, times), scores[:, segment.label]
    margin = max(1, round((frames.stop - frames.start) / 4))
    around = np.concatenate([own[max(0, frames.start - margin) : frames.start], own[frames.stop :][:margin]])
    return float(own[frames].mean() - (around.mean() if len(around) else 0))
