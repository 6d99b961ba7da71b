"""Wrappers: the same episodes in other shapes."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from glimpse_env import VideoGlimpseEnv, VideoGlimpseVectorEnv
from glimpse_env.wrappers import (
    DiscreteAction,
    EpisodeStatistics,
    FrameRewards,
    PreviousAction,
    TimeLeft,
    TupleAction,
    VectorEpisodeStatistics,
    VectorFrameRewards,
)


def make(**arguments):
    return gym.make("VideoGlimpse-v0", **arguments)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize(
    "env",
    [
        DiscreteAction(make(glimpses=1)),
        TupleAction(make()),
        TupleAction(make(glimpses=None)),
        TupleAction(make(jumps=(1, 2))),
        PreviousAction(FlattenObservation(make(observation="slices", dtype="float16"))),
        TimeLeft(FlattenObservation(make(observation="slices", dtype="float16"))),
        PreviousAction(TimeLeft(FlattenObservation(make(observation="slices", glimpses=None)))),
    ],
    ids=str,
)
def test_passes_gymnasiums_check(env):
    check_env(env, skip_render_check=True)


def test_one_number_is_a_cell_and_a_class(toy):
    env = DiscreteAction(VideoGlimpseEnv(source=toy, glimpses=1))
    assert env.action_space == spaces.Discrete(9 * 3)
    env.reset(options={"clip": 0})
    observation, *_ = env.step(5 * 3 + 2)
    assert np.flatnonzero(observation.reshape(9, 2).any(1)).tolist() == [5]
    assert env.unwrapped.engine.predictions[0, 0] == 2


def test_one_number_is_a_cell_a_jump_and_a_class(toy):
    env = DiscreteAction(VideoGlimpseEnv(source=toy, glimpses=1, jumps=(1, 3)))
    assert env.action_space == spaces.Discrete(9 * 2 * 3)
    env.reset(options={"clip": 0})
    observation, *_, info = env.step((5 * 2 + 1) * 3 + 2)
    assert np.flatnonzero(observation.reshape(9, 2).any(1)).tolist() == [5]
    assert (info["frame"], env.unwrapped.engine.predictions.tolist()) == (4, [[2, 2, 2, -1]])


@pytest.mark.parametrize("action", [-1, 27, True, 1.5])
def test_a_number_out_of_range(toy, action):
    env = DiscreteAction(VideoGlimpseEnv(source=toy, glimpses=1))
    env.reset(seed=1)
    with pytest.raises(ValueError, match=f"an action must be an integer from 0 to 26, got {action}"):
        env.step(action)


def test_too_many_actions_for_one_number():
    with pytest.raises(ValueError, match="2259801992 actions are too many for one Discrete space: use glimpses=1"):
        DiscreteAction(make())


def test_only_a_multi_discrete_action_can_be_taken_apart():
    with pytest.raises(ValueError, match="the action space must be MultiDiscrete, got Discrete"):
        TupleAction(DiscreteAction(make(glimpses=1)))


def test_looks_and_prediction_are_separate_parts(toy):
    env = TupleAction(VideoGlimpseEnv(source=toy, glimpses=2))
    env.reset(options={"clip": 0})
    observation, *_ = env.step((np.array([3, 8]), np.int64(1)))
    assert np.flatnonzero(observation.reshape(9, 2).any(1)).tolist() == [3, 8]
    assert env.unwrapped.engine.predictions[0, 0] == 1


@pytest.mark.parametrize(("glimpses", "cells"), [(2, [3, 8]), (None, [0, 0, 0, 1, 0, 0, 0, 0, 1])])
def test_a_jump_is_a_part_of_its_own(toy, glimpses, cells):
    env = TupleAction(VideoGlimpseEnv(source=toy, glimpses=glimpses, jumps=(1, 2)))
    assert env.action_space[1:] == (spaces.Discrete(2), spaces.Discrete(3))
    env.reset(options={"clip": 0})
    observation, *_, info = env.step((np.array(cells), np.int64(1), np.int64(0)))
    assert (np.flatnonzero(observation.reshape(9, 2).any(1)).tolist(), info["frame"]) == ([3, 8], 3)
    with pytest.raises(ValueError, match=r"an action must be \(cells, jump, class\), got \(1, 2\)"):
        env.step((1, 2))


def test_the_previous_action_is_appended_one_hot(toy):
    env = PreviousAction(FlattenObservation(VideoGlimpseEnv(source=toy, glimpses=1)))
    first, _ = env.reset(seed=1)
    assert first.shape == (18 + 9 + 3,)
    assert not first[18:].any()
    second, *_ = env.step(np.array([4, 2]))
    assert np.flatnonzero(second[18:]).tolist() == [4, 9 + 2]
    again, _ = env.reset()
    assert not again[18:].any()


def test_the_time_left_runs_from_one_to_zero(toy):
    env = TimeLeft(FlattenObservation(VideoGlimpseEnv(source=toy, glimpses=1)))
    for _ in range(2):
        left = [env.reset()[0][-1], *(env.step(np.array([0, 0]))[0][-1] for _ in range(4))]
        assert left == [1, 0.75, 0.5, 0.25, 0]


def test_time_is_left_by_frames_not_by_jumps(toy):
    env = TimeLeft(FlattenObservation(VideoGlimpseEnv(source=toy, glimpses=1, jumps=(1, 2, 9))))
    left = [env.reset()[0][-1], *(env.step(np.array([0, jump, 0]))[0][-1] for jump in (1, 2))]
    assert left == [1, 0.5, 0]


def test_time_is_left_by_frames_not_by_calls(toy):
    class Twice(gym.ActionWrapper):
        def step(self, action):
            self.env.step(action)
            return self.env.step(action)

    env = TimeLeft(Twice(FlattenObservation(VideoGlimpseEnv(source=toy, glimpses=1))))
    left = [env.reset(options={"clip": 0})[0][-1], *(env.step(np.array([0, 0]))[0][-1] for _ in range(2))]
    assert left == [1.0, 0.5, 0.0]  # four frames, two a call


def test_a_pair_that_is_none(toy):
    env = TupleAction(VideoGlimpseEnv(source=toy, glimpses=1))
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"an action must be \(cells, class\), got \(1, 2, 3\)"):
        env.step((1, 2, 3))


@pytest.mark.parametrize("wrapper", [PreviousAction, TimeLeft])
def test_only_flat_observations_can_be_appended_to(wrapper):
    with pytest.raises(ValueError, match=r"must be a flat Box.*gymnasium.wrappers.FlattenObservation first"):
        wrapper(make())


def test_time_is_counted_in_frames_of_this_environment():
    with pytest.raises(TypeError, match=r"TimeLeft counts the frames of a VideoGlimpseEnv, got .*CartPole"):
        TimeLeft(gym.make("CartPole-v1"))


def test_statistics_of_an_episode_have_its_looks(toy):
    env = EpisodeStatistics(VideoGlimpseEnv(source=toy, glimpses=2))
    env.reset(options={"clip": 0})
    for cells in ((0, 1), (2, 2), (3, 4), (5, 6)):
        *_, info = env.step(np.array([*cells, 2]))
    assert (info["episode"]["r"], info["episode"]["l"], info["episode"]["g"]) == (2.0, 4, 5)
    assert list(env.glimpses_queue) == [5]


@pytest.mark.parametrize("autoreset", ["NextStep", "SameStep", "Disabled"])
def test_statistics_of_many_episodes_have_their_looks(toy, autoreset):
    envs = VectorEpisodeStatistics(VideoGlimpseVectorEnv(2, source=toy, glimpses=2, autoreset_mode=autoreset))
    envs.reset(options={"clip": np.array([0, 0])})
    envs.step(np.array([[0, 1, 2], [4, 4, 0]]))
    envs.reset(options={"clip": 0, "reset_mask": np.array([False, True])})
    for cells in ((2, 2), (3, 4), (5, 6)):  # the first environment is one frame ahead
        *_, infos = envs.step(np.array([[*cells, 2], [4, 4, 0]]))
    assert infos["_episode"].tolist() == [True, False]
    assert infos["episode"]["g"][0] == 5
    assert list(envs.glimpses_queue) == [5]


def test_statistics_go_through_a_spec_and_know_their_environment():
    env = EpisodeStatistics(make(glimpses=1))
    again = gym.make(env.spec)
    assert isinstance(again, EpisodeStatistics)
    with pytest.raises(TypeError, match=r"EpisodeStatistics counts the looks of a VideoGlimpseEnv, got .*CartPole"):
        EpisodeStatistics(gym.make("CartPole-v1"))


def test_wrappers_go_into_make_vec():
    envs = gym.make_vec(
        "VideoGlimpse-v0", num_envs=2, vectorization_mode="sync", wrappers=[FlattenObservation, TimeLeft],
        observation="slices",
    )  # fmt: skip
    observations, _ = envs.reset(seed=1)
    assert observations[:, -1].tolist() == [1, 1]


# ---- rewards frame by frame: clip 0 of `toy` is class 2, clip 1 class 0


def test_a_right_prediction_is_paid_at_once_and_a_wrong_one_charged(toy):
    env = FrameRewards(VideoGlimpseEnv(source=toy, glimpses=1, look_cost=0.25, abstain=True))
    for _ in range(2):  # a reset begins anew
        env.reset(options={"clip": 0})
        steps = [env.step(np.array([cell, said])) for cell, said in ((0, 2), (1, 0), (2, 3), (3, 2))]
        # eta = 0.5: 0.5 for a true prediction, -0.5 for a false one, 0 for none; three looks are paid at the end.
        assert [reward for _, reward, *_ in steps] == [0.5, -0.5, 0.0, 0.5 - 0.75]
        assert type(steps[0][1]) is float
        env.reset()
        env.step(np.array([0, 1]))  # an episode that is not played to its end leaves no debt


def test_a_prediction_is_paid_for_all_frames_that_it_stands_for(toy):
    env = FrameRewards(
        VideoGlimpseEnv(source=toy, glimpses=1, jumps=(1, 2), look_cost=0.25, frame_cost=1.0, abstain=True)
    )
    env.reset(options={"clip": 0})
    steps = [env.step(np.array([0, jump, said])) for jump, said in ((1, 2), (0, 0), (1, 2))]
    # 0.5 for each true prediction; two looks and two more frames are paid for at the end.
    assert [reward for _, reward, *_ in steps] == [1.0, -0.5, 0.5 - 0.5 - 2.0]


@pytest.mark.parametrize(
    ("autoreset", "limit"),
    [("NextStep", None), ("NextStep", 3), ("SameStep", None), ("Disabled", None), ("Disabled", 3)],
)
@pytest.mark.parametrize("jumps", [None, (1, 2)])
def test_shares_of_many_add_up_to_their_returns(toy, autoreset, limit, jumps):
    arguments = {
        "source": toy, "glimpses": 2, "autoreset_mode": autoreset, "look_cost": 0.1, "eta": 0.25, "jumps": jumps,
        "frame_cost": 0.125,
    }  # fmt: skip
    plain = VideoGlimpseVectorEnv(3, max_episode_steps=limit, **arguments)
    shared = VectorFrameRewards(VideoGlimpseVectorEnv(3, max_episode_steps=limit, **arguments))
    for envs in (plain, shared):
        envs.reset(seed=1)
        envs.step(np.zeros(plain.action_space.shape, int))
        envs.reset(options={"reset_mask": np.array([False, True, False])})
    plain.action_space.seed(1)
    returns, begun, ended = np.zeros(3), np.array([False, True, False]), 0
    for _ in range(20):
        actions = plain.action_space.sample()
        _, rewards, terminations, truncations, _ = plain.step(actions)
        _, shares, *rest, _ = shared.step(actions)
        np.testing.assert_array_equal(rest, [terminations, truncations])
        returns += shares
        assert not shares[(shared.unwrapped.engine.steps() == 0) & ~terminations].any()
        np.testing.assert_allclose(returns[terminations & begun], rewards[terminations & begun])
        ended += (terminations & begun).sum()
        over = terminations | truncations
        returns[over], begun = 0, begun | over
        if autoreset == "Disabled" and over.any():
            plain.reset(options={"reset_mask": over.copy()})
            shared.reset(options={"reset_mask": over.copy()})
    assert (ended > 6) == (limit is None or jumps is not None)


def test_only_frame_by_frame_can_be_paid_and_only_here(toy):
    with pytest.raises(ValueError, match="matching must be 'frame' to pay frame by frame, got 'segment'"):
        FrameRewards(VideoGlimpseEnv(source=toy, matching="segment"))
    with pytest.raises(TypeError, match=r"^FrameRewards pays for predictions of a VideoGlimpseEnv, got .*CartPole"):
        FrameRewards(gym.make("CartPole-v1"))
    sync = gym.make_vec("VideoGlimpse-v0", 2, vectorization_mode="sync")
    cut = VideoGlimpseVectorEnv(2, source=toy, autoreset_mode="SameStep", max_episode_steps=2)
    with pytest.raises(ValueError, match="truncated after 2 steps cannot be paid frame by frame with autoreset_mode"):
        VectorFrameRewards(cut)
    VectorFrameRewards(VideoGlimpseVectorEnv(2, source=toy, autoreset_mode="SameStep", max_episode_steps=100))
    with pytest.raises(TypeError, match=r"VectorFrameRewards pays .* of a VideoGlimpseVectorEnv, got SyncVectorEnv"):
        VectorFrameRewards(sync)


def test_statistics_of_later_episodes_are_whole_in_same_step(toy):
    """Gymnasium before 1.3 leaves out the first step of all episodes but the first."""
    envs = VectorEpisodeStatistics(VideoGlimpseVectorEnv(2, source=toy, glimpses=1, autoreset_mode="SameStep"))
    envs.reset(seed=1)
    for _ in range(12):
        *_, infos = envs.step(np.array([[0, 0], [1, 0]]))
    assert infos["episode"]["l"].tolist() == [4, 4]
    assert list(envs.length_queue) == [4] * 6
    assert set(envs.return_queue) <= {2.0, -2.0}  # 0.5 * 4 * 1 or 0.5 * 4 * -1
