"""Signals, full disks and kills: a run loses nothing that it had saved."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from agent_toys import assert_same_run, marked_source, marked_splits, metrics_of, tiny_config, write_marked_store
from glimpse_agents import reinforce
from glimpse_agents.reinforce import main, train
from glimpse_agents.runs import trainer as trainers
from glimpse_agents.runs.command import run_command
from glimpse_agents.runs.files import SaveError, write_json
from glimpse_agents.runs.folder import MetricsLog, RunFolder
from glimpse_agents.runs.signals import Interruption, StoppedError

from glimpse_env import ArraySource
from glimpse_env.catalogue import EMBEDDED

ROOT = Path(__file__).parent.parent
SIGNALS = [signal.SIGTERM, signal.SIGINT]


# ---- signals


@dataclass(frozen=True, kw_only=True, eq=False)
class Preempted(ArraySource):
    """A source that sends a signal to its own process at one or more of its reads, as a cluster does at any moment."""

    signum: int = signal.SIGTERM
    at: tuple = (100,)
    reads: list = field(default_factory=list)

    def _count(self):
        self.reads.append(1)
        for _ in range(self.at.count(len(self.reads))):
            os.kill(os.getpid(), self.signum)

    def read_cubes(self, clips, frames, out):
        self._count()
        super().read_cubes(clips, frames, out)

    def read_slices(self, clips, frames, cells, out):
        self._count()
        super().read_slices(clips, frames, cells, out)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_stops_after_the_current_update_and_nothing_is_lost(tmp_path, signum):
    config = tiny_config(updates=12, validate_every=3, checkpoint_seconds=1000.0)
    train(config, tmp_path / "whole", sources=marked_splits())
    broken = marked_splits()
    broken["train"] = marked_source(12, kind=Preempted, signum=signum, at=(19,))
    handlers = [signal.getsignal(name) for name in SIGNALS]
    with pytest.raises(StoppedError) as stopped:
        train(config, tmp_path / "broken", sources=broken)
    done = RunFolder(tmp_path / "broken").updates_done()
    assert str(stopped.value) == f"stopped by {signum.name} after update {done} of reinforce"
    assert stopped.value.signum == signum
    assert [signal.getsignal(name) for name in SIGNALS] == handlers
    assert 1 < done < 12
    train(config, tmp_path / "broken", sources=marked_splits())
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_during_the_set_up_of_a_model_stops_before_its_first_update(tmp_path, monkeypatch, signum):
    def make_policy(config, source):
        os.kill(os.getpid(), signum)
        return original(config, source)

    original = trainers.make_policy
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "make_policy", make_policy)
        with pytest.raises(StoppedError, match=f"stopped by {signum.name} after update 0 of reinforce"):
            train(tiny_config(), tmp_path, sources=marked_splits())
    run = RunFolder(tmp_path)
    assert run.updates_done() == 0
    assert run.result() is None
    assert not run.metrics()
    assert train(tiny_config(), tmp_path, sources=marked_splits()).test is not None


def test_a_second_interrupt_stops_at_once(tmp_path):
    sources = marked_splits()
    sources["train"] = marked_source(12, kind=Preempted, signum=signal.SIGINT, at=(20, 20))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(checkpoint_seconds=1000.0), tmp_path, sources=sources)
    assert len(sources["train"].reads) == 20
    assert RunFolder(tmp_path).load_last() is None


def test_a_second_signal_of_another_kind_stops_at_once_too():
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signum == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_how_to_resume(tmp_path, monkeypatch, capsys, signum, status):
    def stop(trainer, *collected):
        if trainer.num_updates == 3:
            os.kill(os.getpid(), signum)
        return original(trainer, *collected)

    original = reinforce.update
    monkeypatch.setitem(EMBEDDED, "marked", lambda split: marked_source(12))
    flags = ["--preset", "small", "--source", "marked", "--updates", "12", "--clips", "3", "--rollouts", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reinforce.py", *flags, "--glimpses", "2", "--models", "reinforce"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:  # noqa: PT012
        patch.setattr(reinforce, "update", stop)
        run_command(main, ranks=True)
    assert ended.value.code == status
    [out] = (tmp_path / "runs").iterdir()  # the folder that was chosen by default
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"stopped by {signum.name} after update 4 of reinforce: resume it with --resume runs/{out.name}"
    monkeypatch.setattr(sys, "argv", ["reinforce.py", "--resume", str(out)])
    with pytest.raises(SystemExit) as ended:
        run_command(main, ranks=True)
    assert ended.value.code is None
    assert RunFolder(out / "reinforce").finished().test is not None


def test_signals_are_recorded_until_the_block_ends():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError), Interruption() as interruption:  # noqa: PT012
        assert interruption.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signum == signal.SIGTERM
        raise StoppedError(interruption.signum, "update 1")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_nobody_heeded_is_raised_after_the_block():
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_during_the_test_stops_after_it(tmp_path):
    sources = marked_splits()
    sources["test"] = marked_source(12, seed=2, kind=Preempted, at=(1,))
    with pytest.raises(StoppedError, match="stopped by SIGTERM after reinforce was tested"):
        train(tiny_config(), tmp_path, sources=sources)
    assert RunFolder(tmp_path).finished().test is not None


# ---- a full disk

FULL = r"could not be written \(.*\); earlier files are kept\. Free space or fix the permissions, then run the same"


def test_a_full_disk_does_not_cost_the_earlier_checkpoint(tmp_path, small_files):
    config = tiny_config(updates=4, validate_every=4)
    train(config, tmp_path, sources=marked_splits())
    paths = [tmp_path / "last.pt", tmp_path / "best.safetensors"]
    saved = [path.read_bytes() for path in paths]
    small_files(paths[0].stat().st_size - 1)
    with pytest.raises(SaveError, match=f"{paths[0]} {FULL}"):
        train(config.with_settings({"updates": 8}), tmp_path, sources=marked_splits(), changes=["updates"])
    small_files(None)
    assert saved == [path.read_bytes() for path in paths]
    assert not list(tmp_path.rglob("*.partial"))
    assert RunFolder(tmp_path).updates_done() == 4


def test_a_run_is_resumed_once_there_is_space(tmp_path, small_files):
    config = tiny_config(updates=8, validate_every=4)
    train(config, tmp_path / "whole", sources=marked_splits())
    small_files((tmp_path / "whole" / "last.pt").stat().st_size - 1)
    with pytest.raises(SaveError, match=FULL):
        train(config, tmp_path / "full", sources=marked_splits())
    small_files(None)
    train(config, tmp_path / "full", sources=marked_splits())
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_every_file_of_a_run_reports_a_full_disk(tmp_path, small_files):
    run = RunFolder(tmp_path)
    log = MetricsLog(run, 0)
    log.write(1, {"train/loss": 1.0})
    small_files(0)
    for name, write in {
        "best.safetensors": lambda: run.save_best({"weight": torch.ones(3)}),
        "last.pt": lambda: run.save_last({"num_updates": 3}),
        "metrics.jsonl": lambda: log.write(2, {"train/loss": 1.0}),
        "result.json": lambda: write_json(tmp_path / "result.json", {}),
    }.items():
        with pytest.raises(SaveError, match=f"{tmp_path / name} {FULL}"):
            write()
    with pytest.raises(SaveError, match=f"{tmp_path / 'metrics.jsonl'} {FULL}"):
        MetricsLog(run, 1)
    log.close()  # reports nothing more
    small_files(None)
    assert [line["update"] for line in metrics_of(tmp_path)] == [1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match=rf"{tmp_path}/file/run/lock {FULL}"):
        train(tiny_config(), tmp_path / "file" / "run", sources=marked_splits())


# ---- kills


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


def start(log, *arguments):
    sizes = ["--preset", "small", "--updates", "3000", "--clips", "3", "--rollouts", "2", "--warmup-share", "0.1"]
    sizes += ["--glimpses", "2", "--validate-every", "500", "--checkpoint-seconds", "0.1", "--models", "reinforce"]
    sizes += ["--hidden-size", "8", "--dropout", "0.3"]
    with log.open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "agents/reinforce.py", *([] if "--resume" in arguments else sizes), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@pytest.mark.slow
def test_twenty_kills_change_nothing(store, tmp_path):
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "errors.txt"
    assert start(log, "--source", store, "--out", whole).wait() == 0, log.read_text()
    run = RunFolder(killed / "reinforce")
    seconds = RunFolder(whole / "reinforce").load_last()["seconds"]
    rng, updates = random.Random(1), []
    checkpoint = run.path / "last.pt"
    for kill in range(20):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        flags = ("--resume", killed) if checkpoint.exists() else ("--source", store, "--out", killed)
        process = start(log, *flags)
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:  # until it trains
            assert process.poll() is None, log.read_text()
            time.sleep(0.002)
        time.sleep(rng.uniform(0, seconds / 20))
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"it was finished before kill {kill}: {updates}"
        updates.append(run.updates_done())
    print(f"killed after updates {updates} of 3000, {seconds:.0f} s unbroken")
    assert updates == sorted(updates)
    assert updates[-1] > 500
    assert start(log, "--resume", killed).wait() == 0, log.read_text()
    assert_same_run(whole / "reinforce", run.path)
