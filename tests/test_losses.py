"""Losses: numbers worked out by hand, the terms of each phase, the gradient through network and environment."""

import dataclasses
from itertools import product
from math import log

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.credit import (
    Advantages,
    advantages_of,
    frame_returns,
    leave_one_out,
)
from glimpse_agents.learning.glimpses import cells_log_prob, first_draw_entropy
from glimpse_agents.learning.losses import (
    attention_penalty,
    choice_loss,
    class_loss,
    glimpse_losses,
    is_warmup,
    policy_gradient_loss,
)
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_policy
from glimpse_agents.playing.players import PlaySettings
from loss_toys import QUARTERS, one_hot_labels, play

from glimpse_env import ArraySource


def test_policy_gradient_sums_over_frames_and_not_through_advantages():
    log_probs = torch.tensor([[0.5, 1.0], [2.0, -1.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 2.0], [-1.0, 4.0]], requires_grad=True)
    loss = policy_gradient_loss(log_probs, advantages)
    loss.backward()
    assert loss.item() == pytest.approx(-((0.5 + 2.0) + (-2.0 - 4.0)) / 2)
    assert log_probs.grad.tolist() == [[-0.5, -1.0], [0.5, -2.0]]
    assert advantages.grad is None


def test_class_loss_sums_over_frames_and_averages_over_episodes():
    logits = QUARTERS.expand(2, 3, 2)
    labels = torch.cat([one_hot_labels("0", "1", "0"), one_hot_labels("1", "1", "1")])
    expected = ((2 * log(4) + log(4 / 3)) + 3 * log(4 / 3)) / 2
    assert class_loss(logits, labels).item() == pytest.approx(expected)


def test_class_loss_shares_a_frame_among_its_labels():
    loss = class_loss(QUARTERS.expand(1, 1, 2), one_hot_labels("01"))
    assert loss.item() == pytest.approx((log(4) + log(4 / 3)) / 2)


def test_target_of_background_is_no_prediction_if_the_logits_have_it():
    labels = one_hot_labels("0", "")
    assert class_loss(QUARTERS.expand(1, 2, 2), labels).item() == pytest.approx(log(4))
    logits = torch.tensor([1.0, 3.0, 4.0]).log().expand(1, 2, 3)  # softmax 1/8, 3/8, 1/2
    assert class_loss(logits, labels).item() == pytest.approx(log(8) + log(2))


def test_without_background_only_the_classes_compete():
    """Then eta decides when not to predict, by the policy gradient of sampled classes."""
    logits = torch.tensor([1.0, 3.0, 4.0]).log().expand(2, 2, 3).clone().requires_grad_()
    labels = torch.cat([one_hot_labels("0", "1"), one_hot_labels("0", "")])
    loss = class_loss(logits, labels)
    assert loss.item() == pytest.approx((log(4) + log(4 / 3) + log(8) + log(2)) / 2)
    loss.backward()
    assert (logits.grad[0, :, 2] == 0).all()
    assert (logits.grad[1, :, 2] != 0).all()


def test_class_loss_lowers_no_prediction_on_labelled_frames():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    class_loss(logits, one_hot_labels("0", "")).backward()
    third = 1 / 3
    torch.testing.assert_close(logits.grad[0], torch.tensor([[third - 1, third, third], [third, third, third - 1]]))


def test_attention_penalty_is_zero_if_each_cell_is_covered_once():
    uniform = torch.full((1, 2, 4), 0.25)  # a quarter twice: each cell is covered by half
    assert attention_penalty(uniform).item() == pytest.approx(4 * 0.25)
    assert attention_penalty(torch.full((3, 4, 4), 0.25)).item() == pytest.approx(0.0)
    always_first = torch.tensor([1.0, 0.0]).expand(1, 3, 2)  # cell 0 three times, cell 1 never
    assert attention_penalty(always_first).item() == pytest.approx((1 - 3) ** 2 + 1)
    assert attention_penalty(0.1 * always_first).item() == pytest.approx((1 - 3) ** 2 + 1)  # most is left to nothing


