"""A run's folder: what was asked, what happened, and weights that survive a kill at any moment.

    config.json     the configuration, with versions, git commit and the shape of the source
    metrics.jsonl   one line of scalars for each logged update, also as TensorBoard events
    best.safetensors, last.pt      the checkpoint that validation chose, and the one to resume from
    evaluation.json                what the learned policy reached on the test split
    controls/<name>/               the same for each control
    result.json, glimpses.png      the comparison, and a film strip

Files are written beside and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from glimpse_env.files import write_atomically

PACKAGES = ("videoglimpse", "torch", "gymnasium", "numpy")


class SaveError(OSError):
    """A file of a run could not be written; the message names it, what is kept and the remedy."""


@contextmanager
def told_failures(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into a SaveError."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error}): what was saved before is kept. If its disk is full, free space; "
            "then give the same command again, or --resume where a run's folder was made for it"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically.

    Raises:
        SaveError: it cannot be written; what was there before stays.
    """
    with told_failures(path):
        write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileNotFoundError: there is no such file, as where a folder is not that of a run.
        ValueError: it is not JSON.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: it is not the folder of such a run")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): restore it or train again") from error


def provenance() -> dict[str, Any]:
    """Return versions of packages, Python and machine, and the git commit of the code, "+" where it has changes."""
    return {
        "versions": {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


class Checkpoints:
    """The two checkpoints of one arm of a run; one that cannot be saved raises SaveError and leaves the one before it.

    Args:
        folder: of the arm.
    """

    def __init__(self, folder: Path) -> None:
        self.best, self.last = folder / "best.safetensors", folder / "last.pt"

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights that validation chose."""
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        with told_failures(self.best):
            write_atomically(self.best, safetensors.torch.save(copies))

    def load_best(self) -> dict[str, Tensor]:
        """Return the weights that validation chose."""
        if not self.best.exists():
            raise FileNotFoundError(f"no {self.best.name} in {self.best.parent}: the run has not validated yet")
        return safetensors.torch.load_file(self.best)

    def save_last(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from: tensors, numbers and strings in dicts and lists."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with told_failures(self.last):
            write_atomically(self.last, buffer.getvalue())

    def load_last(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None where nothing was saved yet."""
        if not self.last.exists():
            return None
        state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
        return state


class MetricsLog:
    """Scalars of one arm, as JSON lines and TensorBoard events.

    Args:
        folder: of the arm.
        update: the update that the run goes on from; later lines, written before a kill, are dropped.
    """

    def __init__(self, folder: Path, update: int) -> None:
        self._path = path = folder / "metrics.jsonl"
        with told_failures(path):
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                lines = [line for line in path.read_text().splitlines() if _update_of(line) <= update]
                write_atomically(path, "".join(line + "\n" for line in lines).encode())
            self._lines = path.open("a")
            self._events = SummaryWriter(str(folder), purge_step=update + 1)

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of one update."""
        with told_failures(self._path):
            self._lines.write(json.dumps({"update": update} | dict(scalars)) + "\n")
            self._lines.flush()
            for name, value in scalars.items():
                self._events.add_scalar(name, value, update)

    def close(self) -> None:
        """Finish the files; what a full disk does not take any more was told by `write`, but for the last events."""
        for file in (self._lines, self._events):
            with suppress(OSError):
                file.close()


def _update_of(line: str) -> float:
    """Return the update that a line belongs to; a line that a kill cut short belongs to none."""
    try:
        return float(json.loads(line)["update"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")
