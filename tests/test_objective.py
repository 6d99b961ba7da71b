"""Eq. 8 put together: each phase's terms, and the policy's gradient against every way of playing an episode."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, tiny_config
from glimpse_agents.learning.glimpses import cells_log_prob, first_draw_entropy
from glimpse_agents.learning.losses import (
    attention_penalty,
    class_loss,
    clip_log_score,
    frame_log_scores,
    leave_one_out,
)
from glimpse_agents.learning.objective import (
    Advantages,
    advantages_of,
    class_choice_loss,
    eq7_rewards,
    frame_returns,
    glimpse_losses,
    phase_of_update,
)
from glimpse_agents.playing.envs import make_policy
from glimpse_agents.playing.rollout import Manner, collect_rollout

from glimpse_env import ArraySource, VideoGlimpseVectorEnv


def play(config, source, clips, manner=None):
    """Return a policy whose rewards depend on where it looks, a rollout of it with repeated clips, and its masks."""
    for seed in range(20):
        policy, rng = make_policy(config, source, "learned"), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=rng))
        envs = VideoGlimpseVectorEnv(
            len(clips), source=source, glimpses=config.glimpses, eta=config.eta, abstain=config.abstain,
            observation="slices", autoreset_mode="Disabled",
        )  # fmt: skip
        masks = policy.draw_masks(len(clips), rng)
        chosen = manner or Manner(sample_classes=config.draws_classes, random_share=config.random_share)
        rollout = collect_rollout(envs, policy, np.asarray(clips), chosen, generator=rng, masks=masks)
        if any(len(rollout.rewards[np.asarray(clips) == clip].unique()) > 1 for clip in set(clips)):
            return policy, rollout, masks
    raise AssertionError("no network drawn here depends on its looks")


def losses_of(config, update, looking="learned"):
    """Return the losses of an update on four clips, and what they are made of."""
    policy, rollout, masks = play(config, marked_source(4), np.arange(4).repeat(config.rollouts).tolist())
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=update, looking=looking)
    class_logits, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    return losses, rollout, class_logits, cell_logits


# ---- phases


def test_phases_follow_each_other():
    config = tiny_config(updates=6, warmup_updates=2, scorer_updates=1)
    phases = [phase_of_update(config, update) for update in range(6)]
    assert phases == ["warmup", "warmup", "scorer", "joint", "joint", "joint"]


@pytest.mark.parametrize("looking", ["random", "centre", "mean", "all", "oracle"])
def test_a_control_minimises_the_cross_entropy_alone(looking):
    losses, rollout, class_logits, _ = losses_of(tiny_config(warmup_updates=0, penalty=1.0), 3, looking)
    assert losses.total.item() == pytest.approx(class_loss(class_logits, rollout.frame_labels).item())


def test_the_warm_up_minimises_the_cross_entropy_alone():
    losses, rollout, class_logits, _ = losses_of(tiny_config(warmup_updates=2, penalty=1.0), 1)
    assert losses.total.item() == pytest.approx(class_loss(class_logits, rollout.frame_labels).item())


@pytest.mark.parametrize(("scorer_updates", "joint"), [(0, 1), (6, 0)])
def test_eq_8_adds_up(scorer_updates, joint):
    config = tiny_config(warmup_updates=0, scorer_updates=scorer_updates, penalty=0.3, entropy_bonus=0.2, rollouts=3)
    losses, rollout, class_logits, cell_logits = losses_of(config, update=2)
    classification = class_loss(class_logits, rollout.frame_labels)
    # Each rollout's return after a choice, less the mean of the other two of its clip, over the root mean square.
    after = eq7_rewards(rollout, config).flip(1).cumsum(1).flip(1)[:, 1:].reshape(4, 3, 3)
    advantages = after - (after.sum(1, keepdim=True) - after) / 2
    advantages = (advantages / advantages.square().mean().sqrt()).flatten(0, 1)
    gradient = -(advantages * cells_log_prob(cell_logits, rollout.cells)).sum(1).mean()
    entropy = first_draw_entropy(cell_logits).mean()
    bonus = 0.2 * (1 - 2 / 6) * 3  # a third of the updates is over; three choices an episode
    expected = joint * classification + gradient + 0.3 * attention_penalty(cell_logits.softmax(2)) - bonus * entropy
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.policy, gradient)
    assert losses.reward.item() == pytest.approx(rollout.rewards.mean().item())


def test_eq_8_adds_up_where_cells_are_drawn_in_sequence():
    network = dataclasses.replace(TINY_NETWORK, glimpse_order="sequential")
    config = tiny_config(policy=network, warmup_updates=0, penalty=0.3, entropy_bonus=0.2)
    losses, rollout, _, cell_logits = losses_of(config, update=0)
    assert cell_logits.shape == (8, 3, 2, 9)
    advantages = Advantages.of(rollout, config).cells
    first, second = cell_logits.unbind(2)
    left = second.scatter(2, rollout.cells[..., :1], -torch.inf)
    drawn = [part.log_softmax(2).gather(2, rollout.cells[..., j : j + 1]) for j, part in enumerate((first, left))]
    gradient = -(advantages * (drawn[0] + drawn[1])[..., 0]).sum(1).mean()
    entropy = first_draw_entropy(first).mean()
    expected = losses.classification + gradient + 0.3 * attention_penalty(first.softmax(2)) - 0.2 * 3 * entropy
    torch.testing.assert_close(losses.total, expected)


def test_the_learned_policy_alone_draws_in_sequence():
    config = tiny_config(policy=dataclasses.replace(TINY_NETWORK, glimpse_order="sequential"), abstain=False)
    orders = [make_policy(config, marked_source(4), arm).config.glimpse_order for arm in ("learned", "random", "all")]
    assert orders == ["sequential", "joint", "joint"]


def test_the_scorers_phase_leaves_the_classifier_alone():
    config = tiny_config(warmup_updates=0, scorer_updates=6)
    policy, rollout, masks = play(config, marked_source(4), [0, 0, 1, 1, 2, 2, 3, 3])
    advantages = Advantages.of(rollout, config)
    glimpse_losses(policy, rollout, masks, advantages, config, update=0, looking="learned").total.backward()
    scorer = {id(parameter) for parameter in policy.scorer_parameters()}
    assert all((parameter.grad is not None) is (id(parameter) in scorer) for parameter in policy.parameters())


def test_the_log_names_every_term():
    losses, *_ = losses_of(tiny_config(), 3)
    scalars = losses.scalars()
    names = ("total", "classification", "policy", "penalty", "entropy", "reward")
    assert set(scalars) == {f"train/{name}" for name in names}
    assert scalars["train/total"] == losses.total.item()


# ---- credit


def test_shares_of_eq_7_sum_to_what_was_paid():
    for abstain in (False, True):
        config = tiny_config(eta=0.3, abstain=abstain)
        _, rollout, _ = play(config, marked_source(4), [0, 1, 2, 3] * 3)
        torch.testing.assert_close(eq7_rewards(rollout, config).sum(1), rollout.rewards)


def test_returns_are_in_the_units_of_the_reward_chosen():
    config = tiny_config()
    _, rollout, _ = play(config, marked_source(3), [0, 1, 2] * 2)
    whole = rollout.rewards[:, None].expand(-1, 3)
    torch.testing.assert_close(frame_returns(rollout, dataclasses.replace(config, credit="terminal")), whole)
    first = eq7_rewards(rollout, config)[:, 0]
    torch.testing.assert_close(frame_returns(rollout, config)[:, 0], rollout.rewards - first)

    logits, labels = rollout.class_logits, rollout.frame_labels
    frames = frame_returns(rollout, dataclasses.replace(config, reward="frame_log_score"))
    torch.testing.assert_close(frames[:, -1], frame_log_scores(logits, labels)[:, -1])
    clip = frame_returns(rollout, dataclasses.replace(config, reward="clip_log_score", credit="terminal"))
    torch.testing.assert_close(clip, clip_log_score(logits, labels)[:, None].expand(-1, 3))


def test_choices_at_random_have_no_say_in_the_policys_gradient():
    config = tiny_config(random_share=0.5, warmup_updates=0)
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
def test_drawn_classes_are_credited_with_their_frame_or_with_all(credit):
    config = tiny_config(abstain=True, credit=credit, warmup_updates=0)
    losses, rollout, class_logits, cell_logits = losses_of(config, 3)
    shares = eq7_rewards(rollout, config).reshape(4, 2, 4)
    paid = shares if credit == "causal" else shares.sum(2, keepdim=True).expand(-1, -1, 4)
    advantages = paid - paid.flip(1)  # with two rollouts the other one is the baseline
    advantages = (advantages / advantages.square().mean().sqrt()).flatten(0, 1)
    log_probs = class_logits.log_softmax(2).gather(2, rollout.predictions[..., None])[..., 0]
    expected = -(advantages * log_probs).sum(1).mean()
    classes = Advantages.of(rollout, config).classes
    torch.testing.assert_close(class_choice_loss(class_logits, rollout.predictions, classes), expected)
    bonus = config.entropy_bonus * (1 - 3 / 6) * 3
    rest = losses.classification + losses.policy - bonus * first_draw_entropy(cell_logits).mean()
    torch.testing.assert_close(losses.total, rest + expected)


@pytest.mark.parametrize("abstain", [True, False])
def test_drawn_classes_join_the_gradient_after_the_warm_up(abstain):
    config = tiny_config(abstain=abstain, class_gradient=True, warmup_updates=3)
    losses, rollout, class_logits, _ = losses_of(config, 2)
    assert (rollout.predictions != class_logits.argmax(2)).any()
    torch.testing.assert_close(losses.total, class_loss(class_logits, rollout.frame_labels))
    losses, rollout, class_logits, _ = losses_of(config, 3, looking="random")
    gradient = class_choice_loss(class_logits, rollout.predictions, Advantages.of(rollout, config).classes)
    torch.testing.assert_close(losses.total, class_loss(class_logits, rollout.frame_labels) + gradient)
    assert gradient.abs() > 1e-3


# ---- baselines


def test_without_a_baseline_returns_are_their_own_advantages():
    config = tiny_config(baseline="none", rollouts=1, abstain=True)
    _, rollout, _ = play(tiny_config(abstain=True), marked_source(4), [0, 0, 1, 1, 2, 3])
    returns, shares = frame_returns(rollout, config), eq7_rewards(rollout, config)
    advantages = Advantages.of(rollout, config)
    torch.testing.assert_close(advantages.cells, returns / returns.square().mean().sqrt())
    torch.testing.assert_close(advantages.classes, shares / shares.square().mean().sqrt())


def valued_play(*, abstain=True, credit="causal"):
    config = tiny_config(baseline="value", rollouts=1, abstain=abstain, credit=credit, warmup_updates=2)
    return config, *play(config, marked_source(4), [0, 0, 1, 1, 2, 3])


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_values_are_taken_off_the_returns_of_the_choices_made_in_their_states(credit):
    config, policy, rollout, _ = valued_play(credit=credit)
    with torch.no_grad():
        values = policy.value(rollout.states)  # (6, 4, 2)
    assert values.std() > 0.1
    cells = frame_returns(rollout, config) - values[:, :3, 0]
    shares = eq7_rewards(rollout, config)
    paid = shares if credit == "causal" else shares.sum(1, keepdim=True).expand(-1, 4)
    classes = paid - values[:, :, 1]
    advantages = Advantages.of(rollout, config)
    torch.testing.assert_close(advantages.cells, cells / cells.square().mean().sqrt())
    torch.testing.assert_close(advantages.classes, classes / classes.square().mean().sqrt())


def test_states_are_those_that_the_update_sees():
    _, policy, rollout, masks = valued_play(abstain=False)
    with torch.no_grad():
        hidden, _ = policy._recur(
            torch.cat([policy.encode(rollout.first)[:, None], policy.encode(rollout.rest)], 1)
            + policy.when(torch.arange(4)),
            None,
            masks,
        )
    torch.testing.assert_close(rollout.states, hidden, rtol=1e-4, atol=1e-5)
    assert rollout.values.shape == (6, 4, 1)


@pytest.mark.parametrize("update", [0, 3])
def test_values_learn_their_returns_and_teach_nothing_else(update):
    config, policy, rollout, masks = valued_play()
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=update, looking="learned")
    cells = frame_returns(rollout, config) - policy.value(rollout.states)[:, :3, 0]
    classes = eq7_rewards(rollout, config) - policy.value(rollout.states)[:, :, 1]
    expected = (cells.square().mean() + classes.square().mean()) / 2
    torch.testing.assert_close(losses.value, expected)
    assert losses.scalars()["train/value"] == losses.value.item()
    losses.value.backward(retain_graph=True)
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert reached == {"value.weight", "value.bias"}
    before = policy.value.weight.grad.clone()
    policy.zero_grad()
    losses.total.backward()
    torch.testing.assert_close(policy.value.weight.grad, before)  # advantages are constants


def test_only_who_asks_has_values():
    source = marked_source(4)
    plain, valued = (
        make_policy(tiny_config(baseline=baseline, abstain=False), source, "learned").state_dict()
        for baseline in ("leave_one_out", "value")
    )
    assert set(valued) - set(plain) == {"value.weight", "value.bias"}
    assert all(torch.equal(valued[name], weight) for name, weight in plain.items())
    for looking in ("soft", "gumbel"):
        assert make_policy(tiny_config(baseline="value", abstain=False), source, looking).shape.values == 0


# ---- the gradient, through network and environment


@pytest.mark.parametrize("credit", ["causal", "terminal"])
def test_the_mean_over_all_pairs_of_rollouts_is_the_gradient_of_the_expected_reward(credit):
    """The 4 * 4 ways to look at two frames of four cells, taken from play and all as likely by a uniform policy."""
    rng = np.random.default_rng(2)
    features = rng.uniform(0, 2, (1, 3, 2, 2, 4)).astype(np.float32)
    source = ArraySource(features=features, labels=np.array([1]), class_names=("a", "b"))
    config = tiny_config(glimpses=1, credit=credit, policy=dataclasses.replace(TINY_NETWORK, frame_embedding=False))
    policy, rollout, masks = play(config, source, [0] * 400, Manner(random_share=0.9))
    ways = {tuple(cells): episode for episode, cells in enumerate(rollout.cells[..., 0].tolist())}
    assert set(ways) == set(product(range(4), repeat=2))
    rollout = rollout.part(torch.tensor(list(ways.values())))
    rollout = dataclasses.replace(rollout, explored=torch.zeros(16, 2, dtype=torch.bool))  # as if it had drawn them all
    masks = policy.draw_masks(16, torch.Generator())  # nothing is dropped
    with torch.no_grad():
        policy.score.weight.zero_()
        policy.repulsion.zero_()

    _, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    probabilities = cells_log_prob(cell_logits, rollout.cells).sum(1).exp()
    torch.testing.assert_close(probabilities, torch.full((16,), 1 / 16))
    (exact,) = torch.autograd.grad((probabilities * rollout.rewards).sum(), policy.score.weight)

    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).flatten()
    batch = rollout.part(pairs)
    masks = policy.draw_masks(512, torch.Generator())
    losses = glimpse_losses(policy, batch, masks, Advantages.of(batch, config), config, update=3, looking="learned")
    (estimate,) = torch.autograd.grad(losses.policy, policy.score.weight)
    scale = leave_one_out(frame_returns(batch, config).reshape(256, 2, 2)).square().mean().sqrt()
    assert exact.abs().max() > 0.01
    torch.testing.assert_close(-estimate * scale, exact, rtol=1e-4, atol=1e-6)
