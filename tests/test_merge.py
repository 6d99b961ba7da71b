"""Merging stores: the whole reads as if it had been extracted in one go, and nothing half-done looks finished."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from test_store import MANIFEST, SPLITS, arrays_of, as_format_1, contents, run_main, signed_arrays

from glimpse_env.datasets import VideoClip
from glimpse_env.sources.protocol import Segment
from glimpse_env.store import FeatureStore
from glimpse_env.store.manifest import StoreError
from glimpse_env.store.merge import merge_stores
from glimpse_env.store.writer import StoreWriter, locked, write_report

CLASSES = {"a": "run", "b": "walk", "c": "walk", "d": "run"}
TRUTHS = {"a": [(0.0, 0.1, "walk"), (0.2, 0.3, "run")], "b": [], "c": [(0.0, 0.2, "walk")], "d": [(1.0, 1.1, "run")]}


def write_part(path, names, *, class_names=("run", "walk"), trimmed=True, arrays=arrays_of, **changes):
    """Write a store of some of the clips, each in a shard of its own."""
    clips = [
        VideoClip(
            clip_id=name,
            path=Path(name),
            label=class_names.index(CLASSES[name]) if trimmed else -1,
            splits=SPLITS[name],
            segments=() if trimmed else tuple(Segment(s, e, class_names.index(c)) for s, e, c in TRUTHS[name]),
        )
        for name in names
    ]
    settings = {"class_names": class_names, "trimmed": trimmed, "clips_per_shard": 1, "num_shards": len(names)}
    writer = StoreWriter(path, replace(MANIFEST, **(settings | changes)), clips)
    for shard, name in enumerate(names):
        writer.write_shard(shard, [arrays(name)], {})
    writer.finish()
    return path


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def read_all(path):
    """Return everything that the splits of a store return, by split, fold and clip."""
    store = FeatureStore.open(path)
    read = {}
    for fold, split in [(1, "train"), (1, "test"), (2, "train"), (2, "test")]:
        source = store.split(split, fold=fold)
        for clip in range(source.num_clips):
            frames = np.arange(len(source.frame_times(clip)))
            clips = np.full_like(frames, clip)
            cubes = np.empty((len(frames), 2, 2, 3), np.float16)
            source.read_cubes(clips, frames, cubes)
            slices = np.empty((len(frames), 3), np.float32)
            source.read_slices(clips, frames, frames % 4, slices)
            read[fold, split, clip] = [
                source.clip_id(clip),
                [(s.start, s.end, source.class_names[s.label]) for s in source.segments(clip)],
                source.frame_times(clip).tolist(),
                cubes.tolist(),
                slices.tolist(),
                [source.image(clip, frame).tolist() for frame in frames],
                source.actor(clip).tolist(),
            ]
        read[fold, split] = (source.class_names, source.max_feature, source.num_clips)
    return read


@pytest.mark.parametrize("trimmed", [True, False])
@pytest.mark.parametrize("parts", [("ad", "bc"), ("bc", "ad"), ("abc", "d"), ("d", "a", "c", "b")])
def test_a_merged_store_reads_as_one_extracted_in_one_go(tmp_path, trimmed, parts):
    whole = write_part(tmp_path / "whole", "abcd", trimmed=trimmed)
    paths = [write_part(tmp_path / names, names, trimmed=trimmed) for names in parts]
    merged = merge_stores(tmp_path / "merged", paths)
    assert read_all(merged) == read_all(whole)
    index, expected = (FeatureStore.open(path).index for path in (merged, whole))
    for name in expected.keys() - {"shards"}:
        np.testing.assert_array_equal(index[name], expected[name])
        assert index[name].dtype == expected[name].dtype
    assert len(list(FeatureStore.open(merged).verify())) == 4 * 4 + 1
    assert names_in(tmp_path) == sorted([".merged.lock", "merged", "whole", *parts])


@pytest.mark.parametrize("trimmed", [True, False])
def test_classes_are_joined_by_name(tmp_path, trimmed):
    truths = write_part(tmp_path / "whole", "abcd", class_names=("jump", "run", "walk"), trimmed=trimmed)
    parts = [
        write_part(tmp_path / "ad", "ad", class_names=("walk", "run"), trimmed=trimmed),
        write_part(tmp_path / "bc", "bc", class_names=("jump", "walk"), trimmed=trimmed),
    ]
    merged = merge_stores(tmp_path / "merged", parts)
    assert read_all(merged) == read_all(truths)
    assert FeatureStore.open(merged).manifest.class_names == ("jump", "run", "walk")
    labels = [1, 2, 2, 1] if trimmed else [-1, -1, -1, -1]
    assert FeatureStore.open(merged).index["labels"].tolist() == labels


def test_a_store_of_format_1_gets_its_checksums_when_it_is_merged(tmp_path):
    whole = write_part(tmp_path / "whole", "abcd")
    old = as_format_1(write_part(tmp_path / "ad", "ad"))
    merged = merge_stores(tmp_path / "merged", [old, write_part(tmp_path / "bc", "bc")])
    assert read_all(merged) == read_all(whole)
    index, expected = (FeatureStore.open(path, verify="read").index["crc32"] for path in (merged, whole))
    np.testing.assert_array_equal(index, expected)


def test_the_range_of_features_is_that_of_all_parts(tmp_path):
    parts = [
        write_part(tmp_path / name, name, arrays=arrays) for name, arrays in (("a", signed_arrays), ("b", arrays_of))
    ]
    manifest = FeatureStore.open(merge_stores(tmp_path / "merged", parts)).manifest
    expected = signed_arrays("a").features.min(), arrays_of("b").features.max()
    assert (manifest.min_feature, manifest.max_feature) == expected


def test_classes_in_an_order_that_all_share_keep_it(tmp_path):
    parts = [write_part(tmp_path / names, names, class_names=("walk", "run")) for names in ("ab", "cd")]
    assert FeatureStore.open(merge_stores(tmp_path / "merged", parts)).manifest.class_names == ("walk", "run")


def test_the_manifest_names_how_all_parts_were_made(tmp_path):
    first = write_part(tmp_path / "a", "a", threads=2, decoder="av 12", max_frames=5, clips_per_shard=3, num_shards=1)
    second = write_part(tmp_path / "b", "b", threads=4, decoder="av 13", clips_sha256="2" * 64, max_frames=7)
    third = write_part(tmp_path / "c", "c", threads=2, decoder="av 12", device="cuda", max_frames=6)
    manifest = FeatureStore.open(merge_stores(tmp_path / "abc", [first, second, third])).manifest
    assert (manifest.dataset, manifest.decoder, manifest.device) == ("toy", "av 12; av 13", "cpu; cuda")
    assert (manifest.threads, manifest.batch_size, manifest.max_frames, manifest.clips_per_shard) == (0, 1, 7, 3)
    assert (manifest.num_shards, manifest.complete) == (3, True)
    assert manifest.max_feature == max(arrays_of(name).features.max() for name in "abc")
    # printf %s 000... 222... 000... | sha256sum
    assert manifest.clips_sha256 == "71b9d72a1e8d0b02d1568b3e3416a1410e4d289b1f04bbec83f90d562657cfe6"
    fourth = write_part(tmp_path / "d", "d", threads=2, decoder="av 12")
    again = FeatureStore.open(merge_stores(tmp_path / "abcd", [tmp_path / "abc", fourth])).manifest
    assert (again.decoder, again.threads, again.num_shards) == ("av 12; av 13", 0, 4)
    assert read_all(tmp_path / "abcd") == read_all(write_part(tmp_path / "whole", "abcd"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "other"),
        ("weights_sha256", "9" * 64),
        ("resize_rule", "crop"),
        ("frames_per_second", 15.0),
        ("num_frames", 2),
    ],
)
def test_parts_whose_features_mean_something_else_are_refused(tmp_path, field, value):
    first, second = write_part(tmp_path / "1", "ab"), write_part(tmp_path / "2", "cd", **{field: value})
    old = getattr(MANIFEST, field)
    with pytest.raises(StoreError, match=rf"1 and .*2 do not go together: {field} is {old!r} in .* and {value!r} in"):
        merge_stores(tmp_path / "merged", [first, second])
    assert names_in(tmp_path) == ["1", "2"]


def test_trimmed_and_untrimmed_parts_are_refused(tmp_path):
    parts = [write_part(tmp_path / "1", "ab"), write_part(tmp_path / "2", "cd", trimmed=False)]
    with pytest.raises(StoreError, match="trimmed is True in the first and False in the second"):
        merge_stores(tmp_path / "merged", parts)


def test_a_clip_in_two_parts_is_refused(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("abc", "bcd")]
    with pytest.raises(StoreError, match=r"^2 of the clips are in several of the stores: b, c$"):
        merge_stores(tmp_path / "merged", parts)


def test_one_store_is_nothing_to_merge(tmp_path):
    with pytest.raises(StoreError, match="merging takes two stores or more, got 1"):
        merge_stores(tmp_path / "merged", [tmp_path / "one"])


def test_existing_files_are_not_overwritten(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    for out in (parts[0], parts[0] / "manifest.json"):
        with pytest.raises(StoreError, match="exists and is no empty folder: choose another"):
            merge_stores(out, parts)
    (tmp_path / "empty").mkdir()
    FeatureStore.open(merge_stores(tmp_path / "empty", parts))


@pytest.mark.parametrize("name", ["index.npz", "manifest.json", "shards/00001/features.npy", "report.json"])
def test_damaged_parts_are_refused_before_anything_is_written(tmp_path, name):
    first, second = (write_part(tmp_path / names, names) for names in ("ab", "cd"))
    write_report(second, failures={})
    content = bytearray((second / name).read_bytes())
    content[20] ^= 1
    (second / name).write_bytes(content[:-1] if name.endswith(".npy") else content)
    with pytest.raises(StoreError, match=rf"cd/{name} (was altered|is damaged|has \d+ bytes)"):
        merge_stores(tmp_path / "merged", [first, second])
    assert names_in(tmp_path) == ["ab", "cd"]


def test_unfinished_parts_are_refused(tmp_path):
    first = write_part(tmp_path / "ab", "ab")
    StoreWriter(tmp_path / "cd", MANIFEST, [])
    with pytest.raises(StoreError, match="cd is unfinished"):
        merge_stores(tmp_path / "merged", [first, tmp_path / "cd"])


def test_shards_are_linked_and_outlive_the_parts(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    merged = merge_stores(tmp_path / "merged", parts)
    assert (merged / "shards/00002/features.npy").samefile(parts[1] / "shards/00000/features.npy")
    before = read_all(merged)
    for part in parts:
        shutil.rmtree(part)
    assert read_all(merged) == before


def test_shards_are_copied_where_they_cannot_be_linked(tmp_path, monkeypatch):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    linked = merge_stores(tmp_path / "linked", parts)

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copied = merge_stores(tmp_path / "copied", parts)
    assert contents(copied) == contents(linked)
    assert not (copied / "shards/00002/features.npy").samefile(parts[1] / "shards/00000/features.npy")


def test_the_report_keeps_clips_that_no_part_holds(tmp_path):
    first, second = (write_part(tmp_path / names, names) for names in ("ab", "cd"))
    write_report(first, failures={"c": "no frame", "x": "broken"}, missing=["d", "y"])
    write_report(second, failures={"w": "empty"}, missing=["a", "b", "y", "z"])
    report = json.loads((merge_stores(tmp_path / "merged", [first, second]) / "report.json").read_bytes())
    assert report == {"failures": {"w": "empty", "x": "broken"}, "missing": ["y", "z"], "runs": [], "skipped": []}


def test_a_killed_merge_leaves_nothing_that_looks_finished(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    out = tmp_path / "merged"
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from glimpse_env.store import merge\n"
        "link = os.link\n"
        "def slow(source, place):\n"
        "    link(source, place)\n"
        "    if '00002' in str(place): print('linked', flush=True); time.sleep(60)\n"
        "os.link = slow\n"
        "merge.merge_stores(Path(sys.argv[1]), [Path(part) for part in sys.argv[2:]])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, out, *parts], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"linked\n"
    process.kill()
    process.communicate()
    assert not out.exists()
    assert [path for path in tmp_path.rglob("manifest.json") if path.parent not in parts] == []
    merge_stores(out, parts)
    assert names_in(tmp_path) == [".merged.lock", "ab", "cd", "merged"]
    assert read_all(out) == read_all(write_part(tmp_path / "whole", "abcd"))


def test_the_command_line_merges(tmp_path, monkeypatch, capsys):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    run_main(monkeypatch, "merge", tmp_path / "merged", *parts)
    assert "4, 11 frames" in capsys.readouterr().out
    run_main(monkeypatch, "verify", tmp_path / "merged")
    run_main(monkeypatch, "merge", tmp_path / "merged", *parts)  # nothing is left to do
    assert "4, 11 frames" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .*merged exists and is no empty folder"):
        run_main(monkeypatch, "merge", tmp_path / "merged", *parts[::-1])


# ---- two merges at once


def merge_and_catch(out, parts, barrier):
    barrier.wait()
    try:
        merge_stores(out, parts)
    except StoreError as error:
        return str(error)
    return "merged"


def test_of_two_merges_into_one_folder_one_wins_and_its_store_is_whole(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    expected = read_all(write_part(tmp_path / "whole", "abcd"))
    for number in range(8):
        out, barrier = tmp_path / f"merged{number}", Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            outcomes = sorted(pool.map(merge_and_catch, [out] * 2, [parts, parts[::-1]], [barrier] * 2))
        refused, won = outcomes
        assert won == "merged"
        assert re.search("is being written by another process|is no empty folder", refused)
        assert read_all(out) == expected
        assert len(list(FeatureStore.open(out).verify())) == 17
    assert not list(tmp_path.glob(".*.partial"))


def test_a_merge_waits_for_no_other_process(tmp_path):
    parts = [write_part(tmp_path / names, names) for names in ("ab", "cd")]
    with (
        locked(tmp_path / "merged"),
        pytest.raises(StoreError, match=r"merged is being written by another process: wait for it, or choose another"),
    ):
        merge_stores(tmp_path / "merged", parts)
    merge_stores(tmp_path / "merged", parts)
