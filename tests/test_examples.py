"""Every example runs, explains itself without its library, and ends in one line after a mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_features_follows_what_it_sees():
    command = [sys.executable, "-W", "error", EXAMPLES / "own_features.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    following, anywhere = (float(number) for number in re.findall(r"\d\.\d\d", output))
    assert following > 0.9
    assert anywhere < 0.6


def test_stable_baselines_trains(tmp_path):
    pytest.importorskip("sb3_contrib")
    out = tmp_path / "ppo.json"
    command = [
        sys.executable, EXAMPLES / "train_sb3.py", "--algorithm", "recurrent_ppo", "--rewards", "frames", "--steps",
        "2048", "--points", "1", "--test-episodes", "64", "--out", out,
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(out.read_text())
    assert f"{result['vote_accuracy']:.3f} after 2048 steps" in output
    assert len(result["curve"]) == 1
    assert -8 <= result["reward"] <= 8


def test_the_single_file_ppo_trains(tmp_path):
    command = [sys.executable, EXAMPLES / "train_ppo.py", "--steps", "2048", "--log-dir", tmp_path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"after: mean return -?\d\.\d\d, accuracy 0\.\d\d\d on test", output)
    assert list(tmp_path.rglob("*tfevents*"))


def test_an_episode_is_drawn(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "draw_episode.py", tmp_path / "episode.png"], check=True)
    image = pytest.importorskip("PIL.Image")
    for folder in (tmp_path, EXAMPLES):
        with image.open(folder / "episode.png") as picture:
            assert picture.size == (5 * 336, 384)
            assert len(picture.getcolors()) > 32


LIBRARIES = {
    "train_torchrl": "torchrl",
    "train_skrl": "skrl",
    "train_tianshou": "tianshou",
    "train_rllib": "ray.rllib",
    "train_pufferlib": "pufferlib",
    "train_sb3": "sb3_contrib",
    "learning_curves": "matplotlib",
    "play": "pygame",
}


def run_without(library, example, *words):
    """Run an example on a machine that lacks a library."""
    code = (
        f"import runpy, sys; sys.modules[{library!r}] = None; "
        f"sys.argv = {[example, *words]!r}; sys.path.insert(0, {str(EXAMPLES)!r}); "
        f"runpy.run_path({str(EXAMPLES / example) + '.py'!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("example", "library"), LIBRARIES.items())
def test_help_needs_no_library(example, library):
    helped = run_without(library, example, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--" in helped.stdout
    words = ["--runs", "none", "--sb3", "none"] if example == "learning_curves" else []
    failed = run_without(library, example, *words)
    assert failed.returncode == 1
    assert re.fullmatch(r"\S+ is missing: pip install .*\n", failed.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["draw_episode.py", "episode.gif/x.png"], "error: .*No such file or directory"),
        (["draw_episode.py", "x.png", "--frames", "17"], r"error: --frames must lie in 1\.\.16, got 17"),
        (["draw_episode.py", "x.png", "--clip", "400"], "error: clip 400 does not exist"),
        (["play.py", "--source", "nothere"], "error: no source 'nothere'"),
        (["play.py", "--split", "nothere"], "error: the synthetic source has no split 'nothere'"),
    ],
)
def test_mistakes_end_in_one_line(words, message, tmp_path):
    if words[0] == "play.py":
        pytest.importorskip("pygame")
    command = [sys.executable, EXAMPLES / words[0], *words[1:]]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert failed.returncode == 1
    assert re.fullmatch(f"{message}.*\n", failed.stderr)
