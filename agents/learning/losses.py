"""Losses of an update: credit, baselines and the terms of eqs. 4-8.

First the mathematics, as pure functions of tensors; then the loss of a batch of rollouts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel.ranks import mean_over_ranks
from .config import Config, Credit
from .episodes import DropoutMasks, GlimpseRollout, Rollout, Steps
from .glimpses import choice_entropy, choice_log_prob, first_draw_entropy, first_draw_logits
from .models import MODELS
from .policy import GlimpsePolicy


def settled(shares: Tensor) -> Tensor:
    """Move the share of each run of equal predictions from its last frame to the frame that settles it.

    With segment matching r_T is a sum over runs: a run adds eta * R+ if a truth claims it, (1 - eta) * R- if none does,
    and 0 if it is a run of "no prediction". Only its class and its two ends decide which. The next frame's prediction
    settles the end, because an equal one would have made the run longer; frame T settles the last run.

    So the shares settled up to frame n depend on predictions up to n alone, and credit for a later choice may leave
    them out without bias. This is exact if no truth overlaps two runs of its class by more than `overlap_threshold`,
    since then no run can take another one's claim: always from a threshold of 0.5 on (the default) in clips that repeat
    no frame.

    Args:
        shares: (N, T), of each run at its last frame.
    """
    moved = F.pad(shares[:, :-1], (1, 0))
    moved[:, -1] += shares[:, -1]
    return moved


def run_returns(shares: Tensor, predictions: Tensor, steps: Steps | None = None) -> Tensor:
    """Return the (N, T) credit of each sampled class with segment matching: the shares of the runs that it decides.

    Neither looks nor other predictions depend on the class drawn at frame n. Given all other predictions, it decides
    the run that frame n lies in, where the run of frame n - 1 ends and where the run of frame n + 1 begins. All other
    runs are the same whatever it is, so leaving them out keeps the gradient unbiased, under the condition of `settled`.
    With jumps, the class stands for several frames, and the run after the last one counts.

    Args:
        shares: (N, T), of each run at its last frame.
        predictions: (N, T) int64.
        steps: of episodes with jumps.
    """
    ends = predictions[:, 1:] != predictions[:, :-1]  # (N, T - 1): a run ends at the frame
    runs = F.pad(ends.cumsum(1), (1, 0))  # (N, T): number of the run that each frame lies in
    own = torch.zeros_like(shares).scatter_add(1, runs, shares).gather(1, runs)
    following = F.pad(own[:, 1:] * ends, (0, 1))
    if steps is not None:
        following = following.gather(1, steps.lasts(shares.shape[1]))
    return own + F.pad(own[:, :-1] * ends, (1, 0)) + following


def glimpse_returns(rewards: Tensor, credit: Credit) -> Tensor:
    """Return the credit of each choice of cells.

    The cells chosen at frame n are seen at frame n + 1, so no earlier reward depends on them. Leaving those rewards out
    keeps the gradient unbiased and removes their variance ("causal"). "terminal" credits every choice with the whole
    r_T, as the paper does.

    Args:
        rewards: (N, T), each at the frame that settles it.

    Returns:
        (N, T - 1): for the choices at frames 1..T-1.
    """
    if credit == "terminal":
        return rewards.sum(1, keepdim=True).expand(-1, rewards.shape[1] - 1)
    return rewards.flip(1).cumsum(1).flip(1)[:, 1:]


def leave_one_out(returns: Tensor) -> Tensor:
    """Subtract from each rollout's returns the mean of the clip's other rollouts.

    Args:
        returns: (B, R, ...) with R >= 2.

    Returns:
        (B, R, ...) advantages; the baseline does not depend on the rollout's own actions, so it adds no bias.

    Raises:
        ValueError: there is only one rollout.
    """
    rollouts = returns.shape[1]
    if rollouts < 2:
        raise ValueError("a leave-one-out baseline needs at least 2 rollouts of each clip, got 1")
    return (returns - returns.mean(1, keepdim=True)) * (rollouts / (rollouts - 1))


def normalised(advantages: Tensor, mean_square: Tensor) -> Tensor:
    """Divide by the root of the mean square over a whole update; advantages that are all zero stay zero."""
    return advantages / mean_square.sqrt().clamp_min(1e-6)


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


def class_probabilities(class_logits: Tensor, num_classes: int) -> Tensor:
    """Return the (..., C) probabilities of the classes.

    With (..., C + 1) logits "no prediction" takes its share, and they sum to less than 1.
    """
    return class_logits.float().softmax(-1)[..., :num_classes]


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

    It asks the policy to cover every cell over the clip, whatever the cell contains.

    Args:
        attention: (N, T, K*K), of `expected_attention`, since drawn cells carry no gradient, or the weights of soft
            attention.

    Returns:
        the mean over episodes.

    Source: eq. 8; Sharma et al. 2015.
    """
    return (1 - attention.sum(1)).square().sum(-1).mean()