# ---- eq. 8 for a batch


def losses_of(config, update, model="reinforce"):
    """Return the losses of an update on four clips, the rollout of "reinforce", and the update's logits."""
    policy, rollout, masks = play(config, marked_source(4), np.arange(4).repeat(config.training.rollouts).tolist())
    config = config.with_settings({"model": model})
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=update)
    class_logits, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    return losses, rollout, class_logits, cell_logits


# ---- the terms of each phase


def test_the_warmup_comes_first():
    config = tiny_config(updates=6, warmup_share=2 / 6)
    assert [is_warmup(config, update) for update in range(6)] == [True] * 2 + [False] * 4


@pytest.mark.parametrize("model", [name for name, model in MODELS.items() if model.learns is None])
def test_models_without_learned_looks_minimise_only_the_cross_entropy(model):
    losses, rollout, class_logits, _ = losses_of(tiny_config(warmup_share=0.0, penalty=1.0), 3, model)
    assert losses.total.item() == pytest.approx(class_loss(class_logits, rollout.frame_labels).item())


def test_warmup_minimises_only_the_cross_entropy():
    losses, rollout, class_logits, _ = losses_of(tiny_config(penalty=1.0), 1)
    assert losses.total.item() == pytest.approx(class_loss(class_logits, rollout.frame_labels).item())


def test_terms_of_eq_8_add_up():
    config = tiny_config(warmup_share=0.0, penalty=0.3, entropy_bonus=0.2, rollouts=3)
    losses, rollout, class_logits, cell_logits = losses_of(config, update=2)
    classification = class_loss(class_logits, rollout.frame_labels)
    # Each return after a choice, minus the mean of the clip's other two, divided by the root mean square.
    after = rollout.shares.flip(1).cumsum(1).flip(1)[:, 1:].reshape(4, 3, 3)
    advantages = after - (after.sum(1, keepdim=True) - after) / 2
    advantages = (advantages / advantages.square().mean().sqrt()).flatten(0, 1)
    gradient = -(advantages * cells_log_prob(cell_logits, rollout.cells)).sum(1).mean()
    entropy = first_draw_entropy(cell_logits).mean()
    bonus = 0.2 * (1 - 2 / 6) * 3  # a third of the updates is done; three choices in an episode
    attention = torch.cat([torch.full((12, 1, 9), 1 / 9), cell_logits.softmax(2)], 1)  # the first frame is seen whole
    expected = classification + gradient + 0.3 * attention_penalty(attention) - bonus * entropy
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.policy, gradient)
    assert losses.reward.item() == pytest.approx(rollout.rewards.mean().item())


def test_terms_of_eq_8_add_up_with_cells_drawn_in_sequence():
    config = tiny_config(glimpse_order="sequential", warmup_share=0.0, penalty=0.3, entropy_bonus=0.2)
    losses, rollout, _, cell_logits = losses_of(config, update=0)
    assert cell_logits.shape == (8, 3, 2, 9)
    advantages = Advantages.of(rollout, config).cells
    first, second = cell_logits.unbind(2)
    left = second.scatter(2, rollout.cells[..., :1], -torch.inf)
    drawn = [part.log_softmax(2).gather(2, rollout.cells[..., j : j + 1]) for j, part in enumerate((first, left))]
    gradient = -(advantages * (drawn[0] + drawn[1])[..., 0]).sum(1).mean()
    entropy = first_draw_entropy(first).mean()
    attention = torch.cat([torch.full((8, 1, 9), 1 / 9), first.softmax(2)], 1)
    expected = losses.classification + gradient + 0.3 * attention_penalty(attention) - 0.2 * 3 * entropy
    torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize(("model", "order"), [("reinforce", "sequential"), ("random", "joint"), ("all", "joint")])
def test_only_reinforce_draws_in_sequence(model, order):
    config = tiny_config(model=model, glimpse_order="sequential", abstain=False)
    assert make_policy(config, marked_source(4)).config.advanced.glimpse_order == order


