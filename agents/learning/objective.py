"""What an update minimises: the terms of eq. 8, put together from a batch of rollouts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glimpse_env import EpisodeRules

from ..parallel.ranks import mean_over_ranks
from ..playing.rollout import GlimpseRollout, Looking, Rollout
from .config import Config
from .glimpses import choice_entropy, choice_log_prob, first_draw_logits
from .losses import (
    attention_penalty,
    class_loss,
    clip_log_score,
    frame_log_scores,
    frame_rewards,
    glimpse_returns,
    leave_one_out,
    normalised,
    policy_gradient_loss,
    value_loss,
)
from .policy import DropoutMasks, GlimpsePolicy

Phase = Literal["warmup", "scorer", "joint"]


def phase_of_update(config: Config, update: int) -> Phase:
    """Return what an update trains: the classifier on random glimpses, the location logits, or both."""
    if update < config.warmup_updates:
        return "warmup"
    return "scorer" if update < config.warmup_updates + config.scorer_updates else "joint"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The terms of eq. 8 for one batch, the error of the values where they are learned, and what is watched beside."""

    total: Tensor
    classification: Tensor
    policy: Tensor
    penalty: Tensor
    entropy: Tensor
    reward: Tensor
    value: Tensor | None = None

    def scalars(self) -> dict[str, float]:
        """Return the terms under their names in the log."""
        terms = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"train/{name}": float(term.detach()) for name, term in terms.items() if term is not None}


def frame_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return (N, T - 1): what each choice of cells is credited with, in the units of the reward chosen."""
    frames = rollout.predictions.shape[1]
    if config.reward == "eq7":
        return glimpse_returns(eq7_rewards(rollout, config), config.credit)
    costs = glimpse_returns(look_costs(rollout, config), config.credit)
    if config.reward == "clip_log_score":
        return clip_log_score(rollout.class_logits, rollout.frame_labels)[:, None].expand(-1, frames - 1) - costs
    return glimpse_returns(frame_log_scores(rollout.class_logits, rollout.frame_labels), config.credit) - costs


def look_costs(rollout: Rollout, config: Config) -> Tensor:
    """Return (N, T): what the looks at each frame take off the reward; the first glance is free."""
    return config.look_cost * F.pad(rollout.looked.sum(2).float(), (1, 0))


def eq7_rewards(rollout: Rollout, config: Config) -> Tensor:
    """Return (N, T): the share of each frame, its prediction and its looks, in the reward that the environment paid."""
    rules = EpisodeRules(frames=rollout.predictions.shape[1], eta=config.eta)
    paid = frame_rewards(
        rollout.predictions,
        rollout.frame_labels,
        eta=rules.eta,
        positive_reward=rules.positive_reward,
        negative_reward=rules.negative_reward,
    )
    return paid - look_costs(rollout, config) if config.look_cost else paid


def advantages_of(returns: Tensor, config: Config, values: Tensor | None = None) -> Tensor:
    """Return (B * R, ...) normalised advantages over the configured baseline; where several ranks share an update they
    agree on the scale. `values` are those of the states that were chosen in, for the baseline "value"; arms that learn
    by back-propagation have none, and need no advantages.
    """
    if values is not None:
        returns = returns - values
    advantages = returns.reshape(-1, config.rollouts, *returns.shape[1:])
    if config.baseline == "leave_one_out":
        advantages = leave_one_out(advantages)
    # Every rank has as many, so the mean of their means is that of all.
    return normalised(advantages, mean_over_ranks(advantages.square().mean())).flatten(0, 1)


def class_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return (N, T): what a drawn class is credited with, its own frame's share of r_T, or all of it."""
    rewards = eq7_rewards(rollout, config)
    return rewards.sum(1, keepdim=True).expand_as(rewards) if config.credit == "terminal" else rewards


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """How much better than its baseline each choice turned out, over a whole update."""

    cells: Tensor  # (N, T - 1)
    classes: Tensor | None  # (N, T), where classes are drawn

    @classmethod
    @torch.no_grad()
    def of(cls, rollout: Rollout, config: Config) -> Advantages:
        """Compute them; episodes are laid out clip by clip."""
        values = rollout.values
        cells = advantages_of(frame_returns(rollout, config), config, None if values is None else values[:, :-1, 0])
        if not config.draws_classes:
            return cls(cells=cells, classes=None)
        drawn = class_returns(rollout, config)
        return cls(cells=cells, classes=advantages_of(drawn, config, None if values is None else values[..., 1]))

    def part(self, rows: slice) -> Advantages:
        """Return those of some of the episodes."""
        return Advantages(cells=self.cells[rows], classes=None if self.classes is None else self.classes[rows])


