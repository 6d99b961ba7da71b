"""Metrics: pure functions, mostly of (V, C) class scores and the true classes of V videos, (V, C) bool.

A video may have several classes, or none. A class is true of a video once, however many segments it has. Ties are
never broken by chance: of classes with equal scores the lowest comes first, and videos with equal scores are retrieved
together.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Scores = NDArray[np.floating]
Truths = NDArray[np.bool_]
LOWEST_SCORE = 1e-8  # scores below count as this in a log-score


def top_k_correct(scores: Scores, truths: Truths, k: int) -> Truths:
    """Return (V,) bool: whether a class of the video is among its k best scores; never if it has none."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray(np.take_along_axis(truths, best, axis=1).any(1))


def hit_at_k(scores: Scores, truths: Truths, k: int) -> float | None:
    """Return the share of the videos with a class for which `top_k_correct` holds; None if no video has one.

    Source: ActivityNet's `eval_classification.py`, Hit@k not averaged over a video's labels.
    """
    labelled = truths.any(1)
    return float(top_k_correct(scores, truths, k)[labelled].mean()) if labelled.any() else None


def mean_log_score(scores: Scores, truths: Truths) -> float | None:
    """Return the mean log of the true classes' scores (nats, at most 0) over the videos with a class; None without any.

    The log is averaged over a video's classes. A video's scores are scaled to sum to 1 first, so that predicting
    nothing on background costs nothing. Every video changes this score a little, so it separates models on fewer videos
    than top-1 accuracy does.
    """
    labelled = truths.any(1)
    shares = scores[labelled] / np.maximum(scores[labelled].sum(1, keepdims=True), LOWEST_SCORE)
    logs = np.log(np.maximum(shares, LOWEST_SCORE)) * truths[labelled]
    return float((logs.sum(1) / truths[labelled].sum(1)).mean()) if labelled.any() else None


def precision_and_recall(
    scores: Scores, truths: Truths, positives: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the precision and the recall at every distinct score of one class, the highest first.

    Args:
        scores: (V,) of the class.
        truths: (V,) bool.
        positives: number to be found, at least 1; that of the `truths` by default.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are retrieved together
    found = truths[order].cumsum()[ends]
    return found / (ends + 1), found / (truths.sum() if positives is None else positives)


def average_precision(scores: Scores, truths: Truths, *, interpolated: bool, positives: int | None = None) -> float:
    """Return the average precision of (V,) scores: the sum of each gain in recall times the precision there.

    With `interpolated` the precision is the best one at that recall or a higher one.

    Source: ActivityNet's `eval_classification.py`, after PASCAL VOC 2011's development kit, for the interpolation.
    """
    precision, recall = precision_and_recall(scores, truths, positives)
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def mean_average_precision(scores: Scores, truths: Truths, *, interpolated: bool) -> float | None:
    """Return the unweighted mean of the classes' average precisions, each over all videos; None without a class.

    A class without a video is left out, as in ActivityNet's `eval_classification.py`. A video without a class counts as
    a false positive of every class.

    Args:
        scores: (V, C).
        truths: (V, C) bool.
        interpolated: as in ActivityNet, or plain.
    """
    present = np.flatnonzero(truths.any(0)).tolist()
    values = [average_precision(scores[:, label], truths[:, label], interpolated=interpolated) for label in present]
    return float(np.mean(values)) if values else None


def event_delays(lasts: Tensor, looked: Tensor) -> Tensor:
    """Return the frames from the start of each event to the first look at it, -1 if there was none while it lasted.

    Args:
        lasts: (N, T, E) bool, E ways to act: an event is a run of frames in which one of them is true.
        looked: (N, T, E) bool, looks at them.

    Returns:
        (events,) int64, way by way and episode by episode.
    """
    lasts, looked = (part.movedim(2, 0).flatten(0, 1) for part in (lasts, looked))  # (E * N, T)
    changes = torch.ones_like(lasts)
    changes[:, 1:] = lasts[:, 1:] != lasts[:, :-1]
    rows, first = (changes & lasts).nonzero(as_tuple=True)
    frames, run = torch.arange(lasts.shape[1], device=lasts.device), changes.cumsum(1)
    same = run[rows] == run[rows, first][:, None]  # (events, T): the frames of the event
    delays = torch.where(same & looked[rows], frames - first[:, None], lasts.shape[1]).amin(1)
    return torch.where(delays < lasts.shape[1], delays, -1)
