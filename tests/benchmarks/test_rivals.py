"""Steps per second of the native vector environment and of all other ways to step N episodes, in one run.

    pytest tests/benchmarks/test_rivals.py --benchmark-only

7 x 7 x 1024 cubes, 16 frames, m = 5, actions drawn beforehand. `SyncVectorEnv` and Stable-Baselines3's `DummyVecEnv`
step single environments on the same arrays in this process. `AsyncVectorEnv` and `SubprocVecEnv` give each its own
process, on one feature store that all of them map; at most 16, since each process imports everything again.
"""

import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import glimpse_env
from glimpse_env.datasets import VideoClip
from glimpse_env.store.manifest import Manifest
from glimpse_env.store.writer import ClipArrays, StoreWriter

CLIPS, FRAMES, GRID, DEPTH, GLIMPSES = 55, 16, 7, 1024, 5
STEPS_WANTED = 2048  # at least, of single environments, in a round
ROUNDS = 3
MODES = ("slices", "glimpsed", "cube")
FLOOR = 5.0  # times SyncVectorEnv, "slices" at 64


@pytest.fixture(scope="module")
def arrays():
    features = np.random.default_rng(1).random((CLIPS, FRAMES, GRID, GRID, DEPTH), np.float32)
    return glimpse_env.ArraySource(features=features, labels=np.arange(CLIPS) % 8, class_names=tuple("abcdefgh"))


@pytest.fixture(scope="module")
def store(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "noise"
    clips = [
        VideoClip(clip_id=arrays.clip_id(clip), path=path, label=clip % 8, splits=("train",)) for clip in range(CLIPS)
    ]
    manifest = Manifest(
        dataset="noise", class_names=arrays.class_names, num_folds=1, clips_sha256="0" * 64, trimmed=True,
        backbone="none", weights_sha256="1" * 64, resize_rule="none", decoder="none", software="none", device="cpu",
        threads=1, batch_size=1, frames_per_second=30.0, num_frames=FRAMES, max_frames=FRAMES, grid_size=GRID,
        depth=DEPTH, dtype="float16", has_coverage=False, clips_per_shard=CLIPS, num_shards=1,
    )  # fmt: skip
    writer = StoreWriter(path, manifest, clips)
    thumbnails = np.zeros((FRAMES, 112, 112, 3), np.uint8)
    writer.write_shard(
        0,
        [
            ClipArrays(
                clip_id=arrays.clip_id(clip),
                start=0.0,
                features=arrays.features[clip].astype(np.float16),
                thumbnails=thumbnails,
            )
            for clip in range(CLIPS)
        ],
        {},
    )
    writer.finish()
    return str(path)


def seconds_a_round(reset, step, actions):
    """Return the least time of ROUNDS rounds that play all the actions."""
    reset()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for action in actions:
            step(action)
        times.append(time.perf_counter() - start)
    return min(times)


def steps_a_second(envs, actions):
    """Time a Gymnasium or a Stable-Baselines3 vector environment, and close it."""
    taken = seconds_a_round(envs.reset, envs.step, actions)
    envs.close()
    return len(actions) * len(actions[0]) / taken


def draw_actions(num_envs):
    rng = np.random.default_rng(2)
    steps = max(STEPS_WANTED // num_envs, 2 * FRAMES)
    cells = rng.integers(0, GRID**2, (steps, num_envs, GLIMPSES))
    return np.concatenate([cells, rng.integers(0, 8, (steps, num_envs, 1))], axis=2)


def native(num_envs, **arguments):
    return gym.make_vec("VideoGlimpse-v0", num_envs=num_envs, glimpses=GLIMPSES, **arguments)


@pytest.mark.parametrize("num_envs", [1, 16, 64, 256])
@pytest.mark.parametrize("observation", MODES)
def test_in_one_process(benchmark, report, arrays, observation, num_envs):
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    from glimpse_env.sb3 import GlimpseVecEnv

    arguments = {"source": arrays, "observation": observation}
    actions = draw_actions(num_envs)

    def single():
        return gym.make("VideoGlimpse-v0", glimpses=GLIMPSES, **arguments).unwrapped

    rates = {
        "native, shared array": steps_a_second(native(num_envs, copy=False, **arguments), actions),
        "native": steps_a_second(native(num_envs, **arguments), actions),
        "SyncVectorEnv": steps_a_second(SyncVectorEnv([single] * num_envs), actions),
        "GlimpseVecEnv": steps_a_second(GlimpseVecEnv(num_envs, glimpses=GLIMPSES, **arguments), actions),
        "DummyVecEnv": steps_a_second(vec_env.DummyVecEnv([single] * num_envs), actions),
    }
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(rates)
    ratio = rates["native"] / rates["SyncVectorEnv"]
    floor = FLOOR if (observation, num_envs) == ("slices", 64) else 0
    line = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    report(f"{observation:9} n = {num_envs:3}: {line}; {ratio:.1f} x SyncVectorEnv, floor {floor:.0f}")
    assert ratio >= floor


@pytest.mark.parametrize("num_envs", [1, 16])
@pytest.mark.parametrize("observation", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_processes(benchmark, report, store, observation, num_envs):
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    arguments = {"source": store, "observation": observation}
    actions = draw_actions(num_envs)

    def single():
        return glimpse_env.VideoGlimpseEnv(glimpses=GLIMPSES, **arguments)

    rates = {
        "native": steps_a_second(native(num_envs, **arguments), actions),
        "AsyncVectorEnv": steps_a_second(AsyncVectorEnv([single] * num_envs, context="spawn"), actions),
        "SubprocVecEnv": steps_a_second(vec_env.SubprocVecEnv([single] * num_envs, start_method="spawn"), actions),
    }
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(rates)
    line = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    report(f"{observation:9} n = {num_envs:3}, float16 store: {line}")


def test_a_single_step(benchmark, report, arrays):
    """The single environment's own step in "slices": at most 60 microseconds."""
    env = glimpse_env.VideoGlimpseEnv(source=arrays, observation="slices", glimpses=GLIMPSES)
    actions = draw_actions(1)[: FRAMES - 1, 0]

    def play():
        for action in actions:
            env.step(action)

    benchmark.pedantic(play, setup=lambda: env.reset() and None, rounds=300)
    least, median = (1e6 * getattr(benchmark.stats.stats, name) / len(actions) for name in ("min", "median"))
    report(f"single environment, slices: {median:.0f} us a step (least {least:.0f}); ceiling 60")
    assert median <= 60
