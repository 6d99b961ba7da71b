"""Memory over long use: ten million steps of one vector environment, and eight processes on one store.

    pytest tests/benchmarks/test_memory.py --benchmark-only

Only Linux reports the proportional share of mapped pages (PSS).
"""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_rivals import arrays, store  # noqa: F401 - fixtures

import glimpse_env

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's smaps_rollup")

STEPS, ENVS, PROCESSES = 10_000_000, 256, 8

READ_ALL = """
import sys
import numpy as np
from glimpse_env import open_source
source = open_source(sys.argv[1])
out = np.empty((1, 7, 7, source.depth), np.float16)
for clip in range(source.num_clips):
    for frame in range(source.num_frames):
        source.read_cubes(np.array([clip]), np.array([frame]), out)
print("read", flush=True)
sys.stdin.read()
"""


def megabytes(process, key):
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def test_memory_does_not_grow(benchmark, report):
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=ENVS, observation="slices", split="validation", copy=False)
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(17)]
    sizes = []

    def play():
        for step in range(STEPS // ENVS):
            envs.step(actions[step % len(actions)])
            if step % (STEPS // ENVS // 10) == 0:
                sizes.append(megabytes("self", "Rss"))

    benchmark.pedantic(play, rounds=1)
    report(f"{STEPS:,} steps: resident {sizes[1]:.1f} MB after a tenth, {megabytes('self', 'Rss'):.1f} MB at the end")
    assert megabytes("self", "Rss") < sizes[1] + 5


@pytest.mark.parametrize("observation", ["slices", "glimpsed", "cube"])
@pytest.mark.parametrize("bank", ["float32", "float16"])
def test_a_step_allocates_only_its_results(benchmark, report, arrays, observation, bank):  # noqa: F811
    features = arrays.features[:8].astype(bank)
    source = glimpse_env.ArraySource(features=features, labels=np.arange(8), class_names=arrays.class_names)
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=64, source=source, observation=observation, copy=False)
    envs.reset(seed=1)
    actions = envs.action_space.sample()
    envs.step(actions)
    tracemalloc.start()
    benchmark.pedantic(lambda: envs.step(actions), rounds=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cube = 4 * 7 * 7 * 1024 * 64
    looks = 64 * 5 * 1024 * 4
    report(
        f"{observation:9} {bank} bank: a step allocates {peak / 1e6:.2f} MB at its peak; 64 cubes are {cube / 1e6:.1f}"
    )
    assert peak < 2 * looks


def test_processes_share_a_store(benchmark, report, store):  # noqa: F811
    readers = [
        subprocess.Popen([sys.executable, "-c", READ_ALL, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]

    def wait():
        for reader in readers:
            assert reader.stdout.readline() == b"read\n"

    benchmark.pedantic(wait, rounds=1)
    shares, residents = ([megabytes(reader.pid, key) for reader in readers] for key in ("Pss", "Rss"))
    for reader in readers:
        reader.communicate()
    size = sum(file.stat().st_size for file in Path(store).rglob("features.npy")) / 2**20
    report(
        f"{PROCESSES} processes that have read a store of {size:.0f} MB: PSS {sum(shares):.0f} MB together, "
        f"{sum(residents):.0f} MB if each held its own pages"
    )
    assert sum(shares) < sum(residents) - (PROCESSES - 2) * size
