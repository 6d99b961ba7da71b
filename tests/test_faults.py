"""Training that is told to stop, killed again and again, or finds its disk full, loses nothing it had saved."""

import dataclasses
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
from agent_toys import assert_same_arm, marked_source, marked_splits, metrics_of, tiny_config, write_marked_store
from glimpse_agents.learning.config import Arguments
from glimpse_agents.reinforce import Arm, main
from glimpse_agents.runs.folder import Checkpoints, MetricsLog, SaveError, write_json
from glimpse_agents.runs.signals import Interruption, StoppedError

from glimpse_env import ArraySource
from glimpse_env.catalogue import EMBEDDED

ROOT = Path(__file__).parent.parent


# ---- signals that ask to stop


@dataclass(frozen=True, kw_only=True, eq=False)
class Preempted(ArraySource):
    """Sends its own process a signal at one of its reads, as a cluster does at any moment."""

    signum: int = signal.SIGTERM
    at: int = 100
    reads: list = field(default_factory=list)

    def _count(self):
        self.reads.append(1)
        if len(self.reads) == self.at:
            os.kill(os.getpid(), self.signum)

    def read_cubes(self, clips, frames, out):
        self._count()
        super().read_cubes(clips, frames, out)

    def read_slices(self, clips, frames, cells, out):
        self._count()
        super().read_slices(clips, frames, cells, out)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_update_under_way_and_nothing_is_lost(tmp_path, signum):
    config = tiny_config(updates=12, validate_every=3, checkpoint_seconds=1000.0)
    Arm(config, "learned", tmp_path / "whole", marked_splits()).train()
    broken = marked_splits()
    broken["train"] = marked_source(12, kind=Preempted, signum=signum, at=19)
    handlers = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]
    arm = Arm(config, "learned", tmp_path / "broken", broken)
    with pytest.raises(StoppedError) as stopped:
        arm.train()
    assert str(stopped.value) == f"stopped by {signum.name} after update {arm.update}"
    assert stopped.value.signum == signum
    assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert 1 < Checkpoints(tmp_path / "broken").load_last()["update"] == arm.update < 12
    Arm(config, "learned", tmp_path / "broken", marked_splits()).train()
    assert_same_arm(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_how_to_go_on(tmp_path, monkeypatch, capsys, signum, status):
    monkeypatch.setitem(EMBEDDED, "preempted", lambda split: marked_source(12, kind=Preempted, signum=signum, at=10))
    config = tiny_config(source="preempted", controls=())
    fields = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        main(Arguments(**fields, out=run))
    assert left.value.code == status
    update = Checkpoints(run).load_last()["update"]
    assert capsys.readouterr().err == f"stopped by {signum.name} after update {update}: go on with --resume {run}\n"
    monkeypatch.setitem(EMBEDDED, "preempted", lambda split: marked_source(12))
    main(Arguments(resume=run))
    assert (run / "result.json").exists()


def test_signals_are_noted_until_the_block_ends():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError), Interruption() as interruption:  # noqa: PT012
        assert interruption.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signum == signal.SIGTERM
        raise StoppedError(interruption.signum, "update 1")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_nobody_heeded_goes_on_to_the_block_around():
    with Interruption() as outer:
        with Interruption() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.signum == outer.signum == signal.SIGTERM
        outer.signum = 0


def test_a_signal_during_the_test_stops_before_the_next_arm(tmp_path, monkeypatch, capsys):
    def opened(split):
        return marked_source(12, **({"kind": Preempted, "signum": signal.SIGTERM, "at": 1} if split == "test" else {}))

    monkeypatch.setitem(EMBEDDED, "preempted", opened)
    config = tiny_config(source="preempted", controls=("random",))
    fields = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        main(Arguments(**fields, out=run))
    assert left.value.code == 143
    said = f"stopped by SIGTERM after arm 'learned' was tested: go on with --resume {run}\n"
    assert capsys.readouterr().err.endswith(said)
    assert (run / "evaluation.json").exists()
    assert not (run / "controls").exists()
    monkeypatch.setitem(EMBEDDED, "preempted", lambda split: marked_source(12))
    main(Arguments(resume=run))
    assert (run / "result.json").exists()


# ---- a full disk