def test_log_names_every_term():
    losses, *_ = losses_of(tiny_config(), 3)
    scalars = losses.scalars()
    names = ("total", "classification", "policy", "penalty", "entropy", "reward")
    assert set(scalars) == {f"train/{name}" for name in names}
    assert scalars["train/total"] == losses.total.item()


# ---- random choices and sampled classes


def test_policy_gradient_leaves_out_random_choices():
    config = tiny_config(random_share=0.5, warmup_share=0.0)
    losses, rollout, _, cell_logits = losses_of(config, 3)
    assert 0 < rollout.explored.sum() < rollout.explored.numel()
    log_probs = cells_log_prob(cell_logits, rollout.cells)
    advantages = advantages_of(frame_returns(rollout, config), config)
    terms = [
        -(advantage * log_prob).item()
        for advantage, log_prob, at_random in zip(
            advantages.flatten(), log_probs.flatten(), rollout.explored.flatten(), strict=True
        )
        if not at_random
    ]
    assert losses.policy.item() == pytest.approx(sum(terms) / len(rollout.clips), rel=1e-4)


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_sampled_classes_are_credited_with_their_frame_or_the_whole_reward(credit):
    config = tiny_config(abstain=True, credit=credit, warmup_share=0.0)
    losses, rollout, class_logits, cell_logits = losses_of(config, 3)
    shares = rollout.shares.reshape(4, 2, 4)
    paid = shares if credit == "causal" else shares.sum(2, keepdim=True).expand(-1, -1, 4)
    advantages = paid - paid.flip(1)  # with two rollouts the other one is the baseline
    advantages = (advantages / advantages.square().mean().sqrt()).flatten(0, 1)
    log_probs = class_logits.log_softmax(2).gather(2, rollout.predictions[..., None])[..., 0]
    expected = -(advantages * log_probs).sum(1).mean()
    classes = Advantages.of(rollout, config).classes
    torch.testing.assert_close(choice_loss(class_logits, rollout.predictions, classes), expected)
    bonus = config.training.advanced.entropy_bonus * (1 - 3 / 6) * 3
    rest = losses.classification + losses.policy - bonus * first_draw_entropy(cell_logits).mean()
    torch.testing.assert_close(losses.total, rest + expected)


@pytest.mark.parametrize("abstain", [True, False])
def test_sampled_classes_have_a_policy_gradient_after_the_warmup(abstain):
    config = tiny_config(abstain=abstain, class_gradient=True, warmup_share=0.5, classification_weight=0.25)
    losses, rollout, class_logits, _ = losses_of(config, 2)
    assert (rollout.predictions != class_logits.argmax(2)).any()
    torch.testing.assert_close(losses.total, class_loss(class_logits, rollout.frame_labels))
    losses, rollout, class_logits, _ = losses_of(config, 3, "random")
    gradient = choice_loss(class_logits, rollout.predictions, Advantages.of(rollout, config).classes)
    torch.testing.assert_close(losses.total, 0.25 * class_loss(class_logits, rollout.frame_labels) + gradient)
    assert gradient.abs() > 1e-3


# ---- learned baselines


def valued_play(*, abstain=True, credit="causal"):
    config = tiny_config(baseline="value", rollouts=1, abstain=abstain, credit=credit)
    return config, *play(config, marked_source(4), [0, 0, 1, 1, 2, 3])


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_values_are_subtracted_from_the_returns_of_their_states(credit):
    config, policy, rollout, _ = valued_play(credit=credit)
    with torch.no_grad():
        values = policy.value_head(rollout.states)  # (6, 4, 2)
    assert values.std() > 0.1
    cells = frame_returns(rollout, config) - values[:, :3, 0]
    shares = rollout.shares
    paid = shares if credit == "causal" else shares.sum(1, keepdim=True).expand(-1, 4)
    classes = paid - values[:, :, 1]
    advantages = Advantages.of(rollout, config)
    torch.testing.assert_close(advantages.cells, cells / cells.square().mean().sqrt())
    torch.testing.assert_close(advantages.classes, classes / classes.square().mean().sqrt())


