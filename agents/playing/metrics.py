"""What scores are worth: pure functions of (V, C) class scores and of what is true of the V videos, (V, C) bool.

A video may have several classes, or none. Which segments they come from does not matter: a class is true of a video
once. Equal scores are never told apart by chance: of equal classes the lowest comes first, and videos of equal score
are retrieved together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Truths = NDArray[np.bool_]
LOWEST_SCORE = 1e-8  # whose log still counts


def top_k_correct(scores: Scores, truths: Truths, k: int) -> Truths:
    """Return (V,) bool: whether any class of a video is among its k best scores; without a class it is not."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray(np.take_along_axis(truths, best, axis=1).any(1))


def hit_at_k(scores: Scores, truths: Truths, k: int) -> float | None:
    """Return the share of the videos with a class for which `top_k_correct` holds; None where no video has one.

    Source: ActivityNet's `eval_classification.py`, Hit@k not averaged over a video's labels.
    """
    labelled = truths.any(1)
    return float(top_k_correct(scores, truths, k)[labelled].mean()) if labelled.any() else None


def mean_log_score(scores: Scores, truths: Truths) -> float | None:
    """Return the mean, over the videos with a class, of the log of the scores of their classes (nats, at most 0), a
    video's classes averaged; None where no video has one.

    A video's scores are scaled to sum to 1 first, so that who says "no prediction" of background loses nothing by it.
    Scores below `LOWEST_SCORE` count as that.

    It changes with every video a little where top-1 changes with some by much, so it tells more apart on few videos.
    """
    labelled = truths.any(1)
    shares = scores[labelled] / np.maximum(scores[labelled].sum(1, keepdims=True), LOWEST_SCORE)
    logs = np.log(np.maximum(shares, LOWEST_SCORE)) * truths[labelled]
    return float((logs.sum(1) / truths[labelled].sum(1)).mean()) if labelled.any() else None


def precision_and_recall(scores: Scores, truths: Truths) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the precision and the recall at every distinct score of one class, the highest first.

    Args:
        scores: (V,) of the class.
        truths: (V,) bool, at least one of them true.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are retrieved together
    found = truths[order].cumsum()[ends]
    return found / (ends + 1), found / truths.sum()


def average_precision(scores: Scores, truths: Truths) -> float:
    """Return the plain average precision of (V,) scores: each gain in recall times the precision there."""
    precision, recall = precision_and_recall(scores, truths)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def interpolated_average_precision(scores: Scores, truths: Truths) -> float:
    """Return ActivityNet's average precision of (V,) scores: each gain in recall times the best precision at that
    recall or a higher one.

    Source: ActivityNet's `eval_classification.py`, after PASCAL VOC 2011's development kit.
    """
    precision, recall = precision_and_recall(scores, truths)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def mean_average_precision(scores: Scores, truths: Truths, *, interpolated: bool) -> float | None:
    """Return the unweighted mean of the classes' average precisions, each over all videos; None without a class.

    A class of which there is no video is left out, as in ActivityNet's `eval_classification.py`, which knows only the
    classes of the videos that it judges. A video without a class counts as a false positive of every class.

    Args:
        scores: (V, C), all of which take part.
        truths: (V, C) bool.
        interpolated: as ActivityNet does, or plain.
    """
    measure = interpolated_average_precision if interpolated else average_precision
    present = np.flatnonzero(truths.any(0)).tolist()
    return float(np.mean([measure(scores[:, label], truths[:, label]) for label in present])) if present else None
