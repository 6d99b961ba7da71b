"""Damage to every byte of a store and of annotation files: one kind of error, with the file's name.

`pytest -m slow tests/test_damage.py` tries every bit, and every deletion and insertion.
"""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from extraction_inputs import write_activitynet
from test_datasets import touch, write_splits, write_ucf
from test_store import MANIFEST, arrays_of, rewrite, signed_arrays, write_store

from glimpse_env.datasets import DatasetError, VideoClip, activitynet, folder, hmdb51, ucf101
from glimpse_env.sources.protocol import Segment
from glimpse_env.store import FeatureStore, StoreError
from glimpse_env.store.manifest import _content_sha256, read_manifest
from glimpse_env.store.writer import StoreWriter

SHARD = ("features.npy", "coverage.npy", "record.json", "thumbnails.npy")
ALL_BITS = [pytest.param(1, id="a bit"), pytest.param(8, id="every bit", marks=pytest.mark.slow)]


@pytest.fixture
def store(tmp_path):
    """An untrimmed store of two clips of one and two frames in one shard."""
    clips = [
        VideoClip(clip_id=name, path=Path(name), label=-1, splits=(part,), segments=(Segment(0.0, 0.5, label),))
        for name, part, label in (("c", "train", 0), ("d", "test", 1))
    ]
    manifest = replace(MANIFEST, num_folds=1, trimmed=False, max_frames=2, num_shards=1)
    writer = StoreWriter(tmp_path / "store", manifest, clips)
    writer.write_shard(0, [arrays_of("c"), arrays_of("d")], {"e": "no frame"})
    writer.finish()
    return tmp_path / "store"


def read_everything(path):
    """Open a store and use all that it holds, except the checksums."""
    store = FeatureStore.open(path)
    store.decoders()
    manifest = store.manifest
    for split in ("train", "test"):
        source = store.split(split)
        for clip in range(source.num_clips):
            source.clip_id(clip), source.segments(clip), source.actor(clip)
            frames = np.arange(len(source.frame_times(clip)))
            clips = np.full_like(frames, clip)
            for frame in frames.tolist():
                source.image(clip, frame)
            cubes = np.empty((len(frames), manifest.grid_size, manifest.grid_size, manifest.depth), np.float32)
            source.read_cubes(clips, frames, cubes)
            slices = np.empty((len(frames), manifest.depth), np.float32)
            source.read_slices(clips, frames, frames % manifest.grid_size**2, slices)
            for features in (cubes, slices):
                assert ((features >= 0) & (features <= manifest.max_feature)).all()
    return store


def flips(content, bits, places=None):
    """Yield copies of bytes with one bit changed, `bits` of the eight of every byte."""
    rng = np.random.default_rng(0)
    for place in range(len(content)) if places is None else places:
        for bit in rng.permutation(8)[:bits]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(bit)
            yield bytes(damaged)


# ---- stores


def error_of(action, *kinds):
    """Return the message of the error that an action raises, "" if it raises none; other kinds of errors pass."""
    try:
        action()
    except kinds as error:
        return str(error)
    return ""


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["manifest.json", "index.npz", *(f"shards/00000/{name}" for name in SHARD)])
def test_a_damaged_byte_is_a_store_error_with_the_name_of_the_file(store, name, bits):
    file = store / name
    content = file.read_bytes()
    # Of the pictures, whose every byte is allowed, the header and some others.
    places = [*range(128), *range(128, len(content), 997)] if name.endswith("thumbnails.npy") else None
    for damaged in flips(content, bits, places):
        file.write_bytes(damaged)
        assert file.name in error_of(lambda: list(read_everything(store).verify()), StoreError)
    file.write_bytes(content)
    list(read_everything(store).verify())


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["index.npz", "shards/00000/features.npy", "shards/00000/record.json"])
def test_a_damaged_byte_with_a_right_checksum_gives_no_other_error(store, name, bits):
    file = store / name
    content = file.read_bytes()
    for damaged in flips(content, bits):
        file.write_bytes(damaged)
        rewrite(store, name)
        message = error_of(lambda: read_everything(store), StoreError, ValueError)
        # A damaged index may move clips to another split, or change their lengths in a shard.
        assert any(text in message for text in (file.name, "has no clips in", ".npy holds")) or not message


VALUES = [None, True, -1, 0, 1, 3, 10**30, 0.5, -1.0, 1e-300, math.nan, math.inf, "", "x", [], ["a", "b"], [3], {}]


