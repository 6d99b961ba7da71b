"""The feature store: reading returns what was written, and damage is noticed."""

import errno
import hashlib
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from glimpse_env.datasets import VideoClip
from glimpse_env.sources.protocol import ClipSource, Segment
from glimpse_env.store import FeatureStore, StoreSplit
from glimpse_env.store.__main__ import main
from glimpse_env.store.manifest import Manifest, StoreError, _content_sha256, manifest_text, read_manifest
from glimpse_env.store.reader import widen
from glimpse_env.store.writer import ClipArrays, StoreWriter, file_facts, write_report

MANIFEST = Manifest(
    dataset="toy",
    class_names=("run", "walk"),
    num_folds=2,
    clips_sha256="0" * 64,
    trimmed=True,
    backbone="toy",
    weights_sha256="1" * 64,
    resize_rule="none",
    decoder="none",
    software="none",
    device="cpu",
    threads=1,
    batch_size=1,
    frames_per_second=10.0,
    num_frames=3,
    max_frames=5,
    grid_size=2,
    depth=3,
    dtype="float16",
    has_coverage=True,
    clips_per_shard=2,
    num_shards=2,
)
LENGTHS = {"a": 3, "b": 5, "c": 1, "d": 2}
SPLITS = {"a": ("train", "test"), "b": ("test", "train"), "c": ("train", None), "d": ("train", "train")}
STARTS = {"a": 0.0, "b": 0.5, "c": 0.0, "d": 1.0}


def arrays_of(name):
    rng = np.random.default_rng(ord(name))
    count = LENGTHS[name]
    return ClipArrays(
        clip_id=name,
        start=STARTS[name],
        features=rng.random((count, 2, 2, 3)).astype(np.float16),
        thumbnails=rng.integers(256, size=(count, 112, 112, 3), dtype=np.uint8),
        coverage=rng.integers(52, size=(count, 2, 2), dtype=np.uint8),
    )


CLIPS = [
    VideoClip(clip_id=name, path=Path(name), label=label, splits=SPLITS[name])
    for label, name in zip((0, 1, 1, 0), "abcd", strict=True)
]


def write_store(path, manifest=MANIFEST, clips=CLIPS, arrays=arrays_of):
    writer = StoreWriter(path, manifest, clips)
    writer.write_shard(1, [arrays("c"), arrays("d")], {})
    writer.write_shard(0, [arrays("a"), arrays("b")], {})
    writer.finish()
    return path


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "store")


def test_a_split_is_a_clip_source_of_what_was_written(store):
    source = FeatureStore.open(store).split("train")
    assert isinstance(source, ClipSource)
    assert [source.clip_id(clip) for clip in range(source.num_clips)] == ["a", "c", "d"]
    assert (source.class_names, source.num_frames, source.frames_per_second) == (("run", "walk"), 3, 10.0)
    assert (source.grid_size, source.depth, source.trimmed) == (2, 3, True)
    assert source.max_feature == max(arrays_of(name).features.max() for name in "abcd")


def test_folds_have_their_own_splits(store):
    opened = FeatureStore.open(str(store))
    ids = {
        (split, fold): [source.clip_id(clip) for clip in range(source.num_clips)]
        for split, fold in [("train", 1), ("test", 1), ("train", 2), ("test", 2)]
        for source in [opened.split(split, fold=fold)]
    }
    assert ids == {("train", 1): ["a", "c", "d"], ("test", 1): ["b"], ("train", 2): ["b", "d"], ("test", 2): ["a"]}


def test_a_path_plays_as_its_string_which_goes_through_json(store):
    spec = gym.make("VideoGlimpse-v0", source=str(store), glimpses=1).spec.to_json()
    envs = (gym.make("VideoGlimpse-v0", source=store, glimpses=1), gym.make(EnvSpec.from_json(spec)))
    (observation, info), (other, _) = (env.reset(seed=2) for env in envs)
    np.testing.assert_array_equal(observation, other)
    assert info["clip_id"] in ("a", "c", "d")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("clips", [[0, 2, 1, 2, 0], [0, 0], [1, 2, 2], []])
