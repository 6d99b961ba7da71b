"""Speed of the vector environment, compared with a bare copy of the features that it has to move.

    pytest tests/benchmarks --benchmark-only

16 frames, random actions drawn beforehand, 7 x 7 x 1024 cubes in a bank ten times as big as a large cache. A round is
640 episodes, their resets included; only steps that play an action are counted. The bare copy moves what was seen into
one float32 array that it uses again and again, from where the episodes lie in the bank: whole cubes by `np.copyto`,
slices by fancy index. From a float16 bank that is NumPy's own conversion. For "glimpsed" the array returned is as large
as a cube, but only the slices that were seen are written, and cleared again; see "cube" for copies of whole cubes.
"""

import time

import gymnasium as gym
import numpy as np
import pytest

import glimpse_env

EPISODES, GLIMPSES = 640, 5  # episodes of all environments together
CLIPS, FRAMES, GRID, DEPTH = 110, 16, 7, 1024  # 353 MB in float32
ROUNDS = 5
JUMPING_FLOOR = 0.8  # of the steps a second without jumps
FLOORS = {"slices": 40_000, "glimpsed": 20_000, "cube": 20_000}  # 64 environments, float32 bank, shared array


@pytest.fixture(scope="module", params=["float32", "float16"])
def source(request):
    features = np.random.default_rng(1).random((CLIPS, FRAMES, GRID, GRID, DEPTH), np.float32)
    return glimpse_env.ArraySource(
        features=features.astype(request.param, copy=False), labels=np.arange(CLIPS) % 8, class_names=tuple("abcdefgh")
    )


def play(envs, actions):
    """Play the rows of actions, one autoreset step after each episode's but the last."""
    envs.reset()
    for step in range(episodes_each(envs.num_envs) * (FRAMES + 1) - 1):
        envs.step(actions[step % len(actions)])


def episodes_each(num_envs):
    return max(EPISODES // num_envs, 2)


def bare_copy(source, observation, clips, cells):
    """Copy the observations of episodes of (episodes, num_envs) clips: whole cubes, or the first and then slices."""
    rows = source.features.reshape(-1, DEPTH)
    whole = np.empty((clips.shape[1], GRID, GRID, DEPTH), np.float32)
    parts = np.empty((clips.shape[1], GLIMPSES, DEPTH), np.float32)
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
@pytest.mark.parametrize("num_envs", [1, 16, 64, 256])
def test_steps_a_second(benchmark, report, source, num_envs, observation, copy):
    envs = gym.make_vec(
        "VideoGlimpse-v0", num_envs=num_envs, source=source, glimpses=GLIMPSES, observation=observation, copy=copy
    )
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(50)]
    benchmark.pedantic(play, (envs, actions), rounds=ROUNDS, warmup_rounds=1)
    taken = benchmark.stats.stats.median

    rng = np.random.default_rng(2)
    clips = rng.integers(0, CLIPS, (episodes_each(num_envs), num_envs))
    bare = seconds(bare_copy, source, observation, clips, actions[0][:, :-1])

    rate = clips.size * FRAMES / taken
    floor = FLOORS[observation] if (num_envs, source.features.dtype, copy) == (64, np.float32, False) else 0
    benchmark.extra_info.update(steps_per_second=rate, bare_copy_seconds=bare)
    report(
        f"{observation:9} n = {num_envs:3}, {source.features.dtype} bank, {'fresh arrays' if copy else 'shared array'} "
        f"{rate:7,.0f} (floor {floor:,})   "
        f"{1000 * taken:5.0f} ms a round, bare copy {1000 * bare:4.0f} ms: {bare / taken:4.2f} of its speed"
    )
    assert rate >= floor


@pytest.mark.parametrize("observation", ["slices", "glimpsed", "cube"])
@pytest.mark.parametrize("jumps", [(1,), (1, 2, 4, 8)], ids=str)
def test_jumps_keep_the_rate(benchmark, report, source, observation, jumps):
    """All jumps played are of one frame, so that both environments play the same episodes in the same CPU time."""
    plain, jumping = (
        gym.make_vec(
            "VideoGlimpse-v0", num_envs=64, source=source, glimpses=GLIMPSES, observation=observation, copy=False,
            jumps=allowed,
        )
        for allowed in (None, jumps)
    )  # fmt: skip
    plain.action_space.seed(1)
    actions = [plain.action_space.sample() for _ in range(50)]
    for envs in (plain, jumping):
        envs.reset(seed=1)
    times = []

    def measure():
        for _ in range(ROUNDS):
            for envs, own in ((plain, actions), (jumping, [np.insert(one, GLIMPSES, 0, axis=1) for one in actions])):
                start = time.process_time()
                play(envs, own)
                times.append(time.process_time() - start)

    benchmark.pedantic(measure, rounds=1, warmup_rounds=1)
    ratio = float(np.median(np.array(times[::2]) / np.array(times[1::2])))
    report(
        f"{observation:9} n =  64, {source.features.dtype} bank, jumps {jumps}: {ratio:.2f} of the rate without jumps; "
        f"floor {JUMPING_FLOOR}"
    )
    assert ratio >= JUMPING_FLOOR