def test_wrong_values_in_a_signed_manifest_give_no_other_error(store):
    path = store / "manifest.json"
    original = json.loads(path.read_text())
    del original["sha256"]
    refused = set()
    for name in original:
        for value in VALUES:
            content = {**original, name: value}
            path.write_text(json.dumps({**content, "sha256": _content_sha256(content)}))
            if message := error_of(lambda: read_everything(store), StoreError):
                assert str(store) in message
                refused.add((name, repr(value)))
    for name, value in [
        ("frames_per_second", "0"), ("frames_per_second", "-1.0"), ("frames_per_second", "nan"), ("max_feature", "0"),
        ("class_names", "'x'"), ("class_names", "[3]"), ("max_feature", "inf"), ("max_feature", "nan"),
        ("num_shards", "0"), ("grid_size", "None"), ("depth", "0.5"), ("dtype", "'x'"), ("num_frames", "0"),
        ("crop", "-1"), ("layer", "3"), ("min_feature", "inf"), ("trimmed", "3"), ("files", "[]"), ("max_frames", "1"),
        ("grid_size", "1000000000000000000000000000000"), ("format_version", "None"),
    ]:  # fmt: skip
        assert (name, value) in refused, (name, value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("first_rows", [0, -1], r"first_rows are not int64 from 0 to"),
        ("first_rows", [0, 7], r"first_rows do not follow each other in their shards"),
        ("num_frames", [1, 0], r"num_frames are not int64 from 1 to 2"),
        ("num_frames", [1, 3], r"num_frames are not int64 from 1 to 2"),
        ("starts", [0.0, math.nan], r"starts are not float64 from"),
        ("starts", [0.0, math.inf], r"starts are not float64 from"),
        ("segment_starts", [0.0, math.nan], r"segment_starts are not float64 from"),
        ("segment_starts", [0.0, 0.75], r"segment_starts lie after segment_ends"),
        ("segment_ends", [0.5, -math.inf], r"segment_ends are not float64 from"),
        ("segment_clips", [1, 0], r"segment_clips are not in the order of the clips"),
        ("segment_clips", [0, 2], r"segment_clips are not int64 from 0 to 1"),
        ("splits", np.array([[1, 4]], np.uint8), r"splits are not uint8 from 0 to 3"),
        ("splits", np.array([[1, 3], [1, 3]], np.uint8), r"splits have shape \(2, 2\) instead of \(1, 2\)"),
        ("clip_ids", ["c", "c"], r"clip_ids are not different names"),
        ("clip_ids", [1, 2], r"clip_ids are not different names"),
        ("labels", [0.0, 0.0], r"labels are not int64 from -1 to 1"),
        ("crc32", [0, -1], r"crc32 are not uint32 from 0 to 4294967295"),
    ],
)
def test_values_of_the_index_are_checked(store, name, values, message):
    with np.load(store / "index.npz") as arrays:
        index = dict(arrays)
    np.savez(store / "index.npz", **index | {name: np.array(values)})
    rewrite(store, "index.npz")
    with pytest.raises(StoreError, match=r"index\.npz is damaged \(ValueError: " + message):
        FeatureStore.open(store)


def test_an_index_with_fewer_rows_than_the_shard_is_noticed(store):
    with np.load(store / "index.npz") as arrays:
        index = dict(arrays)
    np.savez(store / "index.npz", **index | {"num_frames": np.array([1, 1])})
    rewrite(store, "index.npz")
    with pytest.raises(
        StoreError, match=r"coverage\.npy holds uint8 \(3, 2, 2\), expected uint8 \(2, 2, 2\): extract it again"
    ):
        read_everything(store)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, -1.5, 1000.0])
@pytest.mark.parametrize("read", ["cubes", "slices"])
def test_features_out_of_range_are_not_read_as_numbers(tmp_path, signed, value, read):
    store = write_store(tmp_path / "store", arrays=signed_arrays if signed else arrays_of)  # from -1 or 0 to 1
    file = store / "shards" / "00000" / "features.npy"
    content = bytearray(file.read_bytes())
    content[128:130] = struct.pack("<e", value)  # channel 0 of cell 0 of the first frame
    file.write_bytes(content)
    source = FeatureStore.open(store).split("train")
    zero = np.zeros(1, np.int64)
    arguments = {
        "cubes": (zero, zero, np.empty((1, 2, 2, 3), np.float32)),
        "slices": (zero, zero, zero, np.empty((1, 3))),
    }
    with pytest.raises(
        StoreError, match=r"features\.npy is damaged: a feature is not between (0|-0\.9\d*) and 0\.\d+; extract"
    ):
        getattr(source, f"read_{read}")(*arguments[read])
    assert read_manifest(store)[0].max_feature < 1000


def test_negative_zero_is_a_feature(store):
    file = store / "shards" / "00000" / "features.npy"
    content = bytearray(file.read_bytes())
    content[128:130] = struct.pack("<e", -0.0)
    file.write_bytes(content)
    read_everything(store)
    zero, cube = np.zeros(1, np.int64), np.ones((1, 2, 2, 3), np.float32)
    FeatureStore.open(store).split("train").read_cubes(zero, zero, cube)
    assert cube[0, 0, 0, 0] == 0


def test_a_store_that_is_deleted_while_it_is_open_is_a_store_error(store):
    source = FeatureStore.open(store).split("train")
    (store / "shards" / "00000" / "thumbnails.npy").unlink()
    with pytest.raises(StoreError, match=r"thumbnails\.npy cannot be read \(No such file or directory\)"):
        source.image(0, 0)


