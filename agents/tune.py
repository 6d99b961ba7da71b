"""Look for the settings that each model learns best with, all with the same effort, on the validation split alone.

    python -m agents.tune --source STORE --models random soft mean --trials 8 --out OUT
    python -m agents.compare --source STORE --models random soft mean --tuned OUT/settings.json --out COMPARISON

Other flags are those of agents/reinforce.py: the base that the settings change. Every model gets as many trials, each
of as many updates, clips and rollouts; the first trial is the base itself. What is drawn for the others comes from a
tree-structured Parzen estimator (Optuna; Bergstra et al. 2011) that knows those drawn before. A model's space has the
settings that it depends on: all have the learning rate, dropout and weight decay; those that score cells have the same
for the weights that score, and the penalty of eq. 8; those that draw them the entropy bonus or the random share.

A trial is judged by the mean log-score of the validation videos, which tells more apart on few of them than accuracy
does. The test split is opened, as for every run, and not read. Trials are kept under OUT/<model>/trial<k>: the same
command skips what is finished, goes on with what was stopped, and takes further models and trials. settings.json holds
the best settings of the models that have had exactly as many trials as were last asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from .learning.config import Config, Control, spelled
from .playing.envs import Sources, check_device, check_playable, open_splits
from .playing.evaluation import video_labels
from .playing.metrics import LOWEST_SCORE
from .playing.rollout import HARD, SOFT, Looking
from .reinforce import Arm
from .runs.command import run_command
from .runs.folder import provenance, read_json, write_json

Space = dict[str, BaseDistribution]

ALL: Space = {
    "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-3, log=True),
    "policy.dropout": FloatDistribution(0.0, 0.8),
    "policy.input_dropout": FloatDistribution(0.0, 0.8),
}
SCORING: Space = {
    "scorer_learning_rate": FloatDistribution(3e-4, 3e-2, log=True),
    "scorer_weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    "policy.scorer_dropout": FloatDistribution(0.0, 0.6),
    "penalty": CategoricalDistribution((0.0, 0.1, 1.0)),
}
ENTROPY: Space = {"entropy_bonus": FloatDistribution(3e-4, 3e-2, log=True)}
EXPLORING: Space = {"random_share": FloatDistribution(0.0, 0.8)}


@dataclass(frozen=True, kw_only=True)
class Arguments(Config):
    """Look for the settings that each model learns best with; `--controls` has no effect."""

    out: Path = Path("runs/tuning")
    """Folder of the trials and of settings.json; what is finished there is not trained again."""
    models: tuple[Control, ...] = ("random", "soft", "gumbel", "mean")
    """What is tuned beside REINFORCE, by its name in --controls."""
    trials: int = 8
    """Of each model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1:
            raise ValueError(f"--trials must be at least 1, got {self.trials}")
        if self.controls != Config().controls:
            raise ValueError(f"--controls {' '.join(self.controls)}: what is tuned is told by --models")
        if self.video_score != "mean":
            raise ValueError(f"--video-score {self.video_score}: trials are judged by mean scores, leave it out")

    @property
    def base(self) -> Config:
        """What the settings change."""
        return self.part(controls=(), arm_settings={})


def space_of(looking: Looking) -> Space:
    """Return what is tuned of a model."""
    space = dict(ALL)
    if looking in (*HARD, *SOFT):
        space |= SCORING
    if looking in ("learned", "unlimited"):
        space |= ENTROPY
    return space | EXPLORING if looking in HARD else space


