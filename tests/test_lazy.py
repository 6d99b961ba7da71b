"""Sources that run their network on demand: the same features as a store of crops, and no more work than looks."""

import csv
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import lazy_savings
import numpy as np
import pytest
import torch
from agent_toys import tiny_config
from extraction_inputs import features_of, write_video
from finished_runs import run_main
from glimpse_agents import load, reinforce
from glimpse_agents.playing.envs import SourceRecord
from glimpse_agents.playing.features import fits
from glimpse_agents.playing.videos import Extraction
from glimpse_agents.runs.folder import RunFolder
from glimpse_agents.runs.jobs import Job, evaluate_again, train_all
from glimpse_agents.tables.comparison import results_table

from glimpse_env import ClipSource, SlidingWindows, open_source
from glimpse_env.extract import HMDB51, Folder, Settings, extract
from glimpse_env.extract.description import read_description
from glimpse_env.store import FeatureStore
from glimpse_env.video.backbones import WeightsError, load_backbone
from glimpse_env.video.decode import VideoError, decode_clip
from glimpse_env.video.features import crop_corners
from glimpse_env.video.lazy import LazySource, _batches

ROOT = Path(__file__).parent.parent
LENGTHS = {"run/a": 30, "run/b": 8, "run/c": 24, "walk/a": 26, "walk/b": 3, "walk/c": 28}  # frames at 30 a second
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # float16's rounding


@pytest.fixture(scope="module")
def settings(weights, tmp_path_factory):
    """Two classes of three videos, one file that is none, and crops of two cells."""
    root = tmp_path_factory.mktemp("lazy")
    for name, frames in LENGTHS.items():
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / "videos" / f"{name}.mp4", frames=frames)
    (root / "videos" / "walk" / "notes.mp4").write_text("this is no video")
    return Folder(
        videos=root / "videos", out=root / "crops", weights=weights, frames=4, fps=10.0, crop=64, batch_size=4,
        threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(settings):
    return FeatureStore.open(extract(settings))


@pytest.fixture
def lazy(store):
    """The training clips, of which nothing is known yet."""
    return open_source(f"lazy:{store.path}", split="train")


@pytest.fixture
def describe(store, tmp_path):
    """Return a function that writes the store's description with changes; None removes an entry."""

    def write(**changes):
        content = json.loads((store.path / "lazy.json").read_text()) | changes
        path = tmp_path / "changed.json"
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
        return path

    return write


def read_all(source, clip):
    """Return a clip's (n, K*K, D) slices, one by one."""
    frames = np.arange(len(source.frame_times(clip))).repeat(49)
    slices = np.empty((len(frames), 1024), np.float32)
    source.read_slices(np.full_like(frames, clip), frames, np.tile(np.arange(49), len(frames) // 49), slices)
    return slices.reshape(-1, 49, 1024)


# ---- crops


def test_crops_are_centred_on_their_cells_and_shifted_inside_the_frame():
    corners = crop_corners(np.array([0, 1, 6, 24, 48]), grid_size=7, crop=64, frame_size=224)
    assert corners.tolist() == [[0, 0], [0, 16], [0, 160], [80, 80], [160, 160]]


@pytest.mark.parametrize(("crop", "different"), [(64, 49), (96, 25), (192, 9)])
def test_how_many_cells_have_a_crop_of_their_own(crop, different):
    corners = crop_corners(np.arange(49), grid_size=7, crop=crop, frame_size=224)
    assert len(np.unique(corners, axis=0)) == different


def test_a_store_of_crops_holds_a_whole_first_frame_and_crops_after_it(store, settings):
    backbone = load_backbone("bvlc_googlenet", weights=settings.weights)
    assert (store.manifest.crop, store.manifest.num_frames, store.manifest.max_frames) == (64, 4, 4)
    source = store.split("train")
    frames = decode_clip(settings.videos / source.clip_id(0), frames_per_second=10.0, max_frames=4).frames
    frames = torch.from_numpy(frames)
    slices = read_all(source, 0)
    np.testing.assert_allclose(slices[0], backbone.cubes(frames[:1])[0].reshape(49, 1024), **CLOSE)
    for frame, cell, top, left in [(1, 0, 0, 0), (1, 48, 160, 160), (2, 24, 80, 80), (2, 9, 16, 48)]:
        crop = frames[frame : frame + 1, top : top + 64, left : left + 64]
        expected = backbone.cubes(crop)
        assert expected.shape == (1, 2, 2, 1024)
        np.testing.assert_allclose(slices[frame, cell], expected.mean((0, 1, 2)), **CLOSE)


def test_videos_of_ones_own_are_cropped_like_the_store(store, settings):
    backbone = load_backbone("bvlc_googlenet", weights=settings.weights)
    source = store.split("train")
    path = settings.videos / source.clip_id(0)
    (video,) = features_of([path], backbone, frames_per_second=10.0, max_frames=4, crop=64)
    np.testing.assert_allclose(video.features.reshape(-1, 49, 1024), read_all(source, 0), **CLOSE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 70}, "crop must be a multiple of 32 pixels, from 32 to 192, got 70"),
        ({"crop": 224}, "from 32 to 192, got 224"),
        ({"max_frames": 6}, r"episodes begin there: max_frames must be frames \(4\), got 6; give --max-frames None"),
    ],
)
def test_crops_that_cannot_be_extracted(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings, **changes)


