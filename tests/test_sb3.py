"""The adapter for Stable-Baselines3: its VecEnv contract, its algorithms, and the features that extractors see."""

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize, VecVideoRecorder

from glimpse_env import VideoGlimpseEnv
from glimpse_env.sb3 import CubeFeatures, FrameRewards, GlimpseVecEnv, SliceFeatures
from glimpse_env.wrappers import DiscreteAction


@pytest.mark.parametrize(
    "rules",
    [{}, {"glimpses": None}, {"observation": "slices"}, {"dtype": "float16"}, {"jumps": (1, 2), "frame_cost": 0.5}],
)
def test_it_plays_the_episodes_of_a_dummy_vec_env(uneven, rules):
    """Fifty steps against Stable-Baselines3's own vector environment over single environments, infos and all."""
    arguments = {"source": uneven, "frames": 4, "glimpses": 2, **rules}
    ours = GlimpseVecEnv(3, **arguments)
    theirs = DummyVecEnv([lambda: VideoGlimpseEnv(**arguments)] * 3)
    ours.action_space.seed(3)
    for envs in (ours, theirs):
        envs.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert_same_infos(ours.reset_infos, theirs.reset_infos)
    for _ in range(50):
        actions = np.stack([ours.action_space.sample() for _ in range(3)])
        result, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(result[:3], expected[:3], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        assert_same_infos(result[3], expected[3])
        assert_same_infos(ours.reset_infos, theirs.reset_infos)


def assert_same_infos(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert type(one[key]) is type(other[key]), key
            np.testing.assert_array_equal(one[key], other[key])


def test_seeds_and_options_are_used_once(uneven):
    ours = GlimpseVecEnv(3, source=uneven, frames=4, glimpses=2)
    theirs = DummyVecEnv([lambda: VideoGlimpseEnv(source=uneven, frames=4, glimpses=2)] * 3)
    drawn = []
    for envs in (ours, theirs):
        envs.seed(5)
        envs.set_options({"clip": 1})
        clips = []
        for _ in range(8):
            envs.reset()
            clips.append([info["clip"] for info in envs.reset_infos])
        drawn.append(clips)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == [1, 1, 1]
    assert any(clips != [1, 1, 1] for clips in drawn[0][1:])


def test_returned_arrays_never_change(toy):
    envs = GlimpseVecEnv(2, source=toy, glimpses=1)
    envs.seed(1)
    first = envs.reset()
    kept = first.copy()
    envs.step(np.zeros((2, 2), np.int64))
    np.testing.assert_array_equal(first, kept)


def test_options_choose_the_clips_of_one_reset(toy):
    envs = GlimpseVecEnv(2, source=toy, glimpses=1)
    envs.set_options([{"clip": 3}, {"clip": 1}])
    envs.reset()
    assert [info["clip"] for info in envs.reset_infos] == [3, 1]
    envs.set_options({"clip": 2})
    envs.reset()
    assert [info["clip"] for info in envs.reset_infos] == [2, 2]
    envs.set_options([{"clip": 3}, {}])
    with pytest.raises(ValueError, match="a clip for every environment or for none"):
        envs.reset()


def test_attributes_are_read_and_never_set(toy):
    envs = GlimpseVecEnv(3, source=toy, render_mode="rgb_array")
    assert envs.get_attr("num_clips") == [5, 5, 5]
    assert envs.get_attr("class_names", [0, 2]) == [("run", "jump", "wave")] * 2
    assert envs.get_attr("action_space") == [envs.action_space] * 3
    assert envs.has_attr("class_names")
    assert not envs.has_attr("nothing_like_it")
    assert envs.env_is_wrapped(gym.Wrapper, 1) == [False]
    with pytest.raises(AttributeError, match="eta cannot be set: pass it to GlimpseVecEnv"):
        envs.set_attr("eta", 0.3)
    with pytest.raises(AttributeError, match="render cannot be called on single environments"):
        envs.env_method("render")


def test_episodes_are_monitored(toy):
    envs = VecMonitor(VecCheckNan(GlimpseVecEnv(2, source=toy, glimpses=2)), info_keywords=("is_correct", "glimpses"))
    envs.seed(1)
    envs.reset()
    for _ in range(4):
        _, rewards, _, infos = envs.step(np.array([[0, 1, 0], [2, 2, 1]]))
    for env, looks in ((0, 6), (1, 3)):
        episode = infos[env]["episode"]
        assert (episode["r"], episode["l"]) == (rewards[env], 4)
        assert episode["glimpses"] == infos[env]["glimpses"] == looks
        assert episode["is_correct"] == infos[env]["is_correct"]


def test_pictures_are_tiled(toy):
    envs = GlimpseVecEnv(4, source=toy, render_mode="rgb_array")
    envs.reset()
    assert envs.render().shape == (2 * 384, 2 * 336, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_video_is_recorded(toy, tmp_path):
    pytest.importorskip("moviepy")
    envs = VecVideoRecorder(
        GlimpseVecEnv(2, source=toy, glimpses=1, render_mode="rgb_array"), str(tmp_path), lambda step: step == 0,
        video_length=4,
    )  # fmt: skip
    envs.reset()
    for _ in range(6):
        envs.step(np.zeros((2, 2), np.int64))
    envs.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.parametrize(
    ("algorithm", "policy", "extractor", "observation"),
    [
        (PPO, "MlpPolicy", SliceFeatures, "slices"),
        (PPO, "MlpPolicy", CubeFeatures, "glimpsed"),
        (A2C, "MlpPolicy", SliceFeatures, "slices"),
        (RecurrentPPO, "MlpLstmPolicy", SliceFeatures, "slices"),
    ],
)
@pytest.mark.parametrize("jumps", [None, (1, 2)])
def test_algorithms_take_it(algorithm, policy, extractor, observation, jumps):
    envs = GlimpseVecEnv(2, observation=observation, frames=4, jumps=jumps)
    model = algorithm(
        policy, envs, n_steps=32, gamma=1.0, seed=1, device="cpu",
        policy_kwargs={"features_extractor_class": extractor},
    ).learn(64)  # fmt: skip
    assert model.num_timesteps == 64
    action, _ = model.predict(envs.reset())
    assert all(one in envs.action_space for one in action)


def test_dqn_takes_one_number():
    env = DiscreteAction(gym.make("VideoGlimpse-v0", glimpses=1, observation="slices", frames=4, jumps=(1, 2)))
    assert env.action_space.n == 49 * 2 * 8
    model = DQN("MlpPolicy", env, learning_starts=8, gamma=1.0, seed=1, device="cpu", buffer_size=64).learn(16)
    assert model.num_timesteps == 16


def test_rows_that_are_no_looks_add_nothing():
    torch.manual_seed(1)
    space = GlimpseVecEnv(1, observation="slices").observation_space
    extractor = SliceFeatures(space, features_dim=16)
    observation = torch.rand(2, 5, space.shape[1])
    observation[:, 3:] = 0
    torch.testing.assert_close(extractor(observation), extractor(observation[:, :3]))
    assert extractor(observation).abs().sum() > 0


def test_unseen_slices_add_nothing():
    torch.manual_seed(1)
    space = GlimpseVecEnv(1).observation_space
    extractor = CubeFeatures(space, features_dim=16)
    observation = torch.zeros(1, 7, 7, 32)
    assert not extractor(observation).any()
    observation[0, 2, 3] = 1.0
    here = extractor(observation)
    assert here.any()
    assert not torch.equal(here, extractor(observation.flip(1)))  # the place of a cell changes its features
    assert extractor(-observation).any()  # features may have any sign


@pytest.mark.parametrize("argument", [{"max_episode_steps": 3}, {"copy": False}, {"autoreset_mode": "NextStep"}])
def test_arguments_that_break_episodes_apart_are_refused(toy, argument):
    with pytest.raises(
        TypeError, match=f"{next(iter(argument))} cannot be set: Stable-Baselines3 needs whole episodes"
    ):
        GlimpseVecEnv(2, source=toy, **argument)


@pytest.mark.parametrize("rules", [{}, {"abstain": True, "eta": 0.3, "positive_reward": 2.0, "look_cost": 0.25}])
def test_paying_frame_by_frame_leaves_returns_as_they_were(toy, rules):
    at_end = GlimpseVecEnv(3, source=toy, glimpses=2, **rules)
    at_once = FrameRewards(GlimpseVecEnv(3, source=toy, glimpses=2, **rules))
    rng, returns = np.random.default_rng(1), np.zeros(3)
    for envs in (at_end, at_once):
        envs.seed(5)
        envs.reset()
        envs.step(np.zeros((3, 3), np.int64))
        envs.seed(6)
        envs.reset()  # earlier rewards are forgotten
    for step in range(12):
        actions = rng.integers(0, 9, (3, 3)) % at_end.action_space.nvec
        _, total, dones, infos = at_end.step(actions)
        _, shares, _, _ = at_once.step(actions)
        returns += shares
        if step % 4 == 0:  # the first prediction of an episode, paid alone
            for share, action, info in zip(shares, actions, infos, strict=True):
                eta, gain = rules.get("eta", 0.5), rules.get("positive_reward", 1.0)
                said = action[-1] < 3
                assert share == pytest.approx(
                    (eta * gain if info["frame_labels"][action[-1]] else eta - 1) if said else 0
                )
        if dones.all():
            np.testing.assert_allclose(returns, total, rtol=1e-6)
            returns[:] = 0
    assert dones.all()


def test_segments_cannot_be_paid_frame_by_frame(toy):
    with pytest.raises(ValueError, match="matching must be 'frame' to pay frame by frame, got 'segment'"):
        FrameRewards(GlimpseVecEnv(1, source=toy, matching="segment"))


def test_frame_rewards_wrap_raw_rewards_of_one_engine(toy):
    FrameRewards(VecMonitor(GlimpseVecEnv(2, source=toy, glimpses=1)))
    with pytest.raises(ValueError, match="FrameRewards needs the rewards as they are: put VecNormalize around it"):
        FrameRewards(VecNormalize(GlimpseVecEnv(2, source=toy, glimpses=1), norm_obs=False))
    with pytest.raises(ValueError, match=r"FrameRewards wraps a GlimpseVecEnv: wrap .* in wrappers.FrameRewards"):
        FrameRewards(DummyVecEnv([lambda: VideoGlimpseEnv(source=toy, glimpses=1)] * 2))


def test_masks_reach_the_environment_and_maskable_ppo(toy):
    envs = GlimpseVecEnv(2, source=toy, glimpses=1)
    masks = envs.env_method("action_masks")
    assert [mask.tolist() for mask in masks] == [[True] * (9 + 3)] * 2
    only = np.ones((2, 12), bool)
    only[0, :9], only[1, 1:9] = np.arange(9) == 4, False
    envs.envs.action_masks = lambda: only  # a restricted field of view
    np.testing.assert_array_equal(envs.env_method("action_masks", indices=1), only[1:])
    model = MaskablePPO("MlpPolicy", envs, n_steps=8, batch_size=8, seed=1, device="cpu").learn(16)
    looked = model.rollout_buffer.actions[:, 0]  # the steps of one environment after those of the other
    assert set(looked[:8]) == {4}
    assert set(looked[8:]) == {0}
