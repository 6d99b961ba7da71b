"""Losses of an update: the terms of eqs. 4-8.

First the mathematics, as pure functions of tensors; then the loss of a batch of rollouts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .config import Config
from .credit import Advantages, class_returns, frame_returns
from .episodes import DropoutMasks, GlimpseRollout, Rollout
from .glimpses import choice_entropy, choice_log_prob, first_draw_entropy, first_draw_logits
from .models import MODELS
from .policy import GlimpsePolicy


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Return the REINFORCE surrogate of eqs. 4-6; its gradient is the negated gradient of the expected return.

    Args:
        log_probs: (N, T'), with gradient.
        advantages: (N, T'), without.
    """
    return -(advantages.detach() * log_probs).sum(1).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Return half the mean squared error of (N, T') values as predictions of (N, T') returns."""
    return 0.5 * (values - returns).square().mean()


def class_loss(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Cross-entropy summed over frames and averaged over episodes (first term of eq. 8).

    The target of a labelled frame is its labels, in equal parts if several are true. The target of a background frame
    is "no prediction" if the logits have that class, and nothing otherwise. In an episode with background all outputs
    compete in all frames: without that, nothing would punish "no prediction" on labelled frames, and the network would
    soon predict nothing else. In an episode without background only the C classes compete, and the reward decides when
    not to predict.

    Args:
        class_logits: (N, T, C) or, with abstention, (N, T, C + 1).
        frame_labels: (N, T, C) bool.
    """
    classes = frame_labels.shape[-1]
    labels, background = frame_labels.float(), ~frame_labels.any(-1)
    log_probs = class_logits[..., :classes].log_softmax(-1)
    silence = torch.zeros_like(log_probs[..., 0])
    if class_logits.shape[-1] > classes:
        of_all = class_logits.log_softmax(-1)
        log_probs = torch.where(background.any(1)[:, None, None], of_all[..., :classes], log_probs)
        silence = of_all[..., classes]
    loss = -(labels * log_probs).sum(-1) / labels.sum(-1).clamp_min(1) - background * silence
    return loss.sum(1).mean()


def expected_attention(first: Tensor, cell_logits: Tensor, *, sets: bool = False) -> Tensor:
    """Return (N, T, K*K): the attention that the policy gives to each cell on average, which sums to 1 in a frame.

    The sum does not depend on how many cells are looked at, so lambda means the same in every model.

    Args:
        first: (N, K*K), the weights of the first frame.
        cell_logits: (N, T - 1, K*K), of the first cell drawn for each later frame, or of `sets` of cells.
    """
    later = cell_logits.sigmoid() if sets else cell_logits.softmax(-1)
    later = later / later.sum(-1, keepdim=True).clamp_min(1e-8)
    return torch.cat([first[:, None].detach(), later], 1)


def attention_penalty(attention: Tensor) -> Tensor:
    """Doubly stochastic attention: the sum over cells of (1 - the cell's attention summed over the clip) squared.

    It asks the policy to cover every cell over the clip, whatever the cell contains. Attention counts as shares that
    sum to 1 in each frame, since the weights of soft attention sum to less than 1 on untrimmed clips.

    Args:
        attention: (N, T, K*K), of `expected_attention`, since drawn cells carry no gradient, or the weights of soft
            attention.

    Returns:
        the mean over episodes.

    Source: eq. 8; Sharma et al. 2015.
    """
    shares = attention / attention.sum(-1, keepdim=True).clamp_min(1e-8)
    return (1 - shares.sum(1)).square().sum(-1).mean()


# ---- the loss of a batch

JumpPhase = Literal["smallest", "drawn", "learned"]


def is_warmup(config: Config, update: int) -> bool:
    """Return whether an update plays random glimpses, and trains only the classifier."""
    return update < config.training.warmup_updates


def jumps_of_update(config: Config, update: int) -> JumpPhase:
    """Return the phase of jumps: only the "smallest" is taken, they are "drawn", or they are drawn and "learned"."""
    jumping = round(config.training.advanced.jump_share * config.training.updates)
    since = update - (config.training.updates - jumping)
    if since < 0:
        return "smallest"
    return "drawn" if since < jumping // 4 else "learned"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Terms of eq. 8 for one batch, the error of learned values, and the mean reward."""

    total: Tensor
    classification: Tensor
    policy: Tensor
    penalty: Tensor
    entropy: Tensor
    reward: Tensor
    value: Tensor | None = None

    def scalars(self) -> dict[str, float]:
        """Return the terms by their names in the log."""
        terms = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"train/{name}": float(term.detach()) for name, term in terms.items() if term is not None}


