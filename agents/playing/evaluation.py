"""Playing a whole split, each clip once, and measuring what came of it.

Where the clips are windows that slide over videos, an episode is a window, and a video is judged by all of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glimpse_env import ClipSource, SlidingWindows, VideoGlimpseVectorEnv
from glimpse_env.datasets.description import group_of_clip

from ..learning.config import VideoScore
from ..learning.losses import class_probabilities
from ..learning.policy import GlimpsePolicy
from .envs import videos_of
from .metrics import hit_at_k, mean_average_precision, mean_log_score, top_k_correct
from .play import policy_of
from .rollout import SEES_EVERYTHING, Manner, Rollout


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a split; `focus` and `focus_per_look` are None where the actor is unknown or all is seen.

    What is said to be of videos is measured by their scores (`class_scores`, averaged over a video's windows), all else
    by episodes: the two differ where windows slide over videos.

    Attributes:
        accuracy: top-1 of the videos; any label of a video is right.
        top3: share of the videos that have a label among their three best classes.
        mean_average_precision: of the videos, as ActivityNet measures it; None where no video has a label.
        plain_mean_average_precision: the same without interpolation.
        log_score: mean log of the scores, scaled to sum to 1, of the classes of the videos that have some (nats); None
            where none has.
        hit_at_1, hit_at_3: top-1 and top-3 of the videos that have a label, as ActivityNet measures it; None likewise.
        accuracy_by_frames: (T,) top-1 of the videos had all episodes ended after frame 1..T, by the mean softmax.
        vote_accuracy: share of episodes whose most frequent prediction is right; in a window without a label none is.
        focus: share of frames after the first with at least one look on the actor.
        focus_per_look: share of looks on the actor.
        attention_on_actor: share of the weights l of eq. 3 on the actor after the first frame; None where unknown.
        entropy: nats, of the choice of what is seen, averaged over the frames after the first.
        reward: mean r_T (eq. 7).
        true_positives, false_positives: mean N+ and N- (eq. 7).
        glimpses_per_frame: slices attended to in a frame after the first.
        visits: (K, K) share of the looks after the first frame that fell on each cell; None where all is seen.
        correct: (videos,) bool in the order of the split: whether `accuracy` counts the video.
        films: (videos,) the number of the film that each was cut from, as `film_of_video` has it.
    """

    accuracy: float
    top3: float
    mean_average_precision: float | None
    plain_mean_average_precision: float | None
    log_score: float | None
    hit_at_1: float | None
    hit_at_3: float | None
    accuracy_by_frames: tuple[float, ...]
    vote_accuracy: float
    focus: float | None
    focus_per_look: float | None
    attention_on_actor: float | None
    entropy: float
    reward: float
    true_positives: float
    false_positives: float
    glimpses_per_frame: float
    visits: tuple[tuple[float, ...], ...] | None
    correct: tuple[bool, ...]
    films: tuple[int, ...]


MEASURES = {  # how tables call the numbers of an Evaluation
    "accuracy": "accuracy",
    "top3": "top 3",
    "mean_average_precision": "mAP",
    "plain_mean_average_precision": "plain mAP",
    "log_score": "log-score",
    "hit_at_1": "Hit@1",
    "hit_at_3": "Hit@3",
    "vote_accuracy": "vote",
    "focus": "focus",
    "focus_per_look": "focus per look",
    "attention_on_actor": "attention on the actor",
    "reward": "reward",
    "true_positives": "N+",
    "false_positives": "N-",
    "entropy": "entropy (nats)",
    "glimpses_per_frame": "slices used a frame",
}


def class_scores(class_logits: Tensor, num_classes: int, video_score: VideoScore = "mean") -> Tensor:
    """Return (N, C): what the frames of (N, T, outputs) logits say together of the C classes.

    Args:
        class_logits: of every frame; behind the classes "no prediction" may stand.
        num_classes: C.
        video_score: "mean": the softmax over all outputs, averaged over the frames, so that frames that say "no
            prediction" weigh little; "last16": over the last 16 of them; "mode": the share of the frames that predict
            each class, the likeliest output of each.

    Source: Sharma et al., "Action recognition using visual attention", 2015, for the latter two.
    """
    if video_score == "mode":
        predictions = class_logits.argmax(-1)
        return F.one_hot(predictions, class_logits.shape[-1])[..., :num_classes].float().mean(1)
    frames = class_logits if video_score == "mean" else class_logits[:, -16:]
    return class_probabilities(frames, num_classes).mean(1)


def video_of_clip(source: ClipSource) -> NDArray[np.int64]:
    """Return (clips,) int64: the video that each clip is a window of; itself where no windows slide."""
    return source.videos if isinstance(source, SlidingWindows) else np.arange(source.num_clips)


