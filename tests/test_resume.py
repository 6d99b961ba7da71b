"""Runs that are resumed, extended or played again, and a run that learns where to look."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from agent_toys import (
    Watched,
    assert_same_run,
    marked_source,
    marked_splits,
    metrics_of,
    tiny_config,
    write_marked_store,
)
from glimpse_agents import reinforce
from glimpse_agents.playing.envs import SourceRecord
from glimpse_agents.reinforce import main, train
from glimpse_agents.runs.command import run_command
from glimpse_agents.runs.files import read_json, write_json
from glimpse_agents.runs.folder import FORMAT, RunFolder
from glimpse_agents.runs.trainer import Trainer

from glimpse_env import ArraySource, WallSource, open_source

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, str(ROOT / "agents" / "reinforce.py")]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


def run(monkeypatch, *arguments):
    """Run the command in this process, and return its exit status or its message."""
    monkeypatch.setattr(sys, "argv", ["agents/reinforce.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(main, ranks=True)
    return ended.value.code


def interrupted(path, config, *, updates):
    """Begin a run, stop it after some updates as a failing disk does, and return its folder."""
    sources = marked_splits()
    # An update of six episodes of three clips reads the first cubes of each episode's environment and of each clip,
    # and then two slices in each of three frames: 45 reads.
    sources["train"] = marked_source(12, kind=Watched, limit=45 * updates)
    with pytest.raises(OSError, match="the disk is gone"):
        train(config, path, sources=sources)
    assert RunFolder(path).updates_done() == updates
    return RunFolder(path)


# ---- the same numbers


def test_a_resumed_run_has_the_numbers_of_an_unbroken_one(tmp_path):
    config = tiny_config(updates=12, validate_every=3, dropout=0.3)
    train(config, tmp_path / "whole", sources=marked_splits())
    interrupted(tmp_path / "broken", config, updates=8)
    train(config, tmp_path / "broken", sources=marked_splits())
    assert RunFolder(tmp_path / "broken").updates_done() == 12
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    ("updates", "earlier", "trained_by"),
    [(2, "old", "old"), (4, "old", "old, new"), (4, "older, new", "older, new"), (4, None, "new"), (2, None, None)],
)
def test_a_run_names_all_commits_that_trained_it(updates, earlier, trained_by):
    config, sources = tiny_config(updates=updates), marked_splits()
    first, second = (Trainer(config.for_source(sources["train"]), sources) for _ in range(2))
    first.num_updates, first.trained_by, second.trained_by = 2, earlier, "new"
    second.load_state(first.state())
    assert second.trained_by == trained_by


def test_a_state_of_another_version_is_refused_in_one_line():
    sources = marked_splits()
    trainer = Trainer(tiny_config().for_source(sources["train"]), sources)
    state = trainer.state()
    del state["policy"]["location_head.score.weight"]
    with pytest.raises(
        ValueError, match=r"the saved state does not fit this version \(.*score.weight.*\): train the run again"
    ):
        trainer.load_state(state)


# ---- other numbers of updates


def test_a_finished_run_is_extended(tmp_path, monkeypatch, store):
    config = tiny_config(source=store)
    train(config, tmp_path / "run")
    assert run(monkeypatch, "--resume", tmp_path / "run", "--updates", "10") is None
    extended = RunFolder(tmp_path / "run")
    assert extended.updates_done() == 10
    assert extended.record().config.training.updates == 10
    assert [line["update"] for line in metrics_of(tmp_path / "run")] == [4, 6, 8, 10]
    assert extended.finished().test is not None


@pytest.mark.parametrize(("updates", "trained"), [(6, 6), (5, 5), (2, 4)])
def test_an_interrupted_run_is_shortened_but_not_below_the_updates_it_has(
    tmp_path, monkeypatch, store, capsys, updates, trained
):
    config = tiny_config(source=store, updates=12)
    path = tmp_path / "run"
    interrupted_store_run(path, config, monkeypatch, updates=4)
    assert run(monkeypatch, "--resume", path, "--updates", updates) is None
    shortened = RunFolder(path)
    assert shortened.updates_done() == shortened.record().config.training.updates == trained
    assert shortened.finished().best_update <= trained
    said = f"{path} has already trained 4 updates, and ends there\n"
    assert (said in capsys.readouterr().err) is (updates < 4)


def interrupted_store_run(path, config, monkeypatch, *, updates):
    """Train a run on a store, and stop it by a signal after some updates."""

    def stop(trainer, *collected):
        scalars = original(trainer, *collected)
        if trainer.num_updates == updates - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return scalars

    original = reinforce.update
    with monkeypatch.context() as patch:
        patch.setattr(reinforce, "update", stop)
        with pytest.raises(reinforce.StoppedError, match=f"after update {updates} of reinforce"):
            train(config, path)


def test_a_finished_run_cannot_lose_updates(tmp_path, monkeypatch, store, capsys):
    result = train(tiny_config(source=store), tmp_path)
    assert run(monkeypatch, "--resume", tmp_path, "--updates", "3") is None
    assert f"{tmp_path} has already trained 6 updates, and ends there" in capsys.readouterr().err
    assert RunFolder(tmp_path).result() == result
    assert RunFolder(tmp_path).record().config.training.updates == 6


# ---- an unfinished run


def test_an_unfinished_run_is_evaluated_by_its_best_checkpoint_and_says_so(tmp_path, monkeypatch, store, capsys):
    config, out = tiny_config(source=store, updates=12), tmp_path / "out"
    interrupted_store_run(out / "reinforce", config, monkeypatch, updates=7)
    record = RunFolder(out / "reinforce").record()
    RunFolder(out / "random").begin(record.config.with_settings({"model": "random"}), record.source)
    capsys.readouterr()
    assert run(monkeypatch, "--evaluate", out) is None
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:3]] == ["reinforce", "chance"]
    assert printed.err.splitlines()[-2:] == [
        f"{out / 'reinforce'} is not finished: playing its best checkpoint so far",
        f"{out / 'random'} has not validated yet: it is left out",
    ]
    message = run(monkeypatch, "--evaluate", out / "random")
    assert message.startswith(f"error: no best.safetensors in {out / 'random'}: the run has not validated yet")


def test_resuming_a_folder_trains_the_models_that_were_not_begun(tmp_path, monkeypatch, store, capsys):
    def stop(trainer, *collected):
        os.kill(os.getpid(), signal.SIGINT)
        return original(trainer, *collected)

    original, out = reinforce.update, tmp_path / "out"
    flags = ["--preset", "small", "--updates", "4", "--clips", "3", "--rollouts", "2", "--glimpses", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(reinforce, "update", stop)
        patch.setattr(reinforce, "expected_seconds", lambda config, sources: 1.0)
        assert run(monkeypatch, *flags, "--source", store, "--out", out, "--models", "soft", "max") == 130
    assert capsys.readouterr().err.endswith(
        f"stopped by SIGINT after update 1 of soft: resume it with --resume {out}\n"
    )
    assert run(monkeypatch, "--resume", out) is None
    assert [RunFolder(out / model).finished().best_update for model in ("soft", "max")] == [4, 4]


# ---- another place


def test_a_run_is_resumed_and_evaluated_from_another_folder(tmp_path, monkeypatch, capsys):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_marked_store(Path("stores/a:b"))
    flags = ["--preset", "small", "--source", "stores/a:b", "--models", "centre", "--updates", "2", "--clips", "3"]
    assert run(monkeypatch, *flags, "--glimpses", "2", "--out", "run") is None
    record = RunFolder(tmp_path / "here" / "run" / "centre").record()
    assert record.config.task.source == str(tmp_path / "here" / "stores" / "a:b")
    monkeypatch.chdir(tmp_path / "there")
    for flag in ("--evaluate", "--resume"):
        assert run(monkeypatch, flag, "../here/run") is None
    assert run(monkeypatch, "--resume", "../here/run", "--updates", "4") is None

    (tmp_path / "here" / "stores").rename(tmp_path / "moved")
    for flag in ("--evaluate", "--resume"):
        message = run(monkeypatch, flag, "../here/run")
        assert message.startswith(f"error: no source '{tmp_path}/here/stores/a:b'")
        assert run(monkeypatch, flag, "../here/run", "--source", "../moved/a:b") is None
    assert RunFolder(tmp_path / "here" / "run" / "centre").record().config.task.source == str(
        tmp_path / "moved" / "a:b"
    )


def test_a_store_that_has_changed_is_refused(tmp_path, monkeypatch, store):
    source = tmp_path / "store"
    write_marked_store(source)
    train(tiny_config(source=str(source)), tmp_path / "run")
    source.rename(tmp_path / "old")
    write_marked_store(source, decoder="another")
    message = f"error: {source} is not the source that {tmp_path / 'run'} was trained on, or has changed"
    for flags in ([], ["--updates", "9"]):
        assert run(monkeypatch, "--resume", tmp_path / "run", *flags).startswith(message)
    assert run(monkeypatch, "--evaluate", tmp_path / "run").startswith(message)
    assert run(monkeypatch, "--resume", tmp_path / "run", "--source", tmp_path / "old") is None
    assert run(monkeypatch, "--evaluate", tmp_path / "run", "--source", source) is None  # says how it does elsewhere


def test_a_wall_with_another_seed_or_store_is_another_source(tmp_path):
    identities = set()
    for store in ("one", "other"):
        write_marked_store(tmp_path / store, decoder=store)
    for store, seed in (("one", 0), ("one", 0), ("one", 7), ("other", 0)):
        inner = open_source(str(tmp_path / store), split="train")
        wall = WallSource(inner, background=inner.class_names[:1], grid=2, walls=4, seed=seed)
        identities.add(SourceRecord.of(tiny_config(), wall).identity)
    assert len(identities) == 3
    assert None not in identities


@pytest.mark.parametrize(
    "change", [{"fold": 2}, {"walls": {"train": 9}}, {"walls": {"test": 9}}, {"seed": 1}, {"background": ["classb"]}]
)
def test_a_changed_description_is_another_wall(tmp_path, change):
    write_marked_store(tmp_path / "store", num_folds=2)

    def identities(settings):
        (tmp_path / "wall.json").write_text(
            json.dumps({"source": "store", "background": ["classa"], "grid": 2} | settings)
        )
        walls = [open_source(f"wall:{tmp_path / 'wall.json'}", split=split) for split in ("train", "test")]
        return {SourceRecord.of(tiny_config(), wall).identity for wall in walls}

    before, after = identities({}), identities(change)
    assert len(before) == len(after) == 1
    assert before != after


def test_a_wall_over_a_synthetic_source_has_a_fingerprint():
    inner = open_source("synthetic-easy")
    walls = [WallSource(inner, background=inner.class_names[:1], grid=2, walls=4, seed=seed) for seed in (0, 0, 1)]
    walls.append(WallSource(inner, background=inner.class_names[:1], grid=2, walls=5))
    arrays = ArraySource(
        features=np.zeros((8, inner.num_frames, 3, 3, inner.depth + 1), np.float32), labels=np.arange(8) % 4,
        class_names=inner.class_names, frames_per_second=inner.frames_per_second,
    )  # fmt: skip
    walls.append(WallSource(arrays, background=inner.class_names[:1], grid=2, walls=4))
    one, same, *others = (SourceRecord.of(tiny_config(), wall).identity for wall in walls)
    assert one == same
    assert len({one, *others}) == 4


# ---- damage


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_damaged_folder_is_one_line(tmp_path, monkeypatch, store, flag):
    path = tmp_path / "run"
    train(tiny_config(source=store), path)
    record = read_json(path / "config.json")
    evaluation = (path / "evaluation.json").read_bytes()
    for name, content, message in [
        ("config.json", record | {"format": 99}, "config.json has format 99, and this version reads format"),
        (
            "config.json",
            record | {"config": record["config"] | {"new": 1}},
            "differs from this version's in new): train",
        ),
        ("evaluation.json", {"test": None}, "evaluation.json does not fit this version"),
    ]:
        write_json(path / name, content)
        assert message in (text := run(monkeypatch, flag, path))
        assert text.startswith(f"error: {path}")
        assert "\n" not in text
        write_json(path / "config.json", record)
        (path / "evaluation.json").write_bytes(evaluation)
    (path / "evaluation.json").unlink()
    (path / "last.pt").write_bytes(b"garbage")
    (path / "best.safetensors").write_bytes((path / "best.safetensors").read_bytes()[:100])
    damaged = {"--resume": "last.pt is damaged", "--evaluate": "best.safetensors is damaged"}[flag]
    assert run(monkeypatch, flag, path).startswith(f"error: {path}/{damaged}")


@pytest.mark.slow
@pytest.mark.ci
def test_damage_is_one_line_on_the_terminal_too(tmp_path):
    path = tmp_path / "run"
    RunFolder(path).begin(tiny_config(), SourceRecord.of(tiny_config(), marked_splits()["train"]))
    write_json(path / "config.json", read_json(path / "config.json") | {"format": 99})
    done = subprocess.run([*COMMAND, "--resume", path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {path}/config.json has format 99, and this version reads format {FORMAT}: train the run again\n"
    )
    assert done.stdout == ""


# ---- kills


# Forty updates of a small network, saved after each one, with a line of the log for every ten.
SIZES = ["--updates", "40", "--clips", "3", "--rollouts", "2", "--warmup-share", "0.1", "--glimpses", "2"]
SIZES += ["--validate-every", "10", "--checkpoint-seconds", "0", "--hidden-size", "8", "--preset", "small"]


def start(log, *arguments):
    """Train in another process."""
    with log.open("a") as errors:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip


def wait_for(process, path, log, *, lines):
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_run_has_the_numbers_of_an_unbroken_one(store, tmp_path, monkeypatch):
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "errors.txt"
    assert run(monkeypatch, *SIZES, "--source", store, "--out", whole) is None
    process = start(log, *SIZES, "--source", store, "--out", killed)
    for model in ("reinforce", "random"):
        wait_for(process, killed / model / "metrics.jsonl", log, lines=2)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (killed / model / "evaluation.json").exists()
        process = start(log, "--resume", killed)
    assert process.wait() == 0, log.read_text()
    for model in ("reinforce", "random"):
        assert_same_run(whole / model, killed / model)
        assert RunFolder(whole / model).finished().test == RunFolder(killed / model).finished().test


# ---- learning


@pytest.mark.slow
@pytest.mark.ci
def test_it_learns_where_to_look(tmp_path):
    """Only the actor's cell shows the class; a random look in each of five frames finds it 45 % of the time."""
    settings = {
        "glimpses": 1, "updates": 150, "warmup_share": 0.15, "clips": 16, "rollouts": 4, "validate_every": 50,
        "entropy_bonus": 0.01, "scorer_learning_rate": 1e-2, "embedding_size": 16, "hidden_size": 16, "scorer_size": 16,
        "checkpoint_seconds": 60.0,
    }  # fmt: skip
    sources = {
        name: marked_source(clips, frames=6, seed=seed)
        for seed, (name, clips) in enumerate({"train": 1000, "validation": 128, "test": 256}.items())
    }
    reinforce, random = (
        train(tiny_config(model=model, **settings), tmp_path / model, sources=sources).measured
        for model in ("reinforce", "random")
    )
    assert reinforce.accuracy >= 0.9
    assert reinforce.accuracy >= random.accuracy + 0.2
    assert reinforce.focus >= 0.5  # the actor stays, so one look at it is enough
    assert random.focus == pytest.approx(1 / 9, abs=0.04)
