"""Prediction for video files: they are played like the run's own clips, and every refusal names its cause."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import glimpse_agents.pack as packing
import numpy as np
import pytest
import torch
import tyro
from agent_toys import tiny_config, write_marked_store
from extraction_inputs import write_activitynet, write_video
from finished_runs import evaluation, run_result, write_finished_run
from glimpse_agents import load
from glimpse_agents.compare import write_comparison
from glimpse_agents.cost.macs import network_of
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.pictures.timelines import timeline
from glimpse_agents.playing.envs import SourceRecord, greedy_play, make_envs, open_splits
from glimpse_agents.playing.evaluation import class_scores, play_split
from glimpse_agents.playing.rollout import play
from glimpse_agents.playing.videos import Extraction, as_source, sample_frames
from glimpse_agents.predict import Arguments, find_videos, main
from glimpse_agents.prediction.model import TrainedModel
from glimpse_agents.reinforce import train
from glimpse_agents.runs.files import SaveError, read_json, write_json
from glimpse_agents.runs.folder import RunFolder, find_run, find_runs, pack
from PIL import Image
from safetensors.torch import load_file, save_file

from glimpse_env import ClipSource, EpisodeRules
from glimpse_env.engine import EpisodeEngine
from glimpse_env.extract import ActivityNet, Folder, extract
from glimpse_env.files import file_sha256
from glimpse_env.video.backbones import WeightsError
from glimpse_env.video.decode import USUAL, nearest_frames, sample_times
from glimpse_env.video.features import VideoFeatures
from glimpse_env.video.readers import open_video

ROOT = Path(__file__).parent.parent
LENGTHS = {"run/a": 8, "run/b": 30, "run/c": 5, "walk/a": 12, "walk/b": 24, "walk/c": 3}  # frames at 30 a second


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / f"{name}.mp4", frames=frames)
    return root


@pytest.fixture(scope="module")
def trained(videos, weights, tmp_path_factory):
    """A run on a store of the videos: three frames in an episode, up to six of a video kept."""
    store = extract(
        Folder(
            videos=videos, out=tmp_path_factory.mktemp("stores") / "six", weights=weights, frames=3, max_frames=6,
            fps=10.0, batch_size=4, threads=1,
        )
    )  # fmt: skip
    # Seed 2: untrained features silence the few rectifiers of most tiny networks, which then score all videos alike.
    config = tiny_config(source=str(store), seed=2, updates=2, warmup_share=0.0, observation="cube")
    out = tmp_path_factory.mktemp("runs") / "run"
    train(config, out)
    return RunFolder(out)


@pytest.fixture(scope="module")
def slid(trained, tmp_path_factory):
    """A run on windows of three frames of the same store."""
    # Neither silenced nor saturated by the features, so that windows differ in their scores.
    network = {"encoder": "sum", "skip": True, "unit_input": True}
    windows = {"window_seconds": 0.3, "stride_seconds": 0.2, "learning_rate": 1e-4}
    out = tmp_path_factory.mktemp("runs") / "slid"
    train(trained.record().config.with_settings(windows | network), out)
    return RunFolder(out)


def scores_of(printed):
    """Return {video: {class: score}} of printed text."""
    scores = {}
    for line in printed.splitlines():
        if line.startswith("  "):
            score, name, *rest = line.split()
            if not rest:
                list(scores.values())[-1][name] = float(score)
        elif not line.startswith("wrote"):
            scores[line] = {}
    return scores


def change_config(run, path, **changes):
    """Return the copy at `path` of a run, with some values of its config.json changed by their dotted names."""
    shutil.copytree(run.path, path)
    content = read_json(path / "config.json")
    for name, value in changes.items():
        *blocks, leaf = name.split("__")
        inner = content
        for block in blocks:
            inner = inner[block]
        inner[leaf] = value
    write_json(path / "config.json", content)
    return RunFolder(path)


def store_scores(run):
    """Yield each split of the run's source, with the class scores of its clips."""
    config = run.record().config
    for source in open_splits(config).values():
        envs = make_envs(config, source, source.num_clips, train=False)
        ((rollout, _),) = play_split(envs, run.best_policy(config, source), greedy_play(config), seed=0)
        yield source, class_scores(rollout.class_logits, 2).numpy()


# ---- scores


def test_the_middle_of_a_video_is_scored_like_the_clip_of_the_store(trained, videos):
    paths = sorted(videos.glob("*/*.mp4"))
    predicted = load(trained.path).predict(paths, part="middle")
    expected = {
        str(videos / source.clip_id(clip)): own
        for source, scores in store_scores(trained)
        for clip, own in enumerate(scores)
    }
    assert {one.video for one in predicted} == set(expected)
    for one in predicted:
        np.testing.assert_allclose(one.scores, expected[one.video], atol=1e-3)
        assert one.windows == 1
    assert len({tuple(one.scores) for one in predicted}) > 1