def test_a_relative_path_survives_a_change_of_the_folder(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = FeatureStore.open("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert opened.split("train").image(0, 0).shape == (112, 112, 3)
    function, arguments = opened.split("train").__reduce__()
    assert function(*arguments).image(0, 0).shape == (112, 112, 3)


# ---- annotation files


def changes(content, bits):
    """Yield copies of bytes with one bit changed, and, with all bits, also one byte less, one more, or a cut end."""
    yield from flips(content, bits)
    if bits == 8:
        for place in range(len(content)):
            yield content[:place] + content[place + 1 :]
            yield content[:place]
            for byte in (b"\0", b"\n", b'"', b",", b"9", b"/", b"\xff"):
                yield content[:place] + byte + content[place:]


def require_sound(dataset, videos):
    """Check a description, which is sound whatever the annotations were."""
    ids = [clip.clip_id for clip in dataset.clips]
    assert len(set(ids)) == len(ids) > 0
    assert len(set(dataset.class_names)) == len(dataset.class_names) > 0
    for clip in dataset.clips:
        assert clip.path.is_file()
        assert videos.resolve() in clip.path.resolve().parents
        assert set(clip.splits) <= {"train", "validation", "test", None}
        assert len(clip.splits) == dataset.num_folds
        assert clip.label in range(len(dataset.class_names)) if dataset.trimmed else clip.label == -1
        for start, end, label in clip.segments:
            assert 0 <= start <= end < math.inf
            assert label in range(len(dataset.class_names))
    for note in (*dataset.missing, *dataset.skipped):
        assert isinstance(note, str)


def try_changes(file, bits, describe, videos):
    content = file.read_bytes()
    require_sound(describe(), videos)
    for changed in changes(content, bits):
        file.write_bytes(changed)
        message = error_of(lambda: require_sound(describe(), videos), DatasetError)
        assert str(file.parent) in message or not message


@pytest.mark.parametrize("bits", ALL_BITS)
def test_damaged_split_files_of_hmdb51(tmp_path, bits):
    videos, names = tmp_path / "videos", ("a.avi", "b c.avi", "show_walk_f_cm_np1_ri_med_0.avi")
    for name in names:
        touch(videos / "walk" / name)
    touch(videos / "run" / "a.avi")
    tags = dict(zip(names, [(1, 2), (2, 1), (1, 0)], strict=True))
    splits = write_splits(tmp_path / "splits", walk=tags, run={"a.avi": (1, 2)})
    try_changes(splits / "walk_test_split1.txt", bits, lambda: hmdb51(videos, splits), videos)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["classInd.txt", "trainlist01.txt", "testlist01.txt"])
def test_damaged_lists_of_ucf101(tmp_path, name, bits):
    lists = write_ucf(tmp_path / "lists", folds=1)
    (lists / name).write_bytes(b"".join((lists / name).read_bytes().splitlines(keepends=True)[:5]))
    try_changes(lists / name, bits, lambda: ucf101(tmp_path / "videos", lists), tmp_path / "videos")


@pytest.mark.parametrize("bits", ALL_BITS)
def test_damaged_annotations_of_activitynet(tmp_path, bits):
    for name in "abcd":
        touch(tmp_path / "videos" / f"v_{name * 11}.mp4")
    notes = write_activitynet(tmp_path / "notes.json")
    try_changes(notes, bits, lambda: activitynet(tmp_path / "videos", notes), tmp_path / "videos")


@pytest.mark.parametrize("bits", ALL_BITS)
def test_damaged_csv_files_of_a_folder(tmp_path, bits):
    for name in ("walk/a.mp4", "walk/b, c.mp4", "run/a.mp4", "run/d.mp4"):
        touch(tmp_path / "videos" / name)
    table = tmp_path / "splits.csv"
    table.write_text('video,split\nwalk/a.mp4,train\n"walk/b, c.mp4",val\nrun/a.mp4,train\nrun/d.mp4,test\n')
    try_changes(table, bits, lambda: folder(tmp_path / "videos", splits=table), tmp_path / "videos")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"database": ' + "9" * 5000 + "}",
        '{"database": {"\\ud800": {"subset": "training"}}}',
        '{"database": {"x": {"subset": "training", "annotations": [{"segment": [0, '
        + "9" * 400
        + '], "label": "a"}]}}}',
        '{"database": {"x": {"subset": "training", "annotations": [{"segment": "12", "label": "a"}]}}}',
    ],
    ids=["deep", "a long number", "half a character", "a huge number", "a text for a segment"],
)
def test_json_that_parsers_stumble_over(tmp_path, text):
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(DatasetError, match=r"notes\.json"):
        activitynet(tmp_path, tmp_path / "notes.json", strict=True)


def test_long_names_and_numbers_in_lists(tmp_path):
    touch(tmp_path / "walk" / "a.avi")
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,), "b" * 5000 + ".avi": (2,)})
    assert hmdb51(tmp_path, splits).missing == ("walk/" + "b" * 5000,)
    lists = write_ucf(tmp_path / "lists", classes="9" * 5000 + " Archery\n", folds=1)
    with pytest.raises(DatasetError, match=r"classInd\.txt, line 1: expected a number and a class"):
        ucf101(tmp_path / "videos", lists)
