"""Find the settings that each model learns best with, all with the same effort, on the validation split alone.

    python -m agents.tune --source STORE --models reinforce random soft mean --trials 8 --out OUT
    python -m agents.compare --source STORE --models reinforce random soft mean --tuned OUT/settings.json

Other flags are those of agents/reinforce.py and make up the base. Every model gets as many trials of as many updates.
The first trial is the base; a tree-structured Parzen estimator (Optuna; Bergstra et al. 2011) that knows the earlier
trials draws the others. All models have the learning rate, dropout and weight decay; models that score cells also those
of the location logits and the penalty of eq. 8; models that learn to choose cells also the random share; REINFORCE
models also the entropy bonus.

A trial is judged by the mean log-score of the validation videos, which separates models on fewer videos than accuracy
does; the test split is not played. Trials are runs, in OUT/<model>/trial<k>: the same command skips finished ones,
resumes stopped ones, and adds models and trials. settings.json holds the best settings of the models that have had
exactly as many trials as were last asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from .learning.config import Config, format_settings
from .learning.models import MODELS, Model, ModelName
from .playing.envs import Sources, check_playable, open_splits
from .playing.evaluation import video_labels
from .playing.metrics import LOWEST_SCORE
from .reinforce import train
from .runs.command import CommandLine, parse_command, run_command
from .runs.files import read_json, write_json
from .runs.jobs import Job, train_all

Space = dict[str, BaseDistribution]

TUNED: tuple[ModelName, ...] = ("reinforce", "random", "soft", "gumbel", "mean")
ALL: Space = {
    "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
    "weight_decay": FloatDistribution(5e-7, 5e-4, log=True),
    "dropout": FloatDistribution(0.0, 0.8),
    "input_dropout": FloatDistribution(0.0, 0.8),
}
SCORING: Space = {
    "scorer_learning_rate": FloatDistribution(3e-4, 3e-2, log=True),
    "scorer_weight_decay": FloatDistribution(5e-7, 5e-3, log=True),
    "scorer_dropout": FloatDistribution(0.0, 0.6),
    "penalty": CategoricalDistribution((0.0, 0.1, 1.0)),
}
ENTROPY: Space = {"entropy_bonus": FloatDistribution(3e-4, 3e-2, log=True)}
EXPLORING: Space = {"random_share": FloatDistribution(0.0, 0.8)}


@dataclass(frozen=True, kw_only=True)
class Output:
    """Find the settings that each model learns best with, on the validation split."""

    out: Path = Path("runs/tuning")
    """Folder of the trials and of settings.json; finished trials in it are kept."""
    trials: int = 8
    """Trials of each model."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"--trials must be at least 1, got {self.trials}")


def space_of(model: Model) -> Space:
    """Return the settings of a model that are tuned."""
    space = dict(ALL)
    if model.learns is not None:
        space |= SCORING
    if model.learns == "reinforce":
        space |= ENTROPY
    return space | EXPLORING if model.looks_ahead else space


def tune(
    judge: Callable[[dict[str, Any], int], float], space: Space, base: dict[str, Any], *, trials: int, seed: int
) -> tuple[dict[str, Any], float]:
    """Return the best settings of a number of trials, and their score.

    The draws of a trial depend on the seed, its number and the scores of earlier trials, so a caller that has kept the
    scores gets the same trials again. `judge` takes settings and the number of the trial. The `base`, the settings of
    the first trial, need not lie in the space, since no draw depends on them.
    """
    study = optuna.create_study(direction="maximize")
    judged = [(base, judge(base, 0))]
    for number in range(1, trials):
        drawn_by = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=drawn_by, n_startup_trials=4)
        trial = study.ask(space)
        judged.append((trial.params, judge(trial.params, number)))
        study.tell(trial, judged[-1][1])
    return max(judged, key=lambda pair: pair[1])


def judge_trial(config: Config, folder: Path, settings: dict[str, Any]) -> float:
    """Train with settings, or read the finished trial, and return the mean log-score of the validation videos.

    A trial whose numbers overflow gets the worst possible score.
    """
    print(f"{config.model}, {folder.name}: {format_settings(settings)}", flush=True)
    job = Job(config.with_settings(settings), folder)
    result = train_all([job], train, test=False, keep_going=True, announce=False)[0]
    score = None if result is None or result.validation is None else result.validation.log_score
    score = float(np.log(LOWEST_SCORE)) if score is None else score
    print(f"{config.model}, {folder.name}: log-score {score:.4f}", flush=True)
    return score


def judged_trials(folder: Path) -> int:
    """Return the number of trials of a model that have a score."""
    return len({path.parent for name in ("evaluation", "failure") for path in folder.glob(f"trial*/{name}.json")})


def check_base(line: CommandLine[Output], sources: Sources) -> None:
    """Check that models can be played, that trials can be judged, and that no model has had more trials.

    Raises:
        ValueError: a model cannot be played, no validation video has a label, or a model has had more trials.
    """
    if not video_labels(sources["validation"]).any():
        raise ValueError(f"no validation video of {line.task.source} has a label: trials cannot be judged")
    for model in line.models:
        check_playable(line.config.with_settings({"model": model}), sources["train"])
        if (judged := judged_trials(line.output.out / model)) > line.output.trials:
            raise ValueError(
                f"{line.output.out / model} already has {judged} trials, got --trials {line.output.trials}: ask for "
                f"at least {judged}"
            )


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    line = parse_command(Output, arguments, models=TUNED, program="videoglimpse tune")
    if (score := line.config.setting("video_score")) != "mean":
        raise ValueError(f"--video-score {score}: trials are judged by mean scores; leave it out")
    costs = {"--look-cost": "unlimited" in line.models and line.config.setting("look_cost")}
    costs["--frame-cost"] = line.config.setting("frame_cost")
    for flag, cost in costs.items():
        if cost:
            raise ValueError(f"{flag} {cost:g}: trials are judged by log-scores, which have no costs; leave it out")
    return line


def main() -> None:
    """Tune the models, and write settings.json after each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    line = parse_arguments()
    out, trials = line.output.out, line.output.trials
    check_base(line, open_splits(line.config))
    chosen = out / "settings.json"
    for name in line.models:
        # The base's value of None stands for the weight decay of all weights, which trials change.
        decay = line.config.training.scorer_weight_decay
        config = line.config.with_settings({"model": name, "scorer_weight_decay": decay})
        space = space_of(MODELS[name])
        base = {setting: config.setting(setting) for setting in space}

        def judge(settings: dict[str, Any], number: int, config: Config = config) -> float:
            return judge_trial(config, out / config.model / f"trial{number}", settings)

        best, score = tune(judge, space, base, trials=trials, seed=config.training.seed)
        print(f"{name}: log-score {score:.4f} with {format_settings(best)}", flush=True)
        settings = (read_json(chosen) if chosen.exists() else {}) | {name: best}
        write_json(chosen, {model: own for model, own in settings.items() if judged_trials(out / model) == trials})
    print(f"Wrote {chosen}: pass it to videoglimpse compare or videoglimpse train with --tuned")


if __name__ == "__main__":
    run_command(main)
