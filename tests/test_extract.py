"""Extraction end to end on videos written here: stores, skipped videos, and stores after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from extraction_inputs import contents, features_of, write_activitynet, write_video

from glimpse_env.datasets import DatasetError
from glimpse_env.extract import HMDB51, UCF101, ActivityNet, Folder, extract
from glimpse_env.extract.__main__ import main, parse_arguments
from glimpse_env.extract.description import read_description
from glimpse_env.store import FeatureStore, StoreError
from glimpse_env.store.manifest import manifest_text, read_manifest
from glimpse_env.video.backbones import DeviceError, WeightsError, load_backbone
from glimpse_env.video.decode import VideoError, decode_clip

LENGTHS = {"run/a.mp4": 8, "run/b.mp4": 3, "run/c.avi": 20, "walk/a.mp4": 6, "walk/b.mkv": 1, "walk/c.avi": 5}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of three videos, and one file that is none."""
    root = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, frames=frames, codec="mpeg4" if name.endswith("avi") else "libx264")
    (root / "walk" / "notes.mp4").write_text("this is no video")
    return root


@pytest.fixture(scope="module")
def settings(videos, weights, tmp_path_factory):
    """Small batches and shards of two clips each, so that their borders fall everywhere."""
    out = tmp_path_factory.mktemp("stores") / "whole"
    return Folder(
        videos=videos,
        out=out,
        weights=weights,
        frames=4,
        max_frames=6,
        fps=15.0,
        batch_size=4,
        threads=1,
        shard_frames=12,
    )


@pytest.fixture(scope="module")
def store(settings):
    return FeatureStore.open(extract(settings))


def command(settings, out):
    """Return the command line of the settings, writing to another folder."""
    settings = replace(settings, out=out)
    assert not settings.dry_run
    flags = {name.replace("_", "-"): value for name, value in vars(settings).items() if value not in (None, False, ())}
    return ["folder", *(text for name, value in flags.items() for text in (f"--{name}", str(value)))]


def test_the_store_holds_what_the_network_makes_of_the_sampled_frames(store, settings):
    backbone = load_backbone("bvlc_googlenet", weights=settings.weights)
    assert store.index["clip_ids"].tolist() == sorted(LENGTHS)
    assert store.index["num_frames"].tolist() == [4, 2, 6, 3, 1, 3]
    for split in ("train", "validation", "test"):
        source = store.split(split)
        for clip in range(source.num_clips):
            decoded = decode_clip(settings.videos / source.clip_id(clip), frames_per_second=15.0, max_frames=6)
            np.testing.assert_allclose(source.frame_times(clip), decoded.times)
            count = len(decoded.times)
            cubes = np.empty((count, 7, 7, 1024), np.float32)
            source.read_cubes(np.full(count, clip), np.arange(count), cubes)
            reference = backbone.cubes(torch.from_numpy(decoded.frames)).numpy()
            assert np.linalg.norm(cubes - reference) < 1e-3 * np.linalg.norm(reference)
            np.testing.assert_array_equal(source.image(clip, count - 1), decoded.thumbnails[-1])
            assert source.class_names[source.segments(clip)[0].label] == source.clip_id(clip).split("/")[0]


def test_a_file_that_is_no_video_is_named_and_skipped(settings, store, tmp_path, capsys):
    extract(replace(settings, out=tmp_path / "again"))
    captured = capsys.readouterr()
    assert "skipped: " in captured.out + captured.err
    assert "not read: walk/notes.mp4: " in captured.out
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    assert list(report["failures"]) == ["walk/notes.mp4"]
    assert report["runs"][0]["frames"] == 19
    assert contents(tmp_path / "again") == contents(settings.out)