def test_cubes_and_slices_come_from_the_right_shards(store, dtype, clips):
    source = FeatureStore.open(store).split("train")
    rng = np.random.default_rng(0)
    names = [source.clip_id(clip) for clip in clips]
    frames = np.array([rng.integers(LENGTHS[name]) for name in names], np.int64)
    cells = rng.integers(4, size=len(clips))
    clips = np.array(clips, np.int64)
    expected = [arrays_of(name).features[frame] for name, frame in zip(names, frames, strict=True)]
    cubes = np.empty((len(clips), 2, 2, 3), dtype)
    source.read_cubes(clips, frames, cubes)
    np.testing.assert_array_equal(cubes, np.reshape(expected, cubes.shape))
    slices = np.empty((len(clips), 3), dtype)
    source.read_slices(clips, frames, cells, slices)
    picked = [cube.reshape(4, 3)[cell] for cube, cell in zip(expected, cells, strict=True)]
    np.testing.assert_array_equal(slices, np.reshape(picked, slices.shape))


def test_widening_is_exact_for_every_finite_half():
    halves = np.arange(65536).astype(np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    out = np.empty(halves.shape, np.float32)
    widen(halves, out)
    np.testing.assert_array_equal(out.view(np.int32), halves.astype(np.float32).view(np.int32))


def test_times_and_segments_cover_the_frames(store):
    opened = FeatureStore.open(store)
    test = opened.split("test")
    np.testing.assert_allclose(test.frame_times(0), [0.5, 0.6, 0.7, 0.8, 0.9])
    (segment,) = test.segments(0)
    assert segment == Segment(pytest.approx(0.45), pytest.approx(0.95), 1)
    (alone,) = opened.split("train").segments(1)
    assert alone == Segment(pytest.approx(-0.05), pytest.approx(0.05), 1)


def test_pictures_are_copies_of_the_thumbnails(store):
    source = FeatureStore.open(store).split("train")
    picture = source.image(2, 1)
    np.testing.assert_array_equal(picture, arrays_of("d").thumbnails[1])
    picture[:] = 0
    assert source.image(2, 1).any()


def test_the_actor_is_where_more_than_a_tenth_is_covered(store):
    source = FeatureStore.open(store).split("train")
    np.testing.assert_array_equal(source.actor(2), arrays_of("d").coverage >= 26)
    assert source.actor(0).any()
    assert not source.actor(0).all()


def test_without_coverage_the_actor_is_unknown(tmp_path):
    source = FeatureStore.open(write_store(tmp_path, replace(MANIFEST, has_coverage=False))).split("train")
    assert source.actor(0) is None


def test_a_split_survives_pickling(store):
    source = pickle.loads(pickle.dumps(FeatureStore.open(store).split("train", fold=2)))  # noqa: S301 (made here)
    assert isinstance(source, StoreSplit)
    assert (source.split, source.fold, source.clip_id(1)) == ("train", 2, "d")


def test_reading_needs_no_torch(store):
    code = (
        "import sys; sys.modules['torch'] = None; from glimpse_env.store import FeatureStore; "
        f"print(FeatureStore.open({str(store)!r}).split('test').image(0, 4).shape)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "(112, 112, 3)\n", ran.stderr


def test_stores_of_the_same_clips_are_the_same_bytes(tmp_path, store):
    again = write_store(tmp_path / "again")
    assert contents(store) == contents(again)


def contents(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_missing_store(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^no feature store at .*: write one with python -m glimpse_env\.extract$"
    ):
        FeatureStore.open(tmp_path / "none")


def test_unknown_splits_and_folds(store):
    opened = FeatureStore.open(store)
    with pytest.raises(ValueError, match=r"unknown split 'val': .* has train, validation, test"):
        opened.split("val")
    for fold in (0, 3, "1", True, 1.0):
        with pytest.raises(ValueError, match=rf"unknown fold {fold!r}: .* has fold 1, 2"):
            opened.split("train", fold=fold)
    with pytest.raises(ValueError, match=r"split 'validation' of fold 1 has no clips in"):
        opened.split("validation")


@pytest.mark.parametrize("name", ["shards/00001/features.npy", "shards/00000/thumbnails.npy", "index.npz"])
def test_a_file_that_was_cut_is_noticed_on_opening(store, name):
    path = store / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{path} has \d+ bytes instead of \d+"):
        FeatureStore.open(store)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path} is missing"):
        FeatureStore.open(store)


@pytest.mark.parametrize("name", ["shards/00001/features.npy", "shards/00000/coverage.npy", "shards/00001/record.json"])
def test_a_file_that_was_altered_is_noticed_by_verify(store, name):
    assert name in list(FeatureStore.open(store).verify())
    content = bytearray((store / name).read_bytes())
    content[-2] ^= 1
    (store / name).write_bytes(content)
    with pytest.raises(StoreError, match=rf"{name} was altered: its sha256 is not the manifest's"):
        list(FeatureStore.open(store).verify())


def test_an_altered_manifest_is_noticed_on_opening(store):
    path = store / "manifest.json"
    path.write_text(path.read_text().replace('"grid_size": 2', '"grid_size": 7'))
    with pytest.raises(StoreError, match=r"manifest\.json was altered"):
        FeatureStore.open(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 3, "format_version": 1}'])
def test_a_damaged_manifest_is_noticed_on_opening(store, text):
    (store / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json is (damaged|of format 3)"):
        FeatureStore.open(store)


def signed_arrays(name):
    """Return arrays of a clip whose features are from -1 to 1."""
    clip = arrays_of(name)
    clip.features[...] = 2 * clip.features - 1
    return clip


def as_format_1(store):
    """Turn a store into one of format 1: without checksums of clips and without a smallest feature."""
    manifest, files = read_manifest(store)
    for record in store.glob("shards/*/record.json"):
        content = json.loads(record.read_text())
        del content["min_feature"]
        for clip in content["clips"]:
            del clip["crc32"]
        record.write_text(json.dumps(content))
    with np.load(store / "index.npz") as arrays:
        index = {name: arrays[name] for name in arrays if name != "crc32"}
    np.savez(store / "index.npz", **index)
    files = {name: file_facts(store / name) for name in files}
    content = json.loads(manifest_text(manifest, files)) | {"format_version": 1}
    for name in ("sha256", "layer", "min_feature"):
        del content[name]
    (store / "manifest.json").write_text(json.dumps({**content, "sha256": _content_sha256(content)}))
    return store


def read_cubes(path, **options):
    """Return the cubes of every frame of the train split."""
    source = FeatureStore.open(path, **options).split("train")
    lengths = [len(source.frame_times(clip)) for clip in range(source.num_clips)]
    frames = np.concatenate([np.arange(length) for length in lengths])
    cubes = np.empty((len(frames), 2, 2, 3), np.float16)
    source.read_cubes(np.repeat(np.arange(len(lengths)), lengths), frames, cubes)
    return cubes


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_signed_features_are_read_as_they_were_written(tmp_path, dtype):
    path = write_store(tmp_path / "store", arrays=signed_arrays)
    source = FeatureStore.open(path).split("train")  # of clips a, c and d
    every = np.concatenate([signed_arrays(name).features.ravel() for name in "abcd"])
    assert (source.min_feature, source.max_feature) == (every.min(), every.max())
    assert source.min_feature < -0.9
    clips, frames, cells = np.array([0, 2, 1, 2]), np.array([2, 1, 0, 0]), np.array([3, 0, 1, 2])
    cubes, slices = np.empty((4, 2, 2, 3), dtype), np.empty((4, 3), dtype)
    source.read_cubes(clips, frames, cubes)
    source.read_slices(clips, frames, cells, slices)
    expected = [signed_arrays("acd"[clip]).features[frame] for clip, frame in zip(clips, frames, strict=True)]
    np.testing.assert_array_equal(cubes, expected)
    np.testing.assert_array_equal(slices, np.reshape(expected, (4, 4, 3))[np.arange(4), cells])


def test_a_store_of_format_1_is_read_bit_for_bit(store):
    cubes, files = read_cubes(store), contents(store)
    old = as_format_1(store)
    opened = FeatureStore.open(old)
    assert (opened.manifest.min_feature, opened.manifest.layer) == (0, None)
    assert read_cubes(old).tobytes() == cubes.tobytes()
    assert len(list(opened.verify())) == 9
    unchanged = {name for name, content in contents(old).items() if content == files[name]}
    assert unchanged == {name for name in files if name.endswith(".npy")}


def test_an_extraction_that_was_begun_in_format_1_is_finished_in_format_2(store):
    files = contents(store)
    as_format_1(store)
    manifest, _ = read_manifest(store)
    (store / "index.npz").unlink()
    begun = json.loads((store / "manifest.json").read_text()) | {"complete": False, "max_feature": 0.0, "files": {}}
    del begun["sha256"]
    (store / "manifest.json").write_text(json.dumps({**begun, "sha256": _content_sha256(begun)}))
    assert StoreWriter(store, MANIFEST, CLIPS).finish() == {}
    assert contents(store)["index.npz"] == files["index.npz"]
    assert read_manifest(store)[0] == manifest
    assert len(read_cubes(store, verify="read")) == 6


def test_a_changed_feature_is_noticed_at_the_first_read_of_its_clip(store):
    file = store / "shards" / "00001" / "features.npy"  # of c, of one frame, and d, of two
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last feature of d, within the range
    file.write_bytes(content)
    assert len(read_cubes(store)) == 6
    source = FeatureStore.open(store, verify="read").split("train")
    zero, cube, part = np.zeros(1, np.int64), np.empty((1, 2, 2, 3), np.float32), np.empty((1, 3), np.float32)
    for _ in range(2):
        source.read_cubes(zero + 1, zero, cube)
        source.read_slices(zero, zero, zero, part)
    message = r"00001/features\.npy is damaged: the features of 'd' do not have the CRC-32 of the index; extract it"
    for again in (source, pickle.loads(pickle.dumps(source))):  # noqa: S301
        with pytest.raises(StoreError, match=message):
            again.read_cubes(zero + 2, zero, cube)
        with pytest.raises(StoreError, match=message):
            again.read_slices(zero + 2, zero, zero, part)


def test_only_stores_with_checksums_can_be_verified_at_a_read(store):
    with pytest.raises(ValueError, match=r"verify must be one of \('open', 'read'\), got 'always'"):
        FeatureStore.open(store, verify="always")
    with pytest.raises(StoreError, match=r"is of format 1, which has no CRCs of its clips: leave verify out, and read"):
        FeatureStore.open(as_format_1(store), verify="read")


def test_a_newer_format_is_refused(store):
    path = store / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3}))
    with pytest.raises(StoreError, match=r"manifest\.json is of format version 3, newer than the 2 .*: update it"):
        FeatureStore.open(store)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "shards/../../x", "shards/00002/features.npy", "a\0b"])
