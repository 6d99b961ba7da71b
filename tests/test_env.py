"""The single environment: the contract with Gymnasium, and the rules of an episode, worked out by hand."""

import re
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import glimpse_env
from glimpse_env import ArraySource, VideoGlimpseEnv, VideoGlimpseVectorEnv

MODES = ("glimpsed", "cube", "slices", "blind")
DTYPES = ("float32", "float16")
COUNTS = {"true_positives", "false_positives", "glimpses", "frames_observed", "is_correct"}
INFO = {"clip", "clip_id", "frame", "label", "frame_labels"} | COUNTS


def play(env, predictions, cells=None):
    """Step through a whole episode and return the result of the last step; `cells` are one row for each frame."""
    cells = np.zeros((len(predictions), env.action_space.shape[0] - 1), int) if cells is None else cells
    for looks, prediction in zip(cells, predictions, strict=True):
        outcome = env.step(np.append(looks, prediction))
    return outcome


# ---- the contract


@pytest.mark.parametrize("jumps", [None, (1, 2, 4, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("observation", MODES)
def test_passes_gymnasiums_check(observation, dtype, jumps):
    env = gym.make("VideoGlimpse-v0", observation=observation, dtype=dtype, jumps=jumps, render_mode="rgb_array")
    check_env(env.unwrapped)


@pytest.mark.filterwarnings(
    # Stable-Baselines3 takes every Box of three axes for an image, and wants those of two to be flattened.
    "ignore:It seems that your observation .* is an image",
    "ignore:The minimal resolution for an image is 36x36",
    "ignore:Your observation .* has an unconventional shape",
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("observation", MODES)
def test_passes_stable_baselines_check(observation, dtype):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(gym.make("VideoGlimpse-v0", observation=observation, dtype=dtype).unwrapped)


def test_an_external_algorithm_learns_from_it():
    library = pytest.importorskip("stable_baselines3")
    env = gym.make("VideoGlimpse-v0", observation="slices", frames=4)
    model = library.A2C("MlpPolicy", env, n_steps=8, seed=1, device="cpu").learn(16)
    assert model.num_timesteps == 16
    observation, _ = env.reset(seed=1)
    action, _ = model.predict(observation)
    assert action in env.action_space


def test_a_spec_goes_through_json_and_back():
    chosen = {
        "source": "synthetic", "split": "test", "fold": 1, "frames": 5, "glimpses": 3, "observation": "slices",
        "first_glance": "none", "dtype": "float16", "eta": 0.25, "positive_reward": 2.0, "negative_reward": -3.0,
        "matching": "frame", "abstain": True, "jitter": False, "jumps": [1, 2, 4], "frame_cost": 0.5,
        "render_mode": "rgb_array",
    }  # fmt: skip
    first = gym.make("VideoGlimpse-v0", **chosen)
    second = gym.make(EnvSpec.from_json(first.spec.to_json()))
    assert second.spec.kwargs == chosen
    assert second.unwrapped.engine.rules == first.unwrapped.engine.rules
    assert second.unwrapped.engine.rules.jumps == (1, 2, 4)
    assert second.unwrapped.source.split == "test"
    (before, info), (after, other) = first.reset(seed=3), second.reset(seed=3)
    np.testing.assert_array_equal(before, after)
    assert info["clip_id"] == other["clip_id"]


def test_nothing_ends_an_episode_but_its_last_prediction():
    assert gym.spec("VideoGlimpse-v0").max_episode_steps is None
    env = gym.make("VideoGlimpse-v0", frames=40)  # 16 are there: the last one is repeated
    layer = env
    while layer is not env.unwrapped:
        assert not isinstance(layer, gym.wrappers.TimeLimit)
        layer = layer.env
    env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(40)]
    assert ends == [(False, False)] * 39 + [(True, False)]


def test_the_id_can_name_its_module():
    assert isinstance(gym.make("glimpse_env:VideoGlimpse-v0").unwrapped, VideoGlimpseEnv)


def test_every_public_name_is_there():
    assert all(hasattr(glimpse_env, name) for name in glimpse_env.__all__)


@pytest.mark.parametrize(
    ("observation", "shape", "high"),
    [("glimpsed", (3, 3, 2), 360), ("cube", (3, 3, 2), 360), ("slices", (4, 4), 360), ("blind", (1,), 360)],
)
def test_spaces(toy, observation, shape, high):
    env = VideoGlimpseEnv(source=toy, glimpses=4, observation=observation)
    assert env.observation_space == gym.spaces.Box(0.0, high, shape, np.float32)
    assert env.action_space == gym.spaces.MultiDiscrete([9, 9, 9, 9, 3])
    assert (env.num_clips, env.class_names) == (5, ("run", "jump", "wave"))


@pytest.mark.parametrize("size", [1, 2, 32])
@pytest.mark.parametrize("observation", ["glimpsed", "cube", "slices"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_have_any_sign_and_cubes_any_size(size, observation, dtype):
    # From -5 to 5; the bounds are those, and of "slices" at least 1 because of the places.
    features = np.random.default_rng(0).integers(-5, 6, (2, 3, size, size, 7)).astype(dtype)
    features[0, 0, 0, 0, :2] = -5, 5
    source = ArraySource(features=features, labels=np.array([0, 1]), class_names=("run", "jump"))
    envs = [
        VideoGlimpseEnv(source=source, glimpses=1, observation=observation),
        VideoGlimpseVectorEnv(num_envs=1, source=source, glimpses=1, observation=observation),
    ]
    cell, place = size**2 - 1, (size - 1, size - 1)
    space = envs[0].observation_space
    assert (space.low.min(), space.high.max()) == (-5, 5)
    assert envs[0].action_space.nvec.tolist() == [size**2, 2]
    for env, clips in zip(envs, (1, np.array([1])), strict=True):
        first = env.reset(options={"clip": clips})[0].reshape(space.shape)
        second = env.step(np.array([cell, 0]).reshape(env.action_space.shape))[0].reshape(space.shape)
        if observation == "slices":
            expected = features[1, 0].astype(np.float64).mean((0, 1)), features[1, 1][place]
            np.testing.assert_allclose(first[0, :7], expected[0], rtol=1e-6)
            np.testing.assert_array_equal(second[0, :7], expected[1])
        else:
            seen = np.zeros((size, size, 1), bool)
            seen[place] = True
            np.testing.assert_array_equal(first, features[1, 0])
            np.testing.assert_array_equal(second, features[1, 1] * (seen | (observation == "cube")))
        assert first in space
        assert second in space


def test_the_bounds_of_features_that_are_never_zero_include_it():
    # A cell that is not seen is 0.
    ranges = []
    for value in (-3.0, 3.0):
        source = ArraySource(
            features=np.full((1, 2, 2, 2, 1), value, np.float32), labels=np.array([0]), class_names=("run",)
        )
        space = VideoGlimpseEnv(source=source, glimpses=1).observation_space
        ranges.append((float(space.low.min()), float(space.high.max())))
    assert ranges == [(-3, 0), (0, 3)]


def test_a_source_without_a_minimum_has_none_below_zero(toy):
    public = {name: getattr(toy, name) for name in dir(toy) if not name.startswith("_")}
    del public["min_feature"]  # a ClipSource as they were before features had a sign
    space = VideoGlimpseEnv(source=SimpleNamespace(**public)).observation_space
    assert (space.low.min(), space.high.max()) == (0, 360)


def test_abstain_is_one_more_class(toy):
    assert VideoGlimpseEnv(source=toy, glimpses=1, abstain=True).action_space == gym.spaces.MultiDiscrete([9, 4])


# ---- observations: clip 1's slices are (v, v + 1) with v = 73 + 18 n + 2 k at frame n and cell k, both from 0


def test_the_first_glance_is_whole(toy):
    expected = np.arange(73, 91).reshape(3, 3, 2)  # n = 0: 73 + 0 .. 73 + 17
    for observation in ("glimpsed", "cube"):
        first, _ = VideoGlimpseEnv(source=toy, observation=observation).reset(options={"clip": 1})
        np.testing.assert_array_equal(first, expected)
        assert first.dtype == np.float32


def test_the_first_glance_in_slices_is_the_mean_at_the_centre(toy):
    first, _ = VideoGlimpseEnv(source=toy, observation="slices", glimpses=2).reset(options={"clip": 1})
    # The mean over cells of 73 + 2 k is 73 + 2 * 4 = 81.
    np.testing.assert_array_equal(first, [[81, 82, 0.5, 0.5], [81, 82, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("observation", "second", "third"),
    [
        # Frame n = 1 is 91 + 2 k: cell 4 holds 99, cell 0 holds 91. Frame n = 2 is 109 + 2 k: cell 8 holds 125.
        (
            "glimpsed",
            [[[91, 92], [0, 0], [0, 0]], [[0, 0], [99, 100], [0, 0]], [[0, 0], [0, 0], [0, 0]]],
            [[[0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [125, 126]]],
        ),
        ("cube", np.arange(91, 109).reshape(3, 3, 2), np.arange(109, 127).reshape(3, 3, 2)),
        # Cell 4 is row 1, column 1, so at (1.5 / 3, 1.5 / 3); cell 0 is at 0.5 / 3; cell 8 at 2.5 / 3.
        (
            "slices",
            [[99, 100, 0.5, 0.5], [91, 92, 1 / 6, 1 / 6]],
            [[125, 126, 5 / 6, 5 / 6], [0, 0, 0, 0]],
        ),
    ],
)
def test_a_step_shows_the_next_frame_through_the_chosen_cells(toy, observation, second, third):
    env = VideoGlimpseEnv(source=toy, observation=observation, glimpses=2)
    env.reset(options={"clip": 1})
    np.testing.assert_array_equal(env.step(np.array([4, 0, 0]))[0], np.float32(second))
    np.testing.assert_array_equal(env.step(np.array([8, 8, 0]))[0], np.float32(third))


@pytest.mark.parametrize("glimpses", [2, None])
@pytest.mark.parametrize("observation", MODES)
def test_without_a_first_glance_the_first_frame_is_zeros_and_the_others_as_ever(toy, observation, glimpses):
    arguments = {"source": toy, "observation": observation, "glimpses": glimpses, "render_mode": "rgb_array"}
    whole, none = VideoGlimpseEnv(**arguments), VideoGlimpseEnv(**arguments, first_glance="none")
    assert none.observation_space == whole.observation_space
    before, info = whole.reset(seed=3)
    first, same_info = none.reset(seed=3)
    assert before.any() == (observation != "blind")
    np.testing.assert_array_equal(first, np.zeros_like(before))
    assert first.dtype == before.dtype
    assert (info["clip"], info["frame"]) == (same_info["clip"], same_info["frame"])
    assert none.render()[:336].max() < whole.render()[:336].max()  # nothing is bright
    whole.action_space.seed(1)
    for _ in range(4):
        action = whole.action_space.sample()
        expected, step = whole.step(action), none.step(action)
        np.testing.assert_array_equal(step[0], expected[0])
        assert (step[1], step[4]["frame"]) == (expected[1], expected[4]["frame"])
    assert step[4]["glimpses"] == expected[4]["glimpses"]


def test_without_a_first_glance_nothing_is_read_for_it(toy):
    class Counting(ArraySource):
        reads = 0

        def read_cubes(self, clips, frames, out):
            type(self).reads += len(clips)
            super().read_cubes(clips, frames, out)

    source = Counting(features=toy.features, labels=toy.labels, class_names=toy.class_names)
    for observation in MODES:
        VideoGlimpseEnv(source=source, observation=observation, first_glance="none").reset(seed=1)
    assert Counting.reads == 0
    VideoGlimpseEnv(source=source).reset(seed=1)
    assert Counting.reads == 1


def test_rows_come_before_columns(toy):
    env = VideoGlimpseEnv(source=toy, observation="slices", glimpses=1)
    env.reset(options={"clip": 0})
    # Cell 5 is row 1, column 2; frame n = 1 of clip 0 holds 1 + 18 + 2 * 5 = 29 there.
    np.testing.assert_array_equal(env.step(np.array([5, 0]))[0], np.float32([[29, 30, 0.5, 5 / 6]]))


@pytest.mark.parametrize("observation", MODES)
def test_the_last_cells_are_checked_then_ignored(toy, observation):
    env = VideoGlimpseEnv(source=toy, observation=observation, glimpses=2)
    env.reset(options={"clip": 1})
    for _ in range(3):
        env.step(np.array([1, 2, 0]))
    with pytest.raises(ValueError, match="cell 1 of the action of environment 0 must be 0 to 8, got 9"):
        env.step(np.array([0, 9, 0]))
    last, reward, terminated, truncated, info = env.step(np.array([7, 8, 0]))  # the refused one changed nothing
    np.testing.assert_array_equal(last, np.zeros(env.observation_space.shape, np.float32))
    assert (reward, terminated, truncated) == (2.0, True, False)  # 0.5 * 4 * 1
    assert info["glimpses"] == 6  # two looks at each of frames 2, 3 and 4


@pytest.mark.parametrize("observation", MODES)
def test_float16_observations_hold_the_same_numbers(toy, observation):
    envs = [VideoGlimpseEnv(source=toy, observation=observation, glimpses=2, dtype=dtype) for dtype in DTYPES]
    for full, half in zip(*([env.reset(seed=1)[0], env.step(np.array([3, 7, 0]))[0]] for env in envs), strict=True):
        assert (full.dtype, half.dtype) == (np.float32, np.float16)
        np.testing.assert_array_equal(half, full.astype(np.float16))


@pytest.mark.parametrize("observation", MODES)
def test_a_float16_bank_gives_float32_observations(toy, observation):
    halved = ArraySource(features=toy.features.astype(np.float16), labels=toy.labels, class_names=toy.class_names)
    full, half = (VideoGlimpseEnv(source=source, observation=observation, glimpses=2) for source in (toy, halved))
    np.testing.assert_array_equal(full.reset(seed=1)[0], half.reset(seed=1)[0])
    seen = half.step(np.array([3, 7, 0]))[0]
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(full.step(np.array([3, 7, 0]))[0], seen)


@settings(max_examples=30)
@given(value=st.floats(-1e4, 1e4, width=32))
@example(value=0.9)  # the float32 mean of 49 such values is 0.90000004
@example(value=-0.9)
def test_the_mean_glance_never_leaves_its_space(value):
    source = ArraySource(
        features=np.full((1, 1, 7, 7, 1), value, np.float32), labels=np.array([0]), class_names=("run",)
    )
    env = VideoGlimpseEnv(source=source, observation="slices")
    first, _ = env.reset()
    assert first in env.observation_space
    assert (first[:, 0] == np.float32(value)).all()


# ---- reward and info


@pytest.mark.parametrize(
    ("predictions", "rules", "counts", "reward"),
    [
        # Clip 1 is class 0; r = eta * N+ * R+ + (1 - eta) * N- * R-.
        ([0, 0, 0, 0], {}, (4, 0), 2.0),  # 0.5 * 4 * 1
        ([1, 2, 1, 2], {}, (0, 4), -2.0),  # 0.5 * 4 * -1
        ([0, 0, 1, 2], {}, (2, 2), 0.0),  # 0.5 * 2 - 0.5 * 2
        ([0, 0, 1, 2], {"eta": 0.25, "positive_reward": 2.0, "negative_reward": -3.0}, (2, 2), -3.5),  # 1 - 4.5
        ([0, 1, 0, 0], {"eta": 1, "positive_reward": 0.5}, (3, 1), 1.5),  # 3 * 0.5
        ([0, 1, 0, 0], {"eta": 0, "negative_reward": -0.25}, (3, 1), -0.25),  # 1 * -0.25
        ([0, 3, 1, 3], {"abstain": True, "eta": 0.75}, (1, 1), 0.5),  # 0.75 - 0.25
        ([3, 3, 3, 3], {"abstain": True}, (0, 0), 0.0),
    ],
)
def test_the_reward_is_equation_7(toy, predictions, rules, counts, reward):
    env = VideoGlimpseEnv(source=toy, glimpses=1, **rules)
    env.reset(options={"clip": 1})
    rewards = [env.step(np.array([0, prediction]))[1] for prediction in predictions[:-1]]
    _, last, _, _, info = env.step(np.array([0, predictions[-1]]))
    assert [*rewards, last] == [0.0, 0.0, 0.0, reward]
    assert (info["true_positives"], info["false_positives"]) == counts


@pytest.mark.parametrize(
    ("clip", "predictions", "is_correct"),
    [
        (1, [0, 0, 1, 1], True),  # class 0, a tie of 0 and 1 goes to 0
        (2, [0, 0, 1, 1], False),  # class 1, the same tie
        (2, [1, 1, 0, 2], True),
        (2, [3, 3, 3, 1], True),  # one vote, three abstentions
        (1, [3, 3, 3, 3], False),  # nobody voted, though class 0 would win a tie of nothing
        (4, [0, 0, 0, 0], False),  # its class is unknown
    ],
)
def test_the_majority_decides(toy, clip, predictions, is_correct):
    env = VideoGlimpseEnv(source=toy, glimpses=1, abstain=True)
    env.reset(options={"clip": clip})
    assert play(env, predictions)[4]["is_correct"] == is_correct


def test_a_repeated_cell_is_one_look(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=3)
    env.reset(options={"clip": 0})
    cells = [[4, 0, 4], [8, 8, 8], [1, 2, 3], [5, 6, 7]]
    assert play(env, [0, 0, 0, 0], cells)[4]["glimpses"] == 2 + 1 + 3  # the last row looks at no frame
    env.reset(options={"clip": 0})
    assert play(env, [0, 0, 0, 0], [[4, 4, 4]] * 4)[4]["glimpses"] == 3  # counted from zero again


@pytest.mark.parametrize("abstain", [False, True])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_prediction_counts_once(toy, abstain, data):
    env = VideoGlimpseEnv(source=toy, glimpses=2, abstain=abstain, eta=0.3, positive_reward=5, negative_reward=-7)
    env.reset(options={"clip": data.draw(st.integers(0, 4))})
    predictions = data.draw(st.lists(st.integers(0, 2 + abstain), min_size=4, max_size=4))
    cells = data.draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=4, max_size=4))
    _, reward, _, _, info = play(env, predictions, cells)
    assert info["true_positives"] == predictions.count(info["label"])
    assert info["true_positives"] + info["false_positives"] == 4 - predictions.count(3)
    assert reward == pytest.approx(1.5 * info["true_positives"] - 4.9 * info["false_positives"])
    assert info["glimpses"] == sum(len(set(looks)) for looks in cells[:3])


def test_info_has_the_same_keys_and_types_at_every_step(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=1)
    _, info = env.reset(options={"clip": 3})
    assert (info["clip"], info["clip_id"], info["frame"], info["label"]) == (3, "d", 1, 1)
    assert info["frame_labels"].tolist() == [False, False, False]  # nothing is predicted yet
    infos = [info]
    for frame in (2, 3, 4, 4):
        observation, reward, terminated, truncated, info = env.step(np.array([0, 1]))
        infos.append(info)
        assert info["frame"] == frame
        assert info["frame_labels"].tolist() == [False, True, False]
    assert type(observation) is np.ndarray
    assert (type(reward), terminated, truncated) == (float, True, False)
    assert [[int(info[key]) for key in sorted(COUNTS)] for info in infos] == [[0] * 5] * 4 + [[0, 4, 3, 1, 4]]
    for info in infos:
        assert info.keys() == INFO
        types = {key: type(value) for key, value in info.items()}
        assert (types.pop("clip_id"), types.pop("frame_labels"), types.pop("is_correct")) == (
            str,
            np.ndarray,
            np.ndarray,
        )
        assert set(types.values()) == {np.int64}
        assert (info["frame_labels"].dtype, info["frame_labels"].shape) == (np.bool_, (3,))
        assert (info["is_correct"].dtype, info["is_correct"].shape) == (np.bool_, ())


def test_infos_without_strings_are_numbers_alone(toy):
    single = VideoGlimpseEnv(source=toy, info_strings=False)
    vector = VideoGlimpseVectorEnv(2, source=toy, info_strings=False)
    assert single.reset(seed=1)[1].keys() == INFO - {"clip_id"}
    infos = vector.reset(seed=1)[1]
    assert infos.keys() == {name for key in INFO - {"clip_id"} for name in (key, f"_{key}")}
    assert all(values.dtype != object for values in infos.values())


def test_an_unknown_class_is_never_right(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=1)
    _, info = env.reset(options={"clip": 4})
    assert info["label"] == -1
    *_, info = play(env, [0, 1, 2, 0])
    assert (info["true_positives"], info["false_positives"], info["frame_labels"].any()) == (0, 4, False)


def test_one_frame_makes_an_episode(toy):
    env = VideoGlimpseEnv(source=toy, frames=1, glimpses=1)
    first, info = env.reset(options={"clip": 1})
    assert (first.min(), info["frame"]) == (91, 1)  # of four frames the window of one is n = 1
    last, reward, terminated, _, info = env.step(np.array([5, 0]))
    assert (last.max(), reward, terminated, info["frame"], info["glimpses"]) == (0, 0.5, True, 1, 0)


def test_an_untrimmed_clip_has_several_classes_and_background(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1)
    assert env.action_space.nvec[-1] == 4  # abstains by default
    _, info = env.reset(options={"clip": 0})
    assert info["label"].tolist() == [True, False, True]
    truth = [env.step(np.array([0, prediction]))[4]["frame_labels"].tolist() for prediction in (0, 0, 0)]
    assert truth == [[True, False, False], [True, False, True], [False, False, True]]  # both ends are included
    *_, info = env.step(np.array([0, 3]))
    assert info["frame_labels"].tolist() == [False, False, False]
    assert (info["true_positives"], info["false_positives"], info["is_correct"]) == (2, 1, True)


# ---- jumps: the last but one number of an action is an index into them


def test_a_jump_observes_a_later_frame_and_the_prediction_stands_until_there(toy):
    env = VideoGlimpseEnv(
        source=toy, glimpses=2, jumps=(1, 2), abstain=True, eta=0.25, look_cost=0.125, frame_cost=0.5,
        observation="slices",
    )  # fmt: skip
    assert env.action_space == gym.spaces.MultiDiscrete([9, 9, 2, 4])
    env.reset(options={"clip": 1})  # class 0
    seen, reward, terminated, _, info = env.step(np.array([4, 0, 1, 0]))
    # Frame n = 2 (from 0) is 109 + 2 k: cell 4 holds 117 at (1.5 / 3, 1.5 / 3), cell 0 holds 109.
    np.testing.assert_array_equal(seen, np.float32([[117, 118, 0.5, 0.5], [109, 110, 1 / 6, 1 / 6]]))
    assert (reward, terminated, info["frame"], info["frames_observed"]) == (0.0, False, 3, 0)
    assert env.engine.predictions.tolist() == [[0, 0, -1, -1]]
    seen, _, terminated, _, info = env.step(np.array([8, 8, 0, 3]))
    assert (seen.max(), terminated, info["frame"]) == (143.0 + 1.0, False, 4)  # 127 + 2 * 8 and one more
    last, reward, terminated, truncated, info = env.step(np.array([1, 2, 1, 2]))  # past the end
    assert not last.any()
    assert (terminated, truncated, info["frame"], info["frames_observed"]) == (True, False, 4, 3)
    assert env.engine.predictions.tolist() == [[0, 0, 3, 2]]
    assert (info["true_positives"], info["false_positives"], info["glimpses"]) == (2, 1, 3)
    # 0.25 * 2 - 0.75 * 1 - 3 looks * 0.125 - 2 frames * 0.5
    assert reward == 0.5 - 0.75 - 0.375 - 1.0


@pytest.mark.parametrize("jump", [4, 8, 2**70])
def test_a_jump_past_the_end_stops_with_the_prediction_standing(toy, jump):
    env = VideoGlimpseEnv(source=toy, glimpses=1, jumps=(1, jump), render_mode="rgb_array")
    env.reset(options={"clip": 1})
    picture = env.render()
    last, reward, terminated, _, info = env.step(np.array([3, 1, 0]))
    assert (reward, terminated, info["frame"], info["glimpses"]) == (2.0, True, 4, 0)
    assert (info["true_positives"], info["frames_observed"], info["is_correct"]) == (4, 1, True)
    assert not last.any()
    assert env.engine.source_frame(0) == 0
    assert env.render().shape == picture.shape
    with pytest.raises(ResetNeeded, match="no episode is under way"):
        env.step(np.array([3, 1, 0]))
    assert env.reset()[1]["frames_observed"] == 0


def test_a_jump_that_lands_on_the_last_frame_observes_it(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=1, jumps=(3,), observation="cube")
    env.reset(options={"clip": 0})
    seen, _, terminated, _, info = env.step(np.array([0, 0, 2]))
    assert (seen.min(), terminated, info["frame"]) == (1 + 18 * 3, False, 4)
    *_, terminated, _, info = env.step(np.array([0, 0, 1]))
    assert (terminated, info["true_positives"], info["false_positives"], info["frames_observed"]) == (True, 3, 1, 2)


def test_the_labels_in_info_are_those_of_the_frame_just_predicted(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1, jumps=(1, 2))
    env.reset(options={"clip": 0})
    truth = [env.step(np.array([0, jump, 0]))[4]["frame_labels"].tolist() for jump in (1, 1)]
    assert truth == [[True, False, False], [False, False, True]]  # frames 1 and 3


def test_runs_of_standing_predictions_are_segments(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1, jumps=(1, 2), matching="segment", overlap_threshold=0.25)
    env.reset(options={"clip": 0})
    for jump, said in ((1, 0), (0, 2), (0, 3)):
        *_, info = env.step(np.array([0, jump, said]))
    # Run in [0, 0.25] against [-0.125, 0.375]: 0.5. Wave in [0.25, 0.5] against [0.375, 0.625]: 1/3.
    assert (info["true_positives"], info["false_positives"], info["frames_observed"]) == (2, 0, 3)


def test_a_jump_out_of_range(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=2, jumps=(1, 2))
    env.reset(seed=1)
    with pytest.raises(ValueError, match="jump of the action of environment 0 must be 0 to 1, got 2"):
        env.step(np.array([0, 0, 2, 0]))
    with pytest.raises(ValueError, match="class of the action of environment 0 must be 0 to 2, got 3"):
        env.step(np.array([0, 0, 0, 3]))
    with pytest.raises(
        ValueError, match=r"actions must have shape \(1, 4\) \(where to look, the jump, then the class\)"
    ):
        env.engine.check_actions(np.zeros((1, 3), int), np.ones(1, np.bool_))


@pytest.mark.parametrize("observation", MODES)
def test_only_observed_frames_are_read(toy, observation):
    class Recording(ArraySource):
        frames: ClassVar[set[int]] = set()

        def read_cubes(self, clips, frames, out):
            self.frames.update(frames.tolist())
            super().read_cubes(clips, frames, out)

        def read_slices(self, clips, frames, cells, out):
            self.frames.update(frames.tolist())
            super().read_slices(clips, frames, cells, out)

    source = Recording(features=toy.features, labels=toy.labels, class_names=toy.class_names)
    env = VideoGlimpseEnv(source=source, glimpses=1, jumps=(2,), observation=observation)
    env.reset(seed=1)
    for _ in range(2):
        *_, terminated, _, _ = env.step(np.array([0, 0, 0]))
    assert terminated
    assert source.frames == (set() if observation == "blind" else {0, 2})


# ---- which frames are played


def frames_played(env, **reset):
    """Return the frames (from 0) of the clip that an episode shows: cell 0 of frame n of clip i is 1 + 162 i + 18 n."""
    observation, info = env.reset(**reset)
    shown = [observation[0, 0, 0]]
    for _ in range(env.engine.rules.frames - 1):
        shown.append(env.step(env.action_space.sample() * 0)[0][0, 0, 0])
    return [int(value - 1 - 162 * info["clip"]) // 18 for value in shown]


@pytest.mark.parametrize(
    ("clip", "frames", "played"),
    [
        (0, 4, [2, 3, 4, 5]),  # nine frames leave five: two before, three after
        (0, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0, None, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (1, 4, [0, 1, 1, 1]),  # two frames: the last one is repeated
        (2, 4, [0, 1, 2, 3]),
        (2, 3, [0, 1, 2]),
    ],
)
def test_long_clips_are_centred_and_short_ones_repeat_their_last_frame(uneven, clip, frames, played):
    env = VideoGlimpseEnv(source=uneven, frames=frames, observation="cube")
    assert frames_played(env, options={"clip": clip}) == played


def test_a_repeated_frame_keeps_its_time(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1)
    env.reset(options={"clip": 1})  # frames at 0 and 0.25 s, then the second one again; class 1 is true at 0.25 s only
    truth = [env.step(np.array([0, 1]))[4]["frame_labels"][1] for _ in range(4)]
    assert truth == [False, True, True, True]


def test_jitter_draws_the_window_after_the_clip(uneven):
    env = VideoGlimpseEnv(source=uneven, frames=4, observation="cube", jitter=True)
    generator, _ = seeding.np_random(5)
    offsets = set()
    for episode in range(80):
        played = frames_played(env, seed=5 if episode == 0 else None)
        clip = int(generator.integers(3))
        offset = int(generator.integers(6)) if clip == 0 else 0  # nine frames have six windows of four
        assert env.engine.clip[0] == clip
        assert played == ([0, 1, 1, 1] if clip == 1 else list(range(offset, offset + 4)))
        offsets |= {offset} if clip == 0 else set()
    assert offsets == {0, 1, 2, 3, 4, 5}


# ---- chance


def test_reset_draws_a_clip_with_one_integers_call(toy):
    env, (generator, _) = VideoGlimpseEnv(source=toy), seeding.np_random(11)
    drawn = [env.reset(seed=11)[1]["clip"]] + [env.reset()[1]["clip"] for _ in range(40)]
    assert drawn == [generator.integers(5) for _ in range(41)]
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert env.np_random.bit_generator.state == generator.bit_generator.state


def test_a_chosen_clip_draws_nothing_and_steps_draw_nothing(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=1)
    env.reset(seed=4)
    before = env.np_random.bit_generator.state
    options = {"clip": np.int64(2)}
    assert env.reset(options=options)[1]["clip"] == 2
    assert options == {"clip": 2}
    play(env, [0, 0, 0, 0])
    assert env.np_random.bit_generator.state == before


@pytest.mark.parametrize("clip", [-1, 5, 1.5])
def test_a_refused_reset_seeds_nothing(toy, clip):
    env = VideoGlimpseEnv(source=toy)
    env.reset(seed=4)
    before = env.np_random.bit_generator.state
    with pytest.raises((IndexError, TypeError)):
        env.reset(seed=77, options={"clip": clip})
    assert env.np_random.bit_generator.state == before
    assert env.reset(options={"clip": None})[1]["clip"] in range(5)  # None draws


@pytest.mark.parametrize("observation", MODES)
def test_the_same_seed_plays_the_same_episodes(observation):
    traces = []
    for _ in range(2):
        env = VideoGlimpseEnv(observation=observation, frames=3)
        env.action_space.seed(9)
        trace = [env.reset(seed=9)[0]]
        for _ in range(4):
            for _ in range(3):
                observed, reward, *_ = env.step(env.action_space.sample())
                trace += [observed, np.array(reward)]
            trace.append(env.reset()[0])
        traces.append(trace)
    assert all((first == second).all() for first, second in zip(*traces, strict=True))


# ---- freshness


@pytest.mark.parametrize("observation", MODES)
def test_nothing_that_is_returned_is_used_again(toy, observation):
    """Writing into returned arrays, or into an action that was passed, changes nothing later."""
    bank = toy.features.copy()
    clean, scribbled = (VideoGlimpseEnv(source=toy, observation=observation, glimpses=2) for _ in range(2))

    def scribble(returned, info):
        assert not np.shares_memory(returned, toy.features)
        returned.fill(-1)
        info["frame_labels"].fill(True)
        info.clear()

    for episode in range(3):
        first, info = clean.reset(seed=episode)
        other, other_info = scribbled.reset(seed=episode)
        np.testing.assert_array_equal(first, other)
        np.testing.assert_equal(info, other_info)
        scribble(other, other_info)
        for step in range(4):
            action = np.array([step, 8, 2])
            expected = clean.step(action)
            result = scribbled.step(action)
            np.testing.assert_array_equal(expected[0], result[0])
            np.testing.assert_equal(expected[1:], result[1:])
            scribble(result[0], result[4])
            action.fill(0)
    np.testing.assert_array_equal(toy.features, bank)


def test_the_labels_of_an_untrimmed_clip_are_fresh_too(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1)
    env.reset(options={"clip": 0})[1]["label"].fill(True)
    assert env.step(np.array([0, 0]))[4]["label"].tolist() == [True, False, True]


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "nowhere"}, FileNotFoundError, r"no source 'nowhere'.*python -m glimpse_env.extract"),
        (
            {"source": 3},
            TypeError,
            r"source must be 'synthetic', 'synthetic-easy', .* path of a feature store, 'lazy:' or .* got 3",
        ),
        ({"split": "valid"}, ValueError, "unknown split 'valid': the synthetic source has train, validation, test"),
        ({"fold": 2}, ValueError, "unknown fold 2: the synthetic source has fold 1"),
        (
            {"observation": "all"},
            ValueError,
            r"observation must be one of \('glimpsed', 'cube', 'slices', 'blind'\), got 'all'",
        ),
        ({"first_glance": "half"}, ValueError, r"first_glance must be one of \('whole', 'none'\), got 'half'"),
        ({"dtype": "float64"}, ValueError, r"dtype must be one of \('float32', 'float16'\), got 'float64'"),
        ({"matching": "iou"}, ValueError, r"matching must be one of \('frame', 'segment'\), got 'iou'"),
        ({"overlap_threshold": 1.0}, ValueError, r"overlap_threshold must lie in \[0, 1\), got 1.0"),
        ({"look_cost": "1"}, TypeError, "look_cost must be a number, got '1'"),
        ({"eta": None}, TypeError, "eta must be a number, got None"),
        ({"abstain": 2}, TypeError, "abstain must be True or False, got 2"),
        ({"jitter": "no"}, TypeError, "jitter must be True or False, got 'no'"),
        ({"look_cost": -0.1}, ValueError, "look_cost must be finite and not negative, got -0.1"),
        ({"frame_cost": -0.1}, ValueError, "frame_cost must be finite and not negative, got -0.1"),
        *(
            (
                {"jumps": jumps},
                ValueError,
                rf"jumps must be ascending positive integers .*, got {re.escape(repr(jumps))}$",
            )
            for jumps in ((), (0, 1), (1, 1), (2, 1), (-1, 2), (1.0, 2), (True, 2), "12", 4, ("1",))
        ),
        ({"eta": 1.01}, ValueError, r"eta must lie in \[0, 1\], got 1.01"),
        ({"eta": -0.01}, ValueError, r"eta must lie in \[0, 1\], got -0.01"),
        ({"eta": float("nan")}, ValueError, r"eta must lie in \[0, 1\], got nan"),
        ({"positive_reward": 0}, ValueError, r"positive_reward \(R\+\) must be positive and finite, got 0"),
        ({"negative_reward": 0.5}, ValueError, r"negative_reward \(R-\) must be negative and finite, got 0.5"),
        ({"negative_reward": 0}, ValueError, r"negative_reward \(R-\) must be negative and finite, got 0"),
        (
            {"glimpses": 0},
            ValueError,
            "glimpses must be 1 to 49, the cells of a 7 x 7 cube, or None for any .* got 0",
        ),
        (
            {"glimpses": 50},
            ValueError,
            "glimpses must be 1 to 49, the cells of a 7 x 7 cube, or None for any .* got 50",
        ),
        ({"glimpses": 2.0}, TypeError, r"glimpses must be an integer, got 2.0 of type float"),
        ({"frames": 0}, ValueError, r"frames must be at least 1 and at most 1000000, got 0"),
        ({"frames": True}, TypeError, r"frames must be an integer, got True of type bool"),
        (
            {"glimpse": 5},
            TypeError,
            "unexpected keyword argument 'glimpse': did you mean 'glimpses'[?] The environment takes source, split,",
        ),
    ],
)
@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_arguments_out_of_range(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make("VideoGlimpse-v0", **arguments)


def test_a_grid_that_is_too_large():
    source = ArraySource(features=np.ones((1, 2, 33, 33, 1), np.float32), labels=np.array([0]), class_names=("run",))
    with pytest.raises(ValueError, match="a cube has 1 to 32 cells along each side, got 33"):
        VideoGlimpseEnv(source=source)


def test_an_empty_source(toy):
    empty = ArraySource(features=toy.features[:0], labels=toy.labels[:0], class_names=toy.class_names, clip_ids=())
    with pytest.raises(ValueError, match="the source has no clips in this split"):
        VideoGlimpseEnv(source=empty)


@pytest.mark.parametrize("cls", [VideoGlimpseEnv, VideoGlimpseVectorEnv])
def test_an_unknown_render_mode(cls):
    with pytest.raises(ValueError, match=r"render_mode must be None or one of \['rgb_array'\], got 'human'"):
        cls(render_mode="human")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clip": 5}, IndexError, "clip 5 does not exist: this split has clips 0 to 4"),
        ({"clip": -1}, IndexError, "clip -1 does not exist: this split has clips 0 to 4"),
        ({"clip": 1.0}, TypeError, r"options\['clip'\] must be an integer, got 1.0 of type float"),
        ({"clip": True}, TypeError, r"options\['clip'\] must be an integer, got True of type bool"),
        ({"clips": 1}, ValueError, r"unknown reset options \['clips'\]: reset takes \['clip'\]"),
        ("clip", TypeError, "options must be a dict or None, got 'clip'"),
        ([], TypeError, r"options must be a dict or None, got \[\]"),
    ],
)
def test_reset_options_out_of_range(toy, options, error, message):
    env = VideoGlimpseEnv(source=toy)
    with pytest.raises(error, match=message):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ([0, 0], ValueError, r"an action must have shape \(3,\), got \(2,\)"),
        ([[0, 0, 0]], ValueError, r"an action must have shape \(3,\), got \(1, 3\)"),
        (0, ValueError, r"an action must have shape \(3,\), got \(\)"),
        ([0.0, 0.0, 0.0], TypeError, "actions must be integers, got float64"),
        ([True, True, True], TypeError, "actions must be integers, got bool"),
        ([9, 0, 0], ValueError, "cell 0 of the action of environment 0 must be 0 to 8, got 9"),
        ([0, -1, 0], ValueError, "cell 1 of the action of environment 0 must be 0 to 8, got -1"),
        ([0, 0, 3], ValueError, "class of the action of environment 0 must be 0 to 2, got 3"),
        ([0, 0, -1], ValueError, "class of the action of environment 0 must be 0 to 2, got -1"),
        (np.ma.masked_array([0, 0, 0]), ValueError, "actions must be a plain array, got a masked one: fill it first"),
    ],
)
def test_actions_out_of_range(toy, action, error, message):
    env = VideoGlimpseEnv(source=toy, glimpses=2)
    env.reset()
    with pytest.raises(error, match=message):
        env.step(np.asanyarray(action))
    assert env.engine.frame[0] == 1


def test_a_step_without_an_episode(toy):
    env = VideoGlimpseEnv(source=toy, glimpses=1)
    with pytest.raises(ResetNeeded, match="no episode is under way"):
        env.step(np.array([0, 0]))
    env.reset()
    play(env, [0, 0, 0, 0])
    with pytest.raises(ResetNeeded, match="no episode is under way"):
        env.step(np.array([0, 0]))
    env.reset()
    env.step(np.array([0, 0]))


# ---- with other libraries


def test_pictures_are_shown_at_the_rate_of_the_source(toy):
    assert VideoGlimpseEnv(source=toy).metadata["render_fps"] == 10
    assert type(VideoGlimpseEnv(source=toy).metadata["render_fps"]) is int  # gymnasium.utils.play wants one
    assert VideoGlimpseVectorEnv(2, source="synthetic").metadata["render_fps"] == 8
    slow = ArraySource(features=toy.features, labels=toy.labels, class_names=toy.class_names, frames_per_second=7.5)
    assert VideoGlimpseEnv(source=slow).metadata["render_fps"] == 7.5


@pytest.mark.parametrize(
    ("make", "argument", "answer"),
    [
        (
            gym.make,
            {"glimpse": 5},
            "'glimpse': did you mean 'glimpses'[?] The environment takes source, .*, render_mode",
        ),
        (gym.make, {"lookcost": 5}, "'lookcost': did you mean 'look_cost'[?]"),
        (gym.make, {"xyz": 5}, "'xyz'. The environment takes source, split, fold"),
        (gym.make_vec, {"autoreset": 5}, "'autoreset': did you mean 'autoreset_mode'[?]"),
        (gym.make, {"copy": True}, "'copy'. The"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_closest(make, argument, answer):
    with pytest.raises(TypeError, match=f"got an unexpected keyword argument {answer}"):
        make("VideoGlimpse-v0", **argument)


def test_all_choices_are_allowed_unless_a_subclass_forbids_some(toy):
    assert VideoGlimpseEnv(source=toy, glimpses=2).action_masks().tolist() == [True] * (9 + 9 + 3)
    assert VideoGlimpseVectorEnv(2, source=toy, glimpses=None).action_masks().tolist() == [[True] * (18 + 3)] * 2


def test_windows_too_long_to_hold_are_refused(toy):
    with pytest.raises(ValueError, match="frames must be at least 1 and at most 1000000, got 10000000000"):
        VideoGlimpseEnv(source=toy, window_seconds=1e9)
