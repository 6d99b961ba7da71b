"""Infos and episodes as other libraries read them. Minari and TorchRL are tested if they are installed."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from glimpse_env import VideoGlimpseEnv, VideoGlimpseVectorEnv

COUNTS = ("true_positives", "false_positives", "glimpses", "frames_observed", "is_correct")


def played(env):
    """Return the infos of one episode."""
    _, info = env.reset(seed=1)
    infos, terminated = [info], False
    while not terminated:
        _, _, terminated, _, info = env.step(env.action_space.sample())
        infos.append(info)
    return infos


@pytest.mark.parametrize("source", ["synthetic-easy", "synthetic-untrimmed"])
def test_infos_of_an_episode_stack_to_arrays(source):
    """As Minari records infos and TorchRL keeps them: the same keys, shapes and dtypes at every step."""
    infos = played(gym.make("VideoGlimpse-v0", source=source, glimpses=1, info_strings=False))
    for key in infos[0]:
        values = [info[key] for info in infos]
        assert {(value.dtype, value.shape) for value in values} == {(values[0].dtype, values[0].shape)}
        assert np.stack(values).dtype != object
    assert all(info.keys() == infos[0].keys() for info in infos)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("make", [VideoGlimpseVectorEnv, None], ids=["native", "sync"])
def test_infos_of_vector_environments_are_numbers_alone(toy, make, mode):
    """As TorchRL reads them: every key has its mask, at every step, and no array is of objects but `final_obs`."""
    arguments = {"source": toy, "glimpses": 1, "frames": 2, "info_strings": False}
    if make is None:
        envs = SyncVectorEnv([lambda: VideoGlimpseEnv(**arguments)] * 2, autoreset_mode=mode)
    else:
        envs = make(2, autoreset_mode=mode, **arguments)
    _, infos = envs.reset(seed=1)
    keys = set(infos)
    for _ in range(5):
        *_, infos = envs.step(envs.action_space.sample())
        assert keys <= set(infos) <= keys | {"final_obs", "_final_obs", "final_info", "_final_info"}
        final = infos.get("final_info", {})
        assert set(final) in (set(), keys)
        for values in (infos, final):
            for key in keys & set(values):
                assert values[key].dtype != object
                assert values[key].shape[0] == 2


def test_minari_records_infos(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(
        gym.make("VideoGlimpseEasy-v0", info_strings=False, disable_env_checker=True), record_infos=True
    )
    for seed in range(3):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(env.action_space.sample())
    data = env.create_dataset("glimpse/easy-v0", algorithm_name="random", code_permalink="", author="", author_email="")
    episodes = list(data.iterate_episodes())
    assert [len(episode.rewards) for episode in episodes] == [4, 4, 4]
    assert episodes[2].infos["label"].tolist() == [info["label"]] * 5
    assert episodes[2].infos["true_positives"][-1] == info["true_positives"]


@pytest.mark.filterwarnings("ignore")  # of TorchRL itself
def test_torchrl_reads_infos():
    envs = pytest.importorskip("torchrl.envs")
    env = envs.GymEnv("VideoGlimpseEasy-v0", info_strings=False).auto_register_info_dict()
    last = env.rollout(4, break_when_any_done=False)["next"][-1]
    assert last["done"].all()
    assert {"label", "frame", *COUNTS} <= set(last.keys())
    assert last["true_positives"] + last["false_positives"] == 4


@pytest.mark.filterwarnings("ignore")  # of TorchRL itself
def test_torchrl_steps_many_environments():
    envs = pytest.importorskip("torchrl.envs")
    env = envs.GymEnv("glimpse_env:VideoGlimpseEasy-v0", num_envs=2, info_strings=False)
    rollout = env.rollout(9, break_when_any_done=False)
    assert rollout["next", "done"].sum(1).flatten().tolist() == [2, 2]  # episodes of four steps
    assert not rollout["next", "observation"][:, 3].any()  # the last observation of an episode, not the next first one
    env.close()
