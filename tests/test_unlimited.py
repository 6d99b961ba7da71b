"""Unlimited glimpses: any set of cells, their observations, and the cost of looks."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from glimpse_env import VideoGlimpseEnv, VideoGlimpseVectorEnv

MODES = ("glimpsed", "cube", "slices")


def looks(*cells, say=0):
    """Return the action that looks at `cells` of 3 x 3 and says a class."""
    action = np.zeros(10, np.int64)
    action[list(cells)] = 1
    action[-1] = say
    return action


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("observation", MODES)
def test_passes_gymnasiums_check(observation, dtype):
    env = gym.make("VideoGlimpse-v0", glimpses=None, observation=observation, dtype=dtype, render_mode="rgb_array")
    check_env(env.unwrapped)


def test_every_cell_is_a_choice_of_two(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=None, abstain=True)
    assert env.action_space == spaces.MultiDiscrete([2] * 9 + [4])


@pytest.mark.parametrize("observation", MODES)
def test_a_step_shows_the_chosen_cells(toy, observation):
    # Slice k of frame n of clip 0 is (v, v + 1) with v = 1 + 18 n + 2 k.
    env = VideoGlimpseEnv(source=toy, glimpses=None, observation=observation)
    env.reset(options={"clip": 0})
    second, *_ = env.step(looks(7, 2))
    seen = np.zeros((9, 2))
    if observation == "cube":
        seen[:] = 19 + np.arange(18).reshape(9, 2)
    else:
        seen[[2, 7]] = [[23, 24], [33, 34]]
    if observation == "slices":
        expected = np.zeros((9, 4))
        expected[0] = [23, 24, 0.5 / 3, 2.5 / 3]  # ascending, whatever the order of choosing
        expected[1] = [33, 34, 2.5 / 3, 1.5 / 3]
        np.testing.assert_allclose(second, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(second, seen.reshape(3, 3, 2))


def test_the_first_glance_in_slices_is_every_slice_with_its_place(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=None, observation="slices")
    first, _ = env.reset(options={"clip": 0})
    np.testing.assert_array_equal(first[:, :2], 1 + np.arange(18).reshape(9, 2))
    places = [[(row + 0.5) / 3, (column + 0.5) / 3] for row in range(3) for column in range(3)]
    np.testing.assert_allclose(first[:, 2:], places, rtol=1e-6)


@pytest.mark.parametrize("observation", ["glimpsed", "slices"])
def test_no_look_shows_nothing(toy, observation):
    env = VideoGlimpseEnv(source=toy, glimpses=None, observation=observation)
    env.reset(options={"clip": 1})
    blank, *_ = env.step(looks())
    assert not blank.any()


@pytest.mark.parametrize("glimpses", [2, None])
def test_every_look_costs(toy, glimpses):
    env = VideoGlimpseEnv(source=toy, glimpses=glimpses, look_cost=0.25)
    env.reset(options={"clip": 0})  # class 2
    # The last choice is neither counted nor charged.
    plans, taken = (((0, 1), (4, 4), (5, 5), (7, 8)), 4) if glimpses else (((0, 1), (4,), (), (7, 8, 3)), 3)
    for plan in plans:
        _, reward, _, _, info = env.step([*plan, 2] if glimpses else looks(*plan, say=2))
    assert info["glimpses"] == taken
    assert reward == 0.5 * 4 - 0.25 * taken


def test_a_choice_is_zero_or_one(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=None)
    env.reset(seed=1)
    with pytest.raises(ValueError, match="cell 4 of the action of environment 0 must be 0 to 1, got 2"):
        env.step(looks(4) * 2)


@pytest.mark.parametrize("observation", MODES)
def test_a_shared_array_equals_a_fresh_one(toy, observation):
    shared, fresh = (
        VideoGlimpseVectorEnv(3, source=toy, glimpses=None, observation=observation, copy=copy)
        for copy in (False, True)
    )
    fresh.action_space.seed(1)
    np.testing.assert_array_equal(shared.reset(seed=1)[0], fresh.reset(seed=1)[0])
    for _ in range(60):
        actions = fresh.action_space.sample()
        actions[:, :-1] *= np.random.default_rng(int(actions.sum())).random((3, 1)) < 0.7  # now and then none
        np.testing.assert_array_equal(shared.step(actions)[0], fresh.step(actions)[0])