def answer_loss(
    classification: Tensor, class_logits: Tensor, rollout: Rollout, advantages: Advantages, config: Config, update: int
) -> Tensor:
    """Return the loss of the classes: the cross-entropy and, after the warm-up, the policy gradient of sampled ones.

    The policy gradient learns when "no prediction" pays. An untrained policy always gains by abstaining and would never
    predict again, so this term has to wait.
    """
    if advantages.classes is None or is_warmup(config, update):
        return classification
    weight = config.training.advanced.classification_weight
    return weight * classification + choice_loss(class_logits, rollout.predictions, advantages.classes)


def choice_loss(logits: Tensor, chosen: Tensor, advantages: Tensor) -> Tensor:
    """Return the policy gradient of sampled classes or jumps: (N, T, choices) logits, (N, T) choices and advantages."""
    log_probs = logits.log_softmax(-1).gather(2, chosen[..., None])[..., 0]
    return policy_gradient_loss(log_probs, advantages)


def values_loss(values: Tensor, rollout: Rollout, config: Config) -> Tensor:
    """Return the error of (N, T, 1 or 2) values as predictions of the credit of cells and, if sampled, of classes."""
    error = value_loss(values[:, :-1, 0], frame_returns(rollout, config))
    return error + value_loss(values[..., 1], class_returns(rollout, config)) if config.samples_classes else error


def glimpse_losses(
    policy: GlimpsePolicy,
    rollout: GlimpseRollout,
    masks: DropoutMasks,
    advantages: Advantages,
    config: Config,
    *,
    update: int,
) -> Losses:
    """Compute eq. 8 for a batch of rollouts, or for a part of it: every term is a mean over the episodes.

    In the warm-up the total is the cross-entropy alone. After it, sampled classes add their policy gradient, and models
    that learn to look by REINFORCE the terms of the location logits; for all other models these terms are logged but
    have no meaning. Learned values are trained in every update, on their own.
    """
    steps, frames = rollout.steps, rollout.predictions.shape[1]
    class_logits, cell_logits, jump_logits = policy(rollout.first, rollout.rest, rollout.views, masks, steps=steps)
    class_logits = class_logits if steps is None else steps.standing(class_logits, frames)
    classification = class_loss(class_logits, rollout.frame_labels)
    # A choice made at random does not depend on the policy.
    log_probs = choice_log_prob(cell_logits, rollout.cells) * ~rollout.explored
    gradient = policy_gradient_loss(log_probs, advantages.cells)
    sets = rollout.cells.dtype == torch.bool
    first = first_draw_logits(cell_logits, rollout.cells)
    entropies, expected = (
        choice_entropy(first, sets=sets),
        expected_attention(rollout.attention[:, 0], first, sets=sets),
    )
    choices: float | Tensor = log_probs.shape[1]  # of an episode
    if steps is None:
        entropy = entropies.mean()
    else:
        acts = steps.frames < frames  # (N, S)
        expected, choices = expected * acts[..., None], acts[:, 1:].sum(1).float().mean().clamp_min(1)
        entropy = (entropies * acts[:, 1:]).sum(1).mean() / choices
        if jump_logits is not None and advantages.jumps is not None and jumps_of_update(config, update) == "learned":
            gradient = gradient + choice_loss(jump_logits, steps.jumps, advantages.jumps)
            entropy = entropy + (first_draw_entropy(jump_logits) * acts).sum(1).mean() / choices
    penalty = attention_penalty(expected)
    total = answer_loss(classification, class_logits, rollout, advantages, config, update)
    if MODELS[config.model].learns == "reinforce" and not is_warmup(config, update):
        bonus = config.training.advanced.entropy_bonus * (1 - update / config.training.updates) * choices
        total = gradient - bonus * entropy + config.training.penalty * penalty + total
    value = None
    if rollout.states is not None and policy.value_head is not None:
        value = values_loss(policy.value_head(rollout.states), rollout, config)
        total = total + value
    return Losses(
        total=total,
        classification=classification,
        policy=gradient,
        penalty=penalty,
        entropy=entropy,
        reward=rollout.rewards.mean(),
        value=value,
    )


def soft_losses(rollout: Rollout, advantages: Advantages, config: Config, *, update: int) -> Losses:
    """Compute eq. 8 for a model that learns by back-propagation.

    Only sampled classes need REINFORCE, and that after as many updates as other models warm up.
    """
    classification = class_loss(rollout.class_logits, rollout.frame_labels)
    attention = rollout.attention
    if rollout.cell_logits is not None:
        attention = expected_attention(attention[:, 0], rollout.cell_logits)
    penalty = attention_penalty(attention)
    answers = answer_loss(classification, rollout.class_logits, rollout, advantages, config, update)
    total = answers + config.training.penalty * penalty
    return Losses(
        total=total,
        classification=classification,
        policy=torch.zeros_like(total),
        penalty=penalty,
        entropy=rollout.entropy.mean(),
        reward=rollout.rewards.mean(),
    )
