"""Prediction for video files: they are played like the run's own clips, and every refusal names its cause."""

import dataclasses
import io
import os
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
from glimpse_agents.pictures.movies import draw_episodes
from glimpse_agents.playing.envs import SourceRecord, greedy_play, make_envs, open_splits
from glimpse_agents.playing.evaluation import class_scores, play_split
from glimpse_agents.playing.videos import Extraction, as_source
from glimpse_agents.predict import Arguments, choose_run, describe, main, play_shown, score_videos
from glimpse_agents.reinforce import train
from glimpse_agents.runs.files import SaveError, read_json, write_json
from glimpse_agents.runs.folder import RunFolder
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
            score, name = line.split()
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


def test_a_video_is_scored_like_the_clip_of_the_store(trained, videos, weights, tmp_path, capsys):
    expected = {
        str(videos / source.clip_id(clip)): dict(zip(source.class_names, own.tolist(), strict=True))
        for source, scores in store_scores(trained)
        for clip, own in enumerate(scores)
    }
    assert_printed(expected, videos, trained, weights, tmp_path, capsys)


def test_a_video_is_scored_by_the_video_score_of_the_run(trained, videos, weights, tmp_path, capsys):
    run = change_config(trained, tmp_path / "run", config__training__advanced__video_score="mode")
    paths = tuple(sorted(videos.glob("*/*.mp4")))
    assert main(Arguments(videos=paths, run=run.path, weights=weights, out=tmp_path / "strip.png")) == 0
    printed = scores_of(capsys.readouterr().out)
    assert len(printed) == len(LENGTHS)
    for scores in printed.values():
        assert sum(scores.values()) == pytest.approx(1)
        assert all(min(abs(score - share / 3) for share in range(4)) < 0.001 for score in scores.values())


def test_a_video_longer_than_a_window_is_scored_by_all_of_its_windows(slid, videos, weights, tmp_path, capsys):
    """At ten per second the videos have 3, 10, 2, 4, 8 and 1 frames, at most six kept, in windows of three, every
    two."""
    expected = {}
    for source, scores in store_scores(slid):
        for video in range(source.source.num_clips):
            own = scores[source.videos == video]
            name = source.source.clip_id(video)
            assert len(own) == {"run/b.mp4": 3, "walk/b.mp4": 3, "walk/a.mp4": 2}.get(name, 1)
            assert len(np.unique(own[:, 0])) == len(own)
            expected[str(videos / name)] = dict(zip(source.class_names, own.mean(0).tolist(), strict=True))
    assert_printed(expected, videos, slid, weights, tmp_path, capsys)


def assert_printed(expected, videos, run, weights, tmp_path, capsys):
    """Check the printed scores of all videos."""
    paths = tuple(sorted(videos.glob("*/*.mp4")))
    status = main(Arguments(videos=paths, run=run.path, weights=weights, out=tmp_path / "strip.png"))
    printed = scores_of(capsys.readouterr().out)
    assert status == 0
    assert list(printed) == [str(path) for path in paths]
    assert printed.keys() == expected.keys()
    for name, scores in printed.items():
        assert scores == pytest.approx(expected[name], abs=0.002)
    assert len({tuple(scores.values()) for scores in expected.values()}) > 1
    with Image.open(tmp_path / "strip.png") as image:
        assert image.format == "PNG"


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


def test_videos_are_clips_of_unknown_class():
    source = as_source([numbered("long", 5), numbered("short", 2)], tiny_config(), SOURCE)
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
    source = as_source([numbered("a", length)], tiny_config(), SOURCE)
    engine = EpisodeEngine(source, EpisodeRules(frames=3, glimpses=1), 1)
    engine.begin(0, 0, np.random.default_rng())
    assert engine.window[0].tolist() == played


def test_windows_slide_over_the_whole_of_a_video():
    config = tiny_config(window_seconds=0.3, stride_seconds=0.2)
    source = as_source([numbered("long", 8), numbered("short", 2)], config, SOURCE)
    assert [source.clip_id(window) for window in range(source.num_clips)] == [
        "long.mp4@0.00", "long.mp4@0.20", "long.mp4@0.40", "long.mp4@0.50", "short.mp4@0.00",
    ]  # fmt: skip


def random_videos(lengths):
    rng = np.random.default_rng(1)
    return [
        dataclasses.replace(
            numbered(str(length), length), features=rng.uniform(0, 9, (length, 7, 7, 1024)).astype(np.float16)
        )
        for length in lengths
    ]


@pytest.mark.parametrize("fixture", ["trained", "slid"])
def test_all_videos_are_scored_and_the_first_ones_drawn(fixture, request, monkeypatch):
    run = request.getfixturevalue(fixture)
    record = run.record()
    source = as_source(random_videos((9, 3, 5)), record.config, record.source)
    policy = run.best_policy(record.config, source)
    scores = score_videos(source, policy, record.config)
    assert scores.shape == (3, 2)
    shown = play_shown(source, policy, record.config, most=2)
    middle = {"trained": ["9.mp4", "3.mp4"], "slid": ["9.mp4@0.40", "3.mp4@0.00"]}
    assert [shown.clip_id(episode) for episode in range(2)] == middle[fixture]
    monkeypatch.setattr("glimpse_agents.predict.DRAWN_VIDEOS", 2)
    np.testing.assert_allclose(score_videos(source, policy, record.config), scores, rtol=1e-5)  # in smaller batches


