"""A process that runs commands in which a chosen call to the system fails, or kills the process.

It reads one line of JSON for each run, and answers with its exit status, which is negative after a signal. A run with a
fault is a fork, which need not import torch again.
"""

import builtins
import errno
import functools
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from agent_toys import TINY_NETWORK
from glimpse_agents import report
from glimpse_agents.learning.config import Config
from glimpse_agents.reinforce import train
from glimpse_agents.runs.command import run_command

from glimpse_env.extract import Folder, extract, shards
from glimpse_env.store.merge import merge_stores

shards.load_backbone = functools.cache(shards.load_backbone)  # once for all runs


def train_updates(folder, updates, **changes):
    """Train a tiny run that validates and saves after every update."""
    settings = TINY_NETWORK | {
        "source": str(folder / "store"), "updates": updates, "model": "random", "glimpses": 2, "frames": 2, "clips": 1,
        "rollouts": 2, "validate_every": 1, "checkpoint_seconds": 0.0, "warmup_share": 0.0,
    }  # fmt: skip
    return train(Config().with_settings(settings), folder / "run", **changes)


def extract_videos(folder):
    """Extract a folder of videos into two shards."""
    weights = folder / "weights" / "bvlc.safetensors"
    settings = Folder(
        videos=folder / "videos", out=folder / "out", weights=weights, frames=1, fps=1.0, threads=1, decoders=1,
        shard_frames=2,
    )  # fmt: skip
    return extract(settings)


COMMANDS = {
    "extract": extract_videos,
    "merge": lambda folder: merge_stores(folder / "out", [folder / "one", folder / "two"]),
    "train": lambda folder: train_updates(folder, 2),
    "extend": lambda folder: train_updates(folder, 3, changes=["updates"]),
    "report": lambda folder: report.main(report.Arguments(runs=(folder / "run",), out=folder / "new" / "report.html")),
}


class Faults:
    """Counts the calls that change files below a folder, and lets the `at`-th one suffer a fault; 0 is none.

    "ENOSPC" is a full disk, on which every later call fails too; "EIO" fails once; "kill" ends the process. A write
    that suffers it is half done. The other calls are listed in the file `calls`.
    """

    def __init__(self):
        self.folder, self.kind, self.at, self.links, self.calls, self.count = "", "", 0, True, -1, 0
        self.fsync, self.open = os.fsync, io.open
        sys.addaudithook(self.watch)  # an error that it raises is that of the call
        os.fsync, io.open, builtins.open = self.forced, self.opened, self.opened

    def begin(self, *, folder, calls, kind="", at=0, links=True):
        self.folder, self.kind, self.at, self.links, self.count = folder, kind, at, links, 0
        self.calls = os.open(calls, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def call(self, name, path, half=lambda: None):
        path = os.fsdecode(path)
        if not self.folder or not path.startswith(self.folder):
            return
        self.count += 1
        if self.count == self.at or (self.kind == "ENOSPC" and self.count > self.at > 0):
            half()
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code), path)
        os.write(self.calls, f"{name} {path.removeprefix(self.folder)}\n".encode())

    def watch(self, event, arguments):
        if event == "os.rename":
            self.call("rename", arguments[1])
        elif event == "os.mkdir" and not os.path.exists(arguments[0]):
            self.call("mkdir", arguments[0])
        elif event == "os.link":
            if not self.links:
                raise OSError(errno.EPERM, "no links here")
            self.call("link", arguments[1])

    def forced(self, descriptor):
        self.call("fsync", self.folder)
        return self.fsync(descriptor)

    def opened(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **options):
        if isinstance(file, int) or not set(mode) & set("wax"):
            return self.open(file, mode, buffering, encoding, errors, newline, *rest, **options)
        buffered = io.BufferedWriter(FaultyFile(file, mode.strip("bt")))
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class FaultyFile(io.FileIO):
    """A file whose writes to the disk suffer faults."""

    def write(self, content):
        view = memoryview(content).cast("B")
        FAULTS.call("write", self.name, lambda: super(FaultyFile, self).write(view[: len(view) // 2]))
        return super().write(view)


def run(command, log, **fault):
    """Run a command, and return its exit status; a traceback is status 2."""
    screen = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(screen, 1), os.dup2(screen, 2)
    FAULTS.begin(**fault)
    try:
        run_command(lambda: COMMANDS[command](Path(fault["folder"])) and None)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr, flush=True)
        return int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    return 2


def main():
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "kind" not in request:
            status = run(**request)
        elif child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            os._exit(run(**request))
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    FAULTS = Faults()
    main()
