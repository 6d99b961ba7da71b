"""Every example runs and says what it promises."""

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
