"""Choices of cells: how they are drawn from logits, and their exact probability and entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel.noise import Noise


def draw_cells(logits: Tensor, glimpses: int, noise: Noise) -> Tensor:
    """Draw ordered cells without replacement from the Plackett-Luce distribution.

    The m largest of logits plus Gumbel noise, in descending order, are such a draw (Yellott 1977).

    Args:
        logits: (..., cells).
        glimpses: m, at most the number of cells.
        noise: on the logits' device.

    Returns:
        (..., m) int64.
    """
    return (logits + noise.gumbel(logits.shape)).topk(glimpses, dim=-1).indices


def cells_log_prob(logits: Tensor, cells: Tensor) -> Tensor:
    """Return the Plackett-Luce log-probability of drawing `cells` in their order.

    Args:
        logits: (..., K*K), or (..., m, K*K) if each cell was drawn by its own logits.
        cells: (..., m) int64, all different.

    Returns:
        (...): the sum over j of logit_j minus the logsumexp of the logits that are left when cell j is drawn.
    """
    if logits.ndim == cells.ndim:
        chosen, each = logits.gather(-1, cells), logits.unsqueeze(-2)
    else:
        chosen, each = logits.gather(-1, cells[..., None])[..., 0], logits  # (..., m), (..., m, K*K)
    taken = F.one_hot(cells, logits.shape[-1]).cumsum(-2)  # (..., m, K*K), cell j included
    left = torch.cat([torch.zeros_like(taken[..., :1, :]), taken[..., :-1, :]], -2).bool()
    remaining = each.masked_fill(left, -math.inf)
    return (chosen - remaining.logsumexp(-1)).sum(-1)


def first_draw_logits(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return (..., K*K): the logits of the first of the (..., m) cells, or of a whole set."""
    return logits if logits.ndim == chosen.ndim else logits[..., 0, :]


def choice_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the (...) log-probability of a choice.

    Args:
        logits: (..., K*K), or (..., m, K*K) if each of the ordered cells was drawn by its own logits.
        chosen: ordered cells, (..., m) int64, or any set of cells, (..., K*K) bool.
    """
    return sets_log_prob(logits, chosen) if chosen.dtype == torch.bool else cells_log_prob(logits, chosen)


def choice_entropy(logits: Tensor, *, sets: bool) -> Tensor:
    """Return (...) nats: the entropy of the first cell drawn, or of a whole set."""
    return sets_entropy(logits) if sets else first_draw_entropy(logits)


def draw_sets(logits: Tensor, noise: Noise) -> Tensor:
    """Draw any set of cells, each on its own with probability sigmoid(logit): (..., K*K) bool."""
    return noise.uniform(logits.shape) < logits.sigmoid()


def likeliest_sets(logits: Tensor) -> Tensor:
    """Return (..., K*K) bool: the likeliest cells, as many as are drawn on average (rounded, ties to the first cells).

    The likeliest set itself holds the cells with a probability above one half. If no probability is far from one half
    it is all cells or none, while draws hold half of the cells.
    """
    count = logits.sigmoid().sum(-1, keepdim=True).round()
    rank = logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < count


def sets_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the (...) log-probability of (..., K*K) bool sets: a sum over all cells, chosen or not."""
    return torch.where(chosen, F.logsigmoid(logits), F.logsigmoid(-logits)).sum(-1)


def sets_entropy(logits: Tensor) -> Tensor:
    """Return (...) nats: the sum of the entropies of the (..., K*K) independent draws."""
    return (F.softplus(logits) - logits * logits.sigmoid()).sum(-1)


def random_sets(shape: Sequence[int], noise: Noise, *, most: float = 0.5) -> Tensor:
    """Draw (N, K*K) bool: one probability per row, uniform in [0, most), and each cell of the row with it."""
    density = most * noise.uniform((shape[0], 1))
    return noise.uniform(shape) < density


def first_draw_entropy(logits: Tensor) -> Tensor:
    """Return (...) nats: the entropy of the first cell drawn from (..., K*K) logits."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def random_cells(shape: Sequence[int], glimpses: int, noise: Noise) -> Tensor:
    """Draw m different cells uniformly, for logits of `shape` (..., K*K): (..., m) int64."""
    return noise.uniform(shape).topk(glimpses, dim=-1).indices


def draw_classes(logits: Tensor, noise: Noise) -> Tensor:
    """Draw (N,) int64 classes from (N, outputs) logits: the largest of logits plus Gumbel noise."""
    return (logits + noise.gumbel(logits.shape)).argmax(1)


def centre_cells(grid_size: int, glimpses: int) -> Tensor:
    """Return (m,) int64: the cells nearest to the centre of the grid, ties in row-major order."""
    offset = torch.arange(grid_size) - (grid_size - 1) / 2
    distance = offset[:, None] ** 2 + offset[None, :] ** 2
    return distance.flatten().argsort(stable=True)[:glimpses]


def largest_of_least_seen(norms: Tensor, visits: Tensor, glimpses: int) -> Tensor:
    """Return (N, m) int64: the cells with the fewest of (N, K*K) visits, the largest of (N, K*K) norms first."""
    by_norm = norms.argsort(dim=1, descending=True, stable=True)
    order = visits.gather(1, by_norm).argsort(dim=1, stable=True)[:, :glimpses]
    return by_norm.gather(1, order)


def oracle_cells(actor: Tensor, glimpses: int, noise: Noise) -> Tensor:
    """Draw m different cells, first from the actor's (..., K*K) bool cells, then from the others: (..., m) int64."""
    draws = noise.uniform(actor.shape)
    return (actor.to(draws.dtype) + draws).topk(glimpses, dim=-1).indices