def test_the_manifest_records_how_the_store_was_made(store, settings):
    manifest = store.manifest
    assert (manifest.dataset, manifest.class_names, manifest.num_folds) == ("folder", ("run", "walk"), 1)
    assert (manifest.backbone, manifest.resize_rule) == ("bvlc_googlenet", "direct-bilinear-224")
    assert manifest.weights_sha256 == load_backbone("bvlc_googlenet", weights=settings.weights).weights_sha256
    assert (manifest.num_frames, manifest.max_frames, manifest.frames_per_second) == (4, 6, 15.0)
    assert (manifest.grid_size, manifest.depth, manifest.num_shards) == (7, 1024, 4)
    assert manifest.max_feature > 1


def test_an_interrupted_extraction_resumes_to_the_same_store(settings, store, tmp_path, capsys):
    again = replace(settings, out=tmp_path / "again")
    extract(again)
    whole = contents(again.out)
    manifest, _ = read_manifest(again.out)
    begun = manifest_text(replace(manifest, complete=False, max_feature=0.0), {})
    (again.out / "manifest.json").write_text(begun)
    (again.out / "index.npz").unlink()
    (again.out / "shards" / "00001").rename(again.out / "shards" / "00001.partial")
    (again.out / "shards" / "00001.partial" / "record.json").unlink()
    with pytest.raises(StoreError, match="is unfinished: run the command that began it again"):
        FeatureStore.open(again.out)
    capsys.readouterr()
    extract(again)
    assert contents(again.out) == whole
    assert "this run: 2 clips, 9 frames, " in capsys.readouterr().out
    extract(again)
    assert contents(again.out) == whole
    assert "this run: 0 clips, 0 frames, " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif("VIDEOGLIMPSE_DATA" not in os.environ, reason="VIDEOGLIMPSE_DATA does not point at the real data")
def test_twenty_kills_at_random_moments_leave_the_store_of_an_unbroken_run(tmp_path):
    data = Path(os.environ["VIDEOGLIMPSE_DATA"])
    videos = sorted((data / "jhmdb" / "videos").glob("*/*.avi"))
    for video in videos[:: len(videos) // 60][:60]:
        link = tmp_path / "videos" / video.parent.name / video.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(video)
    settings = Folder(
        videos=tmp_path / "videos", out=tmp_path / "whole", weights=data / "weights" / "bvlc_googlenet.safetensors",
        frames=15, max_frames=20, fps=15.0, shard_frames=40,
    )  # fmt: skip
    begun = time.monotonic()
    extract(settings)
    seconds = time.monotonic() - begun
    out, generator = tmp_path / "killed", np.random.default_rng()
    arguments = [sys.executable, "-m", "glimpse_env.extract", *command(settings, out)]
    moments = []
    for _ in range(20):
        # Imports and weights take seconds; then a twentieth of the work, give or take as much.
        running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while "clip" not in (line := running.stderr.readline(60)) and line:
            pass
        time.sleep(generator.uniform(0, seconds / 10))
        running.kill()
        running.communicate()
        moments.append(len(list(out.glob("shards/?????"))))
    subprocess.run(arguments, check=True, capture_output=True)
    print("shards there at each kill:", moments)
    assert contents(out) == contents(settings.out)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_killed_extraction_resumes_to_the_same_store(settings, store, tmp_path, shards):
    out = tmp_path / "killed"
    arguments = [sys.executable, "-m", "glimpse_env.extract", *command(settings, out)]
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list((out / "shards").glob("?????"))) < shards:
        time.sleep(0.001)
    if not shards:
        time.sleep(np.random.default_rng().uniform(2, 6))
    running.send_signal(signal.SIGKILL)
    running.wait()
    subprocess.run(arguments, check=True, capture_output=True)
    assert contents(out) == contents(settings.out)


def test_a_dry_run_writes_nothing_and_prints_an_estimate(settings, tmp_path, capsys):
    out = tmp_path / "nowhere"
    extract(replace(settings, out=out, dry_run=True))
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert f"folder: 7 clips of 2 classes into {out}" in printed
    assert "fold 1: 3 train, 2 validation, 2 test" in printed
    assert "tried 7 videos; 1 cannot be read" in printed
    # 4 + 2 + 6 + 3 + 1 + 3 samples of 100 kB and 38 kB.
    assert re.search(r"about 19 frames, 0\.00 GB, \d+ minutes", printed)