def test_a_video_is_scored_by_the_video_score_of_the_run(trained, videos, tmp_path):
    run = change_config(trained, tmp_path / "run", config__training__advanced__video_score="mode")
    for one in load(run.path).predict(sorted(videos.glob("*/*.mp4")), part="middle"):
        assert one.scores.sum() == pytest.approx(1)
        assert all(min(abs(score - share / 3) for share in range(4)) < 0.001 for score in one.scores)


def test_a_run_on_windows_scores_a_video_by_the_windows_of_training(slid, videos):
    """At ten per second the videos have 3, 10, 2, 4, 8 and 1 frames, at most six kept, in windows of three, every
    two."""
    predicted = {one.video: one for one in load(slid.path).predict(sorted(videos.glob("*/*.mp4")), part="middle")}
    for source, scores in store_scores(slid):
        for video in range(source.source.num_clips):
            own, name = scores[source.videos == video], source.source.clip_id(video)
            one = predicted[str(videos / name)]
            assert one.windows == len(own) == {"run/b.mp4": 3, "walk/b.mp4": 3, "walk/a.mp4": 2}.get(name, 1)
            np.testing.assert_allclose(one.scores, own.mean(0), atol=1e-3)


def test_a_long_video_is_judged_over_its_whole_length(trained, videos):
    """Ten frames in windows of three begin at 0, 1, ..., 7; every frame but the first is first seen as a glimpse."""
    model = load(trained.path)
    one = model.predict(videos / "run" / "b.mp4")
    assert one.windows == 8
    assert one.judged == (0.0, 0.9)
    np.testing.assert_allclose(one.frame_times, np.arange(10) / 10)
    middles = [model.predict(videos / "run" / "b.mp4", part="middle"), model.predict(videos / "run" / "c.mp4")]
    assert [middle.judged for middle in middles] == [(pytest.approx(0.3), pytest.approx(0.5)), (0.0, 0.1)]
    assert [middle.windows for middle in middles] == [1, 1]
    assert one.cells[0] is None
    assert all(len(cells) == 2 for cells in one.cells[1:])
    assert one.frame_scores.shape == (10, 2)
    np.testing.assert_allclose(one.frame_scores.sum(1), 1, rtol=1e-5)


def test_the_result_is_what_the_policy_played(trained, videos):
    model = load(trained.path)
    one = model.predict(videos / "run" / "a.mp4")  # three frames: one episode
    source = next(source for source, _ in store_scores(trained) if "run/a.mp4" in map(source.clip_id, range(6)))
    clip = [source.clip_id(clip) for clip in range(source.num_clips)].index("run/a.mp4")
    envs = make_envs(model.config, source, 1, train=False)
    rollout = play(envs, model.policy, np.array([clip]), greedy_play(model.config), noise=Noise.seeded(0), seed=0)
    assert one.cells[1:] == tuple(map(tuple, rollout.cells[0].tolist()))
    np.testing.assert_allclose(one.frame_scores, rollout.class_logits[0].softmax(1), atol=1e-3)
    np.testing.assert_allclose(one.attention.reshape(3, 49), rollout.attention[0], atol=1e-3)
    assert one.no_prediction == 0
    assert not one.frame_no_prediction.any()
    assert one.label == one.ranking[0][0] == one.class_names[int(one.scores.argmax())]
    assert str(one) == f"{videos}/run/a.mp4: {one.label} ({one.scores.max():.3f})"


def test_the_probability_of_no_prediction_is_reported(trained, videos, tmp_path):
    config = trained.record().config.with_settings({"abstain": True, "credit": "terminal"})
    train(config, tmp_path / "abstaining")
    one = load(tmp_path / "abstaining").predict(videos / "run" / "b.mp4")
    np.testing.assert_allclose(one.frame_scores.sum(1) + one.frame_no_prediction, 1, rtol=1e-5)
    assert one.frame_no_prediction.min() > 0
    assert 0 < one.no_prediction < 1
    assert one.scores.sum() + one.no_prediction == pytest.approx(1)


def test_the_network_that_made_a_store_is_found_by_the_path_of_its_weights(trained):
    record = trained.record()
    network = network_of(record.config, open_splits(record.config)["test"])
    assert (network.name, network.weights_sha256) == ("bvlc_googlenet", record.source.extraction["weights_sha256"])


def test_a_comparison_says_which_weights_are_lost(trained, tmp_path, capsys):
    config = trained.record().config
    store = shutil.copytree(config.task.source, tmp_path / "store")
    described = json.loads((store / "lazy.json").read_text())
    (store / "lazy.json").write_text(json.dumps(described | {"weights": str(tmp_path / "lost")}))
    run = tmp_path / "runs" / "m1" / "seed1" / config.model
    write_finished_run(run, config.with_settings({"source": str(store)}), run_result(evaluation([True, False])))
    write_comparison(tmp_path / "runs")
    assert f"GMACs are without the network of {store}: no weights of bvlc_googlenet at" in capsys.readouterr().err
    assert (tmp_path / "runs" / "accuracy_by_compute.png").exists()
    (store / "lazy.json").write_text(json.dumps(described))  # the weights are found again, and are counted now
    write_comparison(tmp_path / "runs")
    ((macs,),) = [json.loads((tmp_path / "runs" / "costs.json").read_text()).values()]
    assert macs["network"] > macs["policy"] > 0


