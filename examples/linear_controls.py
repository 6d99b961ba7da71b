"""Compare trained models with logistic regression on the same looks.

    pip install -e ".[agents]"
    python examples/linear_controls.py runs/first

A model with memory and a nonlinear head should never be worse than a linear classifier of the inputs that it sees. For
each run this plays the training and validation clips again with the trained network, fits logistic regression to the
inputs of its class head, frame by frame (validation chooses the penalty), and classifies the test clips by the mean of
their frames' softmaxes. With the models `mean`, `random` and `oracle` at one glimpse, that is logistic regression on
the mean of all cells, on one random cell and on one of the actor's cells. With `--linear-finish`, the network's logits
contain such a classifier already. Intervals are over source films.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import installed_by

with installed_by('pip install -e ".[agents]"'):
    import tyro
    from glimpse_agents.learning.models import MODELS
    from glimpse_agents.learning.policy import class_probabilities
    from glimpse_agents.playing.envs import greedy_play, make_envs, open_splits
    from glimpse_agents.playing.evaluation import EVALUATION_ENVS, video_labels, video_scores
    from glimpse_agents.playing.linear import fit_linear, see_split
    from glimpse_agents.playing.metrics import top_k_correct
    from glimpse_agents.runs.folder import RunFolder, find_runs
    from glimpse_agents.tables.intervals import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print the accuracy of runs, and that of logistic regression on the same looks."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that videoglimpse train or videoglimpse compare wrote."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("at least one run is required, such as runs/first")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return tyro.cli(Arguments, args=arguments)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One run next to logistic regression on its looks."""

    model: str
    glimpses: int | None  # None for models that see all cells
    network: Interval
    linear: Interval
    difference: Interval
    penalty: float

    def __str__(self) -> str:
        glimpses = "" if self.glimpses is None else f", m = {self.glimpses}"
        texts = (self.network.text(), self.linear.text(), self.difference.text(signed=True), f"{self.penalty:g}")
        return f"{self.model + glimpses:<18}" + "".join(f"{text:>18}" for text in texts)


def compare(run: RunFolder) -> Comparison:
    """Fit logistic regression to the looks of a trained run, and classify its test clips."""
    config = run.record().config
    sources = open_splits(config)
    policy, settings = run.best_policy(config, sources["train"]).eval(), greedy_play(config)
    train, validation, test = (
        see_split(make_envs(config, source, EVALUATION_ENVS, train=False), policy, settings, seed=config.training.seed)
        for source in (sources["train"], sources["validation"], sources["test"])
    )
    classifier, penalty = fit_linear(train, validation, policy.shape.outputs)
    truths, measured = video_labels(sources["test"]), run.finished().measured
    scores = class_probabilities(classifier(test.inputs), truths.shape[1]).mean(1)
    correct = top_k_correct(video_scores(scores, sources["test"]).numpy(), truths, 1)
    network = np.array(measured.correct, np.float64)
    return Comparison(
        model=config.model,
        glimpses=config.task.glimpses if MODELS[config.model].has_budget else None,
        network=mean_interval(network, measured.films),
        linear=mean_interval(correct, measured.films),
        difference=mean_interval(network - correct, measured.films),
        penalty=penalty,
    )


def main(runs: Sequence[Path]) -> None:
    """Print a row for each run."""
    print(f"{'model':<18}" + "".join(f"{head:>18}" for head in ("accuracy", "linear", "difference", "penalty")))
    for path in runs:
        for run in find_runs(path):
            print(compare(run), flush=True)


if __name__ == "__main__":
    try:
        main(parse_arguments().runs)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
