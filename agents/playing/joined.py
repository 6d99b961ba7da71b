"""Predictions and scores of whole videos, joined from the episodes of their windows, and measures of their segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import ClipSource, Segment, SlidingWindows
from glimpse_env.rules import EpisodeRules, claimed_segments, cut_segments

from ..learning.episodes import Rollout
from .detection import (
    ACTIVITYNET_OVERLAPS,
    THRESHOLDS,
    Detection,
    activitynet_map,
    detections_of_runs,
    detections_of_scores,
    segments_above,
    thumos_map,
)
from .features import videos_of

LONGEST = 2**32  # frames of a video


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedVideo:
    """The frames of a video that were played, each once, and the video's true segments."""

    times: NDArray[np.float64]  # (n,) seconds
    frames_per_second: float
    predictions: NDArray[np.int64]  # (n,); C means "no prediction"
    scores: NDArray[np.float32]  # (n, C)
    truths: tuple[Segment, ...]

    def runs(self) -> list[Detection]:
        """Return the runs of equal predictions."""
        return detections_of_runs(self.predictions, self.scores, self.times, frames_per_second=self.frames_per_second)

    def right(self, found: Sequence[Segment], overlap_threshold: float) -> set[int]:
        """Return the indices of the right segments, as the environment matches them: true ones end with the frames."""
        truths = cut_segments(self.truths, self.times, frame_seconds=1 / self.frames_per_second)
        return claimed_segments(found, truths, overlap_threshold=overlap_threshold)


class JoinedFrames:
    """Collects the frames of a source's videos from the episodes that show them.

    A frame's scores are the mean over the windows that show it. Its prediction is that of most windows; of equally many
    the one with the best score.
    """

    def __init__(self, source: ClipSource) -> None:
        self._source = source
        self._places: list[NDArray[np.int64]] = []  # LONGEST * video + frame
        self._predictions: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float32]] = []

    def add(self, rollout: Rollout, scores: Tensor) -> None:
        """Add episodes with the (N, T, C) scores of their frames."""
        clips, frames = rollout.clips[:, None], rollout.windows
        if isinstance(self._source, SlidingWindows):
            clips, frames = self._source.videos[clips], frames + self._source.first_frames[clips]
        self._places.append((LONGEST * clips + frames).ravel())
        self._predictions.append(rollout.predictions.cpu().numpy().ravel())
        self._scores.append(scores.flatten(0, 1).numpy())

    def videos(self) -> list[JoinedVideo]:
        """Return the videos that were played, in order."""
        source = videos_of(self._source)
        places, rows, counts = np.unique(np.concatenate(self._places), return_inverse=True, return_counts=True)
        added, said = np.concatenate(self._scores), np.concatenate(self._predictions)
        scores = np.zeros((len(places), added.shape[1] + 1), np.float32)  # the last is "no prediction"
        votes = np.zeros_like(scores)
        np.add.at(scores[:, :-1], rows, added)
        scores /= counts[:, None]
        np.add.at(votes, (rows, said), 1)
        scores[:, -1] = 1 - scores[:, :-1].sum(1)
        predictions = (votes + scores / 2).argmax(1)
        joined = []
        for video in np.unique(places // LONGEST).tolist():
            own = slice(*np.searchsorted(places, (LONGEST * video, LONGEST * (video + 1))).tolist())
            joined.append(
                JoinedVideo(
                    times=source.frame_times(video)[places[own] % LONGEST],
                    frames_per_second=source.frames_per_second,
                    predictions=predictions[own],
                    scores=scores[own, :-1],
                    truths=tuple(segment for segment in source.segments(video) if segment.label >= 0),
                )
            )
        return joined


def measure_segments(videos: Sequence[JoinedVideo], rules: EpisodeRules) -> dict[str, Any]:
    """Return the measures of an Evaluation that are those of segments."""
    runs, scored, counts = [], [], []
    for video in videos:
        scores, times, rate = video.scores, video.times, video.frames_per_second
        runs.append(video.runs())
        scored.append(detections_of_scores(scores, times, frames_per_second=rate))
        above = [segments_above(threshold, scores, times, frames_per_second=rate) for threshold in THRESHOLDS]
        found = [[one.segment for one in runs[-1]], *above]
        right = [len(video.right(segments, rules.overlap_threshold)) for segments in found]
        counts.append([(plus, len(segments) - plus) for plus, segments in zip(right, found, strict=True)])
    truths = [video.truths for video in videos]
    by_overlap, of_scores = activitynet_map(runs, truths), activitynet_map(scored, truths)
    thumos = thumos_map(runs, truths)
    of_runs, true = np.array(counts)[:, 0], sum(map(len, truths))
    plus, minus = of_runs.sum(0).tolist()
    return {
        "detection_map": None if by_overlap is None else float(by_overlap.mean()),
        "detection_map_at_50": None if by_overlap is None else float(by_overlap[ACTIVITYNET_OVERLAPS.index(0.5)]),
        "thumos_map": None if thumos is None else float(thumos.mean()),
        "score_detection_map": None if of_scores is None else float(of_scores.mean()),
        "segment_precision": plus / (plus + minus) if plus + minus else None,
        "segment_recall": plus / true if true else None,
        "segment_reward": float(rules.reward(*of_runs.T).mean()),
        "segments": true / len(videos),
        "segment_counts": tuple(map(tuple, np.mean(counts, axis=0)[1:].tolist())),
    }