def test_segments_are_runs_of_frames_with_the_same_likeliest_class(trained, videos):
    one = load(trained.path).predict(videos / "run" / "a.mp4")
    scores = np.array([[0.5, 0.1], [0.4, 0.3], [0.1, 0.2]], np.float32)
    changed = dataclasses.replace(one, frame_scores=scores, frame_no_prediction=1 - scores.sum(1))
    ((segment, score),) = changed.segments  # the second and third frame's likeliest answers are 0 and nothing
    assert segment == pytest.approx((0, 0.15, 0))  # no video begins before 0
    assert score == pytest.approx(0.45)


@pytest.mark.parametrize("model", ["random", "soft", "mean", "unlimited", "soft_top"])
def test_every_kind_of_model_predicts(trained, videos, tmp_path, model):
    train(trained.record().config.with_settings({"model": model}), tmp_path / model)
    one = load(tmp_path / model).predict(videos / "run" / "b.mp4")
    assert [cells is None for cells in one.cells] == [True] + [model in ("soft", "mean", "soft_top")] * 9
    one.save_strip(tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as image:
        assert image.format == "PNG"


def test_a_model_that_jumps_predicts(trained, videos, tmp_path):
    jumps = {"observation": "glimpsed", "jumps": (2,), "updates": 1}
    train(trained.record().config.with_settings(jumps), tmp_path / "run")
    one = load(tmp_path / "run").predict(videos / "run" / "b.mp4")
    assert one.cells[0] is None
    for cells, weights in zip(one.cells[1:], one.attention[1:], strict=True):
        assert sorted(cells) == np.flatnonzero(weights).tolist()  # none where a jump left the frame out
    one.save_strip(tmp_path / "strip.png")


def test_an_oracle_cannot_label_videos(trained, videos, tmp_path):
    run = change_config(trained, tmp_path / "run", config__model="oracle")
    with pytest.raises(ValueError, match="model 'oracle' has to know where the actor is, and videos do not show that"):
        load(run.path).predict(videos / "run" / "a.mp4")


# ---- frames


@pytest.fixture(scope="module")
def frames(videos):
    """All frames of a video, as a reader gives them."""
    reader = open_video(videos / "run" / "b.mp4")
    return np.stack(list(reader.read(list(range(30)))))


def test_arrays_and_streams_are_judged_like_the_file(trained, videos, frames):
    model = load(trained.path)
    file = model.predict(videos / "run" / "b.mp4")
    array = model.predict(frames, frames_per_second=30)
    stream = model.predict((frame for frame in frames), frames_per_second=30.0)
    listed = model.predict(list(frames), frames_per_second=30)
    one, two = model.predict([frames, videos / "run" / "b.mp4"], frames_per_second=30)
    for other in (array, stream, listed, one, two):
        np.testing.assert_array_equal(other.scores, file.scores)
        np.testing.assert_array_equal(other.frame_times, file.frame_times)
        assert other.cells == file.cells
    assert (one.video, two.video) == ("video 1", str(videos / "run" / "b.mp4"))
    assert model.predict([]) == []
    middle = model.predict(frames, frames_per_second=30, part="middle")
    assert middle.judged == model.predict(videos / "run" / "b.mp4", part="middle").judged


@pytest.mark.parametrize("given", [1000.0, 30.0, 29.97, 25.0, 10.0, 5.0])
@pytest.mark.parametrize("rate", [7.5, 10.0, 30.0])
@pytest.mark.parametrize("length", [1, 2, 31, 100])
def test_frames_are_sampled_by_the_rule_for_files(given, rate, length):
    timestamps = np.arange(length) / given
    for most in (4, 1000):
        times = sample_times(timestamps, frames_per_second=rate, max_frames=most)
        pictures = (np.full((4, 6, 3), number, np.uint8) for number in range(length))
        clip = sample_frames(pictures, given_rate=given, rate=rate, max_frames=most, rule=USUAL)
        np.testing.assert_allclose(clip.times, times)
        assert clip.numbers.tolist() == nearest_frames(timestamps, times).tolist()
        assert (clip.frames == clip.numbers[:, None, None, None]).all()
        assert clip.thumbnails.shape == (len(times), 112, 112, 3)


@pytest.mark.parametrize(
    ("video", "rate", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), None, "frames need their rate: pass frames_per_second="),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, "frames_per_second must be a positive number, got 0"),
        (np.zeros((2, 8, 8, 3), np.uint8), float("nan"), "frames_per_second must be a positive number, got nan"),
        (np.zeros((0, 8, 8, 3), np.uint8), 10, "the video has no frame"),
        (np.zeros((2, 8, 8), np.uint8), 10, r"frame 0 must be a .* RGB picture, got \(8, 8\) uint8"),
        (np.ma.zeros((2, 8, 8, 3), np.uint8), 10, "frame must be a plain array, got a masked one: fill it first"),
        (np.zeros((2, 8, 8, 3)), 10, r"frame 0 must be a .* RGB picture, got \(8, 8, 3\) float64"),
        (np.zeros((2, 8, 0, 3), np.uint8), 10, r"frame 0 must be a .* RGB picture, got \(8, 0, 3\)"),
    ],
)
def test_frames_are_checked(trained, video, rate, message):
    with pytest.raises(ValueError, match=message):
        load(trained.path).predict(video, frames_per_second=rate)


