"""Runs of agents that were trained elsewhere, as folders that tables and reports take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glimpse_env import ClipSource

from ..learning.config import preset_for
from ..learning.models import OWN
from ..playing.envs import SourceRecord, absolute_source, name_of, open_splits
from ..playing.evaluation import Evaluation
from .folder import RunFolder, RunResult
from .provenance import git_commit


def save_run(
    path: str | Path,
    title: str,
    test: Evaluation,
    *,
    source: str | ClipSource = "synthetic",
    glimpses: int = 5,
    seed: int = 1,
    validation: Evaluation | None = None,
    train_seconds: float = 0.0,
    **task: Any,
) -> RunFolder:
    """Write the results of an agent that was trained elsewhere as a run folder, for compare, report and tables.

    Args:
        path: of the folder; an earlier result of the same agent, task and seed in it is replaced.
        title: name of the agent in tables, such as "PPO".
        test: what `evaluate` returned for the test split.
        source: that was evaluated.
        glimpses: m.
        seed: of the training.
        validation: of the validation split, by the checkpoint that it chose.
        train_seconds: of the training.
        task: other settings of the task, such as `fold`, `frames` and `abstain`.

    Raises:
        ValueError: the title is empty, a setting is not allowed, or the folder holds another run.
    """
    if not title.strip() or len(title.splitlines()) > 1:
        raise ValueError(f"title must be one line of text, got {title!r}")
    name = source if isinstance(source, str) else name_of(source, "synthetic")
    settings = {"model": f"{OWN}{title}", "source": absolute_source(name), "glimpses": glimpses, "seed": seed}
    config = preset_for(name).with_settings(settings | task)
    train = source if isinstance(source, ClipSource) else open_splits(config)["train"]
    config, run = config.for_source(train), RunFolder(Path(path))
    with run.lock():
        run.begin(config, SourceRecord.of(config, train))
        run.save_result(
            RunResult(
                validation=validation,
                test=test,
                best_update=0,
                train_seconds=train_seconds,
                trained_by=git_commit(),
                tested_by=git_commit(),
            )
        )
    return run
