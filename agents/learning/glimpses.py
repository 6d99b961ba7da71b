"""Where to look: ordered cells drawn from logits, their exact probability, and ways of looking that learn nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel.ranks import WHOLE, Share, uniform


def gumbel_noise(shape: torch.Size, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Return standard Gumbel noise, drawn on the generator's device."""
    return -torch.log(-torch.log(uniform(shape, generator, share).clamp(1e-20, 1 - 1e-7)))


def draw_cells(logits: Tensor, glimpses: int, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Draw ordered cells without replacement from the Plackett-Luce distribution.

    The m largest of logits plus Gumbel noise, in descending order, are such a draw (Yellott 1977).

    Args:
        logits: (..., cells).
        glimpses: m, at most the number of cells.
        generator: of the noise.
        share: which of a larger batch's rows these are.

    Returns:
        (..., m) int64.
    """
    return (logits + gumbel_noise(logits.shape, generator, share)).topk(glimpses, dim=-1).indices


def cells_log_prob(logits: Tensor, cells: Tensor) -> Tensor:
    """Return the Plackett-Luce log-probability of drawing `cells` in their order.

    Args:
        logits: (..., K*K), or (..., m, K*K) where each cell is drawn by logits of its own.
        cells: (..., m) int64, all different.

    Returns:
        (...): the sum over j of logit_j - logsumexp of the logits that are left when cell j is drawn.
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
    """Return (..., K*K): the logits that the first of the (..., m) cells was drawn by, or all of a set."""
    return logits if logits.ndim == chosen.ndim else logits[..., 0, :]


def choice_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return (...) the log-probability of what was chosen by (..., K*K) logits: ordered cells, (..., m) int64, or any
    set of them, (..., K*K) bool; (..., m, K*K) logits are those that each of the ordered cells was drawn by.
    """
    return sets_log_prob(logits, chosen) if chosen.dtype == torch.bool else cells_log_prob(logits, chosen)


def choice_entropy(logits: Tensor, *, sets: bool) -> Tensor:
    """Return (...) nats: the entropy of the first of the cells drawn, or of a whole set of them."""
    return sets_entropy(logits) if sets else first_draw_entropy(logits)


def draw_sets(logits: Tensor, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Draw any set of cells, each by itself with probability sigmoid(logit): (..., K*K) bool."""
    return uniform(logits.shape, generator, share) < logits.sigmoid()


def sets_log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return (...) the log-probability of sets, (..., K*K) bool: a sum over all cells, looked at or not."""
    return torch.where(chosen, F.logsigmoid(logits), F.logsigmoid(-logits)).sum(-1)


def sets_entropy(logits: Tensor) -> Tensor:
    """Return (...) nats: the sum of the entropies of the (..., K*K) cells' coins."""
    return (F.softplus(logits) - logits * logits.sigmoid()).sum(-1)


def random_sets(
    shape: torch.Size | tuple[int, ...], generator: torch.Generator, share: Share = WHOLE, *, most: float = 0.5
) -> Tensor:
    """Draw (N, K*K) bool: each row's cells all with one probability, which is itself drawn, uniform up to `most`."""
    density = most * uniform((shape[0], 1), generator, share)
    return uniform(shape, generator, share) < density


def first_draw_entropy(logits: Tensor) -> Tensor:
    """Return (...) nats: the entropy of the first of the cells drawn from (..., K*K) logits."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def random_cells(
    shape: torch.Size | tuple[int, ...], glimpses: int, generator: torch.Generator, share: Share = WHOLE
) -> Tensor:
    """Draw m different cells uniformly, for `shape` (..., K*K) of logits: (..., m) int64."""
    return uniform(shape, generator, share).topk(glimpses, dim=-1).indices


def draw_classes(logits: Tensor, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Draw (N,) int64 classes from (N, outputs) logits: the largest of logits plus Gumbel noise."""
    return (logits + gumbel_noise(logits.shape, generator, share)).argmax(1)


def centre_cells(grid_size: int, glimpses: int) -> Tensor:
    """Return (m,) int64: the cells nearest to the centre of the grid, ties in row-major order."""
    offset = torch.arange(grid_size) - (grid_size - 1) / 2
    distance = offset[:, None] ** 2 + offset[None, :] ** 2
    return distance.flatten().argsort(stable=True)[:glimpses]


def oracle_cells(actor: Tensor, glimpses: int, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Draw m different cells, those of the actor before any other, from (..., K*K) bool: (..., m) int64."""
    noise = uniform(actor.shape, generator, share)
    return (actor.to(noise.dtype) + noise).topk(glimpses, dim=-1).indices