def test_crops_and_whole_frames_are_not_mixed_in_a_store(settings, store):
    with pytest.raises(ValueError, match=r"begun with other settings \(crop 64 there and None now\)"):
        extract(dataclasses.replace(settings, crop=None))


# ---- the source


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_lazy_source_is_the_store_of_crops(store, split):
    lazy, stored = open_source(f"lazy:{store.path}", split=split), store.split(split)
    assert isinstance(lazy, ClipSource)
    for name in (
        "num_clips", "class_names", "num_frames", "frames_per_second", "grid_size", "depth", "max_feature", "trimmed",
        "crop",
    ):  # fmt: skip
        assert getattr(lazy, name) == getattr(stored, name), name
    for clip in range(stored.num_clips):
        assert lazy.clip_id(clip) == stored.clip_id(clip)
        np.testing.assert_allclose(lazy.frame_times(clip), stored.frame_times(clip))
        assert [segment.label for segment in lazy.segments(clip)] == [s.label for s in stored.segments(clip)]
        np.testing.assert_allclose(read_all(lazy, clip), read_all(stored, clip), **CLOSE)
        last = len(lazy.frame_times(clip)) - 1
        np.testing.assert_array_equal(lazy.image(clip, last), stored.image(clip, last))
        assert lazy.actor(clip) is None


def test_a_file_of_videos_that_cannot_be_read_is_left_out(store, describe):
    assert read_description(store.path).unreadable == {"walk/notes.mp4"}
    names = []
    for split in ("train", "validation", "test"):
        source = open_source(f"lazy:{describe(unreadable=[])}", split=split)
        names += [(source.clip_id(clip), source, clip) for clip in range(source.num_clips)]
    ((_, source, clip),) = [entry for entry in names if entry[0] == "walk/notes.mp4"]
    with pytest.raises(VideoError, match=r"walk/notes\.mp4: "):
        source.frame_times(clip)


