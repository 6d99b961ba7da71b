"""The mathematics of training: numbers worked out by hand, and the gradient against exact enumeration."""

from itertools import permutations, product
from math import exp, log

import numpy as np
import pytest
import torch
from glimpse_agents.learning.glimpses import cells_log_prob
from glimpse_agents.learning.losses import (
    attention_penalty,
    class_loss,
    clip_log_score,
    frame_log_scores,
    frame_rewards,
    glimpse_returns,
    leave_one_out,
    normalised,
    policy_gradient_loss,
)

from glimpse_env import VideoGlimpseVectorEnv

# ---- rewards


def one_hot_labels(*rows):
    """Return (1, T, 2) bool, a string of class digits for each frame, empty for background."""
    return torch.tensor([[[str(label) in row for label in range(2)] for row in rows]])


@pytest.mark.parametrize("abstain", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 1.0])
def test_frame_rewards_sum_to_what_the_environment_pays(untrimmed, toy, eta, abstain):
    rng = np.random.default_rng(5)
    for source in (untrimmed, toy):
        envs = VideoGlimpseVectorEnv(
            40, source=source, eta=eta, abstain=abstain, positive_reward=2.0, negative_reward=-3.0,
            autoreset_mode="Disabled",
        )  # fmt: skip
        envs.reset(options={"clip": rng.integers(0, source.num_clips, 40)})
        predictions = rng.integers(0, 3 + abstain, (40, 4))
        labels = []
        for chosen in predictions.T:
            _, paid, _, _, infos = envs.step(np.column_stack([np.zeros((40, 5), int), chosen]))
            labels.append(torch.from_numpy(infos["frame_labels"]))
        shares = frame_rewards(
            torch.from_numpy(predictions), torch.stack(labels, 1), eta=eta, positive_reward=2.0, negative_reward=-3.0
        )
        np.testing.assert_allclose(shares.sum(1), paid, atol=1e-5)


def test_frame_rewards_by_hand():
    # True, false, abstained, one of two labels, false on background.
    labels = one_hot_labels("0", "0", "0", "01", "")
    rewards = frame_rewards(
        torch.tensor([[0, 1, 2, 1, 0]]), labels, eta=0.25, positive_reward=4.0, negative_reward=-8.0
    )
    assert rewards.tolist() == [[1.0, -6.0, 0.0, 1.0, -6.0]]


@pytest.mark.parametrize(("credit", "expected"), [("causal", [[9.0, 8.0, 5.0]]), ("terminal", [[10.0, 10.0, 10.0]])])
def test_glimpses_are_credited_with_what_comes_after_them(credit, expected):
    assert glimpse_returns(torch.tensor([[1.0, 1.0, 3.0, 5.0]]), credit).tolist() == expected


def test_the_others_of_the_same_clip_are_the_baseline():
    # Two clips of three rollouts with one choice each: 6 - (0 + 3) / 2 and so on.
    returns = torch.tensor([[6.0, 0.0, 3.0], [1.0, 1.0, 4.0]])[..., None]
    expected = [[4.5, -4.5, 0.0], [-1.5, -1.5, 3.0]]
    torch.testing.assert_close(leave_one_out(returns)[..., 0], torch.tensor(expected))


def test_one_rollout_has_no_baseline():
    with pytest.raises(ValueError, match="needs at least 2 rollouts of each clip, got 1"):
        leave_one_out(torch.ones(4, 1, 3))


def test_normalised_advantages_have_unit_mean_square():
    advantages = torch.tensor([3.0, -1.0, 1.0, 1.0])
    assert normalised(advantages, advantages.square().mean()).tolist() == pytest.approx(
        [3**0.5] + [x / 3**0.5 for x in (-1, 1, 1)]
    )


def test_advantages_that_are_all_zero_stay_so():
    assert normalised(torch.zeros(2, 3), torch.tensor(0.0)).tolist() == [[0.0] * 3] * 2


# ---- the gradient


class Lookers:
    """Every way of looking at three cells over three frames, under logits that depend on what was looked at before.

    The agent sees frame 1 whole, chooses m cells of frame 2 and then of frame 3. What it predicts is a fixed function
    of what it has chosen so far, so the return of a rollout is known and its expectation is a finite sum.
    """

    def __init__(self, glimpses):
        rng = torch.Generator().manual_seed(glimpses)
        draws = list(permutations(range(3), glimpses))
        self.logits = [
            torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in ((3,), (len(draws), 3))
        ]
        pairs = list(product(range(len(draws)), repeat=2))
        cells = torch.tensor(draws)
        first, second = torch.tensor(pairs).T
        self.log_probs = torch.stack(
            [
                cells_log_prob(self.logits[0].expand(len(pairs), -1), cells[first]),
                cells_log_prob(self.logits[1][first], cells[second]),
            ],
            1,
        )  # (rollouts, 2)
        opinions = torch.randint(0, 3, (len(draws), len(draws)), generator=rng)
        predictions = torch.stack([torch.ones(len(pairs)).long(), opinions[0, first], opinions[first, second]], 1)
        labels = torch.tensor([[[1, 0], [1, 0], [0, 1]]], dtype=torch.bool).expand(len(pairs), -1, -1)
        self.rewards = frame_rewards(predictions, labels, eta=0.4, positive_reward=1.0, negative_reward=-2.0).double()

    @property
    def probabilities(self):
        return self.log_probs.sum(1).exp()

    def gradient(self, value):
        parts = torch.autograd.grad(value, self.logits, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])


