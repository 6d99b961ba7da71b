"""Evaluation: a whole split played, each clip once, and measured.

If the clips are windows that slide over videos, an episode is a window, and all windows of a video give its scores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glimpse_env import ClipSource, SlidingWindows, VideoGlimpseVectorEnv, WallSource
from glimpse_env.datasets.description import group_of_clip

from ..learning.config import Config, VideoScore
from ..learning.episodes import Rollout
from ..learning.policy import GlimpsePolicy, class_probabilities
from ..parallel.noise import Noise
from .envs import greedy_play, make_envs
from .features import videos_of
from .joined import JoinedFrames, measure_segments
from .metrics import event_delays, hit_at_k, mean_average_precision, mean_log_score, top_k_correct
from .players import PlaySettings
from .rollout import play


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measures of a split; `focus` and `focus_per_look` are None if the actor is unknown or all cells are seen.

    Measures of videos use their scores (`class_scores`, averaged over a video's windows); those from `detection_map` on
    use the predictions and scores of the videos' frames, and are None if clips are trimmed. All others are means over
    episodes, which differ from means over videos if windows slide over them. `events_found` and `event_delay` are None
    for windows and trimmed clips, if the actor is unknown, or if all cells are seen; `event_delay` also if no event was
    found.
    """

    accuracy: float  # top-1 of the videos; any label of a video counts as right
    top3: float
    mean_average_precision: float | None  # of the videos, as ActivityNet measures it; None if no video has a label
    plain_mean_average_precision: float | None  # the same without interpolation
    log_score: float | None  # nats: mean log of the scores of the videos' classes, with scores that sum to 1
    hit_at_1: float | None  # of the videos with a label, as ActivityNet measures it
    hit_at_3: float | None
    accuracy_by_frames: tuple[float, ...]  # (T,) top-1 of the videos by the mean softmax of frames 1..n
    vote_accuracy: float  # share of episodes whose most frequent prediction is right
    focus: float | None  # share of frames after the first with at least one look on the actor
    focus_per_look: float | None  # share of looks on the actor
    attention_on_actor: float | None  # share of the weights l of eq. 3 on the actor after the first frame
    entropy: float | None  # nats, of the choice of cells, averaged over frames; None if it is unknown
    reward: float  # mean r_T (eq. 7), minus the costs of looks and frames
    true_positives: float  # mean N+
    false_positives: float  # mean N-
    glimpses_per_frame: float  # slices attended to in a frame after the first
    visits: tuple[tuple[float, ...], ...] | None  # (K, K) share of the looks on each cell; None if all cells are seen
    correct: tuple[bool, ...]  # (videos,) in the order of the split: whether `accuracy` counts the video
    films: tuple[str, ...]  # (videos,) name of the film that each video was cut from (`film_of_video`)
    frames_observed: float | None = None  # mean number of frames of an episode that were observed; None without jumps
    events_found: float | None = None  # share of true events that were looked at while they lasted, after frame 1
    event_delay: float | None = None  # median frames from the start of a found event to the first look at it
    detection_map: float | None = None  # of runs of equal predictions: mean of `activitynet_map`
    detection_map_at_50: float | None = None  # the same at a temporal IoU of 0.5 alone
    thumos_map: float | None = None  # of the same runs: mean of `thumos_map`
    score_detection_map: float | None = None  # of thresholded scores: mean of `activitynet_map`
    segment_precision: float | None = None  # of the same runs, matched as by the environment
    segment_recall: float | None = None
    segment_reward: float | None = None  # mean over videos of eq. 7 with these runs
    segments: float | None = None  # mean number of true segments of a video
    segment_counts: tuple[tuple[float, float], ...] | None = None  # mean N+ and N- of scores above each of THRESHOLDS

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evaluation:
        """Rebuild an evaluation from evaluation.json; a ValueError if a measure is missing or unknown."""
        names = {field.name for field in fields(cls)}
        optional = {field.name for field in fields(cls) if field.default is None}
        if differing := sorted((names ^ values.keys()) - (optional - values.keys())):
            raise ValueError(f"the evaluation differs from this version's in {', '.join(differing)}")
        if not all(isinstance(film, str) for film in values["films"]):
            raise ValueError("films are not names")
        return cls(**{name: _tupled(value) for name, value in values.items()})


EVALUATION_ENVS = 64
VALIDATION_SEED = 0  # the same random glimpses in every validation, so that checkpoints can be compared
MEASURES = {  # names of an Evaluation's numbers in tables
    "accuracy": "accuracy",
    "top3": "top 3",
    "mean_average_precision": "mAP",
    "plain_mean_average_precision": "plain mAP",
    "detection_map": "detection mAP",
    "detection_map_at_50": "detection mAP at 0.5",
    "thumos_map": "THUMOS mAP",
    "score_detection_map": "detection mAP of scores",
    "segment_precision": "segment precision",
    "segment_recall": "segment recall",
    "segment_reward": "segment reward",
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
    "glimpses_per_frame": "slices per frame",
    "frames_observed": "frames observed",
    "events_found": "events found",
    "event_delay": "frames until found",
}


