"""Credit: returns and advantages worked out by hand, and the gradient against exact enumeration."""

from itertools import product
from math import exp, log

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from clip_toys import UnevenSource
from glimpse_agents.learning.credit import (
    Advantages,
    class_returns,
    clip_log_score,
    frame_log_scores,
    frame_returns,
    glimpse_returns,
    leave_one_out,
    normalised,
    run_returns,
    settled,
)
from glimpse_agents.learning.losses import policy_gradient_loss
from loss_toys import QUARTERS, one_hot_labels, play

from glimpse_env import Segment, VideoGlimpseVectorEnv

# ---- returns and advantages


@pytest.mark.parametrize(("credit", "expected"), [("causal", [[9.0, 8.0, 5.0]]), ("terminal", [[10.0, 10.0, 10.0]])])
def test_glimpses_are_credited_with_later_rewards(credit, expected):
    assert glimpse_returns(torch.tensor([[1.0, 1.0, 3.0, 5.0]]), credit).tolist() == expected


def test_baseline_is_the_mean_of_the_clips_other_rollouts():
    # Two clips of three rollouts with one choice each: 6 - (0 + 3) / 2 and so on.
    returns = torch.tensor([[6.0, 0.0, 3.0], [1.0, 1.0, 4.0]])[..., None]
    expected = [[4.5, -4.5, 0.0], [-1.5, -1.5, 3.0]]
    torch.testing.assert_close(leave_one_out(returns)[..., 0], torch.tensor(expected))


def test_single_rollout_has_no_leave_one_out_baseline():
    with pytest.raises(ValueError, match="needs at least 2 rollouts of each clip, got 1"):
        leave_one_out(torch.ones(4, 1, 3))


def test_normalised_advantages_have_unit_mean_square():
    advantages = torch.tensor([3.0, -1.0, 1.0, 1.0])
    assert normalised(advantages, advantages.square().mean()).tolist() == pytest.approx(
        [3**0.5] + [x / 3**0.5 for x in (-1, 1, 1)]
    )


def test_advantages_that_are_all_zero_stay_zero():
    assert normalised(torch.zeros(2, 3), torch.tensor(0.0)).tolist() == [[0.0] * 3] * 2


def test_clip_log_score_is_the_log_of_the_mean():
    logits = torch.stack([QUARTERS, QUARTERS.flip(0)])[None]  # the label 0 has 1/4, then 3/4
    assert clip_log_score(logits, one_hot_labels("0", "0")).tolist() == pytest.approx([log(1 / 2)])


def test_clip_log_score_of_a_background_clip_is_zero():
    logits = torch.stack([QUARTERS, QUARTERS.flip(0)])[None]
    assert clip_log_score(logits, one_hot_labels("", "")).tolist() == [0.0]
    assert clip_log_score(logits, one_hot_labels("", "0")).tolist() == pytest.approx([log(3 / 8)])


def test_no_prediction_takes_its_share_of_log_scores():
    logits = torch.tensor([[[0.0, log(3.0), log(4.0)]] * 2])
    assert clip_log_score(logits, one_hot_labels("1", "1")).tolist() == pytest.approx([log(3 / 8)])
    assert frame_log_scores(logits, one_hot_labels("1", "0")).tolist()[0] == pytest.approx([log(3 / 8), log(1 / 8)])


def test_frame_log_scores_are_zero_on_background_and_always_finite():
    logits = torch.tensor([[[0.0, log(3.0)], [0.0, log(3.0)], [0.0, 1000.0]]])
    scores = frame_log_scores(logits, one_hot_labels("0", "", "0")).tolist()[0]
    assert scores[:2] == pytest.approx([log(1 / 4), 0.0])
    assert exp(scores[2]) == pytest.approx(1e-8)


# ---- the gradient


class AllPlays:
    """All ways to play a clip of four frames with two cells, two classes and "no prediction", as an environment pays.

    A look and a class are drawn at each frame, by logits that depend on the earlier looks alone. The clip has two
    segments of class 0 and one of class 1, so predictions split, merge and prolong true and false segments.
    """

    def __init__(self, matching):
        rng = torch.Generator().manual_seed(3)
        looks = torch.tensor(list(product(range(2), repeat=3)))  # at frames 1..3
        classes = torch.tensor(list(product(range(3), repeat=4)))
        looks, self.classes = looks.repeat_interleave(len(classes), 0), classes.repeat(len(looks), 1)
        # The number of the looks before frames 1, 2, 3 and 4.
        pasts = [(looks[:, :n] * 2 ** torch.arange(n)).sum(1) for n in range(4)]
        shapes = [(2**n, outputs) for outputs, frames in ((2, 3), (3, 4)) for n in range(frames)]
        self.logits = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]
        drawn = zip(self.logits, (*pasts[:3], *pasts), (*looks.T, *self.classes.T), strict=True)
        chosen = [rows.log_softmax(1)[past, choice] for rows, past, choice in drawn]
        self.log_probs = torch.stack(chosen, 1)  # (plays, 3 looks and 4 classes)
        source = UnevenSource(
            features=np.ones((1, 4, 2, 2, 1), np.float32), labels=np.array([-1]), class_names=("a", "b"),
            frames_per_second=1.0, lengths=(4,),
            truths=((Segment(-0.5, 1.5, 0), Segment(1.5, 2.5, 1), Segment(2.5, 3.5, 0)),),
        )  # fmt: skip
        envs = VideoGlimpseVectorEnv(
            len(looks), source=source, glimpses=1, matching=matching, eta=0.4, abstain=True, positive_reward=1.0,
            negative_reward=-2.0, autoreset_mode="Disabled",
        )  # fmt: skip
        envs.reset()
        for cells, classes in zip((*looks.T, looks[:, 0]), self.classes.T, strict=True):
            _, paid, *_ = envs.step(torch.stack([cells, classes], 1).numpy())
        self.paid, self.shares = torch.from_numpy(paid), torch.from_numpy(envs.engine.shares())

    def returns(self, matching, credit):
        """Return the credit of the looks and classes of each play."""
        looks = settled(self.shares) if matching == "segment" else self.shares
        classes = run_returns(self.shares, self.classes) if matching == "segment" else self.shares
        classes = self.paid[:, None].expand(-1, 4) if credit == "terminal" else classes
        return torch.cat([glimpse_returns(looks, credit), classes], 1)

    def gradient(self, value):
        parts = torch.autograd.grad(value, self.logits, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])


