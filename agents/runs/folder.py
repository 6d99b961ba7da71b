"""The folder of a run: one model, trained once.

    config.json         configuration, source, versions, machine and git commit
    metrics.jsonl       one line of scalars for each logged update, also as TensorBoard events
    best.safetensors    weights that validation chose
    last.pt             state to resume from
    evaluation.json     measures of the validation and the test split
    glimpses.png        film strip of test clips
    lock                held by the process that trains; the system releases it if that process dies

A command that trains several models makes one folder for each in a common folder; `find_runs` finds them. `pack` puts a
run into one .safetensors file, which can be read but not trained.
"""

from __future__ import annotations

import dataclasses
import io
import json
import textwrap
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import filelock
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from glimpse_env import ClipSource
from glimpse_env.catalogue import EMBEDDED, split_prefix
from glimpse_env.files import write_atomically

from ..learning.config import PATHS, Config
from ..learning.models import MODELS
from ..learning.policy import GlimpsePolicy
from ..playing.envs import SourceRecord, make_policy
from ..playing.evaluation import Evaluation
from .files import raising_save_error, read_json, write_file, write_json
from .provenance import provenance

FORMAT = 5  # of config.json; a change of the network's input or of a measure needs another
PACKED = ".safetensors"  # suffix of a packed run
SHIPPED = Path(__file__).parents[1] / "models"  # packed runs that are installed with the package


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Contents of config.json."""

    config: Config
    source: SourceRecord
    versions: dict[str, str]
    machine: str
    threads: int
    git_commit: str | None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Contents of evaluation.json."""

    validation: Evaluation | None  # by the checkpoint that it chose; None if it was not played
    test: Evaluation | None  # None if it was not played
    best_update: int  # of that checkpoint
    logit_weights: tuple[float, float] | None = None  # of the network and of the `linear_finish`; None without it
    train_seconds: float  # validation included
    trained_by: str | None  # git commits
    tested_by: str | None

    @property
    def measured(self) -> Evaluation:
        """Measures of the test split; a ValueError if it was not played."""
        if self.test is None:
            raise ValueError("the test split of this run was not played")
        return self.test


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._best, self._last = path / "best.safetensors", path / "last.pt"

    def _read(self, name: str) -> Any:
        """Return the content of a JSON file of the run."""
        return read_json(self.path / name)

    def _config(self, fields: Any) -> Config:
        return Config.from_json(fields)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder inside the block; a ValueError if another process owns it."""
        if self.path.is_file():
            raise ValueError(f"{self.path} is a file, and a packed run cannot be trained: name a folder")
        with raising_save_error(self.path / "lock"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / "lock", timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise ValueError(
                    f"another process is training into {self.path}: wait for it, or choose another --out"
                ) from error
        try:
            yield
        finally:
            lock.release()

    # ---- configuration

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.json").exists()

    def begin(self, config: Config, source: SourceRecord, *, changes: Collection[str] = ()) -> None:
        """Write config.json, or check that the folder's run has the same configuration and source.

        Settings in `changes` may differ from those of the folder's run, and replace them.

        Raises:
            ValueError: another setting differs, or the source.
        """
        path, fields = self.path / "config.json", {"config": config.to_json(), "source": dataclasses.asdict(source)}
        if not self.exists:
            write_json(path, {"format": FORMAT} | fields | provenance())
            return
        record = self.record()
        differing = [name for name in PATHS if record.config.setting(name) != config.setting(name)]
        if other := [name for name in differing if name not in changes]:
            raise ValueError(
                f"{self.path} holds a run with other settings of {', '.join(other)}: choose another --out, or resume "
                f"it with --resume {quote(str(self.path))}"
            )
        record.source.check_unchanged(source, config.task.source, self.path)
        if differing:
            if "updates" in differing:  # it has to be measured again
                (self.path / "evaluation.json").unlink(missing_ok=True)
            write_json(path, read_json(path) | fields)

    def record(self) -> RunRecord:
        """Read config.json.

        Raises:
            FileNotFoundError: there is no run here.
            ValueError: it is damaged, or of another version.
        """
        path, fields = self.path / "config.json", self._read("config.json")
        found = fields.pop("format", None) if isinstance(fields, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path} has format {found}, and this version reads format {FORMAT}: train the run again")
        try:
            config, source = self._config(fields.pop("config")), SourceRecord.from_json(fields.pop("source"))
            return RunRecord(config=config, source=source, **fields)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} does not fit this version ({error}): train the run again") from error

    # ---- checkpoints

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights that validation chose."""
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_file(self._best, safetensors.torch.save(copies))

    @property
    def has_best(self) -> bool:
        """Whether validation has chosen weights."""
        return self._best.exists()

    def load_best(self) -> dict[str, Tensor]:
        """Return the weights that validation chose; an error if there are none yet or the file is damaged."""
        if not self.has_best:
            raise FileNotFoundError(f"no {self._best.name} in {self.path}: the run has not validated yet; --resume it")
        with _raising_damage(self._best, "train the run again"):
            return safetensors.torch.load(self._best.read_bytes())

    def save_last(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from: tensors, numbers and strings in dicts and lists."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_file(self._last, buffer.getvalue())

    def load_last(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None if nothing was saved yet; a ValueError if the file is damaged."""
        if not self._last.exists():
            return None
        with _raising_damage(self._last, "remove it, and --resume trains the run from the start"):
            state: dict[str, Any] = torch.load(self._last, map_location="cpu", weights_only=True)
            return state

    def updates_done(self) -> int:
        """Return how many updates the saved state has seen."""
        state = self.load_last()
        return 0 if state is None else int(state["num_updates"])

    def best_policy(self, config: Config, source: ClipSource) -> GlimpsePolicy:
        """Return the network with the weights that validation chose, on the device that `config` names."""
        policy, weights = make_policy(config, source), self.load_best()
        load_weights(policy, weights, place=str(self._best))
        return policy.eval().to(config.training.device)

    # ---- results

    def save_result(self, result: RunResult) -> None:
        """Write evaluation.json."""
        write_json(self.path / "evaluation.json", dataclasses.asdict(result))

    @property
    def has_result(self) -> bool:
        """Whether the run was measured."""
        return (self.path / "evaluation.json").exists()

    def result(self) -> RunResult | None:
        """Return the measures of a finished run, or None; a ValueError if the file is not of this version."""
        path = self.path / "evaluation.json"
        if not self.has_result:
            return None
        fields = self._read("evaluation.json")
        try:
            splits = {
                name: None if fields[name] is None else Evaluation.from_json(fields[name])
                for name in ("validation", "test")
            }
            weights = fields.get("logit_weights")
            return RunResult(**(fields | splits | {"logit_weights": None if weights is None else tuple(weights)}))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} does not fit this version ({error}): remove it, and --resume the run") from error

    def finished(self) -> RunResult:
        """Return the measures of a finished run; a FileNotFoundError if it is not finished."""
        result = self.result()
        if result is None:
            raise FileNotFoundError(
                f"the run {self.path} is not finished: finish it with videoglimpse train --resume "
                f"{quote(str(self.path))}"
            )
        return result

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, without one that a kill cut short."""
        path, lines = self.path / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines


def find_runs(path: Path) -> list[RunFolder]:
    """Return the run at a path, or all runs below a folder, in the order of the models.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a config.json is damaged, or of another version.
    """
    if RunFolder(path).exists:
        return [RunFolder(path)]
    for packed in (path, SHIPPED / f"{path}{PACKED}"):
        if packed.suffix == PACKED and packed.is_file():
            return [PackedRun(packed)]
    runs = [RunFolder(child.parent) for child in path.rglob("config.json")]
    if not runs:
        raise FileNotFoundError(
            f"no run in {path} (no config.json): name a folder that videoglimpse train wrote, or a packed run"
        )
    return sorted(runs, key=lambda run: (MODELS.place(run.record().config.model), run.path))


def find_run(path: Path) -> RunFolder:
    """Return the run at a path; of several runs in a folder the one of the model "reinforce"."""
    runs = find_runs(path)
    chosen = runs if len(runs) == 1 else [run for run in runs if run.record().config.model == "reinforce"]
    if len(chosen) != 1:
        names = ", ".join(run.path.name for run in runs)
        raise ValueError(f"{path} holds the runs {names}: name one of them, such as {runs[0].path}")
    return chosen[0]


class PackedRun(RunFolder):
    """A run in one .safetensors file: the weights, and the JSON files of the run as its metadata.

    A setting that the file does not have is newer than the file, and has its default.
    """

    exists = has_best = True

    def _read(self, name: str) -> Any:
        with _raising_damage(self.path, "pack the run again"), safetensors.safe_open(self.path, "pt") as file:
            return json.loads(file.metadata()[name])

    def _config(self, fields: Any) -> Config:
        return Config().with_settings(fields)

    def load_best(self) -> dict[str, Tensor]:
        with _raising_damage(self.path, "pack the run again"):
            return safetensors.torch.load(self.path.read_bytes())

    @property
    def has_result(self) -> bool:
        return self._read("evaluation.json") is not None


def pack(run: RunFolder, path: Path) -> None:
    """Write a run into one .safetensors file that `find_run` and `load` take; it names no folder of this machine.

    Results name the films of validation and test, which may be names of your videos.
    """
    if path.suffix != PACKED:
        raise ValueError(f"the name of a packed run must end in {PACKED}, got {path.name!r}")
    record, result = run.record(), run.result()
    config = record.config.with_settings({"device": "cpu"})
    if config.task.source not in EMBEDDED:
        prefix, path_of_source = split_prefix(config.task.source)
        config = config.with_settings({"source": prefix + path_of_source.name})
    source = dataclasses.asdict(record.source)
    if source["extraction"] is not None:
        source["extraction"].pop("weights", None)
    fields = dataclasses.asdict(record) | {
        "format": FORMAT,
        "config": {name: config.setting(name) for name in PATHS},
        "source": source,
    }
    contents = {"config.json": fields, "evaluation.json": None if result is None else dataclasses.asdict(result)}
    metadata = {name: json.dumps(content) for name, content in contents.items()}
    write_file(path, safetensors.torch.save(run.load_best(), metadata=metadata))


class MetricsLog:
    """Scalars of a run, as JSON lines and TensorBoard events.

    A run resumes from `update`: later lines, written before a kill, are dropped.
    """

    # TensorBoard's own writer works in a thread, whose errors reach nobody in time.
    def __init__(self, folder: RunFolder, update: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # which only training needs
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._path = path = folder.path / "metrics.jsonl"
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        with raising_save_error(path):
            kept = [line for line in folder.metrics() if line.get("update", update + 1) <= update]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self._lines = path.open("a")
            events = folder.path / f"events.out.tfevents.{time.time_ns()}.{uuid.uuid4().hex}"
            self._events = RecordWriter(events.open("wb"))
            self._add_event(file_version="brain.Event:2")
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add_event(step=update + 1, session_log=start)  # later events of an earlier session are void

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of one update."""
        with raising_save_error(self._path):
            self._lines.write(json.dumps({"update": update} | dict(scalars)) + "\n")
            self._lines.flush()
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._add_event(step=update, summary=self._summary(value=values))

    def _add_event(self, **fields: Any) -> None:
        self._events.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._events.flush()

    def close(self) -> None:
        """Finish the files; `write` has already reported a full disk."""
        for file in (self._lines, self._events):
            with suppress(OSError):
                file.close()


def load_weights(policy: GlimpsePolicy, weights: Mapping[str, Tensor], *, place: str) -> None:
    """Load the weights saved in a `place` into a network; a ValueError if they are those of another network."""
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"{place} does not fit this version ({reason}): train the run again") from error


@contextmanager
def _raising_damage(path: Path, remedy: str) -> Iterator[None]:
    """Turn any error of a parser of another library into a ValueError with a remedy."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}): {remedy}") from error