def class_scores(class_logits: Tensor, num_classes: int, video_score: VideoScore = "mean") -> Tensor:
    """Return the (N, C) scores of episodes by the (N, T, outputs) logits of their frames.

    Args:
        class_logits: of every frame; an output after the C classes is "no prediction".
        num_classes: C.
        video_score: "mean": the softmax over all outputs, averaged over the frames, so that frames that predict nothing
            have little weight; "last16": the mean over the last 16 frames; "mode": the share of the frames whose most
            likely output is the class.

    Source: Sharma et al., "Action recognition using visual attention", 2015, for the last two.
    """
    if video_score == "mode":
        predictions = class_logits.argmax(-1)
        return F.one_hot(predictions, class_logits.shape[-1])[..., :num_classes].float().mean(1)
    frames = class_logits if video_score == "mean" else class_logits[:, -16:]
    return class_probabilities(frames, num_classes).mean(1)


def video_of_clip(source: ClipSource) -> NDArray[np.int64]:
    """Return (clips,) int64: the video of each window, or the clip itself without windows."""
    return source.videos if isinstance(source, SlidingWindows) else np.arange(source.num_clips)


def film_of_video(source: ClipSource) -> NDArray[np.str_]:
    """Return (videos,) names: the film that each video was cut from.

    Names of HMDB-51 and UCF-101 contain the film; any other video counts as a film of its own. The film of a wall is
    that of its first event.
    """
    videos = videos_of(source)
    names = [videos.clip_id(video) for video in range(videos.num_clips)]
    if isinstance(videos, WallSource):
        names = [name.partition("/")[2] for name in names]  # without the number of the wall
    return np.array([group_of_clip(name) for name in names])


def middle_clips(source: ClipSource) -> NDArray[np.int64]:
    """Return (videos,) int64: the middle window of each video, or the video itself without windows."""
    _, firsts, counts = np.unique(video_of_clip(source), return_index=True, return_counts=True)
    return firsts + counts // 2


def video_scores(scores: Tensor, source: ClipSource) -> Tensor:
    """Return (videos, C): the mean of the (clips, C) scores of each video's windows."""
    videos = torch.from_numpy(video_of_clip(source))
    sums = scores.new_zeros(videos_of(source).num_clips, scores.shape[1]).index_add_(0, videos, scores)
    return sums / videos.bincount()[:, None]


def video_labels(source: ClipSource) -> NDArray[np.bool_]:
    """Return (videos, C) bool: the classes of all segments of a video; none if they are unknown."""
    videos = videos_of(source)
    labels = np.zeros((videos.num_clips, len(videos.class_names)), np.bool_)
    for video in range(videos.num_clips):
        labels[video, [segment.label for segment in videos.segments(video) if segment.label >= 0]] = True
    return labels


def play_split(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    settings: PlaySettings,
    *,
    seed: int,
    clips: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Rollout, int]]:
    """Play every clip of the environments' split once, N at a time, in order.

    Args:
        envs, policy, settings: N environments, network, and how it plays.
        seed: of all random draws.
        clips: to play instead of all.

    Yields:
        a rollout and the number of its first episodes that count; the last rollout is padded with the first clip.
    """
    noise = Noise.seeded(seed, policy.device)
    clips = np.arange(envs.num_clips) if clips is None else clips
    for start in range(0, len(clips), envs.num_envs):
        part = clips[start : start + envs.num_envs]
        padded = np.pad(part, (0, envs.num_envs - len(part)))
        yield play(envs, policy, padded, settings, noise=noise, seed=seed), len(part)


def evaluate(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    settings: PlaySettings,
    *,
    seed: int,
    video_score: VideoScore = "mean",
) -> Evaluation:
    """Measure a policy on the environments' split; `seed` decides all random draws."""
    if settings.mirror:
        raise ValueError("mirrored episodes are for training: set mirror=False to measure")
    rollouts = play_split(envs, policy, settings, seed=seed)
    return measure(rollouts, envs, video_score=video_score, sees_all=settings.model.sees == "all")


def evaluate_split(config: Config, policy: GlimpsePolicy, source: ClipSource, *, greedy: bool = True) -> Evaluation:
    """Measure a policy on a split as its configuration asks; unless `greedy`, cells are drawn as in training."""
    envs = make_envs(config, source, EVALUATION_ENVS, train=False)
    settings, training = dataclasses.replace(greedy_play(config), greedy=greedy), config.training
    return evaluate(envs, policy, settings, seed=training.seed, video_score=training.advanced.video_score)


