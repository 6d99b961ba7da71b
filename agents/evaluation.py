"""Playing a whole split, each clip once, and measuring what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.policy import GlimpsePolicy
from agents.rollout import SEES_EVERYTHING, Manner, Rollout, collect_rollout
from glimpse_env import VideoGlimpseVectorEnv


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a split; `focus` and `focus_per_look` are None where the actor is unknown or all is seen.

    Attributes:
        accuracy: top-1 of the frames' mean softmax; any label of the clip is right.
        vote_accuracy: share of episodes whose most frequent prediction is right.
        focus: share of frames after the first with at least one look on the actor.
        focus_per_look: share of looks on the actor.
        reward: mean r_T (eq. 7).
        glimpses_per_frame: slices attended to in a frame after the first.
        correct: (clips,) bool in the order of the split: whether `accuracy` counts the clip.
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
        yield collect_rollout(envs, policy, clips, manner, generator=generator, seed=seed), valid


def evaluate(envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, seed: int) -> Evaluation:
    """Measure the policy on the environments' split; `seed` draws what the manner leaves to chance."""
    columns: dict[str, list[Tensor]] = {}
    for rollout, valid in play_split(envs, policy, manner, seed=seed):
        for name, values in _measure(rollout, len(envs.class_names)).items():
            columns.setdefault(name, []).append(values[:valid])
    measured = {name: torch.cat(values).float() for name, values in columns.items()}
    everything = manner.looking in SEES_EVERYTHING
    looked = float(envs.source.grid_size**2) if everything else _mean(measured["glimpses"])
    focused = "focus" in measured and not everything
    return Evaluation(
        accuracy=_mean(measured["accuracy"]),
        vote_accuracy=_mean(measured["vote_accuracy"]),
        focus=_mean(measured["focus"]) if focused else None,
        focus_per_look=_mean(measured["focus_per_look"]) if focused else None,
        reward=_mean(measured["reward"]),
        glimpses_per_frame=looked,
        correct=tuple(measured["accuracy"].bool().tolist()),
    )


def _measure(rollout: Rollout, num_classes: int) -> dict[str, Tensor]:
    """Return (N,) values of each measure."""
    scores = class_scores(rollout.class_logits, num_classes)
    measures = {
        "accuracy": rollout.labels.gather(1, scores.argmax(1, keepdim=True))[:, 0],
        "vote_accuracy": rollout.is_correct,
        "reward": rollout.rewards,
        "glimpses": rollout.glimpses / rollout.cells.shape[1],
    }
    hits = rollout.hits()
    if hits is not None:
        measures["focus"] = hits.any(2).float().mean(1)
        measures["focus_per_look"] = hits.float().mean((1, 2))
    return {name: values.cpu() for name, values in measures.items()}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
