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
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file, save_file

from agents.building import make_envs, open_splits
from agents.evaluation import class_scores, play_split
from agents.predict import Arguments, Recipe, as_source, describe, main, play_videos, window
from agents.reinforce import train
from agents.results import best_policy
from agents.rollout import Manner
from agents.runs import read_json, write_json
from glimpse_env import EpisodeRules
from glimpse_env.backbones import WeightsError
from glimpse_env.engine import EpisodeEngine
from glimpse_env.extract import Folder, extract
from glimpse_env.features import VideoFeatures
from glimpse_env.files import file_sha256

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
        envs = make_envs(config, source, "learned", source.num_clips, train=False)
        ((rollout, _),) = play_split(envs, best_policy(config, out, source), Manner(greedy=True), seed=0)
        scores = class_scores(rollout.class_logits, 2).tolist()
        names = [str(videos / source.clip_id(clip)) for clip in rollout.clips.tolist()]
        expected |= {
            name: dict(zip(source.class_names, own, strict=True)) for name, own in zip(names, scores, strict=True)
        }
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


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 9])
def test_the_window_is_the_environments(length):
    video = VideoFeatures(
        path=Path("a.mp4"), times=np.arange(length) / 10.0, numbers=np.arange(length),
        thumbnails=np.zeros((length, 112, 112, 3), np.uint8), features=np.ones((length, 1, 1, 1), np.float16),
    )  # fmt: skip
    source = as_source([video], dataclasses.replace(RECIPE, frames=length))
    engine = EpisodeEngine(source, EpisodeRules(frames=3, glimpses=1), 1)
    engine.begin(0, 0, np.random.default_rng())
    assert window(length, 3).tolist() == engine.window[0].tolist()


RECIPE = Recipe(
    config=tiny_config(), class_names=("run", "walk"), frames=3, frames_per_second=10.0, max_frames=6,
    backbone="bvlc_googlenet", weights_sha256="1" * 64, resize_rule="any", batch_size=4,
)  # fmt: skip


def test_videos_are_clips_of_unknown_class():
    numbers = {"long": np.arange(5), "short": np.arange(2)}
    videos = [
        VideoFeatures(
            path=Path("films") / f"{name}.mp4", times=frames / 10.0, numbers=frames,
            thumbnails=np.full((len(frames), 112, 112, 3), frames[:, None, None, None], np.uint8),
            features=np.full((len(frames), 1, 1, 1), frames[:, None, None, None], np.float16),
        )
        for name, frames in numbers.items()
    ]  # fmt: skip
    source = as_source(videos, RECIPE)
    assert source.features[..., 0, 0, 0].tolist() == [[1, 2, 3], [0, 1, 1]]
    assert source.images[..., 0, 0, 0].tolist() == [[1, 2, 3], [0, 1, 1]]
    assert [source.clip_id(clip) for clip in range(2)] == ["long.mp4", "short.mp4"]
    assert source.segments(0) == source.segments(1) == ()
    assert source.class_names == ("run", "walk")


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