def measure(
    rollouts: Iterable[tuple[Rollout, int]],
    envs: VideoGlimpseVectorEnv,
    *,
    video_score: VideoScore = "mean",
    sees_all: bool,
) -> Evaluation:
    """Measure the rollouts of a whole split, each with the number of its first episodes that count."""
    source, frames = envs.source, JoinedFrames(envs.source)
    columns: dict[str, list[Tensor]] = {}
    played: list[Tensor] = []
    truths, videos = video_labels(source), torch.from_numpy(video_of_clip(source))
    classes = truths.shape[1]
    so_far = torch.zeros(0)  # (videos, T, C): softmax of each video's windows, summed over the first frames
    visits = torch.zeros(source.grid_size**2, dtype=torch.int64)
    delays: list[Tensor] = []
    for rollout, valid in rollouts:
        class_logits = rollout.class_logits[:valid]
        played.append(class_scores(class_logits, classes, video_score).cpu())
        softmax = class_probabilities(class_logits, classes).cpu()
        so_far = so_far if len(so_far) else torch.zeros(len(truths), *softmax.shape[1:])
        so_far.index_add_(0, videos[rollout.clips[:valid]], softmax.cumsum(1))
        visits += rollout.looked[:valid].sum((0, 1)).cpu()
        if not source.trimmed:
            frames.add(rollout.rows(slice(valid)), softmax)
            if rollout.actors is not None and videos_of(source) is source:  # events may last longer than a window
                delays.append(event_delays_of(rollout.rows(slice(valid)), on_walls=isinstance(source, WallSource)))
        for name, values in _measure(rollout).items():
            columns.setdefault(name, []).append(values[:valid])
    scores = video_scores(torch.cat(played), source).numpy()
    correct = top_k_correct(scores, truths, 1)
    measured = {name: torch.cat(values).float() for name, values in columns.items()}
    looked = float(source.grid_size**2) if sees_all else _mean(measured["glimpses"])
    focused = "focus" in measured and not sees_all
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
        focus=_mean_of_known(measured["focus"]) if focused else None,
        focus_per_look=float(measured["hits"].sum() / measured["looks"].sum().clamp_min(1)) if focused else None,
        attention_on_actor=_mean_of_known(measured["attention_on_actor"]) if "focus" in measured else None,
        entropy=_mean(measured["entropy"]) if measured["entropy"].isfinite().all() else None,
        reward=_mean(measured["reward"]),
        true_positives=_mean(measured["true_positives"]),
        false_positives=_mean(measured["false_positives"]),
        glimpses_per_frame=looked,
        frames_observed=None if envs.engine.rules.jumps is None else _mean(measured["frames_observed"]),
        visits=None if sees_all else _shares(visits),
        correct=tuple(correct.tolist()),
        films=tuple(film_of_video(source).tolist()),
        **({} if source.trimmed else measure_segments(frames.videos(), envs.engine.rules)),
        **({} if sees_all or not delays else measure_events(torch.cat(delays))),
    )


def _measure(rollout: Rollout) -> dict[str, Tensor]:
    """Return the (N,) values of each measure of an episode."""
    measures = {
        "vote_accuracy": rollout.is_correct,
        "reward": rollout.rewards,
        "true_positives": rollout.true_positives,
        "false_positives": rollout.false_positives,
        "glimpses": rollout.glimpses / rollout.looked.shape[1],
        "entropy": rollout.entropy.mean(1),
        "frames_observed": rollout.observed().sum(1),
    }
    hits = rollout.hits()
    if hits is not None and rollout.actors is not None:
        frames = rollout.observed()[:, 1:].sum(1)
        attention = rollout.attention[:, 1:]
        on_actor = (attention * rollout.actors[:, 1:]).sum((1, 2)) / attention.sum((1, 2)).clamp_min(1e-8)
        stops = frames == 0  # at the first frame, by a jump
        measures["attention_on_actor"] = on_actor.masked_fill(stops, torch.nan)
        measures["focus"] = (hits.any(2).sum(1) / frames).masked_fill(stops, torch.nan)
        measures["hits"], measures["looks"] = hits.sum((1, 2)), rollout.looked.sum((1, 2))
    return {name: values.cpu() for name, values in measures.items()}


def event_delays_of(rollout: Rollout, *, on_walls: bool) -> Tensor:
    """Return `event_delays`. An event of a wall is one of its camera, and any other one of its class."""
    hits, actors = rollout.hits(), rollout.actors
    assert hits is not None
    assert actors is not None
    looked = F.pad(hits, (0, 0, 1, 0))  # the first frame does not count as a look
    if on_walls:
        return event_delays(actors, looked).cpu()
    return event_delays(rollout.frame_labels, looked.any(2, keepdim=True).expand_as(rollout.frame_labels)).cpu()


def measure_events(delays: Tensor) -> dict[str, Any]:
    """Return the measures of (events,) `event_delays`, by their names; None if there is nothing to count."""
    found = delays[delays >= 0].double()
    share = float((delays >= 0).double().mean()) if len(delays) else None
    return {"events_found": share, "event_delay": float(found.quantile(0.5)) if len(found) else None}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _mean_of_known(values: Tensor) -> float | None:
    known = values[values.isfinite()]
    return _mean(known) if len(known) else None


def _shares(visits: Tensor) -> tuple[tuple[float, ...], ...]:
    """Return (K*K,) counts as shares, one tuple for each row of the grid."""
    shares = visits.double() / visits.sum().clamp_min(1)
    return tuple(tuple(row) for row in shares.reshape(math.isqrt(len(shares)), -1).tolist())


def _tupled(value: Any) -> Any:
    return tuple(_tupled(inner) for inner in value) if isinstance(value, list) else value