@pytest.mark.parametrize(
    ("video", "rate", "message"),
    [
        (None, 10, "video 1 must be a path, .* or an iterable of frames, got NoneType"),
        (np.zeros(()), 10, "video 1 must be a path, .* got ndarray"),
        (b"holiday.mp4", 10, "video 1 must be a path, .* got bytes"),
        ({"holiday.mp4": 1}, 10, "video 1 must be a path, .* got dict"),
        (np.array(["a.mp4", "b.mp4"]), 10, "video 1 must be a path, .* got ndarray; several videos are a list"),
        ([np.zeros((2, 8, 8, 3), np.uint8), 5], 10, "video 2 must be a path, .* got int"),
        (np.zeros((2, 8, 8, 3), np.uint8), "10", "frames_per_second must be a number, got '10'"),
        (np.zeros((2, 8, 8, 3), np.uint8), True, "frames_per_second must be a number, got True"),
    ],
)
def test_what_is_no_video_is_refused_before_one_is_judged(trained, video, rate, message):
    with pytest.raises(TypeError, match=message):
        load(trained.path).predict(video, frames_per_second=rate)


def test_frames_may_be_any_sequence(trained):
    class Reader:
        """A sequence without __iter__, as decord.VideoReader is."""

        def __init__(self, frames):
            self.frames = frames

        def __len__(self):
            return len(self.frames)

        def __getitem__(self, number):
            return self.frames[number]

    frames = np.random.default_rng(1).integers(0, 255, (6, 48, 64, 3), np.uint8)
    listed = np.empty(6, object)
    listed[:] = list(frames)
    model = load(trained.path)
    whole, *others = (model.predict(video, frames_per_second=10) for video in (frames, Reader(frames), listed))
    assert [other.to_json() for other in others] == [whole.to_json()] * 2


def test_unknown_splits_are_refused(trained):
    with pytest.raises(ValueError, match="unknown split 'dev': a run has train, validation, test"):
        load(trained.path).evaluate("dev")


def test_parts_have_names(trained, videos):
    with pytest.raises(ValueError, match="part must be 'whole' or 'middle', got 'end'"):
        load(trained.path).predict(videos / "run" / "a.mp4", part="end")


# ---- loading


def test_a_folder_of_runs_or_a_run_is_loaded(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "runs" / "reinforce")
    model = load(tmp_path / "runs")
    assert isinstance(model, TrainedModel)
    assert model.class_names == ("run", "walk")
    assert repr(model) == f"TrainedModel('{tmp_path}/runs/reinforce', reinforce, 2 classes)"
    with pytest.raises(FileNotFoundError, match=r"no run in .*nowhere"):
        load(tmp_path / "nowhere")


def test_the_run_remembers_the_file_of_its_weights(trained, weights):
    assert trained.record().source.extraction["weights"] == str(weights)


def test_weights_that_were_moved_are_asked_for_before_any_work(trained, videos, weights, tmp_path):
    moved = change_config(trained, tmp_path / "run", source__extraction__weights=str(tmp_path / "gone.safetensors"))
    message = f"no weights of bvlc_googlenet at {tmp_path}/gone.safetensors: pass the file with sha256 "
    message += f"{file_sha256(weights)} as weights="
    with pytest.raises(WeightsError, match=message):
        load(moved.path)
    video = videos / "run" / "a.mp4"
    assert load(moved.path, weights=weights).predict(video).label == load(trained.path).predict(video).label
    unknown = change_config(trained, tmp_path / "unknown", source__extraction__weights=None)
    with pytest.raises(WeightsError, match="the run does not name the file of its weights of bvlc_googlenet: pass"):
        load(unknown.path)


def test_other_weights_are_named(trained, videos, weights, tmp_path):
    tensors = load_file(weights)
    tensors["loss3/classifier.bias"] = tensors["loss3/classifier.bias"] + torch.ones(1000)
    save_file(tensors, other := tmp_path / "other.safetensors")
    message = f"{other} have sha256 {file_sha256(other)}, but bvlc_googlenet made .* sha256 {file_sha256(weights)}"
    with pytest.raises(WeightsError, match=message):
        load(trained.path, weights=other).predict(videos / "run" / "a.mp4")


# ---- packed runs


def test_a_packed_run_predicts_as_the_run_does(trained, videos, weights, tmp_path):
    pack(trained, path := tmp_path / "model.safetensors")
    content = path.read_bytes()
    assert str(trained.record().config.task.source).encode() not in content
    assert str(weights).encode() not in content
    packed, video = load(path, weights=weights), videos / "run" / "b.mp4"
    one, two = packed.predict(video), load(trained.path).predict(video)
    assert one.to_json() == two.to_json()
    assert packed.record.source.class_names == ("run", "walk")
    assert packed.run.finished() == trained.finished()
    settings = packed.config.to_json() | {"task": None}
    assert settings == trained.record().config.to_json() | {"task": None}
    with pytest.raises(WeightsError, match="the run does not name the file of its weights"):
        load(path)


