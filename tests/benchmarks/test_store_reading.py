"""Cost of reading a feature store: bytes from the disk for an episode, time in memory, time to open a large one.

    pytest tests/benchmarks/test_store_reading.py --benchmark-only

Bytes are those that Linux charges to a fresh process for fetching from the disk, of files that were written, forced to
the disk and dropped from memory before. Half of the clips are played, each once, in random order, with looks at 5
random cells a frame. The same is measured without the advice that `glimpse_env.store.reader` gives to the kernel.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glimpse_env.datasets import VideoClip
from glimpse_env.store import FeatureStore, reader
from glimpse_env.store.manifest import Manifest, manifest_text, shard_folder
from glimpse_env.store.writer import ClipArrays, StoreWriter, file_facts

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads Linux's /proc/self/io")

CLIPS, FRAMES, GRID, DEPTH, CLIPS_PER_SHARD = 102, 30, 7, 1024, 34  # 307 MB of features in 3 shards
MANIFEST = Manifest(
    dataset="noise", class_names=tuple("abcdefgh"), num_folds=1, clips_sha256="0" * 64, trimmed=True, backbone="none",
    weights_sha256="1" * 64, resize_rule="none", decoder="none", software="none", device="cpu", threads=1,
    batch_size=1, frames_per_second=30.0, num_frames=FRAMES, max_frames=FRAMES, grid_size=GRID, depth=DEPTH,
    dtype="float16", has_coverage=False, clips_per_shard=CLIPS_PER_SHARD, num_shards=CLIPS // CLIPS_PER_SHARD,
)  # fmt: skip
LARGE = 20e9  # bytes
OPENINGS = 20
CEILING = 50  # ms to open the large store
WARM_CEILING = 1.05  # of the time that reading cubes from memory takes without announcements

PLAY = """
import sys, time
from pathlib import Path
import gymnasium as gym
import glimpse_env
import numpy as np
from glimpse_env.store import reader

path, observation, num_envs, advised = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
reader._ADVISES = advised
envs = gym.make_vec(
    "VideoGlimpse-v0", num_envs=num_envs, source=path, observation=observation, glimpses=5, dtype="float16", copy=False
)
envs.action_space.seed(1)
actions = [envs.action_space.sample() for _ in range(29)]

def read():
    return int(Path("/proc/self/io").read_text().split("read_bytes:")[1].split()[0])

before, begun = read(), time.perf_counter()
clips = np.random.default_rng(1).permutation(envs.num_clips)[:51].reshape(-1, num_envs)
for chosen in clips:
    envs.reset(options={"clip": chosen})
    for action in actions:
        envs.step(action)
print((read() - before) / clips.size, (time.perf_counter() - begun) / clips.size)
"""
OPEN = """
import sys, time
from glimpse_env.store import FeatureStore
begun = time.perf_counter()
FeatureStore.open(sys.argv[1])
print(time.perf_counter() - begun)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "noise"
    names = [f"clip{number:03d}" for number in range(CLIPS)]
    clips = [
        VideoClip(clip_id=name, path=path, label=number % 8, splits=("train",)) for number, name in enumerate(names)
    ]
    writer = StoreWriter(path, MANIFEST, clips)
    rng = np.random.default_rng(1)
    thumbnails = np.zeros((FRAMES, 112, 112, 3), np.uint8)
    for shard in range(MANIFEST.num_shards):
        share = names[shard * CLIPS_PER_SHARD :][:CLIPS_PER_SHARD]
        features = rng.random((len(share), FRAMES, GRID, GRID, DEPTH), np.float32).astype(np.float16)
        arrays = [
            ClipArrays(clip_id=name, start=0.0, features=own, thumbnails=thumbnails)
            for name, own in zip(share, features, strict=True)
        ]
        writer.write_shard(shard, arrays, {})
    writer.finish()
    return path


