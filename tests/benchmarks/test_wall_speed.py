"""Speed of a wall of 49 cameras, next to the store whose clips it shows.

    pytest tests/benchmarks/test_wall_speed.py --benchmark-only

Both step the same number of environments with the same random actions, in turn. Means over cells are computed in an
unmeasured first round, as pages of the store are fetched from the disk in it.
"""

import json
import time

import gymnasium as gym
import numpy as np
import pytest
from test_store_reading import CLIPS, store  # noqa: F401

import glimpse_env

EPISODES, ROUNDS = 128, 5
CEILING = 1.0  # seconds to open
FLOOR = 0.5  # of the store's steps a second


@pytest.fixture(scope="module")
def wall(store):  # noqa: F811
    source = glimpse_env.open_source(str(store))
    return glimpse_env.WallSource(source, background=("a", "b"), grid=7)


def seconds(envs, actions):
    begun = time.perf_counter()
    envs.reset()
    frames = envs.unwrapped.engine.rules.frames
    for step in range(max(EPISODES // envs.num_envs, 2) * (frames + 1) - 1):
        envs.step(actions[step % len(actions)])
    return time.perf_counter() - begun


@pytest.mark.parametrize("num_envs", [1, 16, 64])
@pytest.mark.parametrize("observation", ["slices", "glimpsed", "cube"])
def test_a_wall_steps_at_half_the_rate_of_its_store(benchmark, report, store, wall, observation, num_envs):  # noqa: F811
    pair = [
        gym.make_vec("VideoGlimpse-v0", num_envs=num_envs, source=source, observation=observation, copy=False)
        for source in (str(store), wall)
    ]
    pair[0].action_space.seed(1)
    actions = [pair[0].action_space.sample() % [49, 49, 49, 49, 49, 6] for _ in range(31)]
    for envs in pair:
        envs.reset(seed=1)
    whole = np.empty((CLIPS, 7, 7, wall.depth), np.float32)
    for frame in range(wall.num_frames):
        wall.read_cubes(np.arange(CLIPS), np.full(CLIPS, frame), whole)
    times = []

    def measure():
        for _ in range(ROUNDS):
            times.append([seconds(envs, actions) for envs in pair])

    benchmark.pedantic(measure, rounds=1)
    ratio = float(np.median([stored / walled for stored, walled in times]))
    report(f"wall of 49, {observation:9} n = {num_envs:2}: {ratio:.2f} of its store's rate; floor {FLOOR}")
    assert ratio >= FLOOR


def test_a_wall_opens_within_a_second(benchmark, report, store, tmp_path):  # noqa: F811
    path = tmp_path / "wall.json"
    path.write_text(json.dumps({"source": str(store), "grid": 7, "background": ["a", "b"]}))
    benchmark.pedantic(lambda: gym.make("VideoGlimpse-v0", source=f"wall:{path}"), rounds=5)
    report(
        f"wall of 49 cameras, 4000 walls: opens in {1000 * benchmark.stats.stats.median:.0f} ms; ceiling {CEILING} s"
    )
    assert benchmark.stats.stats.median < CEILING
