"""Any set of cells by REINFORCE: probabilities against enumeration, rollouts, and the cost of looks."""

from itertools import product

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.credit import Advantages, costs_of_looking, frame_returns
from glimpse_agents.learning.glimpses import (
    choice_entropy,
    choice_log_prob,
    draw_sets,
    likeliest_sets,
    random_sets,
    sets_entropy,
    sets_log_prob,
)
from glimpse_agents.learning.losses import attention_penalty, glimpse_losses
from glimpse_agents.learning.models import MODELS
from glimpse_agents.learning.policy import SliceEncoder
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.evaluation import evaluate
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=torch.float64)
SETS = torch.tensor(list(product([False, True], repeat=4)))
GREEDY = PlaySettings(model=MODELS["unlimited"], greedy=True)


def unlimited(**settings):
    return tiny_config(model="unlimited", abstain=False, **settings)


def play(source, *, shown="slices", clips=None, config=None, **settings):
    """Return a policy with large weights, a rollout of sets of cells, its masks, and the environments."""
    config = config or unlimited(encoder="sum")
    policy, generator = make_policy(config, source), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    clips = np.arange(source.num_clips) if clips is None else np.array(clips)
    envs = VideoGlimpseVectorEnv(
        len(clips), source=source, glimpses=None, observation=shown, autoreset_mode="Disabled",
        look_cost=config.training.advanced.look_cost,
    )  # fmt: skip
    noise = Noise(generator)
    masks = policy.draw_masks(len(clips), noise)
    settings = PlaySettings(model=MODELS["unlimited"], **settings)
    return policy, collect_rollout(envs, policy, clips, settings, noise=noise, masks=masks), masks, envs


# ---- the distribution


def test_probabilities_of_all_sets_sum_to_one():
    probabilities = sets_log_prob(LOGITS.expand(16, -1), SETS).exp()
    assert probabilities.sum().item() == pytest.approx(1.0)
    assert sets_entropy(LOGITS).item() == pytest.approx(-(probabilities * probabilities.log()).sum().item())


def test_cells_of_a_set_are_independent():
    chances = torch.tensor([0.5, 0.2, 0.9])
    logits = chances.log() - (1 - chances).log()
    chosen = torch.tensor([True, False, True])
    assert sets_log_prob(logits, chosen).exp().item() == pytest.approx(0.5 * 0.8 * 0.9)
    assert choice_log_prob(logits, chosen).item() == sets_log_prob(logits, chosen).item()
    assert choice_entropy(logits, sets=True).item() == sets_entropy(logits).item()


def test_sets_are_drawn_with_their_probabilities():
    drawn = draw_sets(LOGITS.float().expand(20_000, -1), Noise.seeded(1))
    torch.testing.assert_close(drawn.double().mean(0), LOGITS.sigmoid(), atol=0.02, rtol=0.0)


def test_random_sets_have_all_sizes():
    sizes = random_sets((4000, 9), Noise.seeded(1)).float().mean(1)
    assert sizes.mean().item() == pytest.approx(0.25, abs=0.02)  # densities are uniform in [0, 0.5)
    assert sizes.min() == 0
    assert sizes.max() > 0.7


# ---- playing


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_forward_over_episodes_equals_play(mirror, in_view, encoder):
    source = marked_source(20)
    policy, rollout, masks, _ = play(source, config=unlimited(encoder=encoder), in_view=in_view, mirror=mirror)
    with torch.no_grad():
        class_logits, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
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
def test_input_is_the_mean_of_the_chosen_cells(mirror):
    source = marked_source(20)
    _, rollout, _, envs = play(source, mirror=mirror)
    last = np.zeros((20, 10), np.bool_)
    np.put_along_axis(last, envs.engine.cells, True, axis=1)  # an unused slot is -1, the tenth column
    slices = torch.from_numpy(source.features[:, -1].reshape(20, 9, -1) * last[:, :9, None])
    expected = slices.sum(1) / torch.from_numpy(last[:, :9].sum(1, keepdims=True)).clamp_min(1)
    torch.testing.assert_close(rollout.rest.content[:, -1], expected.float())


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
def test_bank_shows_no_more_than_the_environments(encoder):
    source = marked_source(20)
    rollouts = [play(source, config=unlimited(encoder=encoder), shown=shown)[1] for shown in ("slices", "blind")]
    for name in ("class_logits", "attention", "rewards", "cells"):
        torch.testing.assert_close(*(getattr(rollout, name) for rollout in rollouts), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rollouts[0].views.content, rollouts[1].views.content)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("shown", ["slices", "blind"])
