"""Jobs: runs that a command trains one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..learning.config import PATHS, Config, Settings
from ..learning.models import MODELS, ModelName
from ..parallel.ranks import current_share, from_first, raise_together
from ..playing.envs import SourceRecord, Sources, check_device, open_splits, ready_config
from ..playing.evaluation import Evaluation, evaluate_split
from ..playing.features import videos_of
from .command import CommandLine
from .files import read_json, write_json
from .folder import RunFolder, RunRecord, RunResult, find_run, find_runs
from .progress import Progress, format_seconds
from .provenance import provenance

# Settings that a model may have for itself. Its episodes, and how many there are, are the same for all models.
OF_A_MODEL = {
    "learning_rate", "scorer_learning_rate", "weight_decay", "scorer_weight_decay", "max_grad_norm", "penalty",
    "entropy_bonus", "random_share",
} | {name for name, path in PATHS.items() if path[0] == "policy"}  # fmt: skip


class Job(NamedTuple):
    """One run to train."""

    config: Config
    path: Path


def jobs_of_models(line: CommandLine[Any], out: Path, tuned: Path | None = None) -> list[Job]:
    """Return a job for each model of a command line, in OUT/<model>."""
    settings = read_tuned(tuned, line.models)
    return [
        Job(line.config.with_settings({"model": model} | dict(settings.get(model, {}))), out / model)
        for model in line.models
    ]


def resumed_jobs(line: CommandLine[Any], path: Path) -> list[Job]:
    """Return the jobs of the run or runs at a path, with the changes that the command line makes."""
    values = {"updates": line.training.updates, "source": line.task.source, "device": line.training.device}
    changes = {name: value for name, value in values.items() if f"--{name}" in line.given}
    jobs = []
    for run in find_runs(path):
        own: dict[str, Any] = dict(changes)
        if "updates" in own and (done := run.updates_done()) > own["updates"]:
            own["updates"] = done
            if current_share().is_first:
                print(f"{run.path} has already trained {done} updates, and ends there", file=sys.stderr, flush=True)
        jobs.append(Job(run.record().config.with_settings(own), run.path))
    return jobs


def read_tuned(path: Path | None, models: Sequence[str]) -> dict[str, Settings]:
    """Read the settings.json of agents.tune, settings by the name of a model, and check that no model is missing."""
    if path is None:
        return {}
    if not path.exists():
        raise FileNotFoundError(f"no tuned settings at {path}: videoglimpse tune writes them, as settings.json")
    settings = read_json(path)
    if not isinstance(settings, dict) or not all(
        isinstance(own, dict) and name in MODELS for name, own in settings.items()
    ):
        raise ValueError(f"{path} must hold settings by the name of a model, got {settings!r}")
    for model, own in settings.items():
        if other := [name for name in own if name not in OF_A_MODEL]:
            raise ValueError(
                f"{path}: {', '.join(other)} of {model!r} must be the same for all models; a model's own settings may "
                f"be {', '.join(sorted(OF_A_MODEL))}"
            )
    if missing := [model for model in models if model not in settings]:
        raise ValueError(
            f"{path} has no settings for {', '.join(missing)}: tune them too, leave them out of --models, or add "
            "them with {}, which keeps the defaults"
        )
    return settings


def default_folder(config: Config) -> Path:
    """Make a new folder under runs/, named by source, seed and time; no two commands get the same one."""
    name = f"{Path(config.task.source).name}-seed{config.training.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    number, path = 1, Path("runs") / name
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = Path("runs") / f"{name}-{number}"


def train_all(
    jobs: Sequence[Job],
    train: Callable[..., RunResult],
    *,
    estimate: Callable[[Config, Sources], float] | None = None,
    test: bool = True,
    keep_going: bool = False,
    announce: bool = True,
    changes: Collection[str] = (),
    check: Callable[[Sequence[tuple[Path, RunRecord]]], None] | None = None,
) -> list[RunResult | None]:
    """Train all jobs, one after the other, with one progress for all; finished ones are only read.

    Nothing is written if a job cannot be played on its source, or if `check` raises an error.

    Args:
        jobs: on sources that may differ; each is opened once.
        train: `train` of agents/reinforce.py; `test` and `changes` are passed on to it.
        estimate: returns the expected seconds of a run, for the first line, which `announce` prints.
        keep_going: note a job whose numbers overflow in its failure.json, and continue with the next one.
        check: takes the folders and records of all jobs.

    Returns:
        the result of each job; None for one that failed.
    """
    opened: dict[tuple[Any, ...], Sources] = {}

    def sources_of(config: Config) -> Sources:
        task = config.task
        key = (task.source, task.fold, task.window_seconds, task.advanced.stride_seconds)
        if key not in opened:
            opened[key] = open_splits(config)
        return opened[key]

    share = current_share()
    with raise_together():
        configs = [ready_config(job.config, sources_of(job.config), share) for job in jobs]
    total = sum(config.training.updates for config in configs)
    if announce:
        first, seconds = configs[0], None
        is_new = from_first(lambda: not any(RunFolder(job.path).exists for job in jobs))
        if estimate is not None and is_new:  # by all ranks, as they train
            seconds = total / first.training.updates * estimate(first, sources_of(jobs[0].config))
        if share.is_first:
            line = describe(configs, jobs[0].config.task.source, sources_of(jobs[0].config), seconds)
            print(line, flush=True)
    with raise_together():
        if share.is_first:  # so that --resume finds all runs of a command, even if it stopped before it reached them
            records = [SourceRecord.of(config, sources_of(config)["train"]) for config in configs]
            if check is not None:
                made, planned = provenance(), zip(jobs, configs, records, strict=True)
                check([(job.path, RunRecord(config=config, source=source, **made)) for job, config, source in planned])
            for job, config, record in zip(jobs, configs, records, strict=True):
                with (run := RunFolder(job.path)).lock():
                    run.begin(config, record, changes=changes)
    results: list[RunResult | None] = []
    with Progress(total, shows=share.is_first) as progress:
        for config, path in jobs:
            try:
                sources = sources_of(config)
                results.append(train(config, path, sources=sources, progress=progress, test=test, changes=changes))
            except FloatingPointError as error:
                if not keep_going:
                    raise
                print(f"{path} failed: {error}", file=sys.stderr, flush=True)
                write_json(path / "failure.json", {"reason": str(error)})
                results.append(None)
    return results


def describe(configs: Sequence[Config], source_name: str, sources: Sources, seconds: float | None) -> str:
    """Return the first line of a command that trains: models, source, chance level and expected time."""
    task, source = configs[0].task, sources["train"]
    models = list(dict.fromkeys(config.model for config in configs))
    clips = " / ".join(str(videos_of(sources[split]).num_clips) for split in ("train", "validation", "test"))
    frames = task.frames or source.num_frames
    cells = f"{task.glimpses} of {source.grid_size**2} cells in each of {frames} frames"
    if frames > source.num_frames:
        cells += f" (the last of {source.num_frames} repeated)"
    runs = "" if len(configs) == len(models) else f" in {len(configs)} runs"
    time_needed = "" if seconds is None else f"; about {format_seconds(seconds)}"
    return (
        f"Training {', '.join(models)}{runs} on {source_name}: {len(source.class_names)} classes (chance "
        f"{1 / len(source.class_names):.3f}), {clips} clips to train / validate / test, {cells}{time_needed}"
    )


def evaluate_again(jobs: Sequence[Job], *, sampled: bool) -> list[tuple[ModelName, Evaluation]]:
    """Play the test split again with the best checkpoint of every job; nothing is written.

    The jobs are of existing runs, perhaps on another source of the same kind. `sampled` cells are drawn as in training.
    """
    measured, runs = [], [find_run(job.path) for job in jobs]
    some_have_best = any(run.has_best for run in runs)  # otherwise `best_policy` raises the error
    for (config, path), run in zip(jobs, runs, strict=True):
        if some_have_best and not run.has_best:
            print(f"{path} has not validated yet: it is left out", file=sys.stderr)
            continue
        check_device(config.training.device)
        sources = open_splits(config)
        record, source = run.record(), SourceRecord.of(config, sources["test"])
        if config.task.source == record.config.task.source:
            record.source.check_unchanged(source, config.task.source, path)
        else:
            record.source.check_same_kind(source, config.task.source)
        if run.result() is None:
            print(f"{path} is not finished: playing its best checkpoint so far", file=sys.stderr)
        policy = run.best_policy(config, sources["train"])
        measured.append((config.model, evaluate_split(config, policy, sources["test"], greedy=not sampled)))
    return measured
