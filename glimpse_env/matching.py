"""Comparison of predictions with the truth: frame by frame, or segment by segment (Yeung et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import Segment

_SLACK = 1e-9  # seconds: a frame on the border of a segment is in it, whatever its time is rounded to


def classes_at(times: NDArray[np.float64], segments: Iterable[Segment], num_classes: int) -> NDArray[np.bool_]:
    """Return (frames, C) bool: the classes whose segments contain each of the (frames,) `times` in seconds.

    A segment of label -1, whose class is unknown, makes no class true.
    """
    labels = np.zeros((len(times), num_classes), np.bool_)
    for start, end, label in segments:
        if label >= 0:
            labels[(start - _SLACK <= times) & (times <= end + _SLACK), label] = True
    return labels


def predicted_segments(
    predictions: NDArray[np.int64], times: NDArray[np.float64], *, frame_seconds: float, num_classes: int
) -> list[Segment]:
    """Return the runs of equal predictions as segments, in order of time; runs of "no prediction" are none.

    Args:
        predictions: (T,) classes; C and above mean "no prediction".
        times: (T,) seconds, ascending.
        frame_seconds: duration of a frame, half before its time and half after.
        num_classes: C.
    """
    borders = np.flatnonzero(np.diff(predictions)) + 1
    firsts, lasts = np.append(0, borders), np.append(borders, len(predictions)) - 1
    half = frame_seconds / 2
    return [
        Segment(float(times[first] - half), float(times[last] + half), int(predictions[first]))
        for first, last in zip(firsts, lasts, strict=True)
        if predictions[first] < num_classes
    ]


def temporal_iou(first: Segment, second: Segment) -> float:
    """Return the time that two segments share over the time that either takes; 0 if neither takes any.

    It is rounded to nine decimals, so that half of a clip is 0.5 whatever the seconds of its frames.
    """
    shared = max(0.0, min(first.end, second.end) - max(first.start, second.start))
    either = (first.end - first.start) + (second.end - second.start) - shared
    return round(shared / either, 9) if either > 0 else 0.0


def claimed_segments(predicted: Sequence[Segment], truths: Iterable[Segment], *, overlap_threshold: float) -> set[int]:
    """Return the indices of the `predicted` segments that are true positives.

    Every truth, in order of (start, end, class), claims among the unclaimed predictions of its class the one with the
    highest temporal IoU, if that exceeds `overlap_threshold`; ties go to the earliest.
    """
    claimed: set[int] = set()
    for truth in sorted(truths):
        free = [index for index, one in enumerate(predicted) if index not in claimed and one.label == truth.label]
        best = max(free, key=lambda index: temporal_iou(predicted[index], truth), default=None)
        if best is not None and temporal_iou(predicted[best], truth) > round(overlap_threshold, 9):
            claimed.add(best)
    return claimed