@pytest.mark.parametrize("replaced", [None, "index.npz"])
def test_a_manifest_that_names_other_files_is_refused(store, name, replaced):
    manifest, files = read_manifest(store)
    files.pop(replaced, None)
    (store / "manifest.json").write_text(manifest_text(manifest, {**files, name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(StoreError, match="lists other files than a store of this format has"):
        FeatureStore.open(store)


@pytest.mark.parametrize("facts", [None, 3, {}, {"bytes": "many", "sha256": ""}])
def test_a_manifest_without_facts_of_a_file_is_refused(store, facts):
    manifest, files = read_manifest(store)
    (store / "manifest.json").write_text(manifest_text(manifest, {**files, "index.npz": facts}))
    with pytest.raises(StoreError, match=r"manifest\.json is damaged \("):
        FeatureStore.open(store)


def test_arrays_of_the_wrong_shape_are_refused(store):
    manifest, files = read_manifest(store)
    (store / "manifest.json").write_text(manifest_text(replace(manifest, depth=4), files))
    source = FeatureStore.open(store).split("train")
    with pytest.raises(
        StoreError,
        match=r"features\.npy holds float16 \(8, 2, 2, 3\), expected float16 \(8, 2, 2, 4\): extract it again",
    ):
        source.read_cubes(np.array([0]), np.array([0]), np.empty((1, 2, 2, 4)))


def test_an_unfinished_store_is_refused_and_resumed(tmp_path, store):
    path = tmp_path / "unfinished"
    StoreWriter(path, MANIFEST, CLIPS).write_shard(0, [arrays_of("a"), arrays_of("b")], {})
    with pytest.raises(StoreError, match="unfinished is unfinished: run the command that began it again to resume"):
        FeatureStore.open(path)
    (path / "shards" / "00001.partial").mkdir()
    writer = StoreWriter(path, MANIFEST, CLIPS)
    assert writer.missing_shards() == [1]
    writer.write_shard(1, [arrays_of("c"), arrays_of("d")], {})
    writer.finish()
    assert contents(path) == contents(store)
    complete = StoreWriter(path, MANIFEST, CLIPS)
    assert complete.manifest.complete
    assert complete.missing_shards() == []


def test_a_store_of_other_settings_is_not_resumed(store):
    with pytest.raises(StoreError, match=r"begun with other settings \(num_frames 3 there and 4 now\): choose another"):
        StoreWriter(store, replace(MANIFEST, num_frames=4), CLIPS)


def test_a_folder_of_other_things_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="is neither empty nor a feature store"):
        StoreWriter(tmp_path, MANIFEST, CLIPS)


def test_files_are_what_numpy_saves(store):
    for bank in ("features", "thumbnails", "coverage"):
        expected = io.BytesIO()
        np.save(expected, np.concatenate([getattr(arrays_of(name), bank) for name in "ab"]))
        assert (store / "shards" / "00000" / f"{bank}.npy").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("value", [-0.0, 1000.0, 65504.0, -1e-7, -0.5, -65504.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_features_and_their_range_are_written(tmp_path, value, sign):
    clip = arrays_of("a")
    clip.features[...] *= sign
    clip.features[1, 0, 1, 2] = value
    StoreWriter(tmp_path, MANIFEST, CLIPS).write_shard(0, [clip], {})
    record = json.loads((tmp_path / "shards" / "00000" / "record.json").read_text())
    assert (record["min_feature"], record["max_feature"]) == (clip.features.min(), clip.features.max())
    assert math.copysign(1, record["min_feature"]) == (-1 if clip.features.min() < 0 else 1)  # no -0.0
    # The number that zip files keep of the same bytes.
    file = zipfile.ZipInfo("x")
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr(file, clip.features.tobytes())
    assert record["clips"][0]["crc32"] == file.CRC


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_impossible_features_are_not_written(tmp_path, value):
    clip = arrays_of("a")
    clip.features[1, 0, 1, 2] = value
    with pytest.raises(StoreError, match="features of 'a' are too large for float16, or no numbers"):
        StoreWriter(tmp_path, MANIFEST, CLIPS).write_shard(0, [clip], {})


def test_unreadable_clips_are_left_out_and_reported(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST, CLIPS)
    writer.write_shard(0, [arrays_of("b")], {"a": "broken"})
    writer.write_shard(1, [], {"c": "empty", "d": "text"})
    assert writer.finish() == {"a": "broken", "c": "empty", "d": "text"}
    source = FeatureStore.open(tmp_path).split("test")
    cube = np.empty((1, 2, 2, 3), np.float16)
    source.read_cubes(np.array([0]), np.array([4]), cube)
    np.testing.assert_array_equal(cube[0], arrays_of("b").features[4])


def test_a_store_without_clips_is_not_finished(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST, CLIPS)
    for shard, names in enumerate(("ab", "cd")):
        writer.write_shard(shard, [], dict.fromkeys(names, "broken"))
    with pytest.raises(StoreError, match=r"none of the 4 videos could be read, so .* is empty: broken"):
        writer.finish()


def test_a_store_of_zeros_is_not_finished(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST, CLIPS)
    writer.write_shard(0, [replace(arrays_of("a"), features=np.zeros((3, 2, 2, 3), np.float16))], {"b": "broken"})
    writer.write_shard(1, [], {"c": "broken", "d": "broken"})
    with pytest.raises(StoreError, match=r"all features of .* are 0: give the weights of a trained network"):
        writer.finish()


def test_the_report_keeps_every_run_and_is_not_checksummed(store):
    write_report(store, failures={"x": "broken"}, run={"frames": 10, "frames_per_second": 5.0})
    write_report(store, failures={"x": "broken"}, run={"frames": 0, "frames_per_second": 0.0})
    report = json.loads((store / "report.json").read_text())
    assert report["failures"] == {"x": "broken"}
    assert [run["frames_per_second"] for run in report["runs"]] == [5.0]
    assert "report.json" not in list(FeatureStore.open(store).verify())


def test_a_full_disk_costs_the_shard_being_written_and_no_more(tmp_path, store, small_files):
    path = tmp_path / "full"
    writer = StoreWriter(path, MANIFEST, CLIPS)
    writer.write_shard(1, [arrays_of("c"), arrays_of("d")], {})
    small_files(50_000)  # one thumbnail fits into a file, two do not
    with pytest.raises(
        StoreError,
        match=r"full could not be written \(.*\): finished shards are kept\. If its disk is full, free space; then run",
    ):
        writer.write_shard(0, [arrays_of("a"), arrays_of("b")], {})
    small_files(None)
    assert [entry.name for entry in (path / "shards").iterdir()] == ["00001"]
    again = StoreWriter(path, MANIFEST, CLIPS)
    assert again.missing_shards() == [0]
    again.write_shard(0, [arrays_of("a"), arrays_of("b")], {})
    again.finish()
    assert contents(path) == contents(store)


@pytest.mark.parametrize("size", [0, 500, 1950], ids=["nothing fits", "half the index fits", "the index alone fits"])
def test_a_disk_too_full_for_the_index_leaves_the_store_unfinished(tmp_path, store, small_files, size):
    path = tmp_path / "full"
    writer = StoreWriter(path, MANIFEST, CLIPS)
    writer.write_shard(1, [arrays_of("c"), arrays_of("d")], {})
    writer.write_shard(0, [arrays_of("a"), arrays_of("b")], {})
    small_files(size)
    with pytest.raises(StoreError, match=r"full could not be written .*: finished shards are kept"):
        writer.finish()
    small_files(None)
    assert not list(path.rglob("*.partial"))
    with pytest.raises(StoreError, match="full is unfinished"):
        FeatureStore.open(path)
    StoreWriter(path, MANIFEST, CLIPS).finish()
    assert contents(path) == contents(store)


def test_the_first_of_two_workers_writes_a_shard(tmp_path, store):
    writer = StoreWriter(tmp_path / "twice", MANIFEST, CLIPS)
    for clips in ([arrays_of("a"), arrays_of("b")], [arrays_of("a")]):
        writer.write_shard(0, clips, {})
    writer.write_shard(1, [arrays_of("c"), arrays_of("d")], {})
    assert sorted(entry.name for entry in (tmp_path / "twice" / "shards").iterdir()) == ["00000", "00001"]
    writer.finish()
    assert contents(tmp_path / "twice") == contents(store)


def test_the_oldest_stores_have_whole_frames_in_float32(store):
    manifest, files = read_manifest(store)
    content = json.loads(manifest_text(manifest, files))
    del content["precision"], content["crop"], content["sha256"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (store / "manifest.json").write_text(json.dumps({**content, "sha256": digest}))
    assert FeatureStore.open(store).manifest == manifest
    assert (manifest.precision, manifest.crop) == ("float32", None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not limit open files")
def test_more_shards_than_files_may_be_open_can_be_read(tmp_path):
    import resource

    names = [f"c{number:03d}" for number in range(80)]
    clips = [VideoClip(clip_id=name, path=Path(name), label=0, splits=("train", "train")) for name in names]
    writer = StoreWriter(tmp_path / "many", replace(MANIFEST, clips_per_shard=1, num_shards=80), clips)
    for shard, name in enumerate(names):
        writer.write_shard(shard, [replace(arrays_of("a"), clip_id=name)], {})
    writer.finish()
    split = FeatureStore.open(tmp_path / "many").split("train")
    cubes = np.empty((80, 2, 2, 3), np.float16)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        for _ in range(2):
            split.read_cubes(np.arange(80), np.zeros(80, np.int64), cubes)
            assert all(split.image(clip, 0).shape == (112, 112, 3) for clip in range(80))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (cubes == arrays_of("a").features[0]).all()
    assert len(split.store._banks) == 16


def test_a_full_disk_noticed_on_forcing_files_to_it(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path, MANIFEST, CLIPS)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"could not be written \(\[Errno 28\] No space left on device\)"):
        writer.write_shard(0, [arrays_of("a")], {"b": "broken"})
    assert not list((tmp_path / "shards").iterdir())
    with pytest.raises(StoreError, match="nothing is lost"):
        StoreWriter(tmp_path / "other", MANIFEST, CLIPS)
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's smaps")
@pytest.mark.parametrize("name", ["features", "thumbnails"])
def test_maps_ask_the_kernel_not_to_read_around(store, name):
    bank = FeatureStore.open(store).mapped(name, 1).rows
    maps = Path("/proc/self/smaps").read_text().split(str(store / f"shards/00001/{name}.npy"))[1:]
    assert len(bank)
    assert [re.search(r"^VmFlags:.* rr\b", text, re.MULTILINE) is not None for text in maps] == [True]


def test_rows_can_be_announced_again_and_again(store, monkeypatch):
    bank = FeatureStore.open(store).mapped("thumbnails", 0)
    for seconds in (0.0, 59.0, 61.0):
        monkeypatch.setattr("time.monotonic", lambda seconds=seconds: 1000.0 + seconds)
        bank.announce(range(len(bank.rows)))
    np.testing.assert_array_equal(bank.rows[:3], arrays_of("a").thumbnails)


def rewrite(store, name):
    """Update the manifest's entry of a file."""
    manifest, files = read_manifest(store)
    (store / "manifest.json").write_text(manifest_text(manifest, {**files, name: file_facts(store / name)}))


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4", b"\x93NUMPY\1\0\x05\0junk\n"], ids=["empty", "another format", "a broken header"]
)
def test_files_of_other_formats_are_refused_when_mapped(store, content):
    file = store / "shards/00000/features.npy"
    file.write_bytes(content)
    rewrite(store, "shards/00000/features.npy")
    opened = FeatureStore.open(store)
    with pytest.raises(StoreError, match=r"features\.npy is damaged \(.*\): extract the store again"):
        opened.mapped("features", 0)


@pytest.mark.parametrize("array", [np.float16(1), np.array([{}])], ids=["a scalar", "objects"])
def test_arrays_without_rows_are_refused_when_mapped(store, array):
    file = store / "shards/00000/features.npy"
    np.save(file, array)
    rewrite(store, "shards/00000/features.npy")
    with pytest.raises(StoreError, match=r"features\.npy (is damaged|holds float16 \(\), expected)"):
        FeatureStore.open(store).mapped("features", 0)


@pytest.mark.parametrize(
    ("name", "number"), [("shards", -1), ("shards", 2), ("labels", 2), ("labels", -2), ("segment_labels", 2)]
)
def test_an_index_of_missing_shards_and_classes_is_refused(tmp_path, name, number):
    clips = [replace(clip, segments=(Segment(0.0, 1.0, clip.label),)) for clip in CLIPS]
    store = write_store(tmp_path / "store", replace(MANIFEST, trimmed=False), clips)
    with np.load(store / "index.npz") as arrays:
        index = dict(arrays)
    index[name][1] = number
    np.savez(store / "index.npz", **index)
    rewrite(store, "index.npz")
    with pytest.raises(StoreError, match=rf"index\.npz is damaged \(ValueError: {name} are not int64 from -?\d to 1\)"):
        FeatureStore.open(store)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["store", *map(str, arguments)])
    main()


def test_the_command_line_verifies_and_describes(store, monkeypatch, capsys):
    run_main(monkeypatch, "verify", store)
    assert "all 9 files are as they were written" in capsys.readouterr().out
    run_main(monkeypatch, "info", store)
    out = capsys.readouterr().out
    assert "4, 11 frames" in out
    assert "train 3, validation 0, test 1" in out


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    store = write_store(tmp_path / "store", replace(MANIFEST, class_names=("走る", "walk")))
    printed = subprocess.run(
        [sys.executable, "-m", "glimpse_env.store", "info", store],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert r"\u8d70\u308b, walk" in printed
    assert "decoded by         unknown 4" in printed


def test_a_folder_with_the_notes_of_a_file_manager_alone_is_empty(tmp_path):
    (tmp_path / ".DS_Store").touch()
    write_store(tmp_path)


def test_errors_of_the_command_line_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: no feature store at"):
        run_main(monkeypatch, "info", tmp_path / "none")
