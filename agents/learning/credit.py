"""Credit of an update: returns of looks, classes and jumps, and their advantages over a baseline.

First the mathematics, as pure functions of tensors; then the credit of a batch of rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel.ranks import mean_over_ranks
from .config import Config, Credit
from .episodes import Rollout, Steps
from .policy import class_probabilities


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


# ---- the credit of a batch


def frame_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T - 1) credit of each choice of cells, in units of the reward that looks are trained on.

    A log-score has no costs subtracted, since costs have the unit of the environment's reward. Looks that cost are
    trained on that reward (`Config.reward_of_looks`).
    """
    frames, reward = rollout.predictions.shape[1], config.reward_of_looks
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


def class_returns(rollout: Rollout, config: Config) -> Tensor:
    """Return the (N, T) credit of a sampled class: the shares of r_T that depend on it, or all of r_T."""
    if config.training.credit == "terminal":
        return rollout.rewards[:, None].expand_as(rollout.shares)
    segments = config.matches_segments
    return run_returns(rollout.shares, rollout.predictions, rollout.steps) if segments else rollout.shares


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
