"""Predictions and scores of whole videos, joined from the episodes of their windows, and measures of their segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import ClipSource, Segment, SlidingWindows
from glimpse_env.rules import EpisodeRules, claimed_segments

from ..learning.episodes import Rollout
from .detection import (
    ACTIVITYNET_OVERLAPS,
    THRESHOLDS,
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

    def count(self, found: Sequence[Segment], rules: EpisodeRules) -> tuple[int, int]:
        """Return N+ and N- of segments, as the environment counts them: true ones end with the frames played."""
        half = 0.5 / self.frames_per_second
        first, last = float(self.times[0] - half), float(self.times[-1] + half)
        truths = [Segment(max(start, first), min(end, last), label) for start, end, label in self.truths]
        right = len(claimed_segments(found, truths, overlap_threshold=rules.overlap_threshold))
        return right, len(found) - right


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
        """Return the videos, in order."""
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
        for video, start in enumerate(np.searchsorted(places, LONGEST * np.arange(source.num_clips))):
            own = slice(start, np.searchsorted(places, LONGEST * (video + 1)))
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
    runs, scored, counts, by_threshold = [], [], [], []
    for video in videos:
        scores, times, rate = video.scores, video.times, video.frames_per_second
        runs.append(detections_of_runs(video.predictions, scores, times, frames_per_second=rate))
        scored.append(detections_of_scores(scores, times, frames_per_second=rate))
        counts.append(video.count([one.segment for one in runs[-1]], rules))
        above = [segments_above(threshold, scores, times, frames_per_second=rate) for threshold in THRESHOLDS]
        by_threshold.append([video.count(found, rules) for found in above])
    truths = [video.truths for video in videos]
    by_overlap, thumos, of_scores = (
        activitynet_map(runs, truths),
        thumos_map(runs, truths),
        activitynet_map(scored, truths),
    )
    (right, wrong), true = np.sum(counts, axis=0).tolist(), sum(map(len, truths))
    rewards = rules.reward(*np.transpose(counts))
    return {
        "detection_map": None if by_overlap is None else float(by_overlap.mean()),
        "detection_map_at_50": None if by_overlap is None else float(by_overlap[ACTIVITYNET_OVERLAPS.index(0.5)]),
        "thumos_map": None if thumos is None else float(thumos.mean()),
        "score_detection_map": None if of_scores is None else float(of_scores.mean()),
        "segment_precision": right / (right + wrong) if right + wrong else None,
        "segment_recall": right / true if true else None,
        "segment_reward": float(rewards.mean()),
        "segments": true / len(videos),
        "segment_counts": tuple((plus, minus) for plus, minus in np.mean(by_threshold, axis=0).tolist()),
    }