def test_only_cells_looked_at_are_computed_and_only_once(lazy):
    out = np.empty((5, 1024), np.float16)
    assert (lazy.frames_computed, lazy.crops_computed) == (0, 0)
    looks = np.array([0, 0, 1, 1, 0]), np.array([1, 1, 2, 2, 1]), np.array([5, 5, 7, 8, 5])
    lazy.read_slices(*looks, out)
    assert (lazy.frames_computed, lazy.crops_computed) == (0, 3)
    np.testing.assert_array_equal(out[0], out[4])
    assert not np.array_equal(out[2], out[3])
    before = out.copy()
    lazy.read_slices(*looks, out)
    assert lazy.crops_computed == 3
    np.testing.assert_array_equal(out, before)
    lazy.read_slices(np.array([0]), np.array([0]), np.array([3]), out[:1])  # a first frame costs a whole one
    assert (lazy.frames_computed, lazy.crops_computed) == (1, 3)
    cubes = np.empty((2, 7, 7, 1024), np.float32)
    lazy.read_cubes(np.array([0, 0]), np.array([0, 1]), cubes)
    assert (lazy.frames_computed, lazy.crops_computed) == (1, 3 + 48)
    np.testing.assert_array_equal(cubes[1].reshape(49, 1024)[5], before[0])
    lazy.forget()
    lazy.read_slices(*looks, out)
    assert (lazy.frames_computed, lazy.crops_computed) == (1, 51 + 3)


def test_clips_that_find_no_room_are_computed_again_to_the_same_values(store, lazy):
    a_clip = 4 * (3 * 224**2 + 3 * 112**2 + 49 * 1024 * 2)
    small = LazySource(store.path, split="train", bytes_kept=a_clip)
    slices = np.empty((2, 1024), np.float32)
    for clips in ([0, 1], [1, 0]):
        small.read_slices(np.array(clips), np.array([1, 1]), np.array([4, 4]), slices)
    assert small.crops_computed == 3  # there was room for one clip, and the last one read stayed
    expected = np.empty_like(slices)
    lazy.read_slices(np.array([1, 0]), np.array([1, 1]), np.array([4, 4]), expected)
    np.testing.assert_allclose(slices, expected, **CLOSE)


def test_batches_have_a_few_sizes_and_no_padding():
    assert [len(part) for part in _batches(list(range(64 + 16 + 3)), 64)] == [64, 16, 2, 1]
    assert [item for part in _batches(list(range(83)), 64) for item in part] == list(range(83))
    assert list(_batches([], 64)) == []


def test_the_network_runs_once_for_all_looks_of_a_step(store, monkeypatch):
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=2, source=f"lazy:{store.path}", glimpses=4, observation="slices")
    sizes = []
    run = LazySource._run
    monkeypatch.setattr(LazySource, "_run", lambda self, *given: sizes.append(len(given[1])) or run(self, *given))
    envs.reset(seed=1, options={"clip": np.array([0, 1])})
    assert sizes == [2]
    envs.step(np.array([[1, 2, 3, 4, 0], [1, 2, 3, 4, 0]]))
    assert sizes == [2, 8]


@pytest.mark.parametrize("observation", ["glimpsed", "slices", "cube"])
def test_episodes_are_those_of_the_store_and_cost_their_looks(store, observation):
    envs, lazily = (
        gym.make_vec("VideoGlimpse-v0", num_envs=3, source=source, glimpses=2, observation=observation)
        for source in (str(store.path), f"lazy:{store.path}")
    )
    envs.action_space.seed(3)
    looks = set()
    (seen, info), (computed, _) = envs.reset(seed=3), lazily.reset(seed=3)
    for frame in range(4):
        np.testing.assert_allclose(computed, seen, **CLOSE)
        assert lazily.single_observation_space.contains(computed[0])
        if frame == 3:
            break
        actions = envs.action_space.sample()
        clips, lengths = info["clip"], [len(envs.source.frame_times(clip)) for clip in info["clip"]]
        looks |= {
            (clip, min(frame + 1, length - 1), cell)
            for clip, length, cells in zip(clips, lengths, actions[:, :2], strict=True)
            for cell in (range(49) if observation == "cube" else cells)
        }
        (seen, _, _, _, info), (computed, *_) = envs.step(actions), lazily.step(actions)
    assert lazily.source.frames_computed == len(np.unique(clips))
    assert lazily.source.crops_computed == len({look for look in looks if look[1] > 0})