def class_choice_loss(class_logits: Tensor, predictions: Tensor, advantages: Tensor) -> Tensor:
    """Return the policy gradient of drawn classes: (N, T, outputs) logits, (N, T) predictions and advantages."""
    log_probs = class_logits.log_softmax(-1).gather(2, predictions[..., None])[..., 0]
    return policy_gradient_loss(log_probs, advantages)


def values_loss(values: Tensor, rollout: Rollout, config: Config) -> Tensor:
    """Return the error of (N, T, 1 or 2) values: of what the choice of cells at a frame is credited with and, where
    classes are drawn, of what the class is.
    """
    error = value_loss(values[:, :-1, 0], frame_returns(rollout, config))
    return error + value_loss(values[..., 1], class_returns(rollout, config)) if config.draws_classes else error


def glimpse_losses(
    policy: GlimpsePolicy,
    rollout: GlimpseRollout,
    masks: DropoutMasks,
    advantages: Advantages,
    config: Config,
    *,
    update: int,
    looking: Looking,
) -> Losses:
    """Compute eq. 8 for a batch of rollouts, or for a part of one: every term is a mean over its episodes.

    The total of the warm-up is the cross-entropy alone. After it drawn classes have their policy gradient too, which
    learns when "no prediction" pays: to who knows nothing yet it always does, and nothing else would be said any more.
    An arm that does not learn where to look has no other terms; its policy's term, entropy and penalty, like those of
    the warm-up, are of logits that are all alike, and say nothing. Values, where they are the baseline, are learned in
    every phase, and teach nothing but themselves.
    """
    phase = phase_of_update(config, update)
    class_logits, cell_logits = policy(
        rollout.first, rollout.rest, rollout.views, masks, detach_scorer=phase == "scorer"
    )
    classification = class_loss(class_logits, rollout.frame_labels)
    # What was drawn at random says nothing of the policy: its gradient is that of the mixture of both.
    log_probs = choice_log_prob(cell_logits, rollout.cells) * ~rollout.explored
    gradient = policy_gradient_loss(log_probs, advantages.cells)
    sets = rollout.cells.dtype == torch.bool
    first = first_draw_logits(cell_logits, rollout.cells)
    entropy = choice_entropy(first, sets=sets).mean()
    penalty = attention_penalty(first.sigmoid() if sets else first.softmax(-1))
    saying = classification
    if advantages.classes is not None and phase != "warmup":
        saying = saying + class_choice_loss(class_logits, rollout.predictions, advantages.classes)
    total = saying
    if looking in ("learned", "unlimited") and phase != "warmup":
        bonus = config.entropy_bonus * (1 - update / config.updates) * log_probs.shape[1]
        total = gradient - bonus * entropy + config.penalty * penalty
        if phase == "joint":
            total = total + saying
    value = None
    if rollout.states is not None:
        value = values_loss(policy.values(rollout.states), rollout, config)
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
    """Compute eq. 8 for attention that is learned by back-propagation: nothing but drawn classes needs REINFORCE, and
    that after as many updates as others warm up for.
    """
    classification = class_loss(rollout.class_logits, rollout.frame_labels)
    penalty = attention_penalty(rollout.attention)
    total = classification + config.penalty * penalty
    if advantages.classes is not None and phase_of_update(config, update) != "warmup":
        total = total + class_choice_loss(rollout.class_logits, rollout.predictions, advantages.classes)
    return Losses(
        total=total,
        classification=classification,
        policy=torch.zeros_like(total),
        penalty=penalty,
        entropy=rollout.entropy.mean(),
        reward=rollout.rewards.mean(),
    )