@pytest.mark.parametrize(("suffix", "kind", "frames"), [(".png", "PNG", 1), (".gif", "GIF", 6), (".mp4", None, 6)])
def test_the_suffix_decides_the_format(trained, suffix, kind, frames):
    record = trained.record()
    source = as_source(random_videos((4, 2)), record.config, record.source)
    shown = play_shown(source, trained.best_policy(record.config, source), record.config)
    content = io.BytesIO(draw_episodes(shown, suffix))
    if kind is None:
        av = pytest.importorskip("av")
        with av.open(content) as container:
            assert len(list(container.decode(video=0))) == frames
    else:
        with Image.open(content) as image:
            assert (image.format, getattr(image, "n_frames", 1)) == (kind, frames)


def test_the_best_classes_come_first():
    scores = np.array([0.1, 0.6, 0.3], np.float32)
    lines = describe(Path("a.mp4"), scores, ("jump", "run", "walk"), 2)
    assert lines.splitlines() == ["a.mp4", "  0.600  run", "  0.300  walk"]
    assert len(describe(Path("a.mp4"), scores, ("jump", "run", "walk"), 9).splitlines()) == 4


# ---- refusals


def test_unreadable_videos_are_skipped_with_the_reason(trained, videos, weights, tmp_path, capsys):
    broken, missing, good = tmp_path / "notes.mp4", tmp_path / "missing.mp4", videos / "walk" / "c.mp4"
    broken.write_text("this is no video")
    paths = (broken, good, missing)
    assert main(Arguments(videos=paths, run=trained.path, weights=weights, out=tmp_path / "strip.png")) == 0
    printed = capsys.readouterr()
    assert list(scores_of(printed.out)) == [str(good)]
    skipped = printed.err.splitlines()
    assert skipped[0].startswith(f"skipped: {broken}: ")
    assert skipped[1:] == [f"skipped: {missing}: no such file"]


def test_no_readable_video_is_a_failure(trained, weights, tmp_path, capsys):
    paths, out = (tmp_path / "a.mp4", tmp_path), tmp_path / "strip.png"
    assert main(Arguments(videos=paths, run=trained.path, weights=weights, out=out)) == 1
    assert capsys.readouterr().err.endswith("error: none of the 2 videos could be read\n")
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
        ("x.jpg", ValueError, r"the name of a picture must end in .png, .gif, .mp4, got 'x.jpg'"),
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
    assert choose_run(both).path == both / "reinforce"
    assert choose_run(both / "random").path == both / "random"
    change_config(trained, tmp_path / "other" / "soft", config__model="soft")
    assert choose_run(tmp_path / "other").path == tmp_path / "other" / "soft"
    change_config(trained, tmp_path / "other" / "random", config__model="random")
    with pytest.raises(ValueError, match=r"other holds the runs soft, random: name one of them, such as --run .*soft"):
        choose_run(tmp_path / "other")


def test_other_weights_are_named(trained, weights, tmp_path):
    tensors = load_file(weights)
    tensors["loss3/classifier.bias"] = tensors["loss3/classifier.bias"] + torch.ones(1000)
    save_file(tensors, other := tmp_path / "other.safetensors")
    message = f"{other} have sha256 {file_sha256(other)}, but bvlc_googlenet made .* sha256 {file_sha256(weights)}"
    with pytest.raises(WeightsError, match=message):
        main(Arguments(videos=(Path("a.mp4"),), run=trained.path, weights=other, out=tmp_path / "x.png"))


def test_missing_weights_are_named(trained, tmp_path):
    with pytest.raises(WeightsError, match="bvlc_googlenet needs a weights file: pass --weights"):
        main(Arguments(videos=(Path("a.mp4"),), run=trained.path, out=tmp_path / "x.png"))


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
    with pytest.raises(ValueError, match=r"was trained on '.*', whose features no network made from videos"):
        Extraction.of_run(record.config, record.source)


def test_a_store_of_another_resize_rule_is_named(tmp_path):
    train(tiny_config(source=str(write_marked_store(tmp_path / "store")), updates=2), tmp_path / "run")
    record = RunFolder(tmp_path / "run").record()
    with pytest.raises(ValueError, match="were resized by 'none', and this version resizes by 'direct-bilinear-224'"):
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
    out = tmp_path / "x.png"
    done = run_predict("--run", trained.path, "--weights", weights, "--out", out, *names, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert list(scores_of(done.stdout)) == [f"{tmp_path}/\\u65e5\\u672c.mp4", f"{tmp_path}/br\\udce9k.mp4"]
    assert out.exists()


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_prints_errors_in_one_line(trained, videos, weights, tmp_path):
    out, video = tmp_path / "strip.png", videos / "run" / "a.mp4"
    done = run_predict("--run", trained.path, "--weights", weights, "--out", out, video)
    assert done.returncode == 0, done.stderr
    assert list(scores_of(done.stdout)) == [str(video)]
    done = run_predict("--run", tmp_path, "--weights", weights, "--out", out, video, "--overwrite")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no run in {tmp_path}")
    assert done.stderr.count("\n") == 1