def test_whole_frames_are_computed_once_whatever_is_looked_at(describe, settings):
    source = open_source(f"lazy:{describe(crop=None)}")
    slices = np.empty((3, 1024), np.float32)
    source.read_slices(np.zeros(3, np.int64), np.array([1, 1, 2]), np.array([0, 48, 9]), slices)
    assert (source.crop, source.frames_computed, source.crops_computed) == (None, 2, 0)
    frames = decode_clip(settings.videos / source.clip_id(0), frames_per_second=10.0, max_frames=4).frames
    cubes = load_backbone("bvlc_googlenet", weights=settings.weights).cubes(torch.from_numpy(frames))
    np.testing.assert_allclose(slices, cubes.reshape(-1, 49, 1024)[[1, 1, 2], [0, 48, 9]], **CLOSE)
    assert SlidingWindows(source=source, window_seconds=0.2).num_clips > source.num_clips


@pytest.mark.parametrize("crop", [64, None])
def test_frames_that_are_jumped_over_are_not_computed(describe, crop):
    env = gym.make(
        "VideoGlimpse-v0", source=f"lazy:{describe(crop=crop)}", glimpses=2, jumps=(1, 2), disable_env_checker=True
    )
    source = env.unwrapped.source
    clip = next(clip for clip in range(source.num_clips) if len(source.frame_times(clip)) == 4)
    env.reset(options={"clip": clip})
    env.step(np.array([8, 9, 1, 0]))  # to the third of four frames
    assert env.step(np.array([8, 9, 1, 0]))[2]
    assert (source.frames_computed, source.crops_computed) == ((2, 0) if crop is None else (1, 2))


def test_features_stay_within_the_recorded_maximum(describe, lazy):
    smaller = open_source(f"lazy:{describe(max_feature=0.5)}")
    assert read_all(lazy, 0).max() > 0.5
    assert read_all(smaller, 0).max() == smaller.max_feature == 0.5
    assert smaller.min_feature == 0


def test_a_spec_round_trips_and_a_source_survives_pickling(store, lazy):
    env = gym.make("VideoGlimpse-v0", source=f"lazy:{store.path}", split="test", glimpses=1)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.reset(seed=1)[1]["clip_id"] == env.reset(seed=1)[1]["clip_id"]
    copy = pickle.loads(pickle.dumps(lazy))  # noqa: S301
    np.testing.assert_array_equal(read_all(copy, 1), read_all(lazy, 1))


def test_the_place_of_the_actor_comes_from_the_description(settings, tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"run_test_split{number}.txt").write_text("a.mp4 1\nb.mp4 2\n")
    coverage = np.zeros((30, 7, 7), np.uint8)
    coverage[3, 2, 5], coverage[3, 0, 0] = 26, 25
    np.savez(tmp_path / "coverage.npz", **{"run/a": coverage, "run/b": coverage})
    described = {
        "dataset": "hmdb51", "videos": str(settings.videos), "splits": ".", "weights": str(settings.weights),
        "actor_coverage": "coverage.npz", "crop": 64, "fps": 10.0, "frames": 10,
    }  # fmt: skip
    (tmp_path / "lazy.json").write_text(json.dumps(described))
    source = open_source(f"lazy:{tmp_path}", fold=3)
    assert np.argwhere(source.actor(0)).tolist() == [[1, 2, 5]]  # a sample is every third frame of the file
    assert source.max_feature == 65504.0
    assert isinstance(read_description(tmp_path).settings, HMDB51)


# ---- refusals


