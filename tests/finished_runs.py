"""Finished runs for tests of tables, written without training, and commands run as from a shell."""

import sys

import numpy as np
import pytest
from glimpse_agents.playing.envs import SourceRecord
from glimpse_agents.playing.evaluation import Evaluation
from glimpse_agents.runs.folder import RunFolder, RunResult

SOURCE = SourceRecord(
    grid_size=3, depth=4, frames=4, class_names=("a", "b", "c"), frames_per_second=10.0, identity=None, extraction=None
)


def run_main(module, *words):
    """Run a command's `main` on a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, words)])
        module.main()


def write_config(path, config):
    """Write the config.json of a run, for --config."""
    RunFolder(path).begin(config, SOURCE)
    return path


def evaluation(correct, films=None, **measures):
    """Return the evaluation of videos, with some measures changed; each video is a film of its own by default."""
    accuracy = float(np.mean(correct))
    values = {
        "accuracy": accuracy, "top3": 1.0, "mean_average_precision": None, "plain_mean_average_precision": None,
        "log_score": None, "hit_at_1": None, "hit_at_3": None, "accuracy_by_frames": (0.0, accuracy),
        "vote_accuracy": accuracy, "focus": None, "focus_per_look": None, "attention_on_actor": None, "entropy": 0.0,
        "reward": 0.0, "true_positives": 0.0, "false_positives": 0.0, "glimpses_per_frame": 1.0, "visits": None,
        "correct": tuple(correct), "films": tuple(map(str, range(len(correct)) if films is None else films)),
    }  # fmt: skip
    return Evaluation(**(values | measures))


def run_result(test, *, validation=0.5, seconds=10.0):
    """Return the result of a run with an evaluation of the test split and a validation accuracy."""
    return RunResult(
        validation=evaluation([True], accuracy=validation), test=test, best_update=1, train_seconds=seconds,
        trained_by="c", tested_by="c",
    )  # fmt: skip


def write_finished_run(path, config, result):
    """Write the files of a finished run that tables read."""
    run = RunFolder(path)
    run.begin(config, SOURCE)
    run.save_result(result)
    return run
