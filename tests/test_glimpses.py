"""Choices of cells: the Plackett-Luce distribution against enumeration, and rules that choose without learning."""

from itertools import permutations
from typing import get_args

import pytest
import torch
from glimpse_agents.learning.glimpses import (
    cells_log_prob,
    centre_cells,
    draw_cells,
    first_draw_entropy,
    oracle_cells,
    random_cells,
)
from glimpse_agents.learning.models import MODELS, ModelName
from glimpse_agents.parallel.noise import Noise, Share

WEIGHTS = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


@pytest.fixture
def noise():
    return Noise.seeded(1)


def ordered_draws(cells, glimpses):
    return torch.tensor(list(permutations(range(cells), glimpses)))


@pytest.mark.parametrize("glimpses", [1, 2, 3, 4])
def test_probabilities_of_all_ordered_draws_sum_to_one(glimpses):
    draws = ordered_draws(4, glimpses)
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=torch.float64)
    probabilities = cells_log_prob(logits.expand(len(draws), -1), draws).exp()
    torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize(
    ("cells", "probability"),
    [
        ([3], 4 / 10),
        ([2, 0], 3 / 10 * 1 / 7),
        ([0, 2], 1 / 10 * 3 / 9),
        ([1, 3, 0], 2 / 10 * 4 / 8 * 1 / 4),
        ([0, 1, 2, 3], 1 / 10 * 2 / 9 * 3 / 7),
    ],
)
def test_probability_of_a_draw_is_a_product_over_the_remaining_cells(cells, probability):
    log_prob = cells_log_prob(WEIGHTS.log()[None], torch.tensor([cells]))
    assert log_prob.exp().item() == pytest.approx(probability)


def test_log_probabilities_keep_leading_axes():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    cells = torch.tensor([[[0, 1], [2, 3], [3, 0]], [[1, 0], [1, 2], [2, 1]]])
    together = cells_log_prob(logits, cells)
    assert together.shape == (2, 3)
    apart = [cells_log_prob(logits[i, j], cells[i, j]) for i in range(2) for j in range(3)]
    torch.testing.assert_close(together.flatten(), torch.stack(apart))


def test_extreme_logits_give_finite_gradients():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    cells_log_prob(logits, torch.tensor([[2, 0, 1]])).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("glimpses", [1, 2])
def test_gumbel_draws_follow_the_probabilities(glimpses, noise):
    draws, count = ordered_draws(4, glimpses), 40_000
    drawn = draw_cells(WEIGHTS.log().expand(count, -1), glimpses, noise)
    shares = (drawn[:, None] == draws).all(-1).double().mean(0)
    expected = cells_log_prob(WEIGHTS.log().expand(len(draws), -1), draws).exp()
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((shares - expected).abs() < 4 * deviation).all()


@pytest.mark.parametrize("draw", [draw_cells, lambda logits, m, noise: random_cells(logits.shape, m, noise)])
def test_draws_never_repeat_a_cell(draw, noise):
    cells = draw(torch.zeros(500, 5), 4, noise)
    assert cells.shape == (500, 4)
    assert (torch.nn.functional.one_hot(cells, 5).sum(1) <= 1).all()


def test_random_cells_are_uniform_over_ordered_draws(noise):
    draws, count = ordered_draws(4, 2), 40_000
    drawn = random_cells((count, 4), 2, noise)
    shares = (drawn[:, None] == draws).all(-1).double().mean(0)
    assert ((shares - 1 / 12).abs() < 4 * (1 / 12 * 11 / 12 / count) ** 0.5).all()


@pytest.mark.parametrize(
    ("grid_size", "cells"),
    [
        (3, [4, 1, 3, 5, 7, 0, 2, 6, 8]),  # the centre, its neighbours row by row, the corners row by row
        (2, [0, 1, 2, 3]),
        (4, [5, 6, 9, 10]),
        (7, [24, 17, 23, 25, 31]),
    ],
)
def test_centre_cells_are_the_nearest_with_ties_in_row_major_order(grid_size, cells):
    assert centre_cells(grid_size, len(cells)).tolist() == cells


def test_oracle_takes_the_cells_of_the_actor_first(noise):
    actor = torch.zeros(300, 6, dtype=torch.bool)
    actor[:, [1, 4]] = True
    cells = oracle_cells(actor, 3, noise)
    assert (cells[:, :2].sort(1).values == torch.tensor([1, 4])).all()
    assert set(cells[:, 2].tolist()) == {0, 2, 3, 5}  # the third look goes to any other cell
    assert set(oracle_cells(actor, 1, noise)[:, 0].tolist()) == {1, 4}


def test_entropy_of_the_first_draw():
    expected = -sum(p * torch.log(torch.tensor(p)) for p in (0.1, 0.2, 0.3, 0.4))
    assert first_draw_entropy(WEIGHTS.log()).item() == pytest.approx(expected.item())
    assert first_draw_entropy(torch.zeros(2, 3)).tolist() == pytest.approx([torch.tensor(3.0).log().item()] * 2)


def test_ranks_draw_the_rows_of_one_batch():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    whole = draw_cells(logits, 3, Noise.seeded(1))
    for ranks in (2, 3):
        shares = [Share(rank, ranks) for rank in range(ranks)]
        parts = [draw_cells(logits[share.of(6)], 3, Noise.seeded(1, share=share)) for share in shares]
        assert torch.equal(torch.cat(parts), whole)


def test_every_model_has_a_row_in_the_order_of_its_name():
    assert get_args(ModelName) == tuple(MODELS)
    assert all(model.name == name for name, model in MODELS.items())
