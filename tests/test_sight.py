"""Features on the device: rollouts beside a bank see what those that read the source see."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, Watched, marked_source, tiny_config, write_marked_store
from glimpse_agents.playing import envs as building
from glimpse_agents.playing import features as sight
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.features import FeatureBank, bank_of, feature_type, fits
from glimpse_agents.playing.rollout import Manner, collect_rollout
from glimpse_agents.reinforce import Arm

from glimpse_env import SlidingWindows, VideoGlimpseVectorEnv, open_source

CPU = torch.device("cpu")


def play(source, observation, manner, clips, *, frames=None, encoder="sum", jitter=False):
    """Return a rollout of a policy that is always the same, and the environments as it left them."""
    network = dataclasses.replace(TINY_NETWORK, encoder=encoder)
    policy = make_policy(tiny_config(policy=network, frames=frames), source, "learned")
    envs = VideoGlimpseVectorEnv(
        len(clips), source=source, glimpses=2, observation=observation, frames=frames, jitter=jitter,
        autoreset_mode="Disabled",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    return collect_rollout(envs, policy, np.array(clips), manner, generator=generator, seed=3), envs


def assert_same(one, two):
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(two, field.name)
        pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
        for a, b in pairs:  # layouts in memory differ, and with them how products are rounded
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("looking", ["learned", "random", "oracle", "all"])
def test_a_bank_changes_nothing(looking, in_view, encoder):
    manner = Manner(looking=looking, in_view=in_view, mirror=True)
    source, clips = marked_source(8), [3, 3, 0, 7, 7, 7]
    (read, _), (held, envs) = (play(source, shown, manner, clips, encoder=encoder) for shown in ("slices", "blind"))
    assert_same(read, held)
    assert (envs.engine.predictions == held.predictions.numpy()).all()


def test_windows_in_a_bank_are_where_they_were(uneven):
    manner = Manner(looking="random", in_view="cube")
    rollouts = [play(uneven, shown, manner, [0] * 20 + [1, 2], frames=3, jitter=True) for shown in ("slices", "blind")]
    assert_same(rollouts[0][0], rollouts[1][0])
    assert len(set(rollouts[1][1].engine.window[:20, 0].tolist())) > 2


def test_sliding_windows_share_the_frames_in_a_bank(uneven):
    windows = SlidingWindows(source=uneven, window_seconds=0.4, stride_seconds=0.1)
    clips = list(range(windows.num_clips))
    read, held = (play(windows, shown, Manner(looking="random"), clips)[0] for shown in ("slices", "blind"))
    assert_same(read, held)
    assert len(bank_of(windows, CPU).features) == 9 + 2 + 4


def test_a_bank_is_made_once_and_then_nothing_is_read(toy):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    play(source, "blind", Manner(), [0, 1])
    assert sum(source.count) == 20  # five clips of four frames
    play(source, "blind", Manner(in_view="cube"), [2, 1])
    assert sum(source.count) == 20


def test_a_bank_keeps_the_precision_of_the_store(tmp_path, toy):
    store = open_source(str(write_marked_store(tmp_path / "store")))
    assert bank_of(store, CPU).features.dtype == torch.float16
    assert (feature_type(toy), FeatureBank(toy, CPU).features.dtype) == (np.float32, torch.float32)
    read, held = (play(store, shown, Manner(), [0, 5, 5])[0] for shown in ("slices", "blind"))
    assert_same(read, held)


def test_training_beside_a_bank_gives_the_same_weights(tmp_path, monkeypatch):
    weights = []
    for name, there in (("read", False), ("held", True)):
        monkeypatch.setattr(building, "fits", lambda *_, there=there: there)
        sources = {split: marked_source(12, seed=seed) for seed, split in enumerate(("train", "validation", "test"))}
        arm = Arm(tiny_config(abstain=False), "learned", tmp_path / name, sources)
        arm.train()
        assert arm.envs.engine.rules.observation == ("blind" if there else "slices")
        weights.append(arm.policy.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=1e-5)


def test_a_bank_is_known_by_the_number_of_its_gpu(toy, monkeypatch):
    first = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    assert not fits(toy, torch.device("cuda"))
    sight._banks[toy] = {first: FeatureBank(toy, CPU)}
    assert fits(toy, first)
    assert fits(toy, torch.device("cuda"))
    assert bank_of(toy, torch.device("cuda")) is bank_of(toy, first)


def test_without_a_gpu_there_is_no_bank(toy):
    assert not fits(toy, CPU)
    assert make_envs(tiny_config(abstain=False), toy, 1, train=False).engine.rules.observation == "slices"