def test_only_chosen_cells_are_encoded(encoder, shown, monkeypatch):
    source = marked_source(20)
    widths, attend = [], SliceEncoder.attend

    def recording(self, slices, *rest):
        widths.append(slices.shape[1])
        return attend(self, slices, *rest)

    monkeypatch.setattr(SliceEncoder, "attend", recording)
    _, rollout, _, _ = play(source, config=unlimited(encoder=encoder), shown=shown, clips=[0, 1])
    most = rollout.cells.sum(2).amax(0).clamp_min(1).tolist()
    assert widths == [9, *most]
    assert min(most) < 9
    assert rollout.rest.cells.shape == rollout.rest.weights.shape == (2, 3, max(most))
    assert ((rollout.rest.weights > 0).sum(2) == rollout.cells.sum(2)).all()


def test_frames_without_a_chosen_cell_show_nothing():
    source, config = marked_source(4), unlimited()
    policy = make_policy(config, source)
    torch.nn.init.constant_(policy.location_head.bias, -20.0)  # every cell has a probability of almost zero
    envs = make_envs(config, source, 4, train=False)
    rollout = collect_rollout(envs, policy, np.arange(4), GREEDY, noise=Noise.seeded(0))
    assert rollout.rest.cells.shape == (4, 3, 1)
    assert not rollout.looked.any()
    assert not rollout.rest.weights.any()


