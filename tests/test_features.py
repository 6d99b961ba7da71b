"""Feature readers: rollouts with a bank on the device see the same as rollouts that read the source."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import Watched, marked_source, tiny_config, write_marked_store
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing import envs as environments
from glimpse_agents.playing import features
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.features import FeatureBank, bank_of, feature_type, fits
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout
from glimpse_agents.reinforce import collect, update
from glimpse_agents.runs.trainer import Trainer

from glimpse_env import SlidingWindows, VideoGlimpseVectorEnv, open_source

CPU = torch.device("cpu")


def play(source, observation, settings, clips, *, frames=None, encoder="sum", jitter=False):
    """Return a rollout of a policy with fixed weights, and the environments after it."""
    policy = make_policy(tiny_config(encoder=encoder, frames=frames), source)
    envs = VideoGlimpseVectorEnv(
        len(clips), source=source, glimpses=2, observation=observation, frames=frames, jitter=jitter,
        autoreset_mode="Disabled",
    )  # fmt: skip
    return collect_rollout(envs, policy, np.array(clips), settings, noise=Noise.seeded(1), seed=3), envs


def assert_same(one, two):
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(two, field.name)
        pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
        for a, b in pairs:  # layouts in memory differ, and so does the rounding of products
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("model", ["reinforce", "random", "oracle", "all"])
def test_a_bank_changes_nothing(model, in_view, encoder):
    settings = PlaySettings(model=MODELS[model], in_view=in_view, mirror=True)
    source, clips = marked_source(8), [3, 3, 0, 7, 7, 7]
    (read, _), (held, envs) = (play(source, shown, settings, clips, encoder=encoder) for shown in ("slices", "blind"))
    assert_same(read, held)
    assert (envs.engine.predictions == held.predictions.numpy()).all()


def test_random_windows_are_the_same_with_a_bank(uneven):
    settings = PlaySettings(model=MODELS["random"], in_view="cube")
    rollouts = [
        play(uneven, shown, settings, [0] * 20 + [1, 2], frames=3, jitter=True) for shown in ("slices", "blind")
    ]
    assert_same(rollouts[0][0], rollouts[1][0])
    assert len(set(rollouts[1][1].engine.window[:20, 0].tolist())) > 2


def test_sliding_windows_share_the_frames_in_a_bank(uneven):
    windows = SlidingWindows(source=uneven, window_seconds=0.4, stride_seconds=0.1)
    clips = list(range(windows.num_clips))
    read, held = (play(windows, shown, PlaySettings(model=MODELS["random"]), clips)[0] for shown in ("slices", "blind"))
    assert_same(read, held)
    assert len(bank_of(windows, CPU).features) == 9 + 2 + 4


def test_a_bank_reads_the_source_once(toy):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    play(source, "blind", PlaySettings(), [0, 1])
    assert sum(source.count) == 20  # five clips of four frames
    play(source, "blind", PlaySettings(in_view="cube"), [2, 1])
    assert sum(source.count) == 20


def test_a_bank_keeps_the_precision_of_the_store(tmp_path, toy):
    store = open_source(str(write_marked_store(tmp_path / "store")))
    assert bank_of(store, CPU).features.dtype == torch.float16
    assert (feature_type(toy), FeatureBank(toy, CPU).features.dtype) == (np.float32, torch.float32)
    read, held = (play(store, shown, PlaySettings(), [0, 5, 5])[0] for shown in ("slices", "blind"))
    assert_same(read, held)


def test_training_with_a_bank_gives_the_same_weights(monkeypatch):
    weights = []
    for there in (False, True):
        monkeypatch.setattr(environments, "fits", lambda *_, there=there: there)
        sources = {split: marked_source(12, seed=seed) for seed, split in enumerate(("train", "validation", "test"))}
        trainer = Trainer(tiny_config(abstain=False), sources)
        for number in range(4):
            trainer.num_updates = number
            update(trainer, *collect(trainer))
        assert trainer.envs.engine.rules.observation == ("blind" if there else "slices")
        weights.append(trainer.policy.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=1e-5)


def test_cuda_means_the_current_gpu(toy, monkeypatch):
    first = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    assert not fits(toy, torch.device("cuda"))
    features._banks[toy] = {first: FeatureBank(toy, CPU)}
    assert fits(toy, first)
    assert fits(toy, torch.device("cuda"))
    assert bank_of(toy, torch.device("cuda")) is bank_of(toy, first)


def test_without_a_gpu_there_is_no_bank(toy):
    assert not fits(toy, CPU)
    assert make_envs(tiny_config(abstain=False), toy, 1, train=False).engine.rules.observation == "slices"
