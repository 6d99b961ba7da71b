"""The vector environment: it plays the episodes of single environments, and keeps Gymnasium's vector contract."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from clip_toys import assert_same
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse_env import VideoGlimpseEnv, VideoGlimpseVectorEnv

MODES = ("glimpsed", "cube", "slices", "blind")
AUTORESETS = tuple(AutoresetMode)


def started_anew(envs, mask):
    """Reset the environments of the mask, with a dictionary that no one else holds, as SyncVectorEnv empties it."""
    return envs.reset(options={"reset_mask": mask.copy()})


# ---- the same episodes as single environments


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.parametrize("abstain", [False, True])
@pytest.mark.parametrize("matching", ["frame", "segment"])
@pytest.mark.parametrize("glimpses", [3, None])
def test_it_plays_the_episodes_of_a_sync_vector_env(uneven, glimpses, matching, abstain, observation, autoreset):
    """Two hundred staggered episodes, with partial resets in their midst and those that DISABLED needs."""
    arguments = {
        "source": uneven, "observation": observation, "glimpses": glimpses, "matching": matching, "abstain": abstain,
        "frames": 4, "look_cost": 0.1, "eta": 0.3, "jitter": abstain, "dtype": "float16" if abstain else "float32",
    }  # fmt: skip
    assert_plays_the_same(arguments, autoreset)


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.parametrize("matching", ["frame", "segment"])
@pytest.mark.parametrize("kind", ["uneven", "untrimmed"])
def test_plays_windows_as_a_sync_vector_env_of_singles_does(request, kind, matching, observation, autoreset):
    """Four windows of half a second of untrimmed clips, or seven of 0.3 seconds of uneven ones, one short."""
    seconds = {"untrimmed": (0.5, 0.25), "uneven": (0.3, 0.2)}[kind]
    arguments = {
        "source": request.getfixturevalue(kind), "observation": observation, "matching": matching, "glimpses": 2,
        "window_seconds": seconds[0], "stride_seconds": seconds[1], "abstain": True, "jitter": True,
    }  # fmt: skip
    assert_plays_the_same(arguments, autoreset)


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
def test_plays_without_a_first_glance_as_a_sync_vector_env_of_singles_does(uneven, observation, autoreset):
    arguments = {"source": uneven, "observation": observation, "glimpses": 2, "frames": 3, "first_glance": "none"}
    assert_plays_the_same(arguments, autoreset)


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.parametrize("matching", ["frame", "segment"])
@pytest.mark.parametrize("glimpses", [3, None])
def test_jumps_as_a_sync_vector_env_of_singles_does(uneven, glimpses, matching, observation, autoreset):
    arguments = {
        "source": uneven, "observation": observation, "glimpses": glimpses, "matching": matching, "jumps": (1, 2, 5),
        "frames": 7, "frame_cost": 0.3, "look_cost": 0.1, "jitter": True, "abstain": True,
    }  # fmt: skip
    assert_plays_the_same(arguments, autoreset)


def assert_plays_the_same(arguments, autoreset):
    """Hold eight environments to singles in a SyncVectorEnv for two hundred episodes, with partial resets."""
    ours = VideoGlimpseVectorEnv(8, autoreset_mode=autoreset, **arguments)
    theirs = SyncVectorEnv([lambda: VideoGlimpseEnv(**arguments)] * 8, autoreset_mode=autoreset)
    ours.action_space.seed(2)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    ended, step = 0, 0
    while ended < 200:
        actions = ours.action_space.sample()
        result = ours.step(actions)
        assert_same(result, theirs.step(actions))
        ended, step = ended + result[2].sum(), step + 1
        mask = np.arange(8) % 4 == step // 9 % 4 if step % 9 == 2 else np.zeros(8, np.bool_)
        if autoreset == AutoresetMode.DISABLED:
            mask |= result[2]
        if mask.any():
            assert_same(started_anew(ours, mask), started_anew(theirs, mask))


@pytest.mark.parametrize("observation", MODES)
def test_it_plays_the_episodes_of_single_environments(observation):
    """Two episodes of three frames, then the start of a third; with NEXT_STEP every fourth step is a reset."""
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=3, observation=observation, frames=3)
    singles = [gym.make("VideoGlimpse-v0", observation=observation, frames=3).unwrapped for _ in range(3)]
    envs.action_space.seed(1)
    first, _ = envs.reset(seed=5)
    for i, single in enumerate(singles):
        np.testing.assert_array_equal(first[i], single.reset(seed=5 + i)[0])
    for step in range(1, 9):
        actions = envs.action_space.sample()
        *batch, infos = envs.step(actions)
        for i, single in enumerate(singles):
            if step % 4 == 0:
                seen, info = single.reset()
                expected = (seen, 0.0, False, False)
            else:
                *expected, info = single.step(actions[i])
            for values, value in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(values[i], value)
            assert infos.keys() == {key for name in info for key in (name, f"_{name}")}
            for key, value in info.items():
                assert infos[f"_{key}"][i]
                np.testing.assert_array_equal(infos[key][i], value)


def test_make_vec_plays_the_same_natively_and_in_sync():
    ours, theirs = (
        gym.make_vec("VideoGlimpse-v0", num_envs=3, vectorization_mode=mode, split="test", observation="slices")
        for mode in ("vector_entry_point", "sync")
    )
    assert isinstance(ours.unwrapped, VideoGlimpseVectorEnv)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, name) == getattr(theirs, name)
    ours.action_space.seed(1)
    for _ in range(20):
        actions = ours.action_space.sample()
        assert_same(ours.step(actions), theirs.step(actions))


def test_untrimmed_clips_play_the_same(untrimmed):
    ours = VideoGlimpseVectorEnv(3, source=untrimmed, glimpses=1)
    theirs = SyncVectorEnv([lambda: VideoGlimpseEnv(source=untrimmed, glimpses=1)] * 3)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1))
    ours.action_space.seed(1)
    for _ in range(12):
        actions = ours.action_space.sample()
        assert_same(ours.step(actions), theirs.step(actions))


@pytest.mark.parametrize("seed", [3, [8, None, 8], (1, 2, 3), None])
def test_seeds_are_given_as_in_sync_vector_env(toy, seed):
    ours = VideoGlimpseVectorEnv(3, source=toy)
    theirs = SyncVectorEnv([lambda: VideoGlimpseEnv(source=toy)] * 3)
    ours.reset(seed=20), theirs.reset(seed=20)
    assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
    assert ours.np_random_seed == theirs.np_random_seed
    for own, other in zip(ours.np_random, theirs.np_random, strict=True):
        assert own.bit_generator.state == other.bit_generator.state


def test_a_partial_reset_seeds_only_those_it_resets(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy)
    envs.reset(seed=20)
    untouched = envs.np_random[1].bit_generator.state
    envs.reset(seed=50, options={"reset_mask": np.array([True, False, True])})
    assert envs.np_random_seed == (50, 21, 52)
    assert envs.np_random[1].bit_generator.state == untouched


def test_generators_are_there_before_the_first_reset(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy)
    assert len(set(envs.np_random_seed)) == 3
    states = [generator.bit_generator.state for generator in envs.np_random]
    assert [generator.bit_generator.state for generator in envs.np_random] == states


# ---- Gymnasium's vector contract


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_results_lie_in_the_spaces(toy, observation, dtype, autoreset):
    envs = VideoGlimpseVectorEnv(3, source=toy, observation=observation, dtype=dtype, autoreset_mode=autoreset)
    observations, _ = envs.reset(seed=1)
    assert observations in envs.observation_space
    assert envs.observation_space.shape == (3, *envs.single_observation_space.shape)
    for _ in range(4):
        observations, rewards, terminations, truncations, _ = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space
        assert (rewards.dtype, terminations.dtype, truncations.dtype) == (np.float64, np.bool_, np.bool_)
        assert not truncations.any()
    assert terminations.all()


def test_attributes(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy)
    assert (envs.num_envs, envs.num_clips, envs.class_names) == (2, 5, ("run", "jump", "wave"))


@pytest.mark.parametrize("value", [*AUTORESETS, "NextStep", "SameStep", "Disabled"])
def test_the_autoreset_mode_is_told_in_both_places(toy, value):
    envs = VideoGlimpseVectorEnv(2, source=toy, autoreset_mode=value)
    other = VideoGlimpseVectorEnv(2, source=toy)
    assert envs.autoreset_mode is envs.metadata["autoreset_mode"] is AutoresetMode(value)
    assert other.autoreset_mode is other.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_same_step_shows_the_end_in_final_obs_and_the_start_in_the_observation(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy, frames=4, glimpses=1, autoreset_mode="SameStep")
    envs.reset(seed=1, options={"clip": np.array([1, 2])})
    envs.step(np.array([[0, 0], [0, 0]]))
    envs.reset(options={"reset_mask": np.array([False, True]), "clip": 2})
    for _ in range(2):
        envs.step(np.array([[0, 0], [0, 0]]))
    observations, rewards, terminations, _, infos = envs.step(np.array([[0, 0], [0, 0]]))
    assert terminations.tolist() == [True, False]
    assert rewards.tolist() == [2.0, 0.0]  # 0.5 * 4 * 1
    assert infos["frame"].tolist() == [1, 4]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    np.testing.assert_array_equal(infos["final_obs"][0], np.zeros((3, 3, 2), np.float32))
    assert infos["final_obs"][1] is None
    assert infos["final_info"]["clip"].tolist() == [1, 0]
    assert infos["final_info"]["true_positives"].tolist() == [4, 0]
    first = 1 + 72 * infos["clip"][0]  # the new clip's first frame, whole
    np.testing.assert_array_equal(observations[0], np.arange(first, first + 18).reshape(3, 3, 2))


def test_actions_of_those_due_for_their_reset_are_ignored(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy, glimpses=1)
    envs.reset(seed=1)
    envs.step(np.array([[0, 0], [0, 0]]))
    envs.reset(options={"reset_mask": np.array([False, True])})
    for _ in range(3):
        *_, terminations, _, _ = envs.step(np.array([[0, 0], [0, 0]]))
    assert terminations.tolist() == [True, False]
    _, rewards, terminations, _, infos = envs.step(np.array([[-7, 99], [0, 0]]))
    assert (rewards[0], terminations.tolist(), infos["frame"].tolist()) == (0.0, [False, True], [1, 4])


def test_episode_statistics_can_be_recorded(toy):
    """Two frames into their episodes, environment 1 starts again: it ends two steps later than environment 0."""
    envs = RecordEpisodeStatistics(VideoGlimpseVectorEnv(2, source=toy, glimpses=1))
    envs.reset(seed=1, options={"clip": np.array([1, 2])})
    steps = [envs.step(np.array([[0, 0], [0, 0]])) for _ in range(2)]
    envs.reset(options={"reset_mask": np.array([False, True]), "clip": 2})
    steps += [envs.step(np.array([[0, 0], [0, 0]])) for _ in range(4)]
    episodes = [infos.get("episode") for *_, infos in steps]
    assert [index for index, episode in enumerate(episodes) if episode is not None] == [3, 5]
    assert (episodes[3]["l"].tolist(), episodes[3]["r"].tolist()) == ([4, 0], [2.0, 0.0])
    assert (episodes[5]["l"].tolist(), episodes[5]["r"].tolist()) == ([0, 4], [0.0, -2.0])


def test_render_gives_one_picture_for_each_environment(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy, render_mode="rgb_array")
    envs.reset(options={"clip": np.array([0, 1, 0])})
    pictures = envs.render()
    assert type(pictures) is tuple
    assert [(picture.dtype, picture.shape) for picture in pictures] == [(np.uint8, (384, 336, 3))] * 3
    np.testing.assert_array_equal(pictures[0], pictures[2])
    single = VideoGlimpseEnv(source=toy, render_mode="rgb_array")
    single.reset(options={"clip": 1})
    np.testing.assert_array_equal(pictures[1], single.render())


# ---- options


def test_clips_are_chosen_for_all_or_for_each(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy)
    before = [generator.bit_generator.state for generator in envs.np_random]
    assert envs.reset(options={"clip": 4})[1]["clip"].tolist() == [4, 4, 4]
    observations, infos = envs.reset(options={"clip": np.array([2, 0, 3])})
    assert infos["clip"].tolist() == [2, 0, 3]
    assert infos["clip_id"].tolist() == ["c", "a", "d"]
    assert observations[:, 0, 0, 0].tolist() == [145, 1, 217]  # 1 + 72 i
    assert [generator.bit_generator.state for generator in envs.np_random] == before  # nothing was drawn


def test_options_are_left_as_they_are(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy)
    mask, clips = np.array([True, False, True]), np.array([1, 2, 3])
    options = {"reset_mask": mask, "clip": clips}
    envs.reset(options=options)
    assert options.keys() == {"reset_mask", "clip"}
    assert options["reset_mask"] is mask
    assert options["clip"] is clips
    assert (mask.tolist(), clips.tolist()) == ([True, False, True], [1, 2, 3])


def test_a_partial_reset_changes_no_other_environment(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy, glimpses=1, observation="cube", autoreset_mode="Disabled")
    envs.reset(options={"clip": np.array([0, 1, 2])})
    before = envs.step(np.array([[4, 0], [4, 0], [4, 0]]))[0]
    observations, infos = envs.reset(options={"reset_mask": np.array([False, True, False]), "clip": 3})
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    assert observations[1, 0, 0, 0] == 217  # 1 + 72 * 3
    assert infos["_clip"].tolist() == [False, True, False]
    assert infos["clip"].tolist() == [0, 3, 0]  # Gymnasium's infos are zero outside their mask
    assert infos["clip_id"].tolist() == [None, "d", None]
    *_, infos = envs.step(np.array([[4, 0], [4, 0], [4, 0]]))
    assert infos["frame"].tolist() == [3, 2, 3]


# ---- copies


@pytest.mark.parametrize("jumps", [None, (1, 2)])
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    autoreset=st.sampled_from(AUTORESETS),
    first_glance=st.sampled_from(["whole", "none"]),
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=15, max_size=15),
    seed=st.integers(0, 100),
)
def test_a_shared_array_equals_a_fresh_one(uneven, observation, dtype, jumps, autoreset, first_glance, masks, seed):
    arguments = {
        "source": uneven, "observation": observation, "dtype": dtype, "first_glance": first_glance, "glimpses": 2,
        "frames": 3, "jumps": jumps,
    }  # fmt: skip
    shared, fresh = (VideoGlimpseVectorEnv(3, autoreset_mode=autoreset, copy=c, **arguments) for c in (False, True))
    shared.action_space.seed(seed)
    array, _ = shared.reset(seed=seed)
    assert_same(array, fresh.reset(seed=seed)[0])
    for mask in np.array(masks):
        mask |= shared.engine.done & (autoreset == AutoresetMode.DISABLED)
        if mask.any():
            assert_same(started_anew(shared, mask), started_anew(fresh, mask))
        actions = shared.action_space.sample()
        result = shared.step(actions)
        assert result[0] is array
        assert_same(result, fresh.step(actions))


def test_final_observations_are_no_part_of_the_shared_array(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy, frames=1, glimpses=1, copy=False, autoreset_mode="SameStep")
    array, _ = envs.reset(seed=1)
    *_, infos = envs.step(np.array([[0, 0], [0, 0]]))
    assert not any(np.shares_memory(final, array) for final in infos["final_obs"])
    assert not np.shares_memory(*infos["final_obs"])


@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
def test_copies_are_never_used_again(toy, observation, autoreset):
    """Writing into returned arrays changes nothing later."""
    bank = toy.features.copy()
    arguments = {"source": toy, "observation": observation, "glimpses": 2, "autoreset_mode": autoreset}
    clean, scribbled = (VideoGlimpseVectorEnv(3, **arguments) for _ in range(2))

    def scribble(value):
        if isinstance(value, dict):
            for part in value.values():
                scribble(part)
        elif isinstance(value, tuple):
            for part in value:
                scribble(part)
        else:
            value.fill(1)

    assert_same(first := clean.reset(seed=1), second := scribbled.reset(seed=1))
    clean.action_space.seed(1)
    for _ in range(10):
        scribble(second)
        mask = clean.engine.done & (autoreset == AutoresetMode.DISABLED)
        if mask.any():
            assert_same(started_anew(clean, mask), second := started_anew(scribbled, mask))
            scribble(second)
        actions = clean.action_space.sample()
        kept = first[0].copy()
        following, second = clean.step(actions), scribbled.step(actions.copy())
        assert_same(following, second)
        np.testing.assert_array_equal(first[0], kept)
        first = following
    np.testing.assert_array_equal(toy.features, bank)


@pytest.mark.parametrize("autoreset", AUTORESETS)
def test_every_mask_is_an_array_of_its_own(toy, autoreset):
    envs = VideoGlimpseVectorEnv(2, source=toy, frames=1, glimpses=1, autoreset_mode=autoreset)
    envs.reset(seed=1)
    _, _, terminations, _, infos = envs.step(np.zeros((2, 2), int))
    reset_mask = np.array([True, True])
    _, others = envs.reset(options={"reset_mask": reset_mask})
    arrays = [terminations, reset_mask, envs.engine.done]
    for info in (infos, others, infos.get("final_info", {})):
        arrays += [value for key, value in info.items() if key.startswith("_")]
    assert len(arrays) >= 3 + 5 + 5
    for first, second in itertools.combinations(arrays, 2):
        assert not np.shares_memory(first, second)


# ---- bad input


@pytest.mark.parametrize("num_envs", [0, -1, True, 2.0, "2"])
def test_a_number_of_environments_that_is_none(toy, num_envs):
    with pytest.raises(ValueError, match=f"num_envs must be a positive integer, got {num_envs!r}"):
        VideoGlimpseVectorEnv(num_envs, source=toy)


def test_numbers_of_numpy_are_numbers(toy):
    assert VideoGlimpseVectorEnv(np.int64(2), source=toy).num_envs == 2


def test_a_copy_that_is_neither_true_nor_false(toy):
    with pytest.raises(TypeError, match="copy must be True or False, got 'no'"):
        VideoGlimpseVectorEnv(2, source=toy, copy="no")


def test_an_unknown_autoreset_mode(toy):
    with pytest.raises(ValueError, match=r"autoreset_mode must be one of \['NextStep', .*'Disabled'\], got 'Never'"):
        VideoGlimpseVectorEnv(2, source=toy, autoreset_mode="Never")


def test_seeds_of_the_wrong_number(toy):
    with pytest.raises(ValueError, match="3 environments need as many seeds, got 2"):
        VideoGlimpseVectorEnv(3, source=toy).reset(seed=[1, 2])


def test_refused_seeds_leave_all_generators_as_they_were(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy)
    envs.reset(seed=[5, 6])
    for seed, error in (([77, -1], ValueError), (1.5, TypeError)):
        with pytest.raises((error, gym.error.Error)):
            envs.reset(seed=seed)
        assert envs.np_random_seed == (5, 6)


def test_clips_of_environments_that_are_not_reset_are_ignored(toy):
    envs = VideoGlimpseVectorEnv(2, source=toy)
    envs.reset(seed=1, options={"clip": np.array([3, 4])})
    envs.reset(options={"clip": np.array([-1, 2]), "reset_mask": np.array([False, True])})
    assert envs.engine.clip.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reset_mask": [True] * 3}, ValueError, r"'reset_mask'\] must be a bool array of shape \(3,\), got list"),
        ({"reset_mask": np.ones(3, int)}, ValueError, r"must be a bool array of shape \(3,\), got int64 \(3,\)"),
        ({"reset_mask": np.ones(2, bool)}, ValueError, r"must be a bool array of shape \(3,\), got bool \(2,\)"),
        ({"reset_mask": np.zeros(3, bool)}, ValueError, "chooses no environment: set at least one True"),
        ({"clip": 5}, IndexError, "clip 5 does not exist: this split has clips 0 to 4"),
        ({"clip": np.array([0, 7, 1])}, IndexError, "clip 7 does not exist: this split has clips 0 to 4"),
        ({"clip": np.array([0, -1, 1])}, IndexError, "clip -1 does not exist: this split has clips 0 to 4"),
        ({"clip": [0, 1]}, ValueError, r"'clip'\] must be an integer or \(3,\) integers, got int64 \(2,\)"),
        ({"clip": 1.5}, ValueError, r"'clip'\] must be an integer or \(3,\) integers, got float64 \(\)"),
        ({"clip": True}, ValueError, r"'clip'\] must be an integer or \(3,\) integers, got bool \(\)"),
        ({"clip": np.ma.array([1, 2, 3])}, ValueError, "clip must be a plain array, got a masked one: fill it first"),
        ("clip", TypeError, "options must be a dict or None, got 'clip'"),
        ({"seed": 1}, ValueError, r"unknown reset options \['seed'\]: reset takes \['clip', 'reset_mask'\]"),
    ],
)
def test_reset_options_out_of_range(toy, options, error, message):
    envs = VideoGlimpseVectorEnv(3, source=toy)
    envs.reset(seed=1)
    before = [generator.bit_generator.state for generator in envs.np_random]
    with pytest.raises(error, match=message):
        envs.reset(options=options, seed=9)
    assert [generator.bit_generator.state for generator in envs.np_random] == before


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        (np.zeros((3, 2), int), ValueError, r"actions must have shape \(3, 3\) .*, got \(3, 2\)"),
        (np.zeros((2, 3), int), ValueError, r"actions must have shape \(3, 3\) .*, got \(2, 3\)"),
        (np.zeros((3, 3)), TypeError, "actions must be integers, got float64"),
        (np.zeros((3, 3), bool), TypeError, "actions must be integers, got bool"),
        ([[0, 0, 0], [0, 9, 0], [0, 0, 0]], ValueError, "cell 1 of the action of environment 1 must be 0 to 8, got 9"),
        ([[0, 0, 0], [0, 0, 0], [-1, 0, 0]], ValueError, "cell 0 of the action of environment 2 must be 0 to 8"),
        ([[0, 0, 3], [0, 0, 0], [0, 0, 0]], ValueError, "class of the action of environment 0 must be 0 to 2, got 3"),
    ],
)
def test_actions_out_of_range(toy, actions, error, message):
    envs = VideoGlimpseVectorEnv(3, source=toy, glimpses=2, copy=False)
    seen = envs.reset(seed=1)[0].copy()
    with pytest.raises(error, match=message):
        envs.step(actions)
    np.testing.assert_array_equal(envs.reset(seed=1)[0], seen)


def test_steps_without_an_episode(toy):
    envs = VideoGlimpseVectorEnv(3, source=toy, glimpses=1, frames=1, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="no episode is under way"):
        envs.step(np.zeros((3, 2), int))
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match="no episode is under way"):
        envs.step(np.zeros((3, 2), int))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    envs.step(np.zeros((3, 2), int))
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ResetNeeded, match=r"environments \[1, 2\] are over: .*call reset\(options="):
        envs.step(np.zeros((3, 2), int))
    envs.reset(options={"reset_mask": np.array([False, True, True])})
    assert envs.step(np.zeros((3, 2), int))[2].all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_videos_can_be_recorded(toy, tmp_path):
    pytest.importorskip("moviepy")
    recorder = pytest.importorskip("gymnasium.wrappers.vector").RecordVideo
    envs = VideoGlimpseVectorEnv(2, source=toy, glimpses=1, render_mode="rgb_array")
    envs = recorder(
        envs, str(tmp_path / "videos"), video_aspect_ratio=(1, 1), episode_trigger=lambda episode: episode == 0
    )
    envs.reset(seed=1)
    for _ in range(6):
        envs.step(envs.action_space.sample())
    envs.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


# ---- time limits


@pytest.fixture
def alias():
    """An id with a time limit of three steps, registered as users register theirs."""
    gym.register(
        "VideoGlimpseShort-v0", "glimpse_env:VideoGlimpseEnv", max_episode_steps=3,
        vector_entry_point="glimpse_env:VideoGlimpseVectorEnv",
    )  # fmt: skip
    yield "VideoGlimpseShort-v0"
    del gym.registry["VideoGlimpseShort-v0"]


@pytest.mark.parametrize(("frames", "jumps"), [(2, None), (3, None), (4, None), (6, (1, 3))])
@pytest.mark.parametrize("autoreset", AUTORESETS)
@pytest.mark.parametrize("observation", MODES)
def test_a_time_limit_truncates_as_in_single_environments(uneven, alias, observation, autoreset, frames, jumps):
    arguments = {"source": uneven, "observation": observation, "glimpses": 2, "frames": frames, "jumps": jumps}
    ours = gym.make_vec(alias, 3, autoreset_mode=autoreset, **arguments)
    singles = [lambda: gym.make(alias, disable_env_checker=True, **arguments)] * 3
    theirs = SyncVectorEnv(singles, autoreset_mode=autoreset)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    ours.action_space.seed(2)
    ended = np.zeros(2, int)
    for step in range(20):
        actions = ours.action_space.sample()
        result = ours.step(actions)
        assert_same(result, theirs.step(actions))
        ended += [result[2].sum(), result[3].sum()]
        mask = np.array([True, False, False]) & (step == 1)
        mask |= (result[2] | result[3]) & (autoreset == AutoresetMode.DISABLED)
        if mask.any():
            assert_same(started_anew(ours, mask), started_anew(theirs, mask))
    assert (ended > 0).tolist() == [frames <= 3 or jumps is not None, frames >= 3]


@pytest.mark.parametrize("steps", [0, -1, True, 2.5])
def test_a_time_limit_that_is_none(toy, steps):
    with pytest.raises(ValueError, match=f"max_episode_steps must be a positive integer, got {steps}"):
        VideoGlimpseVectorEnv(2, source=toy, max_episode_steps=steps)