def test_a_dry_run_counts_shards_and_notices_other_settings(settings, store, tmp_path, capsys):
    again = replace(settings, out=tmp_path / "store")
    extract(again)
    shutil.rmtree(again.out / "shards" / "00002")
    before = contents(again.out)
    extract(replace(again, dry_run=True))
    assert "3 of 4 shards exist already" in capsys.readouterr().out
    assert contents(again.out) == before
    with pytest.raises(StoreError, match=r"begun with other settings \(frames_per_second 15\.0 there and 30\.0 now\)"):
        extract(replace(again, dry_run=True, fps=30.0))


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"precision": "bfloat16"}, 2e-2),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
        pytest.param({"compile": True, "precision": "bfloat16"}, 2e-2, marks=pytest.mark.slow),
    ],
)
def test_faster_arithmetic_changes_features_a_little_and_is_recorded(settings, store, tmp_path, changes, largest):
    other = FeatureStore.open(extract(replace(settings, out=tmp_path / "store", **changes)))
    assert other.manifest.precision == changes.get("precision", "float32")
    assert other.manifest.software.endswith(", compiled") == ("compile" in changes)
    for shard in range(4):
        cubes, reference = (
            s.mapped("features", shard).rows.astype(np.float32).reshape(-1, 7 * 7 * 1024) for s in (other, store)
        )
        errors = np.linalg.norm(cubes - reference, axis=1) / np.linalg.norm(reference, axis=1)
        assert (errors < largest).all()
        assert errors.any() or not len(errors)
    with pytest.raises(StoreError, match="begun with other settings"):
        extract(replace(settings, out=tmp_path / "store"))


HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_extraction_of_the_same_store_is_refused_until_the_first_is_dead(settings, store, tmp_path):
    out = tmp_path / "store"
    lock = tmp_path / ".store.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout.readline() == b"held\n"
            with pytest.raises(StoreError, match=r"store is being written by another process: wait for it, or choose"):
                extract(replace(settings, out=out))
            (tmp_path / "alias").symlink_to(out)
            with pytest.raises(StoreError, match=r"alias is being written by another process"):
                extract(replace(settings, out=tmp_path / "alias"))
        finally:
            first.kill()
    extract(replace(settings, out=out))
    assert contents(out) == contents(settings.out)


