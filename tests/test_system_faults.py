"""Every n-th call to the system fails, or the process is killed there: nothing is lost, nothing half-done counts."""

import json
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from agent_toys import assert_same_run, write_marked_store
from extraction_inputs import write_video
from glimpse_agents.runs.folder import RunFolder
from test_merge import write_part

from glimpse_env.store.manifest import read_manifest

INPUTS = {
    "extract": ("videos", "weights"),
    "merge": ("one", "two"),
    "train": ("store",),
    "extend": ("store", "run"),
    "report": ("run",),
}


class Commands:
    """Runs of commands in the same folder, which begins as a copy of a command's inputs."""

    def __init__(self, root):
        self.inputs, self.folder, self.log, self._calls = root / "inputs", root / "faulty", root / "log", root / "calls"
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("system_faults.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def restore(self, command):
        """Take back all that runs have written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in INPUTS[command]:
            shutil.copytree(self.inputs / name, self.folder / name, symlinks=True)

    def run(self, command, **fault):
        """Run a command, and return its exit status; a fault has a kind and the number of the call that suffers it."""
        places = {"folder": f"{self.folder}/", "calls": str(self._calls), "log": str(self.log)}
        self._process.stdin.write(json.dumps({"command": command} | places | fault) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def calls(self):
        """Return the calls of the last run that succeeded."""
        return self._calls.read_text().splitlines()

    def unbroken(self, command, **options):
        """Run a command without a fault, and return its calls, and a copy of its folder."""
        whole = self.folder.with_name(f"{command}{len(options)}")
        self.restore(command)
        assert self.run(command, **options) == 0, self.log.read_text()
        calls = self.calls()
        if not whole.exists():
            shutil.copytree(self.folder, whole, symlinks=True)
        return calls, whole

    def close(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def commands(tmp_path_factory, weights):
    commands = Commands(tmp_path_factory.mktemp("faults"))
    inputs = commands.inputs
    write_part(inputs / "one", "ad")
    write_part(inputs / "two", "bc")
    write_marked_store(inputs / "store")
    for name in ("run/a", "walk/a"):
        (inputs / "videos" / name).parent.mkdir(parents=True)
        write_video(inputs / "videos" / f"{name}.mp4", frames=2)
    (inputs / "videos" / "walk" / "b.mp4").write_text("this is no video")
    (inputs / "weights").mkdir()
    (inputs / "weights" / "bvlc.safetensors").symlink_to(weights)
    shutil.copytree(commands.unbroken("train")[1] / "run", inputs / "run")
    yield commands
    commands.close()


def files_of(path):
    """Return the bytes of a folder's files, without those that are unfinished, and the times in a store's report."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: content for name, content in files.items() if ".partial" not in name and name != "report.json"}


def evaluations_of(path):
    """Return what a run has measured; its seconds differ."""
    result = RunFolder(path).result()
    return result and (result.validation, result.test, result.best_update)


def check_extract(folder, whole, calls):
    made, expected = files_of(folder / "out"), files_of(whole / "out")
    assert all(expected[name] == content for name, content in made.items() if name.startswith("shards/"))
    if "manifest.json" in made and read_manifest(folder / "out")[0].complete:
        assert made.items() >= {name: expected[name] for name in expected.keys() - {"lazy.json"}}.items()


def check_merge(folder, whole, calls):
    for part in INPUTS["merge"]:
        assert files_of(folder / part) == files_of(whole / part)
    assert not (folder / "out").exists() or files_of(folder / "out") == files_of(whole / "out")


def check_run(folder, whole, calls):
    run, expected = RunFolder(folder / "run"), RunFolder(whole / "run")
    begun = expected.updates_done() - sum(call == "rename run/last.pt" for call in calls[0])
    done = run.updates_done()
    assert done == begun + sum(call == "rename run/last.pt" for call in calls[1])
    assert {line["update"] for line in run.metrics()} >= set(range(1, done + 1))
    if done or run.has_best:
        assert run.load_best().keys() == expected.load_best().keys()
    assert evaluations_of(run.path) in (None, evaluations_of(expected.path))


def check_report(folder, whole, calls):
    assert files_of(folder / "run") == files_of(whole / "run")
    assert not (folder / "new" / "report.html").exists() or files_of(folder / "new") == files_of(whole / "new")


CHECKS = {
    "extract": check_extract, "merge": check_merge, "train": check_run, "extend": check_run, "report": check_report
}  # fmt: skip


def check_done(command, folder, whole):
    """Check that a command has the result of its unbroken run."""
    if command in ("train", "extend"):
        assert_same_run(whole / "run", folder / "run")
        assert evaluations_of(folder / "run") == evaluations_of(whole / "run")
    else:
        name = {"report": "new"}.get(command, "out")
        assert files_of(folder / name) == files_of(whole / name)
        assert (folder / name / "report.json").exists() == (command != "report")


def places_of(calls):
    """Return the numbers of the calls, without those that follow and precede a write to the same file."""
    same = [call == before and call.startswith("write") for before, call in pairwise(calls)]
    return [n for n, inside in enumerate(zip([False, *same], [*same, False], strict=True), 1) if not all(inside)]


def check_faults(commands, command, kind, every, **options):
    calls, whole = commands.unbroken(command, **options)
    for at in places_of(calls)[::every]:
        print(f"{kind} at call {at}: {calls[at - 1]}")
        commands.restore(command)
        status, said = commands.run(command, kind=kind, at=at, **options), commands.log.read_text()
        if kind == "kill":
            assert status == -signal.SIGKILL
        elif status or not calls[at - 1].startswith("link"):  # a file that cannot be linked is copied
            assert status == 1, said
            assert re.search(
                r"\nerror: .*/faulty/.* could not be written \(.*run the same command again.*\n\Z", f"\n{said}"
            )
            assert f"\n{said}".count("\nerror: ") == 1
            assert "Traceback" not in said
            assert not list(commands.folder.rglob("*.partial"))
        CHECKS[command](commands.folder, whole, (calls, commands.calls()))
        assert commands.run(command, kind="kill", at=0, **options) == 0, commands.log.read_text()
        check_done(command, commands.folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill"])
@pytest.mark.parametrize("command", INPUTS)
def test_a_fault_at_any_call_loses_nothing(commands, command, kind):
    check_faults(commands, command, kind, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill"])
def test_a_fault_at_any_call_of_a_merge_without_links_loses_nothing(commands, kind):
    check_faults(commands, "merge", kind, 1, links=False)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(("command", "kind"), [("merge", "EIO"), ("train", "ENOSPC"), ("train", "kill")])
def test_a_fault_at_some_calls_loses_nothing(commands, command, kind):
    check_faults(commands, command, kind, 11)
