"""Every example runs, explains itself without its library, and ends in one line after a mistake."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from agent_toys import tiny_config
from finished_runs import evaluation, run_result, write_finished_run
from glimpse_agents.runs.folder import MetricsLog, RunFolder
from glimpse_agents.tables.records import read_records

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_following_the_brightest_cell_is_right():
    command = [sys.executable, "-W", "error", EXAMPLES / "own_features.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    following, anywhere = (float(number) for number in re.findall(r"\d\.\d\d", output))
    assert following > 0.9
    assert anywhere < 0.6


def assert_in_table(path, title):
    """Check that a run stands in a table with its clips."""
    (record,) = read_records([RunFolder(path)])
    assert (record.model.title, record.glimpses, len(record.test.correct)) == (title, 5, 1000)
    assert record.result.validation.accuracy >= 0


def test_stable_baselines_trains(tmp_path):
    pytest.importorskip("sb3_contrib")
    out = tmp_path / "ppo.json"
    command = [
        sys.executable, EXAMPLES / "train_sb3.py", "--algorithm", "recurrent_ppo", "--rewards", "frames", "--steps",
        "2048", "--points", "1", "--test-episodes", "64", "--out", out, "--run", tmp_path / "run",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(out.read_text())
    assert f"{result['vote_accuracy']:.3f} after 2048 steps" in output
    assert len(result["curve"]) == 1
    assert -8 <= result["reward"] <= 8
    assert_in_table(tmp_path / "run", "recurrent_ppo (Stable-Baselines3)")


def test_the_single_file_ppo_trains(tmp_path):
    command = [
        sys.executable,
        EXAMPLES / "train_ppo.py",
        "--steps",
        "2048",
        "--log-dir",
        tmp_path,
        "--run",
        tmp_path / "run",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"after: mean return -?\d\.\d\d, accuracy 0\.\d\d\d on test", output)
    assert list(tmp_path.rglob("*tfevents*"))
    assert_in_table(tmp_path / "run", "PPO")


@pytest.mark.slow
def test_the_single_file_ppo_jumps(tmp_path):
    command = [
        sys.executable, EXAMPLES / "train_ppo.py", "--source", "synthetic-untrimmed", "--jumps", "1", "2", "4", "8",
        "--steps", "2048", "--num-envs", "32", "--log-dir", tmp_path,
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"after: mean return -?\d+\.\d\d, accuracy \d\.\d\d\d on test", output)


def test_accuracy_is_drawn_against_observed_frames(tmp_path):
    early_stop = pytest.importorskip("early_stop")
    early_stop.main(
        early_stop.Arguments(
            out=tmp_path, source="synthetic-easy", jumps=(1, 4), costs=(0.5,), strides=(2, 4), updates=2, glimpses=1
        )
    )
    rows = [row.split(",") for row in (tmp_path / "table.csv").read_text().splitlines()]
    assert [row[:2] for row in rows[1:]] == [["jumps", "0.5"], ["strides", "2"], ["strides", "4"]]
    assert [float(row[2]) for row in rows[2:]] == [2.0, 1.0]  # of four frames
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_an_episode_is_drawn(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "draw_episode.py", tmp_path / "episode.png"], check=True)
    image = pytest.importorskip("PIL.Image")
    for folder in (tmp_path, EXAMPLES):
        with image.open(folder / "episode.png") as picture:
            assert picture.size == (5 * 336, 384)
            assert len(picture.getcolors()) > 32


def test_learning_curves_are_drawn(tmp_path):
    learning_curves = pytest.importorskip("learning_curves")
    for model in ("reinforce", "random"):
        run = write_finished_run(tmp_path / "run" / model, tiny_config(model=model), run_result(evaluation([True])))
        log = MetricsLog(run, 0)
        for update, scalars in (
            (2, {"validation/reward": -4.0}),
            (3, {"train/total": 1.0}),
            (4, {"validation/reward": 2}),
        ):
            log.write(update, scalars)
        log.close()
    curve = learning_curves.reinforce_curve(tmp_path / "run" / "reinforce")
    assert curve.tolist() == [[2 * 3 * 2 * 4, -4.0], [4 * 3 * 2 * 4, 2.0]]  # 3 clips, 2 rollouts, 4 frames an update
    result = {"algorithm": "recurrent_ppo", "curve": [[50, 0.1, -6.0], [90, 0.2, -5.0]]}
    (tmp_path / "ppo.json").write_text(json.dumps(result))
    learning_curves.main([tmp_path / "run"], [tmp_path / "ppo.json"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


LIBRARIES = {
    "draw_episode": "PIL",
    "early_stop": "tyro",
    "headroom": "torch",
    "linear_controls": "tyro",
    "join_clips": "av",
    "lazy_savings": "matplotlib",
    "learning_curves": "matplotlib",
    "play": "pygame",
    "train_ppo": "tyro",
    "train_pufferlib": "pufferlib",
    "train_rllib": "ray.rllib",
    "train_sb3": "sb3_contrib",
    "train_skrl": "skrl",
    "train_tianshou": "tianshou",
    "train_torchrl": "tensordict",
}
REQUIRED = {
    "early_stop": ["--out", "none"],
    "draw_episode": ["x.png"],
    "join_clips": ["--videos", "none", "--splits", "none", "--out", "none"],
    "lazy_savings": ["none"],
    "headroom": ["--source", "none"],
    "linear_controls": ["none"],
    "learning_curves": ["--runs", "none", "--sb3", "none"],
}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


def exit_of(monkeypatch, example, *words):
    """Run an example as a script, and return the status or the message it exits with."""
    monkeypatch.setattr(sys, "argv", [example, *words])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    return exited.value.code


@pytest.mark.parametrize(("example", "library"), LIBRARIES.items())
def test_a_missing_library_is_one_line(example, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    message = exit_of(monkeypatch, example, *REQUIRED.get(example, []))
    assert re.fullmatch(rf"{library}(\.\w+)* is missing: pip install .*", message)
    assert message.partition(": ")[2].removesuffix(" && pip install -e .") in (EXAMPLES / f"{example}.py").read_text()


@pytest.mark.parametrize("example", NAMES)
def test_help_needs_no_library_but_the_parser(example, monkeypatch, capsys):
    parser = "tyro" if "import tyro" in (EXAMPLES / f"{example}.py").read_text() else None
    monkeypatch.setitem(sys.modules, parser or LIBRARIES.get(example, "torch"), None)
    left = exit_of(monkeypatch, example, "--help")
    assert str(left).startswith("tyro is missing: pip install ") if parser else left == 0
    assert parser or "--" in capsys.readouterr().out


@pytest.mark.parametrize("example", NAMES)
def test_unknown_and_missing_flags_are_refused_without_a_traceback(example, monkeypatch, capsys):
    assert exit_of(monkeypatch, example, *REQUIRED.get(example, []), "--nonsense", "3") == 2
    assert "--nonsense" in capsys.readouterr().err
    if example in REQUIRED:
        assert exit_of(monkeypatch, example) == 2
        assert "required" in capsys.readouterr().err


def test_no_steps_are_refused(monkeypatch, capsys):
    assert exit_of(monkeypatch, "train_sb3", "--steps", "0") == 2
    assert "argument --steps: must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["draw_episode.py", "episode.gif/x.png"], "error: .*No such file or directory"),
        (["draw_episode.py", "x.png", "--frames", "17"], r"error: --frames must lie in 1\.\.16, got 17"),
        (["draw_episode.py", "x.png", "--clip", "400"], "error: clip 400 does not exist"),
        (
            ["train_ppo.py", "--jumps", "2", "--run", "x"],
            "--run takes no --jumps: videoglimpse compare measures agents that",
        ),
        (["train_ppo.py", "--steps", "-5"], "--steps must be at least 1, got -5"),
        (["play.py", "--source", "nothere"], "error: no source 'nothere'"),
        (["play.py", "--split", "nothere"], "error: unknown split 'nothere': the synthetic source has"),
    ],
)
def test_mistakes_end_in_one_line(words, message, tmp_path):
    if words[0] == "play.py":
        pytest.importorskip("pygame")
    command = [sys.executable, EXAMPLES / words[0], *words[1:]]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert failed.returncode == 1
    assert re.fullmatch(f"{message}.*\n", failed.stderr)