def drop_from_memory(store):
    for file in store.rglob("*.npy"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run_fresh(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=True)
    return [float(number) for number in done.stdout.split()]


@pytest.mark.parametrize("num_envs", [1, 17])
def test_bytes_read_for_an_episode(benchmark, report, store, num_envs):
    costs = {}

    def measure():
        for advised in (True, False):
            for observation in ("slices", "cube"):
                drop_from_memory(store)
                costs[advised, observation] = run_fresh(PLAY, store, observation, num_envs, advised)

    benchmark.pedantic(measure, rounds=1)
    if not costs[True, "cube"][0]:
        pytest.skip(f"{store} is not on a disk")
    cube = 2 * GRID**2 * DEPTH
    looked_at = {"slices": cube + (FRAMES - 1) * 5 * 2 * DEPTH, "cube": FRAMES * cube}
    for (advised, observation), (read, seconds) in costs.items():
        report(
            f"{observation:6} n = {num_envs:2}, {'advised' if advised else 'left to the kernel':18}: "
            f"{read / 1e6:5.2f} MB an episode, {read / looked_at[observation]:4.2f} of what was looked at, "
            f"{1e3 * seconds:5.1f} ms, {read / costs[advised, 'cube'][0]:4.2f} of cube's bytes"
        )
    assert costs[True, "slices"][0] < 0.5 * costs[True, "cube"][0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("num_envs", [1, 64])
@pytest.mark.parametrize("what", ["slices", "cubes"])
def test_announcing_costs_little_in_memory(benchmark, report, store, monkeypatch, what, num_envs, dtype):
    source = FeatureStore.open(store).split("train")
    rng = np.random.default_rng(2)
    calls = 2048 // num_envs
    per_env = {"slices": 5, "cubes": 1}[what]
    looks = per_env * num_envs
    places = rng.integers(0, (CLIPS, FRAMES), (calls, num_envs, 2)).repeat(per_env, axis=1)
    cells = rng.integers(0, GRID**2, (calls, looks))
    out = np.empty((looks, DEPTH) if what == "slices" else (looks, GRID, GRID, DEPTH), dtype)
    times = {True: [], False: []}

    def read(advised):
        monkeypatch.setattr(reader, "_ADVISES", advised)
        begun = time.perf_counter()
        for place, looked_at in zip(places, cells, strict=True):
            if what == "cubes":
                source.read_cubes(place[:, 0], place[:, 1], out)
            else:
                source.read_slices(place[:, 0], place[:, 1], looked_at, out)
        times[advised].append(time.perf_counter() - begun)

    def measure():
        read(True)  # has everything fetched and mapped
        for advised in [True, False] * 15:
            read(advised)

    benchmark.pedantic(measure, rounds=1)
    announced, plain = (float(np.median(times[advised][-15:])) for advised in (True, False))
    ratio, ceiling = announced / plain, WARM_CEILING if what == "cubes" else np.inf
    report(
        f"{what} in memory, n = {num_envs:2}, {np.dtype(dtype)}: {1e6 * announced / calls / looks:.1f} us each, "
        f"{ratio:.3f} of what they take unannounced; ceiling {ceiling}"
    )
    assert ratio <= ceiling


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """A store of 20 GB whose arrays have headers and nothing behind them."""
    path = tmp_path_factory.mktemp("store") / "large"
    rows = FRAMES * CLIPS_PER_SHARD
    shapes = {"features": (rows, GRID, GRID, DEPTH), "thumbnails": (rows, 112, 112, 3)}
    dtypes = {"features": np.dtype(np.float16), "thumbnails": np.dtype(np.uint8)}
    shard_bytes = sum(int(np.prod(shape)) * dtypes[bank].itemsize for bank, shape in shapes.items())
    shards = round(LARGE / shard_bytes)
    files = {}
    for shard in range(shards):
        folder = path / shard_folder(shard)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text("{}")
        for bank, shape in shapes.items():
            with (folder / f"{bank}.npy").open("wb") as file:
                descr = np.lib.format.dtype_to_descr(dtypes[bank])
                np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
                file.truncate(file.tell() + int(np.prod(shape)) * dtypes[bank].itemsize)
        for name in ("record.json", *(f"{bank}.npy" for bank in shapes)):
            files[f"{shard_folder(shard)}/{name}"] = {"bytes": (folder / name).stat().st_size, "sha256": "2" * 64}
    clips = np.arange(shards * CLIPS_PER_SHARD)
    np.savez(
        path / "index.npz",
        clip_ids=np.array([f"a_rather_long_class/a_rather_long_name_of_a_clip_{clip:06d}" for clip in clips]),
        labels=clips % 8,
        shards=clips // CLIPS_PER_SHARD,
        first_rows=clips % CLIPS_PER_SHARD * FRAMES,
        num_frames=np.full(len(clips), FRAMES),
        starts=np.zeros(len(clips)),
        splits=np.ones((1, len(clips)), np.uint8),
    )
    files["index.npz"] = file_facts(path / "index.npz")
    manifest = replace(MANIFEST, num_shards=shards, max_feature=1.0, complete=True)
    (path / "manifest.json").write_text(manifest_text(manifest, files))
    return path


def test_opening_a_large_store(benchmark, report, large_store):
    store = FeatureStore.open(large_store)
    size = sum(file["bytes"] for file in store.files.values())
    cube = np.ones((1, GRID, GRID, DEPTH), np.float16)
    store.split("train").read_cubes(np.array([store.split("train").num_clips - 1]), np.array([FRAMES - 1]), cube)
    assert not cube.any()

    taken = benchmark.pedantic(lambda: [1e3 * run_fresh(OPEN, large_store)[0] for _ in range(OPENINGS)], rounds=1)
    report(
        f"opening {size / 1e9:.1f} GB, {store.manifest.num_shards} shards, {len(store.index['clip_ids'])} clips in "
        f"{OPENINGS} fresh processes: median {np.median(taken):.1f} ms, worst {max(taken):.1f}; ceiling {CEILING}"
    )
    assert max(taken) < CEILING
