"""Optimisation: the clips and random seeds of an update, and one step of Adam."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..parallel.noise import Share
from ..parallel.ranks import average_gradients, raise_together
from .config import Config
from .policy import GlimpsePolicy


def clips_of_update(num_clips: int, config: Config, update: int) -> NDArray[np.int64]:
    """Return the (B,) clips of an update: epoch after epoch, each in its own order drawn from the run's seed."""
    size, seed = config.training.clips, config.training.seed
    positions = np.arange(update * size, (update + 1) * size)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(num_clips)
        for epoch in np.unique(positions // num_clips).tolist()
    }
    return np.array(
        [orders[epoch][place] for epoch, place in zip(positions // num_clips, positions % num_clips, strict=True)]
    )


def seed_of_update(config: Config, update: int) -> int:
    """Return the seed of all random draws of an update, so that a resumed run draws the same numbers."""
    return int(np.random.SeedSequence([config.training.seed, update]).generate_state(1)[0])


def make_optimizer(policy: GlimpsePolicy, config: Config) -> torch.optim.Adam:
    """Return Adam with a group for the location head and one for everything else.

    Eq. 8 adds gamma * |theta|^2 to the loss, whose gradient is 2 * gamma * theta; Adam adds `weight_decay` * theta.
    """
    training, location = config.training, list(policy.location_head.parameters())
    own = {id(parameter) for parameter in location}
    rest = [parameter for parameter in policy.parameters() if id(parameter) not in own]
    scorer_rate = training.advanced.scorer_learning_rate
    return torch.optim.Adam(
        [
            {"params": rest, "lr": training.learning_rate, "weight_decay": 2 * training.weight_decay},
            {"params": location, "lr": scorer_rate, "weight_decay": 2 * training.scorer_weight_decay},
        ]
    )


def parts_to_clip(policy: GlimpsePolicy) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of the learned values, those of the choices of cells and frames, and all others.

    The gradient of each part is clipped by itself: large errors of values or classes must not shrink the step of the
    location logits.
    """
    critic = [] if policy.value_head is None else list(policy.value_head.parameters())
    jumps = [] if policy.jump_head is None else list(policy.jump_head.parameters())
    choices = [*policy.location_head.parameters(), *jumps]
    apart = {id(weight) for weight in (*critic, *choices)}
    return critic, choices, [weight for weight in policy.parameters() if id(weight) not in apart]


def take_step(
    policy: GlimpsePolicy,
    optimizer: torch.optim.Adam,
    config: Config,
    *,
    update: int,
    loss: float,
    share: Share,
    clip_names: Callable[[], str],
) -> float:
    """Take a step along the clipped gradient, averaged over the ranks, and return its norm before it was clipped.

    The gradient of learned values is not part of the norm.

    Args:
        policy: has the gradients.
        optimizer: of `make_optimizer`.
        config: of the run.
        update: number of the update; the learning rates depend on it.
        loss: of the update.
        share: of this rank.
        clip_names: names the clips of the update, for an error.

    Raises:
        FloatingPointError: the loss or the gradient is not finite.
    """
    training = config.training
    decay = min(1.0, 0.1 + 0.9 * 3 * (1 - update / training.updates))
    rates = (training.learning_rate, training.advanced.scorer_learning_rate)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * decay

    def require_finite(norm: float) -> None:
        for name, value in (("loss", loss), ("gradient", norm)):
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the {name} of update {update} is not finite, on the clips {clip_names()}: lower "
                    "--learning-rate, or look at these clips; the last saved state is kept"
                )

    parameters = list(policy.parameters())
    if share.ranks > 1:  # before averaging, so that the rank with the broken clips names them
        gradients = [weight.grad.flatten() for weight in parameters if weight.grad is not None]
        with raise_together():
            require_finite(float(torch.cat(gradients).norm()))
        average_gradients(parameters)
    norms = [
        float(torch.nn.utils.clip_grad_norm_(part, training.advanced.max_grad_norm)) for part in parts_to_clip(policy)
    ]
    norm = math.hypot(*norms[1:])
    require_finite(norm)
    optimizer.step()
    return norm