@pytest.mark.parametrize("prefix", ["", "lazy:"])
def test_episodes_that_would_begin_behind_the_whole_frame_are_refused(store, prefix):
    source = f"{prefix}{store.path}"
    with pytest.raises(ValueError, match=r"frames must be the 4 that this source holds of a clip .* got 3"):
        gym.make("VideoGlimpse-v0", source=source, frames=3)
    with pytest.raises(ValueError, match="windows cannot slide over this source: its slices are of crops"):
        gym.make("VideoGlimpse-v0", source=source, window_seconds=0.2)
    gym.make("VideoGlimpse-v0", source=source, frames=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "kinetics"}, "dataset must be one of hmdb51, ucf101, activitynet, folder, got 'kinetics'"),
        ({"dataset": None}, "'dataset' is missing"),
        ({"videos": None}, "videos must be given"),
        ({"dataset": "ucf101"}, "splits must be given"),
        ({"colour": "grey"}, r"unknown settings \['colour'\]: folder takes \['actor_coverage', 'backbone', 'crop'"),
        ({"crop": 65}, "crop must be a multiple of 32"),
        ({"fps": "ten"}, "not supported between"),
    ],
)
def test_descriptions_that_describe_nothing(describe, changes, message):
    with pytest.raises(ValueError, match=rf"changed\.json describes no data set: .*{message}"):
        read_description(describe(**changes))


def test_a_description_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json describes no data set: Expecting"):
        read_description(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match=r"no description of a data set at .*lazy\.json: python -m"):
        open_source(f"lazy:{tmp_path}")


def test_other_weights_splits_and_folds(describe, store):
    with pytest.raises(WeightsError, match="the features described were made with weights of sha256 ffff: give that"):
        open_source(f"lazy:{describe(weights_sha256='ffff')}")
    with pytest.raises(ValueError, match=r"unknown split 'all': .* has train, validation, test"):
        open_source(f"lazy:{store.path}", split="all")
    with pytest.raises(ValueError, match=r"unknown fold 2: .* has fold 1"):
        open_source(f"lazy:{store.path}", fold=2)


def test_every_setting_that_decides_features_is_described():
    undescribed = {field.name for field in dataclasses.fields(Settings)} - set(
        re.findall(r'"(\w+)"', (ROOT / "glimpse_env/extract/description.py").read_text())
    )
    assert undescribed == {
        "out", "batch_size", "compile", "threads", "decoders", "seconds_per_video", "shard_frames", "engine", "workers",
        "retry_failed", "dry_run", "strict",
    }  # fmt: skip


