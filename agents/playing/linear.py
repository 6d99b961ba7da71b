"""Logistic regression on the inputs of the class head.

It finishes a trained network: a classifier that is fitted to convergence corrects one that was stopped early, and is a
floor for its accuracy. The sum of weighted logits is stacking (Wolpert, Neural Networks 1992).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.losses import class_loss
from ..learning.policy import GlimpsePolicy
from .evaluation import class_scores, play_split, video_labels, video_scores
from .metrics import mean_log_score
from .players import PlaySettings

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # on half the squared weights, next to a frame's loss
MAX_FRAMES = 50_000  # of the training split; the fits on them take minutes on two cores
LINEAR_SHARES = tuple(tenths / 10 for tenths in range(11))  # of the linear classifier in the sum of logits
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)  # of that sum


class Seen(NamedTuple):
    """Inputs and outputs of the class head in the frames of n clips."""

    inputs: Tensor  # (n, T, width)
    frame_labels: Tensor  # (n, T, C) bool
    class_logits: Tensor  # (n, T, outputs)


@torch.no_grad()
def see_split(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    settings: PlaySettings,
    *,
    seed: int,
    clips: NDArray[np.int64] | None = None,
) -> Seen:
    """Play a split, or some of its clips, and return the inputs and the logits of the class head in all frames.

    With jumps, both stand until the next observed frame.
    """
    parts: list[Tensor] = []
    handle = policy.class_head.register_forward_hook(lambda _, arguments, __: parts.append(arguments[1].float()))
    seen = []
    try:
        for rollout, valid in play_split(envs, policy, settings, seed=seed, clips=clips):
            inputs, frames = torch.cat(parts, 1), rollout.frame_labels.shape[1]
            inputs = inputs if rollout.steps is None else rollout.steps.standing(inputs, frames)
            seen.append(Seen(inputs[:valid], rollout.frame_labels[:valid], rollout.class_logits[:valid]))
            parts.clear()
    finally:
        handle.remove()
    return Seen(*(torch.cat(column) for column in zip(*seen, strict=True)))


def fit_layer(layer: nn.Linear, inputs: Tensor, loss: Callable[[Tensor], Tensor], penalty: float) -> None:
    """Minimise the loss of a layer's logits plus half the penalty on its squared weights, from the weights it has."""
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = loss(layer(inputs)) + penalty / 2 * layer.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(objective)  # type: ignore[no-untyped-call]


def zero_layer(width: int, outputs: int) -> nn.Linear:
    """Return a linear layer of zeros."""
    layer = nn.Linear(width, outputs)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def fit_linear(train: Seen, validation: Seen, outputs: int) -> tuple[nn.Linear, float]:
    """Fit logistic regression to frames, with the penalty that has the least cross-entropy on validation.

    The penalty is on the weights of standardised inputs. Penalties are tried from the largest on, until one is worse
    than the one before.

    Returns:
        the layer, for inputs as they are, and its penalty.
    """
    mean, scale = train.inputs.mean((0, 1)), train.inputs.flatten(0, 1).std(0).clamp_min(1e-6)
    inputs, held_out = (train.inputs - mean) / scale, (validation.inputs - mean) / scale
    frames = inputs.shape[1]
    layer = zero_layer(inputs.shape[2], outputs).to(inputs.device)
    best, chosen, least = layer, PENALTIES[0], math.inf
    for penalty in PENALTIES:
        fit_layer(layer, inputs, lambda logits: class_loss(logits, train.frame_labels) / frames, penalty)
        with torch.no_grad():
            error = float(class_loss(layer(held_out), validation.frame_labels))
        if error >= least:
            break
        best, chosen, least = copy.deepcopy(layer), penalty, error
    with torch.no_grad():
        best.weight /= scale
        best.bias.sub_(best.weight @ mean)
    return best.requires_grad_(False), chosen


def weigh_logits(network: Tensor, linear: Tensor, source: ClipSource) -> tuple[float, float]:
    """Return the weights of two classifiers' (clips, T, outputs) logits whose sum has the highest log-score on videos.

    The weights are multiples of `SCALES` and `LINEAR_SHARES`. Without any video that has a class, the network's is 1.
    """
    truths = video_labels(source)

    def log_score(weights: tuple[float, float]) -> float | None:
        logits = weights[0] * network + weights[1] * linear
        return mean_log_score(video_scores(class_scores(logits, truths.shape[1]).cpu(), source).numpy(), truths)

    scored = {
        weights: score
        for scale in SCALES
        for share in LINEAR_SHARES
        if (score := log_score(weights := (round(scale * (1 - share), 2), round(scale * share, 2)))) is not None
    }
    return max(scored, key=scored.__getitem__) if scored else (1.0, 0.0)
