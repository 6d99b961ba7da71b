"""Anyone's videos through a trained policy: they are seen as the run's own clips are, and what cannot be is named."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from agent_toys import tiny_config, write_marked_store
from extraction_inputs import write_video
from glimpse_agents.playing.envs import greedy_manner, make_envs, open_splits
from glimpse_agents.playing.evaluation import class_scores, play_split
from glimpse_agents.predict import Arguments, Recipe, as_source, describe, main, play_videos
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import read_json, write_json
from glimpse_agents.runs.results import best_policy
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file, save_file

from glimpse_env import ClipSource, EpisodeRules
from glimpse_env.engine import EpisodeEngine
from glimpse_env.extract import Folder, extract
from glimpse_env.files import file_sha256
from glimpse_env.video.backbones import WeightsError
from glimpse_env.video.features import VideoFeatures

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
    """The configuration and the folder of a run on a store of the videos: three frames an episode, up to six kept."""
    store = extract(
        Folder(
            videos=videos, out=tmp_path_factory.mktemp("stores") / "six", weights=weights, frames=3, max_frames=6,
            fps=10.0, batch_size=4, threads=1,
        )
    )  # fmt: skip
    # Seed 2: untrained features silence the few rectifiers of most tiny networks, which then score all videos alike.
    config = tiny_config(source=str(store), controls=(), seed=2, updates=2, warmup_updates=0, observation="cube")
    out = tmp_path_factory.mktemp("runs") / "run"
    train(config, out)
    return config, out


@pytest.fixture(scope="module")
def slid(trained, tmp_path_factory):
    """The configuration and the folder of a run on windows of three frames of the same store."""
    # Neither silenced nor saturated by the features, so that windows differ in their scores.
    network = dataclasses.replace(trained[0].policy, encoder="sum", skip=True, unit_input=True)
    config = dataclasses.replace(trained[0], window_seconds=0.3, stride_seconds=0.2, policy=network, learning_rate=1e-4)
    out = tmp_path_factory.mktemp("runs") / "slid"
    train(config, out)
    return config, out


def scores_of(told):
    """Return {video: {class: score}} of what was printed."""
    scores = {}
    for line in told.splitlines():
        if line.startswith("  "):
            score, name = line.split()
            list(scores.values())[-1][name] = float(score)
        elif not line.startswith("wrote"):
            scores[line] = {}
    return scores


def run_folder(trained, tmp_path, **source):
    """Return a copy of the run whose description of its source is changed."""
    _, out = trained
    shutil.copytree(out, tmp_path / "run")
    content = read_json(out / "config.json")
    write_json(tmp_path / "run" / "config.json", content | {"source": content["source"] | source})
    return tmp_path / "run"


# ---- what is played


def test_a_video_is_scored_as_the_clip_of_the_store(trained, videos, weights, tmp_path, capsys):
    config, out = trained
    expected = {}
    for source in open_splits(config).values():
        envs = make_envs(config, source, source.num_clips, train=False)
        ((rollout, _),) = play_split(envs, best_policy(config, out, source), greedy_manner(config), seed=0)
        scores = class_scores(rollout.class_logits, 2).tolist()
        names = [str(videos / source.clip_id(clip)) for clip in rollout.clips.tolist()]
        expected |= {
            name: dict(zip(source.class_names, own, strict=True)) for name, own in zip(names, scores, strict=True)
        }
    assert_told(expected, videos, out, weights, tmp_path, capsys)


def test_a_video_is_scored_as_the_run_judges_its_own(trained, videos, weights, tmp_path, capsys):
    run = run_folder(trained, tmp_path)
    content = read_json(run / "config.json")
    write_json(run / "config.json", content | {"config": content["config"] | {"video_score": "mode"}})
    paths = tuple(sorted(videos.glob("*/*.mp4")))
    assert main(Arguments(videos=paths, run=run, weights=weights, out=tmp_path / "strip.png")) == 0
    told = scores_of(capsys.readouterr().out)
    assert len(told) == len(LENGTHS)
    for scores in told.values():
        assert sum(scores.values()) == pytest.approx(1)
        assert all(min(abs(score - share / 3) for share in range(4)) < 0.001 for score in scores.values())


def test_a_video_longer_than_a_window_is_scored_by_all_of_its_windows(slid, videos, weights, tmp_path, capsys):
    """At ten a second the videos have 3, 10, 2, 4, 8 and 1 frames, at most six kept, in windows of three, every two."""
    config, out = slid
    expected = {}
    for source in open_splits(config).values():
        envs = make_envs(config, source, source.num_clips, train=False)
        ((rollout, _),) = play_split(envs, best_policy(config, out, source), greedy_manner(config), seed=0)
        scores = class_scores(rollout.class_logits, 2).numpy()
        for video in range(source.source.num_clips):
            own = scores[source.videos == video]
            name = source.source.clip_id(video)
            assert len(own) == {"run/b.mp4": 3, "walk/b.mp4": 3, "walk/a.mp4": 2}.get(name, 1)
            assert len(np.unique(own[:, 0])) == len(own)
            expected[str(videos / name)] = dict(zip(source.class_names, own.mean(0).tolist(), strict=True))
    assert_told(expected, videos, out, weights, tmp_path, capsys)


def assert_told(expected, videos, out, weights, tmp_path, capsys):
    """Hold what is printed of all videos to the scores expected."""
    paths = tuple(sorted(videos.glob("*/*.mp4")))
    status = main(Arguments(videos=paths, run=out, weights=weights, out=tmp_path / "strip.png"))
    told = scores_of(capsys.readouterr().out)
    assert status == 0
    assert list(told) == [str(path) for path in paths]
    assert told.keys() == expected.keys()
    for name, scores in told.items():
        assert scores == pytest.approx(expected[name], abs=0.002)
    assert len({tuple(scores.values()) for scores in expected.values()}) > 1
    with Image.open(tmp_path / "strip.png") as image:
        assert image.format == "PNG"


RECIPE = Recipe(
    config=tiny_config(), class_names=("run", "walk"), frames=3, frames_per_second=10.0, max_frames=6,
    backbone="bvlc_googlenet", weights_sha256="1" * 64, resize_rule="any", batch_size=4,
)  # fmt: skip


def numbered(name, length):
    """Return a video of which frame n, and its picture, is all n (from 0)."""
    frames = np.arange(length)[:, None, None, None]
    return VideoFeatures(
        path=Path("films") / f"{name}.mp4", times=np.arange(length) / 10.0, numbers=np.arange(length),
        thumbnails=np.full((length, 112, 112, 3), frames, np.uint8),
        features=np.full((length, 2, 2, 1), frames, np.float16) + np.float16([[[0], [0.25]], [[0.5], [0.75]]]),
    )  # fmt: skip


def test_videos_are_clips_of_unknown_class():
    source = as_source([numbered("long", 5), numbered("short", 2)], RECIPE)
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
    engine = EpisodeEngine(as_source([numbered("a", length)], RECIPE), EpisodeRules(frames=3, glimpses=1), 1)
    engine.begin(0, 0, np.random.default_rng())
    assert engine.window[0].tolist() == played


def test_windows_slide_over_the_whole_of_a_video():
    recipe = dataclasses.replace(RECIPE, config=tiny_config(window_seconds=0.3, stride_seconds=0.2))
    source = as_source([numbered("long", 8), numbered("short", 2)], recipe)
    assert [source.clip_id(window) for window in range(source.num_clips)] == [
        "long.mp4@0.00", "long.mp4@0.20", "long.mp4@0.40", "long.mp4@0.50", "short.mp4@0.00",
    ]  # fmt: skip


def test_more_videos_than_the_strip_has_rows_are_scored_all_the_same(trained, tmp_path):
    _, out = trained
    recipe, rng = Recipe.of_run(out), np.random.default_rng(1)
    videos = [
        VideoFeatures(
            path=Path(f"{number}.mp4"), times=np.arange(3) / 10.0, numbers=np.arange(3),
            thumbnails=np.zeros((3, 112, 112, 3), np.uint8),
            features=rng.uniform(0, 9, (3, 7, 7, 1024)).astype(np.float16),
        )
        for number in range(5)
    ]  # fmt: skip
    strips = {2: tmp_path / "two.png", 16: tmp_path / "all.png"}
    some, every = (play_videos(videos, recipe, out, out=path, device="cpu", rows=rows) for rows, path in strips.items())
    np.testing.assert_allclose(some, every, rtol=1e-5)
    assert every.shape == (5, 2)
    heights = [imread(path).shape[0] for path in strips.values()]
    assert heights[0] < heights[1] / 2


def test_a_strip_shows_the_middle_window_of_each_video(slid, tmp_path):
    _, out = slid
    recipe, rng = Recipe.of_run(out), np.random.default_rng(1)
    videos = [
        dataclasses.replace(
            numbered(str(length), length), features=rng.uniform(0, 9, (length, 7, 7, 1024)).astype(np.float16)
        )
        for length in (9, 3, 5)
    ]
    strips = {2: tmp_path / "two.png", 16: tmp_path / "all.png"}
    some, every = (play_videos(videos, recipe, out, out=path, device="cpu", rows=rows) for rows, path in strips.items())
    assert every.shape == (3, 2)
    np.testing.assert_allclose(some, every, rtol=1e-5)
    two, three = (imread(path).shape[0] for path in strips.values())
    assert two < three < 2 * two


def test_the_best_classes_come_first():
    scores = np.array([0.1, 0.6, 0.3], np.float32)
    lines = describe(Path("a.mp4"), scores, ("jump", "run", "walk"), 2)
    assert lines.splitlines() == ["a.mp4", "  0.600  run", "  0.300  walk"]
    assert len(describe(Path("a.mp4"), scores, ("jump", "run", "walk"), 9).splitlines()) == 4


# ---- what is refused


def test_videos_that_cannot_be_read_are_skipped_with_their_reason(trained, videos, weights, tmp_path, capsys):
    _, out = trained
    broken, missing, good = tmp_path / "notes.mp4", tmp_path / "missing.mp4", videos / "walk" / "c.mp4"
    broken.write_text("this is no video")
    arguments = Arguments(videos=(broken, good, missing), run=out, weights=weights, out=tmp_path / "strip.png")
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert list(scores_of(told.out)) == [str(good)]
    skipped = told.err.splitlines()
    assert skipped[0].startswith(f"skipped: {broken}: ")
    assert skipped[1:] == [f"skipped: {missing}: no such file"]


def test_no_readable_video_is_a_failure(trained, weights, tmp_path, capsys):
    _, out = trained
    arguments = Arguments(videos=(tmp_path / "a.mp4", tmp_path), run=out, weights=weights, out=tmp_path / "strip.png")
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("error: none of the 2 videos could be read\n")
    assert not (tmp_path / "strip.png").exists()


def test_other_weights_are_named(trained, weights, tmp_path):
    _, out = trained
    tensors = load_file(weights)
    tensors["loss3/classifier.bias"] = tensors["loss3/classifier.bias"] + torch.ones(1000)
    save_file(tensors, other := tmp_path / "other.safetensors")
    message = f"{other} .*sha256 {file_sha256(other)}, but .*bvlc_googlenet with .*sha256 {file_sha256(weights)}"
    with pytest.raises(WeightsError, match=message):
        main(Arguments(videos=(Path("a.mp4"),), run=out, weights=other))


def test_missing_weights_are_named(trained):
    _, out = trained
    with pytest.raises(WeightsError, match="bvlc_googlenet needs a weights file: pass --weights"):
        main(Arguments(videos=(Path("a.mp4"),), run=out))


def test_a_folder_that_is_no_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no config.json in {tmp_path}: it is not the folder of such a run"):
        main(Arguments(videos=(Path("a.mp4"),), run=tmp_path))


def test_a_run_that_chose_no_weights_is_named(trained, videos, weights, tmp_path):
    run = run_folder(trained, tmp_path)
    (run / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"no best.safetensors in {run}: the run has not validated yet"):
        main(Arguments(videos=(videos / "walk" / "c.mp4",), run=run, weights=weights))


def test_a_run_without_a_backbone_is_named(trained, tmp_path):
    run = run_folder(trained, tmp_path, extraction=None)
    with pytest.raises(ValueError, match=r"was trained on '.*', which has no network that turns videos into features"):
        Recipe.of_run(run)


def test_a_store_of_another_resize_rule_is_named(tmp_path):
    config = tiny_config(source=str(write_marked_store(tmp_path / "store")), controls=(), updates=2)
    train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="were resized by 'none', and this version resizes by 'direct-bilinear-224'"):
        Recipe.of_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"videos": ()}, "name at least one video file"), ({"top": 0}, "top must be at least 1, got 0")],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Arguments(**({"videos": (Path("a.mp4"),), "run": Path("run")} | changes))


def test_a_device_that_is_not_there_is_named(trained):
    _, out = trained
    with pytest.raises(ValueError, match="device 'cuda:99' was asked for, but there are"):
        main(Arguments(videos=(Path("a.mp4"),), run=out, device="cuda:99"))


# ---- the command line


def test_videos_stand_where_they_like():
    line = ["--run", "runs/a", "one.mp4", "two.avi", "--weights", "w.safetensors", "--top", "3"]
    arguments = tyro.cli(Arguments, args=line)
    assert arguments == Arguments(
        videos=(Path("one.mp4"), Path("two.avi")), run=Path("runs/a"), weights=Path("w.safetensors"), top=3
    )


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_line_tells_errors_in_a_line(trained, videos, weights, tmp_path):
    _, out = trained
    command = [sys.executable, "-m", "agents.predict", "--weights", weights, "--out", tmp_path / "strip.png"]
    video = videos / "run" / "a.mp4"
    done = subprocess.run([*command, "--run", out, video], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(scores_of(done.stdout)) == [str(video)]
    done = subprocess.run([*command, "--run", tmp_path, video], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: no config.json in {tmp_path}")