def test_a_file_system_without_locks_is_named(settings, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("glimpse_env.store.writer.FileLock.acquire", refuse)
    with pytest.raises(StoreError, match=r"cannot be locked \(\[Errno 37\] No locks available\): choose a folder on"):
        extract(replace(settings, out=tmp_path / "store"))


def test_resuming_a_finished_store_writes_nothing(settings, store):
    before = {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")}
    extract(settings)
    assert {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")} == before


def test_each_clip_records_its_decoder_and_bad_lines_reach_the_report(settings, store, tmp_path, capsys):
    used = store.decoders()
    assert len(used) == 6
    assert set(used) <= {"decord", "pyav"}
    videos = tmp_path / "videos"
    shutil.copytree(settings.videos, videos)
    (videos / "stray.mp4").touch()
    out = extract(replace(settings, videos=videos, out=tmp_path / "store", decoder="pyav"))
    assert set(FeatureStore.open(out).decoders()) == {"pyav"}
    (note,) = json.loads((out / "report.json").read_text())["skipped"]
    assert note.endswith("with the suffix of a video: stray.mp4")
    assert f"left out: {note}" in capsys.readouterr().out


def test_other_settings_do_not_resume_a_store(settings, store):
    with pytest.raises(StoreError, match=r"begun with other settings \(frames_per_second 15\.0 there and 30\.0 now\)"):
        extract(replace(settings, fps=30.0))
    with pytest.raises(StoreError, match=r"\(threads 1 there and 2 now\): give --threads 1, or choose another --out"):
        extract(replace(settings, threads=2))


def test_a_grown_data_set_does_not_resume_a_store(settings, store, tmp_path):
    shutil.copytree(settings.videos, tmp_path / "videos")
    write_video(tmp_path / "videos" / "run" / "d.mp4", frames=3)
    with pytest.raises(
        StoreError, match="the videos or their lists have changed; extract the new ones to another --out"
    ):
        extract(replace(settings, videos=tmp_path / "videos"))


def test_official_splits_and_coverage_reach_the_store(videos, weights, tmp_path):
    (tmp_path / "run_test_split1.txt").write_text("a.mp4 1\nb.mp4 2\n")
    (tmp_path / "run_test_split2.txt").write_text("a.mp4 2\nb.mp4 1\n")
    coverage = {
        "run/a": np.arange(8 * 49, dtype=np.uint16).reshape(8, 7, 7).astype(np.uint8),
        "run/b": np.zeros((3, 7, 7), np.uint8),
    }
    np.savez(tmp_path / "coverage.npz", **coverage)
    settings = HMDB51(
        videos=videos,
        splits=tmp_path,
        out=tmp_path / "store",
        weights=weights,
        frames=2,
        fps=15.0,
        actor_coverage=tmp_path / "coverage.npz",
        batch_size=4,
        threads=1,
    )
    store = FeatureStore.open(extract(settings))
    first, second = store.split("train", fold=1), store.split("train", fold=2)
    assert (first.clip_id(0), second.clip_id(0)) == ("run/a", "run/b")
    # 8 frames give 4 samples at half the rate, of which the middle two are frames 2 and 4.
    np.testing.assert_array_equal(first.actor(0), coverage["run/a"][[2, 4]] > 25.5)
    assert not second.actor(0).any()


def test_an_untrimmed_store_keeps_segments_and_plays(weights, tmp_path):
    for video, frames in (("v_aaaaaaaaaaa.mp4", 30), ("v_bbbbbbbbbbb.mkv", 12), ("v_ddddddddddd.mp4", 20)):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_video(tmp_path / "videos" / video, frames=frames)
    short = {"duration": 1.0, "subset": "validation", "annotations": [{"segment": [0.15, 0.45], "label": "Walk"}]}
    annotations = write_activitynet(tmp_path / "notes.json", ddddddddddd=short)
    settings = ActivityNet(
        videos=tmp_path / "videos", annotations=annotations, out=tmp_path / "store",
        weights=weights, frames=4, fps=10.0, max_frames=9, batch_size=4, threads=1, shard_frames=18,
    )  # fmt: skip
    store = FeatureStore.open(extract(settings))
    assert not store.manifest.trimmed
    assert json.loads((tmp_path / "store" / "report.json").read_text())["missing"] == ["ccccccccccc"]
    clips = {
        split.clip_id(clip): (split, clip)
        for split in map(store.split, ("train", "validation", "test"))
        for clip in range(split.num_clips)
    }
    assert {name: split.segments(clip) for name, (split, clip) in clips.items()} == {
        "aaaaaaaaaaa": ((1.0, 4.0, 1), (5.0, 12.5, 0)),
        "bbbbbbbbbbb": ((2.0, 2.0, 0),),
        "ddddddddddd": ((0.15, 0.45, 1),),
    }
    split, clip = clips["ddddddddddd"]
    times = split.frame_times(clip)
    np.testing.assert_allclose(times, np.arange(7) / 10)  # 20 frames at 30 a second
    env = gym.make("VideoGlimpse-v0", source=str(tmp_path / "store"), split="test", matching="segment")
    _, info = env.reset(seed=1)
    assert info["label"].tolist() == [False, True]
    assert env.action_space.nvec[-1] == 3  # background is "no prediction"
    for prediction in (2, 1, 1, 1):  # the window's frames are at 0.1, 0.2, 0.3 and 0.4 seconds
        *_, info = env.step(np.array([0, 1, 2, 3, 4, prediction]))
    assert (info["true_positives"], info["false_positives"]) == (1, 0)


def test_ucf101_reaches_the_store(videos, weights, tmp_path):
    (tmp_path / "classInd.txt").write_text("1 run\n2 walk\n")
    (tmp_path / "trainlist01.txt").write_text("run/a.mp4 1\nwalk/a.mp4 2\n")
    (tmp_path / "testlist01.txt").write_text("run/b.mp4\n")
    settings = UCF101(
        videos=videos, splits=tmp_path, out=tmp_path / "store", weights=weights, frames=2, fps=15.0, batch_size=4,
        threads=1,
    )  # fmt: skip
    store = FeatureStore.open(extract(settings))
    assert (store.manifest.dataset, store.manifest.class_names) == ("ucf101", ("run", "walk"))
    assert store.split("test").clip_id(0) == "run/b"
    assert store.split("train").num_clips == 2


def test_classes_and_missing_videos_reach_the_store(videos, weights, tmp_path, capsys):
    (tmp_path / "run_test_split1.txt").write_text("a.mp4 1\nb.mp4 2\ngone.mp4 1\n")
    (tmp_path / "walk_test_split1.txt").write_text("a.mp4 1\nalso_gone.mp4 1\n")
    flags = [
        "--videos",
        videos,
        "--splits",
        tmp_path,
        "--out",
        tmp_path / "store",
        "--weights",
        weights,
        "--frames",
        "2",
    ]
    settings = parse_arguments(["hmdb51", *map(str, flags), "--classes", "run", "--strict", "--allow-missing"])
    store = FeatureStore.open(extract(settings))
    assert store.manifest.class_names == ("run",)
    assert store.index["clip_ids"].tolist() == ["run/a", "run/b"]
    assert json.loads((tmp_path / "store" / "report.json").read_text())["missing"] == ["run/gone"]
    assert f"1 annotated videos are not in {videos}; report.json lists them" in capsys.readouterr().out
    described = read_description(tmp_path / "store").settings.dataset()
    assert (described.class_names, len(described.clips)) == (("run",), 2)


def test_coverage_on_the_grid_of_another_network_is_refused(settings, tmp_path):
    names = [*LENGTHS, "walk/notes.mp4"]
    np.savez(tmp_path / "coverage.npz", **{name: np.zeros((9, 14, 14), np.uint8) for name in names})
    message = r"the actor coverage has grids of \(14, 14\), and cubes of bvlc_googlenet have 7 x 7 cells: give"
    with pytest.raises(DatasetError, match=message):
        extract(replace(settings, actor_coverage=tmp_path / "coverage.npz", out=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_coverage_that_lacks_clips_is_refused(settings, tmp_path):
    np.savez(tmp_path / "coverage.npz", **{"run/a.mp4": np.zeros((8, 7, 7), np.uint8)})
    with pytest.raises(DatasetError, match=r"coverage\.npz has no coverage of 6 clips: run/b\.mp4, "):
        extract(replace(settings, actor_coverage=tmp_path / "coverage.npz", out=tmp_path / "store"))


@pytest.mark.parametrize("wrong", [np.zeros((4, 7, 7), np.uint8), np.zeros((8, 5, 5), np.uint8), np.zeros((8, 7, 7))])
def test_coverage_that_does_not_fit_its_video_fails_the_clip(settings, tmp_path, wrong):
    videos = tmp_path / "videos"
    (videos / "run").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        write_video(videos / "run" / name, frames=8)
    np.savez(tmp_path / "coverage.npz", **{"run/a.mp4": wrong, "run/b.mp4": np.zeros((8, 7, 7), np.uint8)})
    extract(replace(settings, videos=videos, actor_coverage=tmp_path / "coverage.npz", out=tmp_path / "store"))
    failures = json.loads((tmp_path / "store" / "report.json").read_text())["failures"]
    assert failures == {"run/a.mp4": f"its actor coverage is {wrong.dtype} {wrong.shape}, not uint8 (7 or more, 7, 7)"}


def test_videos_of_which_none_can_be_read(settings, tmp_path):
    (tmp_path / "videos" / "walk").mkdir(parents=True)
    (tmp_path / "videos" / "walk" / "a.mp4").touch()
    with pytest.raises(StoreError, match=r"none of the 1 videos could be read, .*; once that is fixed, add --retry"):
        extract(replace(settings, videos=tmp_path / "videos", out=tmp_path / "store"))


@pytest.mark.parametrize(
    ("name", "value"), [("frames", 0), ("fps", -1.0), ("fps", float("nan")), ("fps", float("inf")), ("batch_size", 0)]
)
def test_settings_that_make_no_sense(settings, name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
        replace(settings, **{name: value})
    with pytest.raises(ValueError, match=r"max_frames must be at least frames \(4\), got 3"):
        replace(settings, max_frames=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 2}, "workers are Ray's: add --engine ray"),
        ({"device": "gpu"}, r"device must be cpu, cuda or cuda:<number>, got 'gpu'"),
        ({"device": "cuda:1", "engine": "ray"}, "Ray chooses each worker's GPU: give --device cuda, not cuda:1"),
    ],
)
def test_settings_that_contradict_each_other(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **changes)


@pytest.mark.parametrize(
    ("changes", "decoders"),
    [
        ({"decoders": 3}, 3),
        ({"device": "cuda"}, 16),
        ({"device": "cuda", "max_frames": 600}, 8),
        ({}, 4),
        ({"engine": "ray", "threads": 8}, 1),
    ],
)
def test_there_are_as_many_decoders_as_cores_and_memory_allow(settings, monkeypatch, changes, decoders):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(32)), raising=False)
    assert replace(settings, **changes).num_decoders == decoders


def test_a_missing_ray_is_reported_before_any_work(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r'--engine ray needs Ray: pip install "videoglimpse\[ray\]"'):
        extract(replace(settings, engine="ray", out=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_videos_that_could_not_be_read_are_tried_again_when_asked(settings, store, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(settings.videos, videos)
    gone = (videos / "run" / "b.mp4", tmp_path / "elsewhere.mp4")
    again = replace(settings, videos=videos, out=tmp_path / "store")
    other = tmp_path / "store" / "shards" / "00001" / "features.npy"
    gone[0].rename(gone[1])
    gone[0].write_text("not yet")
    extract(again)
    assert FeatureStore.open(again.out).index["clip_ids"].tolist() == sorted({*LENGTHS} - {"run/b.mp4"})
    kept = other.stat().st_mtime_ns
    gone[0].unlink()
    gone[1].rename(gone[0])
    extract(again)
    assert "run/b.mp4" not in FeatureStore.open(again.out).index["clip_ids"]
    extract(replace(again, retry_failed=True))
    assert contents(again.out) == contents(settings.out)
    assert other.stat().st_mtime_ns == kept


def test_a_damaged_report_costs_no_work(settings, store, tmp_path):
    again = replace(settings, out=tmp_path / "store")
    extract(again)
    (again.out / "report.json").write_text("not JSON")
    shutil.rmtree(again.out / "shards" / "00001")
    extract(again)
    assert json.loads((again.out / "report.json").read_text())["runs"][0]["clips"] == 2


def test_a_name_that_is_no_text_is_extracted_and_printed(settings, tmp_path):
    folder = tmp_path / "videos" / "run"
    folder.mkdir(parents=True)
    write_video(folder / "b.mp4", frames=3)
    try:
        shutil.copy(folder / "b.mp4", os.fsdecode(os.fsencode(folder) + b"/a\xff.mp4"))
    except OSError:
        pytest.skip("this file system takes no such names")
    (folder / "ü.mp4").write_text("this is no video")
    arguments = command(replace(settings, videos=tmp_path / "videos"), tmp_path / "store")
    finished = subprocess.run(
        [sys.executable, "-m", "glimpse_env.extract", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert r"not read: run/\xfc.mp4: " in finished.stdout
    assert FeatureStore.open(tmp_path / "store").index["clip_ids"].tolist() == ["run/a\udcff.mp4", "run/b.mp4"]


def test_a_coverage_file_of_another_format_is_refused(settings, tmp_path):
    (tmp_path / "notes.npz").write_text("text")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name, message in (("notes.npz", r"notes\.npz cannot be read as \.npz"), ("array.npy", "holds one array")):
        with pytest.raises(DatasetError, match=message):
            extract(replace(settings, actor_coverage=tmp_path / name, out=tmp_path / "store"))


def test_features_of_any_videos_in_memory(settings, store, videos):
    backbone = load_backbone("bvlc_googlenet", weights=settings.weights)
    paths = [videos / "run" / "c.avi", videos / "walk" / "notes.mp4", videos / "run" / "a.mp4"]
    long, broken, short = features_of(paths, backbone, frames_per_second=15.0, max_frames=6)
    assert isinstance(broken, VideoError)
    assert (long.path, long.features.shape, long.features.dtype) == (paths[0], (6, 7, 7, 1024), np.float16)
    np.testing.assert_allclose(long.times, np.arange(2, 8) / 15)
    np.testing.assert_array_equal(long.numbers, np.arange(4, 16, 2))
    assert short.thumbnails.shape == (4, 112, 112, 3)
    np.testing.assert_array_equal(short.features, store.mapped("features", 0).rows[:4])


def run_main(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["extract", *arguments])
    main()


def test_the_command_line_is_the_settings(settings, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("glimpse_env.extract.run._SECONDS_BETWEEN_LINES", 0.0)
    run_main(monkeypatch, command(settings, tmp_path / "store"))
    assert contents(tmp_path / "store") == contents(settings.out)
    printed, progress = capsys.readouterr()
    assert progress == ""  # no bar, since this is no terminal
    assert re.search(r"^7/7 clips, +[\d.]+(s/clip|clip/s), 00:00 left$", printed, re.MULTILINE)
    assert re.search(r"6 of 7 clips\nthis run: 6 clips, 19 frames, 2\.6 MB, [\d.]+ frames a second \(", printed)
    assert printed.endswith(f"Next: videoglimpse train --source {tmp_path / 'store'}\n")
    first, second = printed.splitlines()[:2]
    assert first == (
        f"folder: 7 clips of 2 classes into {tmp_path / 'store'}; "
        "split by name: test and validation are 15% each of the source videos of each class"
    )
    assert second == "fold 1: 3 train, 2 validation, 2 test"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="sends Ctrl-C to a group of processes, as a terminal does")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_in_one_line_and_the_same_command_resumes(settings, store, tmp_path, times):
    out = tmp_path / "stopped"
    arguments = [sys.executable, "-m", "glimpse_env.extract", *command(settings, out)]
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while running.poll() is None and not (out / "shards").exists():
        time.sleep(0.01)
    for _ in range(times):
        os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate()
    assert running.returncode == 130, errors
    assert b"Traceback" not in errors
    expected = "stopped: finished shards are kept; to continue, run the same command again"
    assert errors.decode().splitlines()[-1] == expected
    extract(replace(settings, out=out))
    assert contents(out) == contents(settings.out)


def test_errors_of_the_command_line_are_one_line(settings, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="error: no weights file at"):
        run_main(monkeypatch, command(replace(settings, weights=tmp_path / "none"), tmp_path / "store"))
    with pytest.raises(SystemExit, match=r"error: device 'cuda:99' is not available here"):
        run_main(monkeypatch, command(replace(settings, device="cuda:99"), tmp_path / "store"))
    with pytest.raises(SystemExit, match="error: no folder of videos at"):
        run_main(monkeypatch, command(replace(settings, videos=tmp_path / "none"), tmp_path / "store"))
    with pytest.raises(SystemExit):
        run_main(monkeypatch, [*command(settings, tmp_path / "store"), "--frames", "0"])
    assert "frames must be positive and finite, got 0" in capsys.readouterr().err


def test_weights_of_another_network_are_refused(settings, tmp_path):
    with pytest.raises(WeightsError, match="does not fit googlenet"):
        extract(replace(settings, backbone="googlenet", out=tmp_path / "store"))
    assert not (tmp_path / "store").exists()