# ---- agents


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Train REINFORCE and random glimpses on the store of crops, and return their folders by model."""
    out = tmp_path_factory.mktemp("runs") / "crops"
    settings = {"updates": 2, "warmup_share": 0.0, "observation": "glimpsed", "jitter": True}
    config = tiny_config(source=str(store.path), **settings)
    models = ("reinforce", "random")
    train_all([Job(config.with_settings({"model": model}), out / model) for model in models], reinforce.train)
    return {model: RunFolder(out / model) for model in models}


def test_a_run_on_crops_is_played_on_the_videos(runs, store, capsys):
    run = runs["reinforce"]
    record, measured = run.record(), run.finished().measured
    run_main(reinforce, "--evaluate", run.path, "--source", f"lazy:{store.path}")
    assert capsys.readouterr().out == results_table([("reinforce", measured)], 1 / 2) + "\n"
    config = record.config.with_settings({"source": f"lazy:{store.path}"})
    ((_, again),) = evaluate_again([Job(config, run.path)], sampled=False)
    for name in ("accuracy", "vote_accuracy", "glimpses_per_frame", "correct"):
        assert getattr(again, name) == getattr(measured, name)
    assert Extraction.of_run(record.config, record.source).crop == 64


def test_the_same_agent_trains_on_the_videos_themselves(runs, store, settings, tmp_path):
    run = runs["reinforce"]
    reinforce.train(run.record().config.with_settings({"source": f"lazy:{store.path}"}), tmp_path)
    ours, theirs = (folder.metrics()[0] for folder in (RunFolder(tmp_path), run))
    assert ours["train/total"] == pytest.approx(theirs["train/total"], rel=1e-3)
    assert load(tmp_path).predict(settings.videos / "run" / "a.mp4").label in ("run", "walk")


def test_a_record_of_videos_names_the_extraction_that_a_store_of_them_names(store, lazy):
    lazily, stored = (SourceRecord.of(tiny_config(), source) for source in (lazy, store.split("train")))
    assert lazily.extraction == stored.extraction | {"batch_size": 16}


def test_videos_have_a_fingerprint(store, describe):
    def fingerprint(split="train", **changes):
        return SourceRecord.of(tiny_config(), open_source(f"lazy:{describe(**changes)}", split=split)).identity

    known = fingerprint()
    assert fingerprint(split="test") == fingerprint(decoder="pyav") == known
    changed = [fingerprint(**changes) for changes in ({"fps": 5.0}, {"frames": 3}, {"crop": None}, {"unreadable": []})]
    assert len({known, *changed}) == 5


def test_a_gpu_keeps_no_bank_of_features_that_nobody_looked_at(lazy):
    assert not fits(lazy, torch.device("cuda:0"))
    assert lazy.stopwatch.seconds == {}


def test_the_savings_are_measured(runs, tmp_path, capsys):
    out, kept = runs["reinforce"].path.parent, runs["reinforce"].path / "savings.json"

    def run(clips_alone):
        lazy_savings.main(
            lazy_savings.Arguments(
                runs=(out,), models=("reinforce", "random", "mean"), clips_alone=clips_alone, out=tmp_path / "savings"
            )
        )
        return capsys.readouterr().out

    printed = run(2)
    assert f"| {out}/reinforce | reinforce | crops of 64 | 2 | " in printed
    with (tmp_path / "savings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["reinforce", "random"]
    for row in rows:
        measured = runs[row["model"]].finished().measured
        assert float(row["accuracy"]) == measured.accuracy
        assert float(row["first_frame_accuracy"]) == measured.accuracy_by_frames[0]
        assert float(row["frames"]) == 1
        assert 0 < float(row["crops"]) <= 3 * 2
        # GoogLeNet takes 1.58 GMACs a picture and 0.13 for its response norms, and a crop of 64 a twelfth of both.
        gmacs = 1.71 * (1 + float(row["crops"]) * (64 / 224) ** 2)
        assert float(row["network_gmacs"]) == pytest.approx(gmacs, rel=0.01)
        assert 0 < float(row["policy_gmacs"]) < 0.01
        assert min(float(row[name]) for name in row if "seconds" in name) > 0
        assert float(row["decoding_seconds"]) < float(row["seconds_together"])
    assert (tmp_path / "savings.png").stat().st_size > 1000

    before = kept.read_bytes()
    (runs["random"].path / "savings.json").unlink()  # as after a kill between the two
    again = run(2)
    assert kept.read_bytes() == before  # times included
    assert [line for line in printed.splitlines() if "| reinforce |" in line] == [
        line for line in again.splitlines() if "| reinforce |" in line
    ]
    assert (runs["random"].path / "savings.json").exists()
    run(1)
    measured = json.loads(kept.read_bytes())
    assert measured["made_from"]["clips_alone"] == 1
    changed = measured | {"accuracy": 2.0, "made_from": measured["made_from"] | {"weights_sha256": "of others"}}
    kept.write_text(json.dumps(changed))
    run(1)
    assert json.loads(kept.read_bytes())["accuracy"] == runs["reinforce"].finished().measured.accuracy


def test_savings_that_cannot_be_measured_are_refused(runs):
    run = str(runs["reinforce"].path)
    with pytest.raises(ValueError, match="--clips-alone must be at least 1, got 0"):
        lazy_savings.Arguments(runs=(run,), clips_alone=0)
    with pytest.raises(FileNotFoundError, match="--out nowhere/savings: there is no folder nowhere"):
        lazy_savings.Arguments(runs=(run,), out=Path("nowhere/savings"))
    command = [sys.executable, ROOT / "examples" / "lazy_savings.py", run, "--models", "oracle"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert failed.returncode == 1
    assert failed.stderr == "error: no run has finished any of the models oracle\n"
