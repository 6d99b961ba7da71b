"""Playing a whole split, each clip once, and measuring what came of it.

Where the clips are windows that slide over videos, an episode is a window, and a video is judged by all of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.building import videos_of
from agents.playing import play
from agents.policy import GlimpsePolicy
from agents.rollout import SEES_EVERYTHING, Manner, Rollout
from glimpse_env import ClipSource, SlidingWindows, VideoGlimpseVectorEnv


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a split; `focus` and `focus_per_look` are None where the actor is unknown or all is seen.

    `accuracy` and `correct` are of videos, all else is of episodes: the two differ where windows slide over videos.

    Attributes:
        accuracy: top-1 of the frames' mean softmax, averaged over a video's windows; any label of the video is right.
        vote_accuracy: share of episodes whose most frequent prediction is right; in a window without a label none is.
        focus: share of frames after the first with at least one look on the actor.
        focus_per_look: share of looks on the actor.
        reward: mean r_T (eq. 7).
        glimpses_per_frame: slices attended to in a frame after the first.
        correct: (videos,) bool in the order of the split: whether `accuracy` counts the video.
    """

    accuracy: float
    vote_accuracy: float
    focus: float | None
    focus_per_look: float | None
    reward: float
    glimpses_per_frame: float
    correct: tuple[bool, ...]


def class_scores(class_logits: Tensor, num_classes: int) -> Tensor:
    """Return (N, C): the softmax over the C classes, averaged over the frames of (N, T, outputs) logits."""
    return class_logits[..., :num_classes].softmax(-1).mean(1)


def video_of_clip(source: ClipSource) -> NDArray[np.int64]:
    """Return (clips,) int64: the video that each clip is a window of; itself where no windows slide."""
    return source.videos if isinstance(source, SlidingWindows) else np.arange(source.num_clips)


def middle_clips(source: ClipSource) -> NDArray[np.int64]:
    """Return (videos,) int64: the middle window of each video, to show it by; itself where no windows slide."""
    _, firsts, counts = np.unique(video_of_clip(source), return_index=True, return_counts=True)
    return firsts + counts // 2


def video_scores(scores: Tensor, source: ClipSource) -> Tensor:
    """Return (videos, C): the mean of the (clips, C) scores of each video's windows."""
    videos = torch.from_numpy(video_of_clip(source))
    sums = scores.new_zeros(videos_of(source).num_clips, scores.shape[1]).index_add_(0, videos, scores)
    return sums / videos.bincount()[:, None]


def video_labels(source: ClipSource) -> NDArray[np.bool_]:
    """Return (videos, C) bool: the classes of all segments of a video, none where they are unknown."""
    videos = videos_of(source)
    labels = np.zeros((videos.num_clips, len(videos.class_names)), np.bool_)
    for video in range(videos.num_clips):
        labels[video, [segment.label for segment in videos.segments(video)]] = True
    return labels


def play_split(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, seed: int
) -> Iterator[tuple[Rollout, int]]:
    """Play every clip of the environments' split once, N at a time, in order.

    Yields:
        a rollout and how many of its first episodes count; the last one is filled up with the split's first clip.
    """
    generator = torch.Generator(policy.place.device).manual_seed(seed)
    for start in range(0, envs.num_clips, envs.num_envs):
        clips = np.arange(start, start + envs.num_envs)
        valid = int((clips < envs.num_clips).sum())
        clips[valid:] = 0
        yield play(envs, policy, clips, manner, generator=generator, seed=seed), valid


def evaluate(envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, seed: int) -> Evaluation:
    """Measure the policy on the environments' split; `seed` draws what the manner leaves to chance."""
    columns: dict[str, list[Tensor]] = {}
    played: list[Tensor] = []
    for rollout, valid in play_split(envs, policy, manner, seed=seed):
        played.append(class_scores(rollout.class_logits, len(envs.class_names))[:valid].cpu())
        for name, values in _measure(rollout).items():
            columns.setdefault(name, []).append(values[:valid])
    best = video_scores(torch.cat(played), envs.source).argmax(1)
    correct = video_labels(envs.source)[np.arange(len(best)), best.numpy()]
    measured = {name: torch.cat(values).float() for name, values in columns.items()}
    everything = manner.looking in SEES_EVERYTHING
    looked = float(envs.source.grid_size**2) if everything else _mean(measured["glimpses"])
    focused = "focus" in measured and not everything
    return Evaluation(
        accuracy=float(correct.mean()),
        vote_accuracy=_mean(measured["vote_accuracy"]),
        focus=_mean(measured["focus"]) if focused else None,
        focus_per_look=_mean(measured["focus_per_look"]) if focused else None,
        reward=_mean(measured["reward"]),
        glimpses_per_frame=looked,
        correct=tuple(correct.tolist()),
    )


def _measure(rollout: Rollout) -> dict[str, Tensor]:
    """Return (N,) values of each measure of an episode."""
    measures = {
        "vote_accuracy": rollout.is_correct,
        "reward": rollout.rewards,
        "glimpses": rollout.glimpses / rollout.looked.shape[1],
    }
    hits = rollout.hits()
    if hits is not None:
        measures["focus"] = hits.any(2).float().mean(1)
        measures["focus_per_look"] = hits.sum((1, 2)) / rollout.looked.sum((1, 2)).clamp_min(1)
    return {name: values.cpu() for name, values in measures.items()}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