def test_greedy_takes_as_many_of_the_likeliest_cells_as_are_drawn_on_average():
    # Probabilities 0.4, 0.3, 0.45, 0.45: 1.6 cells on average, so two, although none has a probability above 0.5.
    chances = torch.tensor([[0.4, 0.3, 0.45, 0.45], [0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.2], [1.0, 1.0, 1.0, 1.0]])
    expected = [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert likeliest_sets(chances.logit()).int().tolist() == expected


def test_a_greedy_policy_plays_the_likeliest_sets():
    source = marked_source(20)
    policy, rollout, masks, _ = play(source, greedy=True)
    with torch.no_grad():
        _, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    assert torch.equal(rollout.cells, likeliest_sets(cell_logits))


@pytest.mark.parametrize("scorer", ["grid", "memory"])
@pytest.mark.parametrize("glimpses", [1, 4, 9])
def test_an_untrained_policy_draws_about_m_cells(glimpses, scorer):
    source = marked_source(200)
    config = unlimited(encoder="sum", glimpses=glimpses, scorer=scorer)
    policy = make_policy(config, source)
    envs = make_envs(config, source, 200, train=True)
    rollout = collect_rollout(
        envs, policy, np.arange(200), PlaySettings(model=MODELS["unlimited"]), noise=Noise.seeded(1)
    )
    assert rollout.cells.sum(2).float().mean().item() == pytest.approx(glimpses, rel=0.1)
    assert policy.location_head.bias.requires_grad
    assert make_policy(config.with_settings({"model": "reinforce"}), source).location_head.bias is None


# ---- learning


def test_cost_of_looks_equals_that_of_the_environment():
    config = unlimited(look_cost=0.03)
    source = marked_source(20)
    _, rollout, _, _ = play(source, config=config)
    assert rollout.cells.sum((1, 2)).unique().numel() > 3
    paid = rollout.shares - costs_of_looking(rollout, config)
    torch.testing.assert_close(paid.sum(1), rollout.rewards)
    torch.testing.assert_close(frame_returns(rollout, config)[:, 0], paid[:, 1:].sum(1))
    assert (costs_of_looking(rollout, config)[:, 0] == 0).all()


@pytest.mark.parametrize(
    "reward", [{"reward": "frame_log_score"}, {"reward": "clip_log_score", "credit": "terminal"}], ids=str
)
def test_paid_looks_are_trained_on_the_reward_that_has_the_unit_of_their_cost(reward):
    config = unlimited(look_cost=0.03).with_settings(reward)
    _, rollout, _, _ = play(marked_source(20), config=config)
    paid = rollout.rewards[:, None].expand(-1, 3)  # by the environment
    if config.training.credit == "causal":
        paid = (rollout.shares[:, 1:] - 0.03 * rollout.cells.sum(2)).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(frame_returns(rollout, config), paid)
    free = config.with_settings({"look_cost": 0.0})
    assert not torch.allclose(frame_returns(rollout, free), paid)
    fixed_number = config.with_settings({"model": "reinforce"})  # has nothing to decide
    torch.testing.assert_close(frame_returns(rollout, fixed_number), frame_returns(rollout, free))


def test_looks_are_charged_to_the_choice_that_made_them():
    config = unlimited(look_cost=1.0, eta=0.5)
    _, rollout, _, _ = play(marked_source(20), config=config)
    costs = frame_returns(rollout, config.with_settings({"look_cost": 0.0})) - frame_returns(rollout, config)
    later = rollout.cells.sum(2).flip(1).cumsum(1).flip(1).float()  # the choice's looks and all later ones
    torch.testing.assert_close(costs, later)


def test_losses_use_the_probabilities_of_sets():
    config = unlimited(look_cost=0.02, penalty=0.1, entropy_bonus=0.2, warmup_share=0.0)
    source = marked_source(4)
    policy, rollout, masks, _ = play(source, config=config, clips=[0, 0, 1, 1, 2, 2, 3, 3])
    advantages = Advantages.of(rollout, config)
    losses = glimpse_losses(policy, rollout, masks, advantages, config, update=0)
    _, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    gradient = -(advantages.cells * sets_log_prob(cell_logits, rollout.cells)).sum(1).mean()
    entropy = sets_entropy(cell_logits).mean()
    expected = losses.classification + gradient - 0.2 * 3 * entropy
    shares = cell_logits.sigmoid() / cell_logits.sigmoid().sum(2, keepdim=True)
    attention = torch.cat([torch.full_like(shares[:, :1], 1 / 9), shares], 1)
    expected = expected + 0.1 * attention_penalty(attention)
    torch.testing.assert_close(losses.total, expected)


def test_focus_per_look_counts_all_looks():
    source, config = marked_source(20), unlimited()
    policy = make_policy(config, source)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    envs = make_envs(config, source, 20, train=False)
    measured = evaluate(envs, policy, GREEDY, seed=0)
    rollout = collect_rollout(envs, policy, np.arange(20), GREEDY, noise=Noise.seeded(0))
    assert rollout.looked.sum((1, 2)).unique().numel() > 1
    assert measured.focus_per_look == pytest.approx((rollout.hits().sum() / rollout.looked.sum()).item())


@pytest.mark.parametrize("model", MODELS)
def test_models_that_read_all_slices_pay_for_no_looks(model):
    config = tiny_config(model=model, look_cost=0.5, abstain=False)
    rules = make_envs(config, marked_source(4), 1, train=False).engine.rules
    reads_all = model in ("soft", "soft_hidden", "soft_top", "mean", "max", "all")
    assert rules.look_cost == (0.0 if reads_all else 0.5)


def test_model_of_m_cells_needs_their_number():
    source = marked_source(4)
    policy = make_policy(tiny_config(), source)
    envs = make_envs(unlimited(), source, 4, train=False)
    with pytest.raises(ValueError, match="'reinforce' takes the same number of looks in every frame: set glimpses"):
        collect_rollout(envs, policy, np.arange(4), PlaySettings(), noise=Noise.seeded(0))
