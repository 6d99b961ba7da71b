"""Training that is interrupted goes on with the same numbers, and training that is not learns where to look."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_toys import (
    TINY_NETWORK,
    Watched,
    assert_same_arm,
    marked_source,
    marked_splits,
    tiny_config,
    write_marked_store,
)
from glimpse_agents.reinforce import Arm
from glimpse_agents.runs.folder import Checkpoints, read_json
from glimpse_agents.runs.results import summarise, table

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


# ---- interruption


def test_an_arm_goes_on_as_if_nothing_had_happened(tmp_path):
    config = tiny_config(updates=12, validate_every=3, policy=dataclasses.replace(TINY_NETWORK, dropout=0.3))
    Arm(config, "learned", tmp_path / "whole", marked_splits()).train()
    # An update of six episodes of three clips reads the first cubes of each episode's environment and of each clip,
    # and then two slices in each of three frames.
    broken = marked_splits()
    broken["train"] = marked_source(12, kind=Watched, limit=8 * 45)  # reads of eight updates
    with pytest.raises(OSError, match="the disk is gone"):
        Arm(config, "learned", tmp_path / "broken", broken).train()
    assert Checkpoints(tmp_path / "broken").load_last()["update"] == 8
    resumed = Arm(config, "learned", tmp_path / "broken", marked_splits())
    resumed.train()
    assert resumed.update == 12
    assert_same_arm(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    ("updates", "earlier", "trained_by"),
    [(2, "old", "old"), (4, "old", "old, new"), (4, "older, new", "older, new"), (4, None, "new"), (2, None, None)],
)
def test_who_trained_an_arm_is_told_whoever_goes_on_with_it(tmp_path, updates, earlier, trained_by):
    config = tiny_config(updates=updates, validate_every=2)
    first = Arm(config, "learned", tmp_path, marked_splits())
    first.update, first.trained_by = 2, earlier
    first._save()
    second = Arm(config, "learned", tmp_path, marked_splits())
    second.trained_by = "new"
    second._resume()
    assert second.trained_by == trained_by


def start(log, *arguments):
    """Train in a process of its own, as a user does, saving after every update."""
    sizes = ["--updates", "100", "--clips", "3", "--rollouts", "2", "--warmup-updates", "10", "--glimpses", "2"]
    sizes += ["--validate-every", "10", "--checkpoint-seconds", "0", "--policy.hidden-size", "8"]
    with log.open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "agents/reinforce.py", "--preset", "small", *sizes, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def wait_for(process, path, *, lines):
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_run_goes_on_with_the_numbers_of_an_unbroken_one(store, tmp_path):
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "errors.txt"
    process = start(log, "--source", store, "--out", whole)
    assert process.wait() == 0, log.read_text()
    process = start(log, "--source", store, "--out", killed)
    for arm in (killed, killed / "controls" / "random"):
        wait_for(process, arm / "metrics.jsonl", lines=4)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (arm / "evaluation.json").exists()
        process = start(log, "--source", store, "--resume", killed)
    assert process.wait() == 0, log.read_text()
    for arm in (".", "controls/random"):
        assert_same_arm(whole / arm, killed / arm)
    results = [dict(read_json(folder / "result.json"), train_seconds=0) for folder in (whole, killed)]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.ci
def test_it_learns_where_to_look(tmp_path):
    """Nothing but the actor's cell tells the class; a random look in each of five frames finds it 45 % of the time."""
    config = tiny_config(
        glimpses=1, updates=200, warmup_updates=30, clips=16, rollouts=4, validate_every=50, entropy_bonus=0.01,
        scorer_learning_rate=1e-2,
        policy=dataclasses.replace(TINY_NETWORK, embedding_size=16, hidden_size=16, scorer_size=16),
    )  # fmt: skip
    sources = {
        name: marked_source(clips, frames=6, seed=seed)
        for seed, (name, clips) in enumerate({"train": 1000, "validation": 128, "test": 256}.items())
    }
    measured = {}
    for looking in ("learned", "random"):
        arm = Arm(config, looking, tmp_path / looking, sources)
        arm.train()
        measured[looking] = dataclasses.asdict(arm.test())
    values = {name: {"test": told, "validation_accuracy": 0, "train_seconds": 0} for name, told in measured.items()}
    told = table(summarise(config, values, sources["test"]))
    learned, random = measured["learned"], measured["random"]
    assert learned["accuracy"] >= 0.9, told
    assert learned["accuracy"] >= random["accuracy"] + 0.2, told
    assert learned["focus"] >= 0.5, told  # the actor stays: who has seen it once knows enough
    assert random["focus"] == pytest.approx(1 / 9, abs=0.04), told
