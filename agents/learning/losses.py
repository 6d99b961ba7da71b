"""The mathematics of training: rewards per frame, credit, baselines and the terms of eq. 8, as functions of tensors."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Credit = Literal["causal", "terminal"]
Baseline = Literal["leave_one_out", "none", "value"]


def frame_rewards(
    predictions: Tensor, frame_labels: Tensor, *, eta: float, positive_reward: float, negative_reward: float
) -> Tensor:
    """Split eq. 7 into what each prediction adds to it; with frame matching the sum over frames is r_T.

    Args:
        predictions: (N, T) int64, C where the agent abstained.
        frame_labels: (N, T, C) bool.

    Returns:
        (N, T) float32.
    """
    classes = frame_labels.shape[-1]
    chosen = F.one_hot(predictions, classes + 1)[..., :classes].bool()
    true = (chosen & frame_labels).any(-1)
    false = chosen.any(-1) & ~true
    return eta * positive_reward * true.float() + (1 - eta) * negative_reward * false.float()


def glimpse_returns(rewards: Tensor, credit: Credit) -> Tensor:
    """Return what each choice of cells is credited with.

    The cells chosen at frame n are seen at frame n + 1, so nothing before that can depend on them; leaving those
    rewards out keeps the gradient unbiased and takes their variance away ("causal"). "terminal" credits every choice
    with the whole r_T, as the paper does.

    Args:
        rewards: (N, T).

    Returns:
        (N, T - 1): for the choices at frames 1..T-1.
    """
    if credit == "terminal":
        return rewards.sum(1, keepdim=True).expand(-1, rewards.shape[1] - 1)
    return rewards.flip(1).cumsum(1).flip(1)[:, 1:]


def leave_one_out(returns: Tensor) -> Tensor:
    """Subtract from each rollout's returns the mean of the other rollouts of the same clip.

    Args:
        returns: (B, R, ...) with R >= 2.

    Returns:
        (B, R, ...) advantages; the baseline does not depend on the rollout's own actions, so it adds no bias.

    Raises:
        ValueError: there is one rollout only.
    """
    rollouts = returns.shape[1]
    if rollouts < 2:
        raise ValueError("a leave-one-out baseline needs at least 2 rollouts of each clip, got 1")
    return (returns - returns.mean(1, keepdim=True)) * (rollouts / (rollouts - 1))


def normalised(advantages: Tensor, mean_square: Tensor) -> Tensor:
    """Divide by the root of their mean square, over all of an update; advantages that are all zero stay so."""
    return advantages / mean_square.sqrt().clamp_min(1e-6)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Return the REINFORCE surrogate of eqs. 4-6: its gradient is that of the expected return, negated.

    Args:
        log_probs: (N, T'), with gradient.
        advantages: (N, T'), without.
    """
    return -(advantages.detach() * log_probs).sum(1).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Return the squared error of (N, T') values as predictions of (N, T') returns, over 2, a mean over all of them."""
    return 0.5 * (values - returns).square().mean()


def class_loss(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Cross-entropy summed over frames and averaged over episodes (first term of eq. 8).

    Labelled frames ask for their labels, evenly where several are true; background frames ask for "no prediction"
    where the logits have that class, and otherwise for nothing. In an episode with background all outputs compete in
    all frames: if "no prediction" did not on labelled ones, little would speak against it, and it would soon be all
    that the network says. In one without, the C classes compete alone, and when not to predict is left to the reward.

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
    """Return (..., C): the probabilities of the classes by (..., C) logits; by (..., C + 1) logits, where "no
    prediction" takes its share, they sum to less than 1.
    """
    return class_logits.float().softmax(-1)[..., :num_classes]


def attention_penalty(attention: Tensor) -> Tensor:
    """Doubly stochastic attention: the sum over cells of (1 - the cell's probability summed over the clip) squared.

    It asks for every cell to be covered over the clip, whatever is in it (eq. 8; Sharma et al. 2015). It uses the
    policy's probabilities, since drawn cells carry no gradient, or the weights of soft attention, which do.

    Args:
        attention: (N, T', K*K), the probability or the weight of each cell.

    Returns:
        the mean over episodes.
    """
    return (1 - attention.sum(1)).square().sum(-1).mean()


def clip_log_score(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Return (N,): the log of the label's probability averaged over frames, 0 where no frame has a label; a reward
    other than eq. 7's.

    Args:
        class_logits: (N, T, C) or (N, T, C + 1).
        frame_labels: (N, T, C) bool.
    """
    scores = class_probabilities(class_logits, frame_labels.shape[-1])
    log_score = (scores * frame_labels).sum(-1).mean(1).clamp_min(1e-8).log()
    return torch.where(frame_labels.any(-1).any(-1), log_score, 0.0)


def frame_log_scores(class_logits: Tensor, frame_labels: Tensor) -> Tensor:
    """Return (N, T): each frame's log-probability of its labels, a reward other than eq. 7's."""
    scores = class_probabilities(class_logits, frame_labels.shape[-1])
    return torch.where(frame_labels.any(-1), (scores * frame_labels).sum(-1).clamp_min(1e-8).log(), 0.0)