def clip_log_score(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Return the (N,) log of the label's mean probability over frames, 0 if no frame has a label.

    It is an alternative to the reward of eq. 7.

    Args:
        class_logits: (N, T, C) or (N, T, C + 1).
        frame_labels: (N, T, C) bool.
    """
    scores = class_probabilities(class_logits, frame_labels.shape[-1])
    log_score = (scores * frame_labels).sum(-1).mean(1).clamp_min(1e-8).log()
    return torch.where(frame_labels.any(-1).any(-1), log_score, 0.0)


def frame_log_scores(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Return each frame's (N, T) log-probability of its labels, an alternative to the reward of eq. 7."""
    scores = class_probabilities(class_logits, frame_labels.shape[-1])
    return torch.where(frame_labels.any(-1), (scores * frame_labels).sum(-1).clamp_min(1e-8).log(), 0.0)


# ---- the loss of a batch

Phase = Literal["warmup", "scorer", "joint"]
JumpPhase = Literal["smallest", "drawn", "learned"]


def phase_of_update(config: Config, update: int) -> Phase:
    """Return the phase of an update: it trains the classifier on random glimpses, the location logits, or both."""
    if update < config.training.warmup_updates:
        return "warmup"
    return "scorer" if update < config.training.warmup_updates + config.training.scorer_updates else "joint"


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


def frame_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T - 1) credit of each choice of cells, in units of the reward that looks are trained on.

    A log-score leaves costs out: they are in units of the environment's reward, and a cost that looks are trained on
    needs that reward as well (`Config.looks_reward`).
    """
    frames, reward = rollout.predictions.shape[1], config.looks_reward
    if reward == "eq7":
        return reward_returns(rollout, config)
    if reward == "clip_log_score":
        return clip_log_score(rollout.class_logits, rollout.frame_labels)[:, None].expand(-1, frames - 1)
    return glimpse_returns(frame_log_scores(rollout.class_logits, rollout.frame_labels), config.training.credit)


def reward_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T - 1) credit of each choice in units of the environment's reward: eq. 7, minus all costs."""
    shares = settled(rollout.shares) if config.matches_segments else rollout.shares
    return glimpse_returns(shares - costs_of_looking(rollout, config), config.training.credit)


