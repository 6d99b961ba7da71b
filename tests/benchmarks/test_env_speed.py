"""How fast the vector environment steps, beside a bare copy of the features that it has to move.

    pytest tests/benchmarks --benchmark-only

64 environments, 16 frames, random actions drawn beforehand, 7 x 7 x 1024 cubes in a bank ten times as big as a large
cache. A round is ten episodes in every environment, their resets included; only steps that play an action are counted.
The bare copy moves what was seen into one float32 array that it uses again and again, from where the episodes lie in the
bank: whole cubes by `np.copyto`, slices by fancy index. From a float16 bank that is NumPy's own conversion. For "glimpsed"
the array returned is as large as a cube, but only the slices that were seen are written, and cleared again; for the time
in which whole cubes could be copied see "cube".
"""

import time

import gymnasium as gym
import numpy as np
import pytest

import glimpse_env

NUM_ENVS, EPISODES, GLIMPSES = 64, 10, 5
CLIPS, FRAMES, GRID, DEPTH = 110, 16, 7, 1024  # 353 MB in float32
ROUNDS = 7
FLOORS = {"slices": 40_000, "glimpsed": 20_000, "cube": 20_000}  # float32 bank, shared array: what the project asks for


@pytest.fixture(scope="module", params=["float32", "float16"])
def source(request):
    features = np.random.default_rng(1).random((CLIPS, FRAMES, GRID, GRID, DEPTH), np.float32)
    return glimpse_env.ArraySource(
        features=features.astype(request.param, copy=False), labels=np.arange(CLIPS) % 8, class_names=tuple("abcdefgh")
    )


def play(envs, actions):
    """Play the rows of actions, one autoreset step after each episode's but the last."""
    envs.reset()
    for step in range(EPISODES * (FRAMES + 1) - 1):
        envs.step(actions[step % len(actions)])


def bare_copy(source, observation, clips, cells):
    """Copy what EPISODES episodes of (EPISODES, NUM_ENVS) clips show: whole cubes, or the first and then slices."""
    rows = source.features.reshape(-1, DEPTH)
    whole = np.empty((NUM_ENVS, GRID, GRID, DEPTH), np.float32)
    parts = np.empty((NUM_ENVS, GLIMPSES, DEPTH), np.float32)
    for chosen in clips:
        for frame in range(FRAMES):
            if frame == 0 or observation == "cube":
                for env, clip in enumerate(chosen):
                    np.copyto(whole[env], source.features[clip, frame])
            else:
                parts[...] = rows[(chosen[:, None] * FRAMES + frame) * GRID**2 + cells]


def seconds(function, *arguments):
    """Return the median time of ROUNDS calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@pytest.mark.parametrize("observation", ["slices", "glimpsed", "cube"])
@pytest.mark.parametrize("copy", [False, True], ids=["shared", "fresh"])
def test_steps_a_second(benchmark, report, source, observation, copy):
    envs = gym.make_vec(
        "VideoGlimpse-v0", num_envs=NUM_ENVS, source=source, glimpses=GLIMPSES, observation=observation, copy=copy
    )
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(50)]
    benchmark.pedantic(play, (envs, actions), rounds=ROUNDS, warmup_rounds=1)
    taken = benchmark.stats.stats.median

    rng = np.random.default_rng(2)
    clips = rng.integers(0, CLIPS, (EPISODES, NUM_ENVS))
    bare = seconds(bare_copy, source, observation, clips, actions[0][:, :-1])

    rate = EPISODES * FRAMES * NUM_ENVS / taken
    floor = FLOORS[observation] if (source.features.dtype, copy) == (np.float32, False) else None
    verdict = "" if floor is None else f"  floor {floor:,}: {'met' if rate >= floor else 'MISSED'}"
    benchmark.extra_info.update(steps_per_second=rate, bare_copy_seconds=bare)
    report(
        f"{observation:9} {source.features.dtype} bank, {'fresh arrays' if copy else 'shared array'} {rate:7,.0f}   "
        f"{1000 * taken:5.0f} ms a round, bare copy {1000 * bare:4.0f} ms: {bare / taken:4.2f} of its speed{verdict}"
    )
