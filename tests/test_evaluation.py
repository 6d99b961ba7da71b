"""Measuring a split: every clip once, and each measure worked out anew from what was played."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config

from agents.building import make_envs, make_policy, sample_slices
from agents.evaluation import class_scores, evaluate, play_split
from agents.rollout import Manner
from glimpse_env import ArraySource

GREEDY = Manner(greedy=True)


def wild_policy(config, source, looking="learned"):
    """Return a policy drawn so wildly that its predictions depend on its looks."""
    policy, rng = make_policy(config, source, looking), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=rng))
    return policy


def measure(source, manner, *, num_envs=4, seed=0, **changes):
    config = tiny_config(**changes)
    envs = make_envs(config, source, manner.looking, num_envs, train=False)
    return evaluate(envs, wild_policy(config, source, manner.looking), manner, seed=seed)


def test_class_scores_are_the_mean_of_the_frames_softmaxes():
    logits = torch.tensor([[[1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]]).log()
    assert class_scores(logits, 2)[0].tolist() == pytest.approx([0.5, 0.5])
    assert class_scores(logits[:, :1], 2)[0].tolist() == pytest.approx([0.25, 0.75])


def test_class_scores_leave_abstention_out():
    logits = torch.tensor([[[1.0, 3.0, 96.0]]]).log()
    assert class_scores(logits, 2)[0].tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("num_envs", [1, 4, 10, 16])
def test_every_clip_is_played_once_in_order(num_envs):
    source, config = marked_source(10), tiny_config()
    envs = make_envs(config, source, "learned", num_envs, train=False)
    played = play_split(envs, wild_policy(config, source), GREEDY, seed=0)
    clips = [clip for rollout, valid in played for clip in rollout.clips[:valid].tolist()]
    assert clips == list(range(10))


@pytest.mark.parametrize("num_envs", [1, 3, 10, 16])
def test_measures_do_not_depend_on_how_many_play_at_once(num_envs):
    source = marked_source(10)
    assert measure(source, GREEDY, num_envs=num_envs) == measure(source, GREEDY, num_envs=10)


def test_each_measure_is_what_it_is_called():
    source, config = marked_source(30), tiny_config()
    envs, policy = make_envs(config, source, "learned", 30, train=False), wild_policy(config, source)
    measured = evaluate(envs, policy, GREEDY, seed=0)
    ((rollout, _),) = play_split(envs, policy, GREEDY, seed=0)
    labels = torch.from_numpy(source.labels)
    right = class_scores(rollout.class_logits, 3).argmax(1) == labels
    assert measured.correct == tuple(right.tolist())
    assert measured.accuracy == pytest.approx(right.double().mean().item())
    votes = torch.nn.functional.one_hot(rollout.predictions, 3).sum(1).argmax(1)
    assert measured.vote_accuracy == pytest.approx((votes == labels).double().mean().item())
    hits_per_frame = (rollout.predictions == labels[:, None]).double().sum(1)
    assert measured.reward == pytest.approx((0.5 * hits_per_frame - 0.5 * (4 - hits_per_frame)).mean().item())
    places = torch.from_numpy(source.actors[:, 0].reshape(30, 9)).int().argmax(1)
    on_actor = rollout.cells == places[:, None, None]
    assert measured.focus == pytest.approx(on_actor.any(2).double().mean().item())
    assert measured.focus_per_look == pytest.approx(on_actor.double().mean().item())
    assert 0 < measured.focus_per_look < measured.focus < 1
    assert measured.glimpses_per_frame == 2.0


def test_focus_of_ways_of_looking_that_are_known():
    source = marked_source(300)
    oracle = measure(source, Manner(looking="oracle"), num_envs=64, glimpses=3)
    assert (oracle.focus, oracle.focus_per_look) == (1.0, pytest.approx(1 / 3))
    centre = measure(source, Manner(looking="centre"), num_envs=64, glimpses=1)
    assert centre.focus == pytest.approx(source.actors[:, 0, 1, 1].mean())
    random = measure(source, Manner(looking="random"), num_envs=64, glimpses=3)
    assert random.focus == pytest.approx(1 / 3, abs=0.05)
    assert random.focus_per_look == pytest.approx(1 / 9, abs=0.02)


@pytest.mark.parametrize("looking", ["mean", "all"])
def test_who_sees_everything_has_no_focus(looking):
    measured = measure(marked_source(6), Manner(looking=looking))
    assert (measured.focus, measured.focus_per_look, measured.glimpses_per_frame) == (None, None, 9.0)


def test_focus_is_unknown_where_the_actor_is():
    measured = measure(dataclasses.replace(marked_source(6), actors=None), GREEDY)
    assert (measured.focus, measured.focus_per_look) == (None, None)
    assert 0 <= measured.accuracy <= 1


def test_the_seed_draws_what_is_left_to_chance():
    source = marked_source(20)
    manner = Manner(looking="random")
    same, again, other = (measure(source, manner, seed=seed) for seed in (1, 1, 2))
    assert same == again != other


def test_clips_of_unknown_class_are_never_right():
    source = dataclasses.replace(marked_source(5), labels=np.full(5, -1))
    measured = measure(source, GREEDY)
    assert (measured.accuracy, measured.vote_accuracy, measured.reward) == (0.0, 0.0, -2.0)


# ---- what a run is put together from


def test_sampled_slices_are_those_of_middle_frames():
    features = np.arange(5 * 3 * 4 * 2, dtype=np.float32).reshape(5, 3, 2, 2, 2)
    source = ArraySource(features=features, labels=np.zeros(5, np.int64), class_names=("a",))
    assert np.array_equal(sample_slices(source), features[:, 1].reshape(-1, 2))
    assert np.array_equal(sample_slices(source, cubes=2), features[[0, 4], 1].reshape(-1, 2))


def test_a_network_is_drawn_from_the_seed_alone():
    source = marked_source(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make_policy(tiny_config(), source, "learned").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = (make_policy(tiny_config(seed=seed), source, "learned").state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classes.weight"], other["classes.weight"])