def costs_of_looking(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T) costs of the looks at each frame and of observing it; the first frame is free."""
    looks, frames = rollout.looked.sum(2), rollout.observed()[:, 1:]
    return F.pad(config.training.advanced.look_cost * looks + config.task.advanced.frame_cost * frames, (1, 0))


def advantages_of(returns: Tensor, config: Config, values: Tensor | None = None) -> Tensor:
    """Return (B * R, ...) normalised advantages over the configured baseline; ranks agree on the scale.

    Args:
        returns: (B * R, ...), clip by clip.
        config: of the run.
        values: of the states that the choices were made in, for the baseline "value". Models that learn by
            back-propagation have none, and need no advantages.
    """
    if values is not None:
        returns = returns - values
    advantages = returns.reshape(-1, config.training.rollouts, *returns.shape[1:])
    if config.training.advanced.baseline == "leave_one_out":
        advantages = leave_one_out(advantages)
    # All ranks have equally many, so the mean of their means is the mean over all.
    return normalised(advantages, mean_over_ranks(advantages.square().mean())).flatten(0, 1)


def class_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T) credit of a sampled class: the shares of r_T that depend on it, or all of r_T."""
    if config.training.credit == "terminal":
        return rollout.rewards[:, None].expand_as(rollout.shares)
    segments = config.matches_segments
    return run_returns(rollout.shares, rollout.predictions, rollout.steps) if segments else rollout.shares


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Advantages of the choices of a whole update over their baselines.

    A class that stands for several frames is credited at each frame with the frame's own share; a share that cannot be
    split counts at the observed frame. A jump is credited with the rewards of all frames after the observed one, and
    cells with those from the next observed frame on. Whatever reward looks are trained on, a jump is credited with that
    of the environment, which has the unit of the cost of a frame.
    """

    cells: Tensor  # (N, T - 1), with jumps (N, S - 1)
    classes: Tensor | None  # (N, T), if classes are sampled
    jumps: Tensor | None = None  # (N, S), with jumps

    @classmethod
    @torch.no_grad()
    def of(cls, rollout: Rollout, config: Config) -> Advantages:
        """Compute the advantages of a rollout; its episodes are laid out clip by clip."""
        values = rollout.values
        cells = advantages_of(frame_returns(rollout, config), config, None if values is None else values[:, :-1, 0])
        classes, jumps, steps = None, None, rollout.steps
        if config.samples_classes:
            drawn = class_returns(rollout, config)
            classes = advantages_of(drawn, config, None if values is None else values[..., 1])
        if steps is not None:
            # (N, T + 1): nothing depends on choices at the last frame and after the end
            later, paid = (
                F.pad(part, (0, 2)) for part in (cells, advantages_of(reward_returns(rollout, config), config))
            )
            jumps, cells = paid.gather(1, steps.frames), later.gather(1, steps.frames[:, 1:] - 1)
            if classes is not None and (config.training.credit == "terminal" or config.matches_segments):
                classes = classes * rollout.observed()
        return cls(cells=cells, classes=classes, jumps=jumps)

    def rows(self, rows: slice) -> Advantages:
        """Return the advantages of some of the episodes."""
        parts = (self.cells, self.classes, self.jumps)
        cells, classes, jumps = (None if part is None else part[rows] for part in parts)
        assert cells is not None
        return Advantages(cells=cells, classes=classes, jumps=jumps)


def answer_loss(
    classification: Tensor, class_logits: Tensor, rollout: Rollout, advantages: Advantages, config: Config, update: int
) -> Tensor:
    """Return the loss of the classes: the cross-entropy and, after the warm-up, the policy gradient of sampled ones.

    The policy gradient learns when "no prediction" pays. An untrained policy always gains by abstaining and would never
    predict again, so this term has to wait.
    """
    if advantages.classes is None or phase_of_update(config, update) == "warmup":
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
    have no meaning. Learned values are trained in every phase, on their own.
    """
    phase = phase_of_update(config, update)
    steps, frames = rollout.steps, rollout.predictions.shape[1]
    class_logits, cell_logits, jump_logits = policy(
        rollout.first, rollout.rest, rollout.views, masks, steps=steps, detach_scorer=phase == "scorer"
    )
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
    total = answers = answer_loss(classification, class_logits, rollout, advantages, config, update)
    if MODELS[config.model].learns == "reinforce" and phase != "warmup":
        bonus = config.training.advanced.entropy_bonus * (1 - update / config.training.updates) * choices
        total = gradient - bonus * entropy + config.training.penalty * penalty
        if phase == "joint":
            total = total + answers
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