FULL = r"could not be written \(.*\): what was saved before is kept\. If its disk is full, free space; then give"


def test_a_full_disk_does_not_cost_the_checkpoint_before(tmp_path, small_files):
    config = tiny_config(updates=8, validate_every=4)
    Arm(config, "learned", tmp_path / "whole", marked_splits()).train()
    Arm(dataclasses.replace(config, updates=4), "learned", tmp_path / "full", marked_splits()).train()
    checkpoints = Checkpoints(tmp_path / "full")
    saved = {path: path.read_bytes() for path in (checkpoints.last, checkpoints.best)}
    arm = Arm(config, "learned", tmp_path / "full", marked_splits())
    small_files(checkpoints.last.stat().st_size - 1)
    with pytest.raises(SaveError, match=f"{checkpoints.last} {FULL}"):
        arm.train()
    small_files(None)
    assert saved == {path: path.read_bytes() for path in saved}
    assert not list(tmp_path.rglob("*.partial"))
    assert checkpoints.load_last()["update"] == 4


def test_a_run_goes_on_once_there_is_space(tmp_path, small_files):
    config = tiny_config(updates=8, validate_every=4)
    Arm(config, "learned", tmp_path / "whole", marked_splits()).train()
    arm = Arm(config, "learned", tmp_path / "full", marked_splits())
    small_files(Checkpoints(tmp_path / "whole").last.stat().st_size - 1)
    with pytest.raises(SaveError, match=FULL):
        arm.train()
    small_files(None)
    Arm(config, "learned", tmp_path / "full", marked_splits()).train()
    assert_same_arm(tmp_path / "whole", tmp_path / "full")


def test_every_file_of_a_run_tells_that_the_disk_is_full(tmp_path, small_files):
    checkpoints, log = Checkpoints(tmp_path), MetricsLog(tmp_path, 0)
    log.write(1, {"train/loss": 1.0})
    log._events.flush()  # TensorBoard writes in a thread, whose error would be nobody's
    small_files(0)
    for path, write in {
        checkpoints.best: lambda: checkpoints.save_best({"weight": torch.ones(3)}),
        checkpoints.last: lambda: checkpoints.save_last({"update": 3}),
        tmp_path / "metrics.jsonl": lambda: log.write(2, {"train/loss": 1.0}),
        tmp_path / "result.json": lambda: write_json(tmp_path / "result.json", {}),
    }.items():
        with pytest.raises(SaveError, match=f"{path} {FULL}"):
            write()
    with pytest.raises(SaveError, match=f"{tmp_path / 'metrics.jsonl'} {FULL}"):
        MetricsLog(tmp_path, 1)
    log.close()  # tells nothing more
    small_files(None)
    assert [line["update"] for line in metrics_of(tmp_path)] == [1]


# ---- kills


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


def start(log, *arguments):
    sizes = ["--preset", "small", "--updates", "3000", "--clips", "3", "--rollouts", "2", "--warmup-updates", "300"]
    sizes += ["--glimpses", "2", "--validate-every", "500", "--checkpoint-seconds", "0.1", "--controls"]
    sizes += ["--policy.hidden-size", "8", "--policy.dropout", "0.3"]
    with log.open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "agents/reinforce.py", *sizes, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@pytest.mark.slow
def test_twenty_kills_change_nothing(store, tmp_path):
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "errors.txt"
    assert start(log, "--source", store, "--out", whole).wait() == 0, log.read_text()
    seconds = Checkpoints(whole).load_last()["seconds"]
    rng, updates = random.Random(1), []
    checkpoint = Checkpoints(killed).last
    for kill in range(20):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(log, "--source", store, *(("--resume", killed) if checkpoint.exists() else ("--out", killed)))
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:  # it is under way
            assert process.poll() is None, log.read_text()
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 1.5 * seconds / 20))
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"it was finished before kill {kill}: {updates}"
        updates.append(Checkpoints(killed).load_last()["update"])
    print(f"killed after updates {updates} of 3000, {seconds:.0f} s unbroken")
    assert updates == sorted(updates)
    assert updates[-1] > 1000
    assert start(log, "--source", store, "--resume", killed).wait() == 0, log.read_text()
    assert_same_arm(whole, killed)
