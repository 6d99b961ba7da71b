"""Any set of cells by REINFORCE: probabilities against enumeration, what is seen and kept, and what looking costs."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, tiny_config
from glimpse_agents.learning.glimpses import (
    choice_entropy,
    choice_log_prob,
    draw_sets,
    random_sets,
    sets_entropy,
    sets_log_prob,
)
from glimpse_agents.learning.losses import attention_penalty
from glimpse_agents.learning.objective import Advantages, eq7_rewards, frame_returns, glimpse_losses, look_costs
from glimpse_agents.learning.policy import GlimpsePolicy
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.evaluation import evaluate
from glimpse_agents.playing.rollout import Manner, collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=torch.float64)
SETS = torch.tensor(list(product([False, True], repeat=4)))


def play(source, *, encoder="sum", shown="slices", masks=True, clips=None, config=None, **manner):
    """Return a policy with large weights, a rollout of sets of cells, its masks, and the environments."""
    config = config or tiny_config(policy=dataclasses.replace(TINY_NETWORK, encoder=encoder), abstain=False)
    policy, generator = make_policy(config, source, "unlimited"), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    clips = np.arange(source.num_clips) if clips is None else np.array(clips)
    envs = VideoGlimpseVectorEnv(
        len(clips), source=source, glimpses=None, observation=shown, autoreset_mode="Disabled",
        look_cost=config.look_cost,
    )  # fmt: skip
    drawn = policy.draw_masks(len(clips), generator) if masks else None
    chosen = Manner(looking="unlimited", **manner)
    return policy, collect_rollout(envs, policy, clips, chosen, generator=generator, masks=drawn), drawn, envs


# ---- the distribution


def test_the_probabilities_of_all_sets_sum_to_one():
    probabilities = sets_log_prob(LOGITS.expand(16, -1), SETS).exp()
    assert probabilities.sum().item() == pytest.approx(1.0)
    assert sets_entropy(LOGITS).item() == pytest.approx(-(probabilities * probabilities.log()).sum().item())


def test_a_set_is_as_likely_as_its_coins():
    chances = torch.tensor([0.5, 0.2, 0.9])
    logits = chances.log() - (1 - chances).log()
    chosen = torch.tensor([True, False, True])
    assert sets_log_prob(logits, chosen).exp().item() == pytest.approx(0.5 * 0.8 * 0.9)
    assert choice_log_prob(logits, chosen).item() == sets_log_prob(logits, chosen).item()
    assert choice_entropy(logits, sets=True).item() == sets_entropy(logits).item()


def test_sets_are_drawn_with_their_probabilities():
    drawn = draw_sets(LOGITS.float().expand(20_000, -1), torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.double().mean(0), LOGITS.sigmoid(), atol=0.02, rtol=0.0)


def test_random_sets_are_small_and_large():
    sizes = random_sets((4000, 9), torch.Generator().manual_seed(1)).float().mean(1)
    assert sizes.mean().item() == pytest.approx(0.25, abs=0.02)  # densities are uniform up to a half
    assert sizes.min() == 0
    assert sizes.max() > 0.7


# ---- playing


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_one_call_gives_what_playing_gave(mirror, in_view, encoder):
    source = marked_source(20)
    policy, rollout, masks, _ = play(source, encoder=encoder, in_view=in_view, mirror=mirror)
    with torch.no_grad():
        class_logits, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    torch.testing.assert_close(class_logits, rollout.class_logits, rtol=1e-4, atol=1e-4)
    assert (rollout.looked == rollout.cells).all()
    assert rollout.glimpses.tolist() == rollout.cells.sum((1, 2)).tolist()
    torch.testing.assert_close(rollout.entropy, sets_entropy(cell_logits), rtol=1e-3, atol=1e-3)
    counts = rollout.cells.sum(2)
    assert counts.min() < 4
    assert counts.max() > 5
    weights = rollout.attention[:, 1:].sum(2)
    torch.testing.assert_close(weights, (counts > 0).float())


@pytest.mark.parametrize("mirror", [False, True])
def test_the_sum_is_the_mean_of_the_cells_chosen(mirror):
    source = marked_source(20)
    _, rollout, _, envs = play(source, mirror=mirror)
    last = np.zeros((20, 10), np.bool_)
    np.put_along_axis(last, envs.engine.cells, True, axis=1)  # a slot that saw nothing is -1, the tenth
    slices = torch.from_numpy(source.features[:, -1].reshape(20, 9, -1) * last[:, :9, None])
    expected = slices.sum(1) / torch.from_numpy(last[:, :9].sum(1, keepdims=True)).clamp_min(1)
    torch.testing.assert_close(rollout.rest.content[:, -1], expected.float())


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
def test_a_bank_shows_no_more_than_the_environments(encoder):
    source = marked_source(20)
    rollouts = [play(source, encoder=encoder, shown=shown)[1] for shown in ("slices", "blind")]
    for name in ("class_logits", "attention", "rewards", "cells"):
        torch.testing.assert_close(*(getattr(rollout, name) for rollout in rollouts), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rollouts[0].views.content, rollouts[1].views.content)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("shown", ["slices", "blind"])
def test_no_work_goes_into_cells_that_nobody_chose(encoder, shown, monkeypatch):
    source = marked_source(20)
    widths, attend = [], GlimpsePolicy.attend

    def watched(self, slices, *rest):
        widths.append(slices.shape[1])
        return attend(self, slices, *rest)

    monkeypatch.setattr(GlimpsePolicy, "attend", watched)
    _, rollout, _, _ = play(source, encoder=encoder, shown=shown, clips=[0, 1])
    most = rollout.cells.sum(2).amax(0).clamp_min(1).tolist()
    assert widths == [9, *most]
    assert min(most) < 9
    assert rollout.rest.cells.shape == rollout.rest.weights.shape == (2, 3, max(most))
    assert ((rollout.rest.weights > 0).sum(2) == rollout.cells.sum(2)).all()


def test_frames_in_which_nothing_is_chosen_show_nothing():
    source = marked_source(4)
    config = tiny_config(abstain=False)
    policy = make_policy(config, source, "unlimited")
    torch.nn.init.zeros_(policy.score.weight)  # no cell is likelier than not
    envs = make_envs(config, source, 4, train=False, looking="unlimited")
    manner = Manner(looking="unlimited", greedy=True)
    rollout = collect_rollout(envs, policy, np.arange(4), manner, generator=torch.Generator())
    assert rollout.rest.cells.shape == (4, 3, 1)
    assert not rollout.looked.any()
    assert not rollout.rest.weights.any()


def test_greedy_takes_the_cells_that_are_likelier_than_not():
    source = marked_source(20)
    policy, rollout, masks, _ = play(source, greedy=True)
    with torch.no_grad():
        _, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    assert torch.equal(rollout.cells, cell_logits > 0)


# ---- learning


def test_looks_cost_what_the_environment_takes():
    config = tiny_config(look_cost=0.03, abstain=False)
    source = marked_source(20)
    _, rollout, _, _ = play(source, config=config)
    assert rollout.cells.sum((1, 2)).unique().numel() > 3
    torch.testing.assert_close(eq7_rewards(rollout, config).sum(1), rollout.rewards)
    assert (look_costs(rollout, config)[:, 0] == 0).all()
    log_score = dataclasses.replace(config, reward="clip_log_score", credit="terminal")
    free = dataclasses.replace(log_score, look_cost=0.0)
    difference = frame_returns(rollout, free) - frame_returns(rollout, log_score)
    torch.testing.assert_close(difference[:, 0], 0.03 * rollout.glimpses.float())


def test_a_look_is_charged_to_the_choice_that_made_it():
    config = tiny_config(look_cost=1.0, abstain=False, eta=0.5)
    _, rollout, _, _ = play(marked_source(20), config=config)
    costless = dataclasses.replace(config, look_cost=0.0)
    costs = frame_returns(rollout, costless) - frame_returns(rollout, config)
    later = rollout.cells.sum(2).flip(1).cumsum(1).flip(1).float()  # its own looks and those after it
    torch.testing.assert_close(costs, later)


def test_the_losses_are_those_of_sets():
    config = tiny_config(look_cost=0.02, penalty=0.1, entropy_bonus=0.2, warmup_updates=0, abstain=False)
    source = marked_source(4)
    policy, rollout, masks, _ = play(source, config=config, clips=[0, 0, 1, 1, 2, 2, 3, 3])
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=0, looking="unlimited")
    _, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    gradient = -(advantages.cells * sets_log_prob(cell_logits, rollout.cells)).sum(1).mean()
    entropy = sets_entropy(cell_logits).mean()
    expected = losses.classification + gradient - 0.2 * 3 * entropy
    expected = expected + 0.1 * attention_penalty(cell_logits.sigmoid())
    torch.testing.assert_close(losses.total, expected)


def test_looks_on_the_actor_are_a_share_of_all_looks():
    source = marked_source(20)
    policy = make_policy(tiny_config(), source, "unlimited")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    envs = make_envs(tiny_config(abstain=False), source, 20, train=False, looking="unlimited")
    manner = Manner(looking="unlimited", greedy=True)
    measured = evaluate(envs, policy, manner, seed=0)
    rollout = collect_rollout(envs, policy, np.arange(20), manner, generator=torch.Generator().manual_seed(0))
    assert rollout.looked.sum((1, 2)).unique().numel() > 1
    assert measured.focus_per_look == pytest.approx((rollout.hits().sum() / rollout.looked.sum()).item())


def test_who_sees_everything_pays_for_no_looks():
    source, config = marked_source(4), tiny_config(look_cost=0.5, abstain=False)
    charged = {
        looking: make_envs(config, source, 1, train=False, looking=looking).engine.rules.look_cost
        for looking in ("learned", "unlimited", "random", "gumbel", "soft", "soft_top", "mean", "all")
    }
    assert charged == dict.fromkeys(("learned", "unlimited", "random", "gumbel"), 0.5) | dict.fromkeys(
        ("soft", "soft_top", "mean", "all"), 0.0
    )


def test_a_policy_of_m_cells_needs_their_number():
    source = marked_source(4)
    policy = make_policy(tiny_config(), source, "learned")
    envs = make_envs(tiny_config(abstain=False), source, 4, train=False, looking="unlimited")
    with pytest.raises(ValueError, match="'learned' takes the same number of looks in every frame: set glimpses"):
        collect_rollout(envs, policy, np.arange(4), Manner(), generator=torch.Generator())
