"""Logistic regression on the inputs of the class head: a start for training, and a floor for results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.losses import class_loss
from ..learning.policy import GlimpsePolicy
from .evaluation import play_split
from .rollout import PlaySettings

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # on half the squared weights, next to the mean over frames


class Seen(NamedTuple):
    """Frames of a split as the class head sees them."""

    inputs: Tensor  # (n, T, width)
    frame_labels: Tensor  # (n, T, C) bool


class LinearClassifier(NamedTuple):
    """Logistic regression from the inputs of single frames."""

    weight: Tensor  # (outputs, width)
    bias: Tensor  # (outputs,)
    penalty: float

    def logits(self, inputs: Tensor) -> Tensor:
        """Return (..., outputs) for (..., width) inputs."""
        return inputs @ self.weight.T + self.bias


@torch.no_grad()
def see_split(envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, settings: PlaySettings, *, seed: int) -> Seen:
    """Play a split, and return the inputs of the class head and the labels of all frames."""
    parts: list[Tensor] = []
    handle = policy.class_head.register_forward_hook(lambda _, arguments, __: parts.append(arguments[1].float()))
    seen = []
    try:
        for rollout, valid in play_split(envs, policy, settings, seed=seed):
            seen.append(Seen(torch.cat(parts, 1)[:valid], rollout.frame_labels[:valid]))
            parts.clear()
    finally:
        handle.remove()
    return Seen(*(torch.cat(column) for column in zip(*seen, strict=True)))


def fit_linear(train: Seen, validation: Seen, outputs: int) -> LinearClassifier:
    """Fit logistic regression to frames, with the penalty that has the least cross-entropy on validation.

    The penalty is on the weights of inputs that are scaled to unit variance.
    """
    scale = train.inputs.flatten(0, 1).std(0).clamp_min(1e-6)
    inputs, held_out, frames = train.inputs / scale, validation.inputs / scale, train.inputs.shape[1]
    weight = inputs.new_zeros(outputs, inputs.shape[2], requires_grad=True)
    bias = inputs.new_zeros(outputs, requires_grad=True)
    best, least = LinearClassifier(weight.detach().clone(), bias.detach().clone(), PENALTIES[0]), torch.inf
    for penalty in PENALTIES:
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=30, line_search_fn="strong_wolfe")

        def objective(optimizer: torch.optim.Optimizer = optimizer, penalty: float = penalty) -> Tensor:
            optimizer.zero_grad()
            loss = class_loss(inputs @ weight.T + bias, train.frame_labels) / frames
            loss = loss + penalty / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(objective)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            error = float(class_loss(held_out @ weight.T + bias, validation.frame_labels))
            if error < least:
                best, least = LinearClassifier(weight / scale, bias.clone(), penalty), error
    return best
