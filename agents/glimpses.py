"""Where to look: ordered cells drawn from logits, their exact probability, and ways of looking that learn nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gumbel_noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise, drawn on the generator's device."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def draw_cells(logits: Tensor, glimpses: int, generator: torch.Generator) -> Tensor:
    """Draw ordered cells without replacement from the Plackett-Luce distribution.

    The m largest of logits plus Gumbel noise, in descending order, are such a draw (Yellott 1977).

    Args:
        logits: (..., cells).
        glimpses: m, at most the number of cells.
        generator: of the noise.

    Returns:
        (..., m) int64.
    """
    return (logits + gumbel_noise(logits.shape, generator)).topk(glimpses, dim=-1).indices


def cells_log_prob(logits: Tensor, cells: Tensor) -> Tensor:
    """Return the Plackett-Luce log-probability of drawing `cells` in their order.

    Args:
        logits: (..., K*K).
        cells: (..., m) int64, all different.

    Returns:
        (...): the sum over j of logit_j - logsumexp of the logits that are left when cell j is drawn.
    """
    chosen = logits.gather(-1, cells)  # (..., m)
    taken = torch.nn.functional.one_hot(cells, logits.shape[-1]).cumsum(-2)  # (..., m, K*K), cell j included
    left = torch.cat([torch.zeros_like(taken[..., :1, :]), taken[..., :-1, :]], -2).bool()
    remaining = logits.unsqueeze(-2).masked_fill(left, -math.inf)
    return (chosen - remaining.logsumexp(-1)).sum(-1)


def first_draw_entropy(logits: Tensor) -> Tensor:
    """Return (...) nats: the entropy of the first of the cells drawn from (..., K*K) logits."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def random_cells(shape: torch.Size | tuple[int, ...], glimpses: int, generator: torch.Generator) -> Tensor:
    """Draw m different cells uniformly, for `shape` (..., K*K) of logits: (..., m) int64."""
    return torch.rand(shape, generator=generator, device=generator.device).topk(glimpses, dim=-1).indices


def centre_cells(grid_size: int, glimpses: int) -> Tensor:
    """Return (m,) int64: the cells nearest to the centre of the grid, ties in row-major order."""
    offset = torch.arange(grid_size) - (grid_size - 1) / 2
    distance = offset[:, None] ** 2 + offset[None, :] ** 2
    return distance.flatten().argsort(stable=True)[:glimpses]


def oracle_cells(actor: Tensor, glimpses: int, generator: torch.Generator) -> Tensor:
    """Draw m different cells, those of the actor before any other, from (..., K*K) bool: (..., m) int64."""
    noise = torch.rand(actor.shape, generator=generator, device=generator.device)
    return (actor.to(noise.dtype) + noise).topk(glimpses, dim=-1).indices
