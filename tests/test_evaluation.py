"""Measuring a split: every clip once, and each measure worked out anew from what was played."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, tiny_config
from clip_toys import UnevenSource

from agents.building import make_envs, make_policy, sample_slices
from agents.evaluation import class_scores, evaluate, middle_clips, play_split, video_labels, video_scores
from agents.rollout import Manner
from glimpse_env import ArraySource, Segment, SlidingWindows, open_source

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
    envs = make_envs(config, source, num_envs, train=False)
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
    envs = make_envs(config, source, num_envs, train=False)
    played = play_split(envs, wild_policy(config, source), GREEDY, seed=0)
    clips = [clip for rollout, valid in played for clip in rollout.clips[:valid].tolist()]
    assert clips == list(range(10))


@pytest.mark.parametrize("num_envs", [1, 3, 10, 16])
def test_measures_do_not_depend_on_how_many_play_at_once(num_envs):
    source = marked_source(10)
    assert measure(source, GREEDY, num_envs=num_envs) == measure(source, GREEDY, num_envs=10)


def test_each_measure_is_what_it_is_called():
    source, config = marked_source(30), tiny_config()
    envs, policy = make_envs(config, source, 30, train=False), wild_policy(config, source)
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


def test_a_clip_is_judged_by_its_own_labels_whichever_frames_are_played():
    source = open_source("synthetic-untrimmed", split="validation")
    truth = [{segment.label for segment in source.segments(clip)} for clip in range(source.num_clips)]
    assert [set(np.flatnonzero(row)) for row in video_labels(source)] == truth
    assert {len(labels) for labels in truth} == {1, 2}


# ---- windows that slide over videos


@pytest.fixture
def slid():
    """Videos of nine, two and four frames in windows of three, every two: four, one and two of them, ten a second.

    The first is class a at the start, background in the middle and class b at the end; the second is background alone;
    of the third nothing is known.
    """
    rng = np.random.default_rng(3)
    source = UnevenSource(
        features=rng.uniform(0, 1, (3, 9, 3, 3, 4)).astype(np.float32),
        labels=np.zeros(3, np.int64),
        class_names=("a", "b", "c"),
        frames_per_second=10.0,
        lengths=(9, 2, 4),
        truths=((Segment(0.0, 0.2, 0), Segment(0.75, 0.85, 1)), (Segment(0.5, 0.6, 2),), ()),
    )
    return SlidingWindows(source=source, window_seconds=0.3, stride_seconds=0.2)


def test_scores_of_a_video_are_the_mean_of_its_windows(slid):
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]])
    # (0.9 + 0.3 + 0.4 + 0.4) / 4 = 0.5; the second has one window; (0.1 + 0.8) / 2 = 0.45
    expected = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.45, 0.55]])
    torch.testing.assert_close(video_scores(scores, slid), expected)
    assert torch.equal(video_scores(scores, marked_source(7)), scores)


def test_labels_of_a_video_are_those_of_all_its_segments(slid):
    # Class c is true of the second video, though after the frames that there are of it.
    assert video_labels(slid).tolist() == [[True, True, False], [False, False, True], [False, False, False]]
    windows = [{segment.label for segment in slid.segments(window)} for window in range(7)]
    assert windows == [{0}, {0}, set(), {1}, set(), set(), set()]


def test_a_video_is_shown_by_its_middle_window(slid):
    assert middle_clips(slid).tolist() == [2, 4, 6]
    assert middle_clips(marked_source(4)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_envs", [1, 3, 7, 16])
def test_videos_are_right_or_wrong_and_all_else_is_of_windows(slid, num_envs):
    config = tiny_config()
    envs, policy = make_envs(config, slid, 7, train=False), wild_policy(config, slid)
    ((rollout, _),) = play_split(envs, policy, GREEDY, seed=0)
    scores = class_scores(rollout.class_logits, 3).numpy()
    joined = [scores[:4].mean(0).argmax(), scores[4].argmax(), scores[5:].mean(0).argmax()]
    measured = measure(slid, GREEDY, num_envs=num_envs)
    assert measured.correct == (joined[0] in (0, 1), joined[1] == 2, False)
    assert measured.accuracy == pytest.approx(sum(measured.correct) / 3)
    assert measured.vote_accuracy == pytest.approx(rollout.is_correct.double().mean().item())
    assert measured.reward == pytest.approx(rollout.rewards.double().mean().item())


def test_windows_that_say_different_things_are_joined():
    """Two windows are sure of b by a little, one of a by a lot: together they say a, and the votes do not change."""
    features = np.zeros((1, 6, 3, 3, 2), np.float32)
    features[0, :2, ..., 0] = 1
    features[0, 2:, ..., 1] = 1
    source = ArraySource(features=features, labels=np.array([0]), class_names=("a", "b"), frames_per_second=10.0)
    windows = SlidingWindows(source=source, window_seconds=0.2, stride_seconds=0.2)
    network = dataclasses.replace(TINY_NETWORK, encoder="sum", skip=True, frame_embedding=False)
    config = tiny_config(policy=network)
    policy = make_policy(config, windows, "learned")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.head.weight[:2, -2:] = 20 * torch.eye(2)  # past the LSTM, and so large that tanh is 1
        policy.classes.weight[0, 0], policy.classes.weight[1, 1] = 2.0, 0.4
    measured = evaluate(make_envs(config, windows, 2, train=False), policy, GREEDY, seed=0)
    # sigmoid(2) = 0.881 and 1 - sigmoid(0.4) = 0.401 twice: (0.881 + 0.401 + 0.401) / 3 = 0.561 for a
    assert (measured.accuracy, measured.correct) == (1.0, (True,))
    assert measured.vote_accuracy == pytest.approx(1 / 3)


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