def values_of(config: Config, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration has for some settings."""
    return {
        name: getattr(config.policy, name.removeprefix("policy."))
        if name.startswith("policy.")
        else getattr(config, name)
        for name in names
    }


def tune(
    judge: Callable[[dict[str, Any], int], float], space: Space, base: dict[str, Any], *, trials: int, seed: int
) -> tuple[dict[str, Any], float]:
    """Return the best of a number of trials and what it was judged.

    The draws of a trial depend on the seed, its number and how earlier draws were judged: who remembers the judgements
    can ask again from the start and gets the same trials.

    Args:
        judge: takes settings and the number of the trial, and returns how good they are.
        space: what settings are drawn from.
        base: the settings of the first trial, which need not lie in the space, so that no draw depends on it.
        trials: how many.
        seed: of all draws.
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


class Bench:
    """Where the trials of one model are run and kept.

    Args:
        base: what settings change; ready for its source.
        looking: the model.
        folder: of its trials.
        sources: the three splits, of which the test split is not read.
    """

    def __init__(self, base: Config, looking: Looking, folder: Path, sources: Sources) -> None:
        self.base, self.looking, self.folder, self.sources = base, looking, folder, sources

    def judge(self, settings: dict[str, Any], number: int) -> float:
        """Train with settings, or remember what came of it, and return the mean log-score on the validation split.

        Numbers that overflow are judged as the worst that there is.

        Raises:
            ValueError: the trial's folder is one of other settings.
            StoppedError: SIGTERM or SIGINT came.
        """
        config = self.base.with_settings(settings)
        folder = self.folder / f"trial{number}"
        path = folder / "config.json"
        if not path.exists():
            write_json(path, {"config": config.to_json(), "looking": self.looking} | provenance())
        elif (earlier := Config.from_json(read_json(path)["config"])) != config:
            names = [name for name, value in config.to_json().items() if value != earlier.to_json()[name]]
            raise ValueError(f"{folder} holds a trial that differs in {', '.join(names)}: choose another --out")
        path = folder / "validation.json"
        if not path.exists():
            print(f"{self.looking}, trial {number}: {spelled(settings)}", flush=True)
            write_json(path, self._train(config, folder))
        measured = read_json(path)
        print(f"{self.looking}, trial {number}: log-score {measured['log_score']:.4f}", flush=True)
        return float(measured["log_score"])

    def _train(self, config: Config, folder: Path) -> dict[str, Any]:
        arm = Arm(config, self.looking, folder, self.sources)
        try:
            arm.train()
        except FloatingPointError as error:
            return {"log_score": float(np.log(LOWEST_SCORE)), "failure": str(error)}
        measured = arm.validate()
        return {"log_score": measured.log_score, "accuracy": measured.accuracy, "train_seconds": arm.seconds}


def judged_trials(folder: Path) -> int:
    """Return how many trials of a model have been judged."""
    return len(list(folder.glob("trial*/validation.json")))


def main(arguments: Arguments) -> None:
    """Tune what is missing, and write settings.json after every model."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_device(arguments.device)
    sources = open_splits(arguments.base)
    base = arguments.base.for_source(sources["train"])
    check_playable(dataclasses.replace(base, controls=arguments.models), sources["train"])
    if not video_labels(sources["validation"]).any():
        raise ValueError(f"no validation video of {base.source} has a label: nothing can be judged")
    for looking in ("learned", *arguments.models):
        if (judged := judged_trials(arguments.out / looking)) > arguments.trials:
            raise ValueError(
                f"{arguments.out / looking} has {judged} trials already: ask for --trials {judged} or more"
            )
    chosen, models = arguments.out / "settings.json", cast(tuple[Looking, ...], ("learned", *arguments.models))
    for looking in models:
        bench, space = Bench(base, looking, arguments.out / looking, sources), space_of(looking)
        best, score = tune(bench.judge, space, values_of(base, space), trials=arguments.trials, seed=base.seed)
        print(f"{looking}: log-score {score:.4f} with {spelled(best)}", flush=True)
        settings = (read_json(chosen) if chosen.exists() else {}) | {looking: best}
        alike = {arm: own for arm, own in settings.items() if judged_trials(arguments.out / arm) == arguments.trials}
        write_json(chosen, alike)
    print(f"wrote {chosen}: give it to agents.compare or agents/reinforce.py as --tuned")


if __name__ == "__main__":
    run_command(main, Arguments)