def test_states_of_the_rollout_equal_those_of_the_update():
    _, policy, rollout, masks = valued_play(abstain=False)
    with torch.no_grad():
        attended = torch.cat([policy.encoder(rollout.first)[:, None], policy.encoder(rollout.rest)], 1)
        hidden, _ = policy.memory(attended, masks)
    torch.testing.assert_close(rollout.states, hidden, rtol=1e-4, atol=1e-5)
    assert rollout.values.shape == (6, 4, 1)


@pytest.mark.parametrize("update", [0, 3])
def test_values_are_trained_on_their_returns_and_alone(update):
    config, policy, rollout, masks = valued_play()
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=update)
    cells = frame_returns(rollout, config) - policy.value_head(rollout.states)[:, :3, 0]
    classes = rollout.shares - policy.value_head(rollout.states)[:, :, 1]
    expected = (cells.square().mean() + classes.square().mean()) / 2
    torch.testing.assert_close(losses.value, expected)
    assert losses.scalars()["train/value"] == losses.value.item()
    losses.value.backward(retain_graph=True)
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert reached == {"value_head.linear.weight", "value_head.linear.bias"}
    before = policy.value_head.linear.weight.grad.clone()
    policy.zero_grad()
    losses.total.backward()
    torch.testing.assert_close(policy.value_head.linear.weight.grad, before)  # advantages are constants


def test_value_head_exists_only_if_configured():
    source = marked_source(4)
    plain, valued = (
        make_policy(tiny_config(baseline=baseline, abstain=False), source).state_dict()
        for baseline in ("leave_one_out", "value")
    )
    assert set(valued) - set(plain) == {"value_head.linear.weight", "value_head.linear.bias"}
    assert all(torch.equal(valued[name], weight) for name, weight in plain.items())
    for model in ("soft", "gumbel"):
        config = tiny_config(model=model, baseline="value", abstain=False)
        assert make_policy(config, source).value_head is None


# ---- the gradient, through network and environment


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_mean_over_all_pairs_of_rollouts_is_the_gradient_of_the_expected_reward(credit):
    """A uniform policy is equally likely to look at two frames of four cells in each of the 4 * 4 ways."""
    rng = np.random.default_rng(2)
    features = rng.uniform(0, 2, (1, 3, 2, 2, 4)).astype(np.float32)
    source = ArraySource(features=features, labels=np.array([1]), class_names=("a", "b"))
    config = tiny_config(glimpses=1, credit=credit, frame_embedding=False)
    policy, rollout, masks = play(config, source, [0] * 400, PlaySettings(random_share=0.9))
    ways = {tuple(cells): episode for episode, cells in enumerate(rollout.cells[..., 0].tolist())}
    assert set(ways) == set(product(range(4), repeat=2))
    rollout = rollout.rows(torch.tensor(list(ways.values())))
    rollout = dataclasses.replace(
        rollout, explored=torch.zeros(16, 2, dtype=torch.bool)
    )  # as if the policy had drawn them all
    masks = policy.draw_masks(16, Noise.seeded(0))  # nothing is dropped
    with torch.no_grad():
        policy.location_head.score.weight.zero_()
        policy.location_head.repulsion.zero_()

    _, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    probabilities = cells_log_prob(cell_logits, rollout.cells).sum(1).exp()
    torch.testing.assert_close(probabilities, torch.full((16,), 1 / 16))
    (exact,) = torch.autograd.grad((probabilities * rollout.rewards).sum(), policy.location_head.score.weight)

    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).flatten()
    batch = rollout.rows(pairs)
    masks = policy.draw_masks(512, Noise.seeded(0))
    losses = glimpse_losses(policy, batch, masks, Advantages.of(batch, config), config, update=3)
    (estimate,) = torch.autograd.grad(losses.policy, policy.location_head.score.weight)
    scale = leave_one_out(frame_returns(batch, config).reshape(256, 2, 2)).square().mean().sqrt()
    assert exact.abs().max() > 0.01
    torch.testing.assert_close(-estimate * scale, exact, rtol=1e-4, atol=1e-6)