@pytest.mark.parametrize("kind", ["", "wall:", "lazy:"])
def test_a_packed_run_names_its_source_without_the_folder(trained, tmp_path, kind):
    moved = change_config(trained, tmp_path / "run", config__task__source=f"{kind}/home/anna/clips")
    pack(moved, tmp_path / "model.safetensors")
    assert find_run(tmp_path / "model.safetensors").record().config.task.source == f"{kind}clips"


def test_the_command_packs_a_run(trained, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    packing.main(packing.parse_arguments([str(trained.path), str(path)]))
    assert capsys.readouterr().out == f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
    with pytest.raises(FileExistsError, match=r"model.safetensors exists: choose another file, or replace"):
        packing.main(packing.Arguments(trained.path, path))
    path.write_bytes(b"")
    packing.main(packing.Arguments(trained.path, path, overwrite=True))
    assert find_run(path).record().source.class_names == ("run", "walk")


def test_a_packed_run_cannot_be_trained_or_damaged(trained, weights, tmp_path):
    pack(trained, path := tmp_path / "model.safetensors")
    (run,) = find_runs(path)
    with pytest.raises(ValueError, match=r"model.safetensors is a file, and a packed run cannot be trained: name a"):
        train(trained.record().config, path)
    with pytest.raises(ValueError, match=r"the name of a packed run must end in .safetensors, got 'model.pt'"):
        pack(trained, tmp_path / "model.pt")
    assert run.metrics() == []
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged \(SafetensorError\): pack the run again"):
        load(path, weights=weights)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged \(\w+\): pack the run again"):
        load(path, weights=weights)


SOURCE = SourceRecord(
    grid_size=2, depth=1, frames=3, class_names=("run", "walk"), frames_per_second=10.0, identity=None, extraction=None
)


def numbered(name, length):
    """Return a video in which frame n, and its picture, is all n (from 0)."""
    frames = np.arange(length)[:, None, None, None]
    return VideoFeatures(
        path=Path("films") / f"{name}.mp4", times=np.arange(length) / 10.0, numbers=np.arange(length),
        thumbnails=np.full((length, 112, 112, 3), frames, np.uint8),
        features=np.full((length, 2, 2, 1), frames, np.float16) + np.float16([[[0], [0.25]], [[0.5], [0.75]]]),
    )  # fmt: skip


def test_a_model_of_untrimmed_videos_labels_videos(weights, tmp_path):
    """It watches cells for changes, as a model of trimmed clips does not."""
    for name in ("aaaaaaaaaaa", "bbbbbbbbbbb", "ddddddddddd"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_video(tmp_path / "videos" / f"v_{name}.mp4", frames=20)
    settings = ActivityNet(
        videos=tmp_path / "videos", annotations=write_activitynet(tmp_path / "notes.json"), out=tmp_path / "store",
        weights=weights, frames=4, fps=10.0, max_frames=9, batch_size=4, threads=1,
    )  # fmt: skip
    remembering = {"scorer": "memory", "slice_weights": "attended", "encoder": "sum"}
    config = tiny_config(source=str(extract(settings)), updates=2, warmup_share=0.0, **remembering)
    train(config, tmp_path / "run")
    pack(RunFolder(tmp_path / "run"), tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors", weights=weights)
    assert model.policy.location_head.watches_changes
    prediction = model.predict(tmp_path / "videos" / "v_aaaaaaaaaaa.mp4")
    np.testing.assert_allclose(prediction.frame_scores.sum(1) + prediction.frame_no_prediction, 1, rtol=1e-5)
    axis = timeline([prediction.played], 0).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["reinforce"]
    assert axis.get_xlabel() == "seconds"


# ---- videos as clips


def test_features_of_another_network_or_rate_are_another_kind_of_source():
    ours = dataclasses.replace(SOURCE, extraction={"backbone": "bvlc_googlenet", "weights_sha256": "a"})
    theirs = dataclasses.replace(ours, extraction={"backbone": "bvlc_googlenet", "weights_sha256": "b"})
    with pytest.raises(ValueError, match="store has weights_sha256 b, but the run was trained with a: use features of"):
        ours.check_same_kind(theirs, "store")
    ours.check_same_kind(dataclasses.replace(ours, extraction=None), "lazy:store")
    with pytest.raises(ValueError, match=r"store has frames_per_second 0\.5, but the run was trained with"):
        ours.check_same_kind(dataclasses.replace(ours, frames_per_second=0.5), "store")


def test_a_model_is_not_measured_on_a_store_that_has_changed(trained, tmp_path):
    run = shutil.copytree(trained.path, tmp_path / "run")
    content = read_json(run / "config.json")
    content["source"]["identity"] = "other"
    write_json(run / "config.json", content)
    with pytest.raises(ValueError, match=r"is not the source that .* was trained on, or has changed: restore it"):
        load(run).evaluate()


def test_pictures_may_be_views_of_others():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mirrored = picture[:, ::-1].copy()
    mirrored.setflags(write=False)
    one, other = (
        sample_frames([seen], given_rate=10.0, rate=10.0, max_frames=1, rule=USUAL)
        for seen in (picture[:, ::-1], mirrored)
    )
    np.testing.assert_array_equal(one.frames, other.frames)


def test_untrimmed_clips_are_another_kind_of_source():
    untrimmed = dataclasses.replace(SOURCE, trimmed=False)
    with pytest.raises(ValueError, match="wall has trimmed False, but the run was trained with True: use features of"):
        SOURCE.check_same_kind(untrimmed, "wall")
    recorded = dataclasses.asdict(SOURCE)
    del recorded["trimmed"]  # as in packed runs of earlier versions
    assert SourceRecord.from_json(recorded) == SOURCE


def test_videos_are_clips_of_unknown_class():
    source = as_source([numbered("long", 5), numbered("short", 2)], tiny_config(), SOURCE, whole=False)
    assert isinstance(source, ClipSource)
    assert [source.clip_id(clip) for clip in range(2)] == ["long.mp4", "short.mp4"]
    assert source.segments(0) == source.segments(1) == ()
    assert (source.num_clips, source.num_frames, source.grid_size, source.depth) == (2, 3, 2, 1)
    assert (source.class_names, source.max_feature) == (("run", "walk"), 4.75)
    cubes, slices = np.empty((2, 2, 2, 1), np.float32), np.empty((3, 1), np.float32)
    source.read_cubes(np.array([0, 1]), np.array([4, 1]), cubes)
    assert cubes[..., 0].tolist() == [[[4, 4.25], [4.5, 4.75]], [[1, 1.25], [1.5, 1.75]]]
    source.read_slices(np.array([0, 1, 0]), np.array([3, 0, 2]), np.array([1, 2, 3]), slices)
    assert slices[:, 0].tolist() == [3.25, 0.5, 2.75]
    assert (source.image(0, 3) == 3).all()
    assert source.actor(0) is None


@pytest.mark.parametrize(
    ("length", "played"),
    [(1, [0, 0, 0]), (2, [0, 1, 1]), (3, [0, 1, 2]), (4, [0, 1, 2]), (5, [1, 2, 3]), (9, [3, 4, 5])],
)
def test_the_middle_of_a_video_is_played(length, played):
    source = as_source([numbered("a", length)], tiny_config(), SOURCE, whole=False)
    engine = EpisodeEngine(source, EpisodeRules(frames=3, glimpses=1), 1)
    engine.begin(0, 0, np.random.default_rng())
    assert engine.window[0].tolist() == played


def test_windows_slide_over_the_whole_of_a_video():
    config = tiny_config(window_seconds=0.3, stride_seconds=0.2)
    source = as_source([numbered("long", 8), numbered("short", 2)], config, SOURCE, whole=False)
    assert [source.clip_id(window) for window in range(source.num_clips)] == [
        "long.mp4@0.00", "long.mp4@0.20", "long.mp4@0.40", "long.mp4@0.50", "short.mp4@0.00",
    ]  # fmt: skip


@pytest.mark.parametrize(("length", "begins"), [(3, [0]), (4, [0, 1]), (7, [0, 1, 2, 3, 4])])
def test_windows_of_half_a_clip_slide_over_a_long_video(length, begins):
    source = as_source([numbered("a", length)], tiny_config(), SOURCE, whole=True)
    assert getattr(source, "first_frames", np.zeros(1)).tolist() == begins
    assert source.num_frames == 3


# ---- pictures


@pytest.mark.parametrize(("suffix", "kind", "frames"), [("gif", "GIF", 10), ("mp4", None, 10)])
def test_every_frame_is_drawn_once(trained, videos, tmp_path, suffix, kind, frames):
    path = tmp_path / f"video.{suffix}"
    load(trained.path).predict(videos / "run" / "b.mp4").save_video(path)
    if kind is None:
        av = pytest.importorskip("av")
        with av.open(path) as container:
            assert len(list(container.decode(video=0))) == frames
    else:
        with Image.open(path) as image:
            assert (image.format, getattr(image, "n_frames", 1)) == (kind, frames)


def test_pictures_are_written_in_formats_that_they_have(trained, videos, tmp_path):
    one = load(trained.path).predict(videos / "run" / "b.mp4")
    with pytest.raises(ValueError, match=r"the name of the file must end in .png, got 'a.gif'"):
        one.save_strip(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"the name of the file must end in .gif or .mp4, got 'a.png'"):
        one.save_video(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a prediction without pictures cannot be drawn"):
        one.without_pictures().save_strip(tmp_path / "a.png")


def test_json_has_scores_times_and_cells(trained, videos):
    one = load(trained.path).predict(videos / "run" / "a.mp4")
    content = json.loads(one.to_json())
    assert list(content["scores"]) == [name for name, _ in one.ranking]
    assert list(content["scores"].values()) == pytest.approx([score for _, score in one.ranking], abs=1e-6)
    assert content["judged_seconds"] == [0.0, 0.2]
    assert content["segments"][0]["start"] == 0.0  # not half a frame before the first
    assert content["segments"][-1]["end"] == 0.25
    assert [frame["seconds"] for frame in content["frames"]] == [0.0, 0.1, 0.2]
    assert [frame["cells"] for frame in content["frames"]] == [None, *map(list, one.cells[1:])]
    assert content["frames"][1]["scores"]["run"] == pytest.approx(one.frame_scores[1, 0], abs=1e-6)
    assert (content["grid_size"], content["windows"], content["no_prediction"]) == (7, 1, 0.0)


# ---- the command


def test_the_command_prints_the_best_classes(trained, videos, tmp_path, capsys):
    paths = (videos / "run" / "b.mp4", videos / "walk" / "c.mp4")
    assert main(Arguments(videos=paths, run=trained.path, out=tmp_path / "strip.png", top=1)) == 0
    printed = capsys.readouterr().out.splitlines()
    both = load(trained.path).predict(list(paths))
    assert printed == [
        str(paths[0]), f"  {both[0].scores.max():.3f}  {both[0].label}", "  judged from 0.00 s to 0.90 s in 8 windows",
        str(paths[1]), f"  {both[1].scores.max():.3f}  {both[1].label}", "  judged from 0.00 s to 0.00 s",
        f"wrote {tmp_path}/strip.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "strip.png") as image:
        assert image.format == "PNG"


def test_json_lines_are_printed_and_written(trained, videos, tmp_path, capsys):
    arguments = Arguments(videos=(videos,), run=trained.path, out=tmp_path / "all.json", json=True)
    assert main(arguments) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["video"] for one in printed] == [str(path) for path in sorted(videos.glob("*/*.mp4"))]
    assert json.loads((tmp_path / "all.json").read_text()) == printed


def test_scores_are_written_as_csv(trained, videos, tmp_path):
    assert main(Arguments(videos=(videos / "run",), run=trained.path, out=tmp_path / "all.csv")) == 0
    header, *lines = [line.split(",") for line in (tmp_path / "all.csv").read_text().splitlines()]
    assert header == ["video", "label", "no_prediction", "run", "walk"]
    assert [line[0] for line in lines] == [str(videos / "run" / f"{name}.mp4") for name in "abc"]
    assert all(float(line[3]) + float(line[4]) == pytest.approx(1, abs=1e-5) for line in lines)


def test_folders_give_their_video_files(tmp_path, capsys):
    for name in ("b/2.MP4", "b/1.avi", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = find_videos([tmp_path, tmp_path / "empty", tmp_path / "notes.txt"])
    assert found == [tmp_path / "b" / "1.avi", tmp_path / "b" / "2.MP4", tmp_path / "notes.txt"]
    assert capsys.readouterr().err == f"skipped: {tmp_path}/empty: no video file in this folder\n"


# ---- refusals


def test_unreadable_videos_are_skipped_with_the_reason(trained, videos, weights, tmp_path, capsys):
    broken, missing, good = tmp_path / "notes.mp4", tmp_path / "missing.mp4", videos / "walk" / "c.mp4"
    broken.write_text("this is no video")
    paths = (broken, good, missing)
    assert main(Arguments(videos=paths, run=trained.path, weights=weights)) == 0
    printed = capsys.readouterr()
    assert list(scores_of(printed.out)) == [str(good)]
    skipped = printed.err.splitlines()
    assert skipped[0].startswith(f"skipped: {broken}: ")
    assert skipped[1:] == [f"skipped: {missing}: no such file"]


def test_no_readable_video_is_a_failure(trained, weights, tmp_path, capsys):
    paths, out = (tmp_path / "a.mp4", tmp_path), tmp_path / "strip.png"
    assert main(Arguments(videos=paths, run=trained.path, weights=weights, out=out)) == 1
    assert capsys.readouterr().err.endswith("error: none of the 1 videos could be judged\n")
    assert not out.exists()


def test_a_picture_that_cannot_be_written_loses_no_scores(trained, videos, weights, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glimpse_agents.runs.files.write_atomically", full)
    out, video = tmp_path / "strip.png", videos / "walk" / "c.mp4"
    with pytest.raises(SaveError, match=f"{out} could not be written .*No space left"):
        main(Arguments(videos=(video,), run=trained.path, weights=weights, out=out))
    assert list(scores_of(capsys.readouterr().out)) == [str(video)]


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("x.jpg", ValueError, r"--out must end in .png, .gif, .mp4, .json or .csv, got 'x.jpg'"),
        ("x", ValueError, "got 'x'"),
        ("nowhere/x.png", FileNotFoundError, "there is no folder .*nowhere; make it, or choose another file"),
        ("old.png", FileExistsError, "old.png exists: choose another file, or replace a file with --overwrite"),
        ("folder.png", FileExistsError, "folder.png exists"),
    ],
)
def test_the_picture_is_checked_before_any_work(tmp_path, out, error, message):
    (tmp_path / "old.png").touch()
    (tmp_path / "folder.png").mkdir()
    overwrite = out == "folder.png"
    with pytest.raises(error, match=message):
        main(Arguments(videos=(Path("a.mp4"),), run=tmp_path / "none", out=tmp_path / out, overwrite=overwrite))


def test_an_existing_picture_is_replaced_only_if_asked(trained, videos, weights, tmp_path):
    (tmp_path / "old.png").touch()
    arguments = Arguments(
        videos=(videos / "walk" / "c.mp4",), run=trained.path, weights=weights, out=tmp_path / "old.png", overwrite=True
    )
    assert main(arguments) == 0
    assert (tmp_path / "old.png").stat().st_size > 1000


def test_movies_need_pyav(tmp_path, monkeypatch):
    monkeypatch.setattr("glimpse_agents.pictures.movies.has_mp4", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"videoglimpse\[video\]"):
        main(Arguments(videos=(Path("a.mp4"),), run=tmp_path, out=tmp_path / "x.mp4"))


def test_of_several_runs_that_of_reinforce_is_used(trained, tmp_path):
    both = tmp_path / "both"
    for model in ("random", "reinforce"):
        change_config(trained, both / model, config__model=model)
    assert find_run(both).path == both / "reinforce"
    assert find_run(both / "random").path == both / "random"
    change_config(trained, tmp_path / "other" / "soft", config__model="soft")
    assert find_run(tmp_path / "other").path == tmp_path / "other" / "soft"
    change_config(trained, tmp_path / "other" / "random", config__model="random")
    with pytest.raises(ValueError, match=r"other holds the runs soft, random: name one of them, such as .*soft"):
        find_run(tmp_path / "other")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
        main(Arguments(videos=(Path("a.mp4"),), run=tmp_path, out=tmp_path / "x.png"))


def test_a_run_that_has_not_validated_is_named_before_any_work(trained, tmp_path):
    run = change_config(trained, tmp_path / "run")
    (run.path / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"no best.safetensors in {run.path}: the run has not validated yet"):
        main(Arguments(videos=(Path("a.mp4"),), run=run.path, out=tmp_path / "x.png"))


def test_a_run_on_other_features_is_named(trained, tmp_path):
    record = change_config(trained, tmp_path / "run", source__extraction=None).record()
    with pytest.raises(ValueError, match=r"was trained on '.*', which is neither a feature store nor a lazy"):
        Extraction.of_run(record.config, record.source)


def test_a_store_of_another_resize_rule_is_named(tmp_path):
    train(tiny_config(source=str(write_marked_store(tmp_path / "store")), updates=2), tmp_path / "run")
    record = RunFolder(tmp_path / "run").record()
    with pytest.raises(
        ValueError, match=r"cannot be made here \(this version has no resize rule 'none': .*: extract and"
    ):
        Extraction.of_run(record.config, record.source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"videos": ()}, "name at least one video file"), ({"top": 0}, "--top must be at least 1, got 0")],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Arguments(**({"videos": (Path("a.mp4"),), "run": Path("run")} | changes))


def test_a_missing_device_is_named(trained, tmp_path):
    with pytest.raises(ValueError, match="device 'cuda:99' does not exist"):
        main(Arguments(videos=(Path("a.mp4"),), run=trained.path, device="cuda:99", out=tmp_path / "x.png"))


# ---- the command line


def test_videos_may_stand_anywhere_on_the_line():
    line = ["--run", "runs/a", "one.mp4", "two.avi", "--weights", "w.safetensors", "--top", "3"]
    arguments = tyro.cli(Arguments, args=line)
    assert arguments == Arguments(
        videos=(Path("one.mp4"), Path("two.avi")), run=Path("runs/a"), weights=Path("w.safetensors"), top=3
    )


def run_predict(*arguments, encoding="utf-8"):
    command = [sys.executable, "-m", "agents.predict", *map(os.fsencode, map(str, arguments))]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.ci
def test_names_that_the_terminal_cannot_print_are_escaped(trained, videos, weights, tmp_path):
    names = [tmp_path / "日本.mp4", tmp_path / os.fsdecode(b"br\xe9k.mp4")]  # the second is not UTF-8
    for name in names:
        shutil.copy(videos / "run" / "a.mp4", name)
    names.append(videos / "run" / "a.mp4")
    out = tmp_path / "x.png"
    done = run_predict("--run", trained.path, "--weights", weights, "--out", out, *names, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert list(scores_of(done.stdout)) == [
        f"{tmp_path}/\\u65e5\\u672c.mp4", f"{tmp_path}/br\\udce9k.mp4", str(names[2])
    ]  # fmt: skip
    assert out.exists()


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_prints_errors_in_one_line(videos, weights, tmp_path):
    arguments = ("--weights", weights, "--out", tmp_path / "strip.png", videos / "run" / "a.mp4")
    done = run_predict("--run", tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no run in {tmp_path}")
    assert done.stderr.count("\n") == 1