@pytest.fixture(params=[1, 2], ids=["one look", "two looks"])
def lookers(request):
    return Lookers(request.param)


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_the_expected_estimate_is_the_gradient_of_the_expected_return(lookers, credit):
    exact = lookers.gradient((lookers.probabilities * lookers.rewards.sum(1)).sum())
    # Every pair of rollouts of one clip is an update with its probability: (pairs, R = 2, choices).
    count = len(lookers.rewards)
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    weights = lookers.probabilities[pairs].prod(1).detach()
    advantages = leave_one_out(glimpse_returns(lookers.rewards, credit)[pairs])
    weighted = advantages * (weights * len(pairs))[:, None, None]
    loss = policy_gradient_loss(lookers.log_probs[pairs].flatten(0, 1), weighted.flatten(0, 1))
    assert exact.abs().max() > 0.05
    torch.testing.assert_close(-lookers.gradient(loss), exact)


def test_advantages_carry_no_gradient_and_frames_add_up():
    log_probs = torch.tensor([[0.5, 1.0], [2.0, -1.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 2.0], [-1.0, 4.0]], requires_grad=True)
    loss = policy_gradient_loss(log_probs, advantages)
    loss.backward()
    assert loss.item() == pytest.approx(-((0.5 + 2.0) + (-2.0 - 4.0)) / 2)
    assert log_probs.grad.tolist() == [[-0.5, -1.0], [0.5, -2.0]]
    assert advantages.grad is None


# ---- the other terms of eq. 8

QUARTERS = torch.tensor([1.0, 3.0]).log()  # softmax 1/4, 3/4


def test_class_loss_sums_over_frames_and_averages_over_episodes():
    logits = QUARTERS.expand(2, 3, 2)
    labels = torch.cat([one_hot_labels("0", "1", "0"), one_hot_labels("1", "1", "1")])
    expected = ((2 * log(4) + log(4 / 3)) + 3 * log(4 / 3)) / 2
    assert class_loss(logits, labels).item() == pytest.approx(expected)


def test_class_loss_shares_a_frame_among_its_labels():
    loss = class_loss(QUARTERS.expand(1, 1, 2), one_hot_labels("01"))
    assert loss.item() == pytest.approx((log(4) + log(4 / 3)) / 2)


def test_background_asks_for_abstention_where_there_is_one_and_for_nothing_otherwise():
    labels = one_hot_labels("0", "")
    assert class_loss(QUARTERS.expand(1, 2, 2), labels).item() == pytest.approx(log(4))
    logits = torch.tensor([1.0, 3.0, 4.0]).log().expand(1, 2, 3)  # softmax 1/8, 3/8, 1/2
    assert class_loss(logits, labels).item() == pytest.approx(log(8) + log(2))


def test_without_background_the_classes_compete_alone():
    """Then eta decides when not to predict, by the gradient of drawn classes."""
    logits = torch.tensor([1.0, 3.0, 4.0]).log().expand(2, 2, 3).clone().requires_grad_()
    labels = torch.cat([one_hot_labels("0", "1"), one_hot_labels("0", "")])
    loss = class_loss(logits, labels)
    assert loss.item() == pytest.approx((log(4) + log(4 / 3) + log(8) + log(2)) / 2)
    loss.backward()
    assert (logits.grad[0, :, 2] == 0).all()
    assert (logits.grad[1, :, 2] != 0).all()


def test_class_loss_speaks_against_abstention_where_there_is_a_label():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    class_loss(logits, one_hot_labels("0", "")).backward()
    third = 1 / 3
    torch.testing.assert_close(logits.grad[0], torch.tensor([[third - 1, third, third], [third, third, third - 1]]))


def test_attention_penalty_asks_for_every_cell_once():
    uniform = torch.full((1, 2, 4), 0.25)  # a quarter twice: each cell is covered by half
    assert attention_penalty(uniform).item() == pytest.approx(4 * 0.25)
    assert attention_penalty(torch.full((3, 4, 4), 0.25)).item() == pytest.approx(0.0)
    stares = torch.tensor([1.0, 0.0]).expand(1, 3, 2)  # cell 0 three times, cell 1 never
    assert attention_penalty(stares).item() == pytest.approx((1 - 3) ** 2 + 1)


def test_clip_log_score_is_the_log_of_the_mean():
    logits = torch.stack([QUARTERS, QUARTERS.flip(0)])[None]  # the label 0 has 1/4, then 3/4
    assert clip_log_score(logits, one_hot_labels("0", "0")).tolist() == pytest.approx([log(1 / 2)])


def test_clip_log_score_of_background_alone_is_zero():
    logits = torch.stack([QUARTERS, QUARTERS.flip(0)])[None]
    assert clip_log_score(logits, one_hot_labels("", "")).tolist() == [0.0]
    assert clip_log_score(logits, one_hot_labels("", "0")).tolist() == pytest.approx([log(3 / 8)])


def test_log_scores_count_what_abstention_takes():
    logits = torch.tensor([[[0.0, log(3.0), log(4.0)]] * 2])
    assert clip_log_score(logits, one_hot_labels("1", "1")).tolist() == pytest.approx([log(3 / 8)])
    assert frame_log_scores(logits, one_hot_labels("1", "0")).tolist()[0] == pytest.approx([log(3 / 8), log(1 / 8)])


def test_frame_log_scores_are_zero_on_background_and_finite_on_certain_error():
    logits = torch.tensor([[[0.0, log(3.0)], [0.0, log(3.0)], [0.0, 1000.0]]])
    scores = frame_log_scores(logits, one_hot_labels("0", "", "0")).tolist()[0]
    assert scores[:2] == pytest.approx([log(1 / 4), 0.0])
    assert exp(scores[2]) == pytest.approx(1e-8)