@pytest.fixture(scope="module", params=["frame", "segment"])
def plays(request):
    return request.param, AllPlays(request.param)


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_expected_estimate_is_the_gradient_of_the_expected_reward(plays, credit):
    matching, every = plays
    probabilities = every.log_probs.sum(1).exp()
    assert probabilities.sum().item() == pytest.approx(1.0)
    exact = every.gradient((probabilities * every.paid).sum())
    # Each pair of plays of the clip is one possible update, with its probability: (pairs, R = 2, choices).
    pairs = torch.cartesian_prod(torch.arange(len(every.paid)), torch.arange(len(every.paid)))
    weights = probabilities[pairs].prod(1).detach()
    advantages = leave_one_out(every.returns(matching, credit)[pairs])
    weighted = advantages * (weights * len(pairs))[:, None, None]
    loss = policy_gradient_loss(every.log_probs[pairs].flatten(0, 1), weighted.flatten(0, 1))
    assert exact.abs().max() > 0.05
    torch.testing.assert_close(-every.gradient(loss), exact)


def test_causal_credit_has_less_variance(plays):
    matching, every = plays
    weights = every.log_probs.sum(1).exp().detach()[:, None]
    variances = []
    for credit in ("causal", "terminal"):
        returns = every.returns(matching, credit)
        variances.append((weights * (returns - (weights * returns).sum(0)).square()).sum(0))
    assert (variances[0] <= variances[1] + 1e-12).all()
    assert variances[0].sum() < 0.75 * variances[1].sum()


def test_a_run_is_settled_by_the_next_prediction():
    assert settled(torch.tensor([[1.0, 0.0, 2.0, 4.0], [0.0, 0.0, 0.0, 3.0]])).tolist() == [
        [0.0, 1.0, 0.0, 6.0],
        [0.0, 0.0, 0.0, 3.0],
    ]


def test_a_class_is_credited_with_its_run_and_the_runs_that_it_borders_on():
    # Runs of lengths 2, 1 and 3 with the shares 1, 10 and 100.
    shares = torch.tensor([[0.0, 1.0, 10.0, 0.0, 0.0, 100.0]])
    credit = run_returns(shares, torch.tensor([[0, 0, 1, 0, 0, 0]]))
    assert credit.tolist() == [[1.0, 11.0, 111.0, 110.0, 100.0, 100.0]]


# ---- credit of played episodes


def test_shares_of_eq_7_sum_to_the_reward():
    for abstain in (False, True):
        config = tiny_config(eta=0.3, abstain=abstain)
        _, rollout, _ = play(config, marked_source(4), [0, 1, 2, 3] * 3)
        torch.testing.assert_close(rollout.shares.sum(1), rollout.rewards)


def test_returns_have_the_units_of_the_configured_reward():
    config = tiny_config()
    _, rollout, _ = play(config, marked_source(3), [0, 1, 2] * 2)
    whole = rollout.rewards[:, None].expand(-1, 3)
    torch.testing.assert_close(frame_returns(rollout, config.with_settings({"credit": "terminal"})), whole)
    first = rollout.shares[:, 0]
    torch.testing.assert_close(frame_returns(rollout, config)[:, 0], rollout.rewards - first)

    logits, labels = rollout.class_logits, rollout.frame_labels
    frames = frame_returns(rollout, config.with_settings({"reward": "frame_log_score"}))
    torch.testing.assert_close(frames[:, -1], frame_log_scores(logits, labels)[:, -1])
    terminal = config.with_settings({"reward": "clip_log_score", "credit": "terminal"})
    clip = frame_returns(rollout, terminal)
    torch.testing.assert_close(clip, clip_log_score(logits, labels)[:, None].expand(-1, 3))


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_segments_are_credited_as_the_environment_paid_them(credit):
    config = tiny_config(matching="segment", credit=credit, eta=0.3)
    _, rollout, _ = play(config, marked_source(3, frames=5), [0, 1, 2] * 4)
    assert config.samples_classes
    counted = 0.3 * rollout.true_positives - 0.7 * rollout.false_positives
    torch.testing.assert_close(rollout.rewards, counted.float())
    cells = glimpse_returns(settled(rollout.shares), "causal")
    classes = run_returns(rollout.shares, rollout.predictions)
    if credit == "terminal":
        cells, classes = (rollout.rewards[:, None].expand(-1, choices) for choices in (4, 5))
    torch.testing.assert_close(frame_returns(rollout, config), cells)
    torch.testing.assert_close(class_returns(rollout, config), classes)


def test_without_a_baseline_advantages_are_scaled_returns():
    config = tiny_config(baseline="none", rollouts=1, abstain=True)
    _, rollout, _ = play(tiny_config(abstain=True), marked_source(4), [0, 0, 1, 1, 2, 3])
    returns, shares = frame_returns(rollout, config), rollout.shares
    advantages = Advantages.of(rollout, config)
    torch.testing.assert_close(advantages.cells, returns / returns.square().mean().sqrt())
    torch.testing.assert_close(advantages.classes, shares / shares.square().mean().sqrt())
