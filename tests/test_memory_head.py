"""A memory of every cell, attended slices and standardised input: every model trains with them, and one learns."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, marked_splits, tiny_config
from glimpse_agents.cost.macs import macs_per_clip
from glimpse_agents.learning.location import UsualSlices
from glimpse_agents.learning.models import MODELS
from glimpse_agents.learning.policy import GlimpsePolicy
from glimpse_agents.learning.presets import PRESETS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy, sample_slices
from glimpse_agents.playing.rollout import collect_rollout, play
from glimpse_agents.reinforce import train
from glimpse_agents.runs.trainer import Trainer

from glimpse_env import WallSource

REMEMBERING = {"scorer": "memory", "slice_weights": "attended", "standardise": True, "encoder": "sum"}


def fitted(model, source, **settings):
    """Return environments, a network for untrimmed clips that is fitted to the source, and how it is played."""
    config = tiny_config(model=model, **REMEMBERING | settings)
    policy = make_policy(config, source)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        policy = GlimpsePolicy(policy.config, dataclasses.replace(policy.shape, trimmed=False))
    policy.fit(sample_slices(source), sample_slices(source, place=0.0))
    return make_envs(config, source, source.num_clips, train=False), policy, greedy_play(config)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_and_has_costs(model, tmp_path):
    sources = marked_splits()
    config = tiny_config(model=model, updates=2, abstain=False, **REMEMBERING)
    measured = train(config, tmp_path, sources=sources).measured
    assert 0 <= measured.accuracy <= 1
    envs, policy, settings = fitted(model, sources["test"])
    macs = macs_per_clip(envs, policy, settings)
    assert macs.policy > 0


def test_the_scale_of_a_wall_is_that_of_its_clips():
    clips = marked_source(12)
    wall = WallSource(clips, background=("classa",), grid=2, walls=30)
    for place, frame in ((0.5, 2), (0.0, 0)):
        means = torch.from_numpy(clips.features[:, frame].reshape(12, 9, -1).mean(1))
        torch.testing.assert_close(sample_slices(wall, place=place), means)


def test_the_usual_distance_is_measured_without_a_scale_too():
    wall = WallSource(marked_source(12), background=("classa",), grid=2, walls=30, trimmed=False)
    config = tiny_config(abstain=True, **REMEMBERING | {"standardise": False})
    assert Trainer(config, dict.fromkeys(marked_splits(), wall)).policy.location_head.usual_distance > 0.1


@pytest.mark.parametrize("trimmed", [True, False])
def test_cells_are_watched_for_changes_if_events_begin_and_end(trimmed):
    wall = WallSource(marked_source(12), background=("classa",), grid=2, walls=30, trimmed=trimmed)
    envs = make_envs(config := tiny_config(**REMEMBERING).for_source(wall), wall, 6, train=False)
    policy = make_policy(config, wall)
    assert (policy.location_head.change_weight is None) == trimmed
    rollout = play(envs, policy, np.arange(6), greedy_play(config), noise=Noise.seeded(1))
    assert rollout.rest.change.any() != trimmed


@pytest.mark.parametrize("model", ["mean", "max"])
def test_models_that_pool_keep_their_pool(model):
    source = marked_source(6)
    envs, policy, settings = fitted(model, source)
    rollout = collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    cubes = torch.from_numpy(source.features).flatten(2, 3)
    pooled = cubes.mean(2) if model == "mean" else cubes.amax(2)
    expected = (pooled[:, 1:] - policy.scale.mean) / policy.scale.std
    torch.testing.assert_close(rollout.rest.content, expected, rtol=1e-4, atol=1e-4)


def test_random_glimpses_attend_to_the_first_glance_as_learned_ones_do():
    source = marked_source(6)
    envs, policy, settings = fitted("random", source)
    rollout = collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    assert rollout.attention[:, 0].std(1).min() > 1e-4
    assert rollout.views is None


@pytest.mark.parametrize("mirror", [False, True])
def test_gumbel_trains_the_network_that_plays(mirror):
    """Straight-through samples give the same attention and class logits as the same choices in play."""
    source = marked_source(6)
    envs, policy, settings = fitted("gumbel", source)
    settings = dataclasses.replace(settings, greedy=False, mirror=mirror)  # both draw the same noise then
    soft = collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    hard = play(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    assert torch.equal(soft.looked, hard.looked)
    torch.testing.assert_close(soft.attention.detach(), hard.attention)
    torch.testing.assert_close(soft.class_logits.detach(), hard.class_logits)


def test_gradient_of_gumbel_reaches_the_choice_through_attended_weights():
    source = marked_source(6)
    envs, policy, settings = fitted("gumbel", source)
    rollout = collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    rollout.class_logits[:, -1].square().sum().backward()
    assert policy.location_head.state.weight.grad.abs().max() > 0  # the state has a part in choices alone


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("model", ["soft", "soft_hidden"])
def test_soft_attention_scores_the_change_of_every_cell(model, mirror):
    source = marked_source(6)
    envs, policy, settings = fitted(model, source)
    torch.nn.init.zeros_(policy.location_head.state.weight)  # the state depends on earlier attention
    settings = dataclasses.replace(settings, mirror=mirror)
    scores = []
    for weight in (0.0, 0.5):
        with torch.no_grad():
            policy.location_head.change_weight.fill_(weight)
        scores.append(play(envs, policy, np.arange(6), settings, noise=Noise.seeded(1)).attention.log())
    slices = policy.scale(torch.from_numpy(source.features).flatten(2, 3)).transpose(0, 1)  # (T, N, 9, D)
    usual, expected = UsualSlices(9, policy.location_head.usual_distance), torch.zeros(6, 4, 9)
    for frame, shown in enumerate(slices):
        expected[:, frame] = usual.add(shown, torch.arange(9).expand(6, -1), torch.ones(6, 9))
    assert expected.abs().max() > 0.1
    expected = expected * (model == "soft")
    if mirror:
        flip = np.arange(9).reshape(3, 3)[:, ::-1].ravel()
        flips = Noise.seeded(1).uniform((6,)) < 0.5
        expected = torch.where(flips[:, None, None], expected[..., flip.copy()], expected)
    moved = scores[1] - scores[0]
    torch.testing.assert_close(
        moved - moved.mean(2, keepdim=True), 5 * (expected - expected.mean(2, keepdim=True)), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("model", ["soft", "soft_hidden", "soft_top"])
def test_nothing_competes_with_the_cells_of_soft_attention(model):
    source = marked_source(6)
    envs, policy, settings = fitted(model, source)
    rollouts = []
    for nothing in (-10.0, 0.4):
        with torch.no_grad():
            policy.location_head.nothing.fill_(nothing)
        rollouts.append(collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1)))
    full, part = (rollout.attention[:, 0] for rollout in rollouts)
    torch.testing.assert_close(full.sum(1), torch.ones(6))
    assert (part.sum(1) < 0.9).all()
    torch.testing.assert_close(part / part.sum(1, keepdim=True), full)
    rollouts[1].class_logits.square().sum().backward()
    assert 0 < policy.location_head.nothing.grad.abs() < torch.inf


@pytest.mark.parametrize("first_glance", ["whole", "none"])
def test_gumbel_glimpses_remember_only_what_they_saw(first_glance):
    """Slices that were not chosen, those of an unseen first frame included, have no part in the class logits."""
    source = marked_source(6)
    outcomes = []
    for scale in (1.0, 5.0):
        envs, policy, settings = fitted("gumbel", source, first_glance=first_glance)
        features = source.features.reshape(6, 4, 9, -1).copy()
        if outcomes:
            unseen = ~outcomes[0].looked.numpy()
            features[:, 1:][unseen] *= scale
            if first_glance == "none":
                features[:, 0] *= scale
            changed = dataclasses.replace(source, features=features.reshape(source.features.shape))
            envs = make_envs(tiny_config(model="gumbel", first_glance=first_glance), changed, 6, train=False)
        outcomes.append(collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1)))
    assert torch.equal(outcomes[0].looked, outcomes[1].looked)
    torch.testing.assert_close(outcomes[0].class_logits, outcomes[1].class_logits, rtol=0, atol=1e-6)


def test_unlimited_glimpses_may_be_none():
    source = marked_source(6)
    envs, policy, settings = fitted("unlimited", source)
    with torch.no_grad():
        policy.location_head.seen.bias.fill_(-50.0)
        policy.location_head.score.weight.fill_(1.0)
    rollout = collect_rollout(envs, policy, np.arange(6), settings, noise=Noise.seeded(1))
    assert rollout.glimpses.sum() == 0
    assert not rollout.attention[:, 1:].any()
    assert rollout.class_logits.isfinite().all()


def test_the_preset_attended_learns_where_to_look(tmp_path):
    """A mark in frame 1 shows where the class will be; random glimpses find it in two of nine frames."""
    sources = {name: marked_source(96, seed=seed) for seed, name in enumerate(("train", "validation", "test"))}
    small = TINY_NETWORK | {"hidden_size": 32, "scorer_size": 16, "scorer_dropout": 0.0, "dropout": 0.0}
    rest = {"input_dropout": 0.0, "updates": 150, "learning_rate": 1e-2, "scorer_learning_rate": 1e-2, "glimpses": 2}
    config = PRESETS["attended"].with_settings(small | rest)
    measured = train(config, tmp_path, sources=sources).measured
    assert measured.focus > 0.9
    assert measured.accuracy > 0.9