def film_of_video(source: ClipSource) -> NDArray[np.int64]:
    """Return (videos,) int64: the number of the film that each video was cut from, by its name.

    Videos of one film look alike, so what is measured of them is not independent. HMDB-51's and UCF-101's names tell
    the film; any other video is one of its own.
    """
    videos = videos_of(source)
    names = [group_of_clip(videos.clip_id(video)) for video in range(videos.num_clips)]
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


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
        yield policy_of(manner.looking)(envs, policy, clips, manner, generator=generator, seed=seed), valid


def evaluate(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, seed: int, video_score: VideoScore = "mean"
) -> Evaluation:
    """Measure the policy on the environments' split; `seed` draws what the manner leaves to chance.

    Raises:
        ValueError: the manner mirrors episodes, so that cells would not be where the environment has them.
    """
    if manner.mirror:
        raise ValueError("mirrored episodes are for training: measure with a manner that does not mirror")
    columns: dict[str, list[Tensor]] = {}
    played: list[Tensor] = []
    truths, videos = video_labels(envs.source), torch.from_numpy(video_of_clip(envs.source))
    classes = truths.shape[1]
    so_far = torch.zeros(len(truths), policy.shape.frames, classes)  # each video's softmax, summed over first frames
    visits = torch.zeros(envs.source.grid_size**2, dtype=torch.int64)
    for rollout, valid in play_split(envs, policy, manner, seed=seed):
        class_logits = rollout.class_logits[:valid]
        played.append(class_scores(class_logits, classes, video_score).cpu())
        softmax = class_probabilities(class_logits, classes).cpu()
        so_far.index_add_(0, videos[rollout.clips[:valid]], softmax.cumsum(1))
        visits += rollout.looked[:valid].sum((0, 1)).cpu()
        for name, values in _measure(rollout).items():
            columns.setdefault(name, []).append(values[:valid])
    scores = video_scores(torch.cat(played), envs.source).numpy()
    correct = top_k_correct(scores, truths, 1)
    measured = {name: torch.cat(values).float() for name, values in columns.items()}
    everything = manner.looking in SEES_EVERYTHING
    looked = float(envs.source.grid_size**2) if everything else _mean(measured["glimpses"])
    focused = "focus" in measured and not everything
    return Evaluation(
        accuracy=float(correct.mean()),
        top3=float(top_k_correct(scores, truths, 3).mean()),
        mean_average_precision=mean_average_precision(scores, truths, interpolated=True),
        plain_mean_average_precision=mean_average_precision(scores, truths, interpolated=False),
        log_score=mean_log_score(scores, truths),
        hit_at_1=hit_at_k(scores, truths, 1),
        hit_at_3=hit_at_k(scores, truths, 3),
        accuracy_by_frames=tuple(
            float(top_k_correct(sums, truths, 1).mean()) for sums in so_far.transpose(0, 1).numpy()
        ),
        vote_accuracy=_mean(measured["vote_accuracy"]),
        focus=_mean(measured["focus"]) if focused else None,
        focus_per_look=float(measured["hits"].sum() / measured["looks"].sum().clamp_min(1)) if focused else None,
        attention_on_actor=_mean(measured["attention_on_actor"]) if "focus" in measured else None,
        entropy=_mean(measured["entropy"]),
        reward=_mean(measured["reward"]),
        true_positives=_mean(measured["true_positives"]),
        false_positives=_mean(measured["false_positives"]),
        glimpses_per_frame=looked,
        visits=None if everything else _shares(visits),
        correct=tuple(correct.tolist()),
        films=tuple(film_of_video(envs.source).tolist()),
    )


def _measure(rollout: Rollout) -> dict[str, Tensor]:
    """Return (N,) values of each measure of an episode."""
    measures = {
        "vote_accuracy": rollout.is_correct,
        "reward": rollout.rewards,
        "true_positives": rollout.true_positives,
        "false_positives": rollout.false_positives,
        "glimpses": rollout.glimpses / rollout.looked.shape[1],
        "entropy": rollout.entropy.mean(1),
    }
    hits = rollout.hits()
    if hits is not None and rollout.actors is not None:
        measures["attention_on_actor"] = (rollout.attention * rollout.actors)[:, 1:].sum(2).mean(1)
        measures["focus"] = hits.any(2).float().mean(1)
        measures["hits"], measures["looks"] = hits.sum((1, 2)), rollout.looked.sum((1, 2))
    return {name: values.cpu() for name, values in measures.items()}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _shares(visits: Tensor) -> tuple[tuple[float, ...], ...]:
    """Return the shares of (K*K,) counts as the K rows of the grid."""
    shares = visits.double() / visits.sum().clamp_min(1)
    return tuple(tuple(row) for row in shares.reshape(math.isqrt(len(shares)), -1).tolist())
