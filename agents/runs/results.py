"""What a run came to: its arms measured on the test split, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

from glimpse_env import ClipSource

from ..learning.config import Config
from ..learning.policy import GlimpsePolicy
from ..playing.envs import (
    check_device,
    describe_source,
    greedy_manner,
    make_envs,
    make_policy,
    open_splits,
    videos_of,
)
from ..playing.evaluation import evaluate
from ..playing.rollout import Looking
from .folder import Checkpoints, read_json

EVALUATION_ENVS = 64
VALIDATION_SEED = 0  # the same random glimpses at every look, so that checkpoints can be compared


def arm_folder(run: Path, looking: Looking) -> Path:
    """Return where an arm's files are."""
    return run if looking == "learned" else run / "controls" / looking


def arms_on_disk(run: Path) -> list[Looking]:
    """Return the arms of a run that are finished, the learned one first, named in its configuration or not."""
    names = ["learned", *sorted(path.parent.name for path in run.glob("controls/*/evaluation.json"))]
    finished = [name for name in names if (arm_folder(run, cast(Looking, name)) / "evaluation.json").exists()]
    return cast(list[Looking], finished)


def best_policy(config: Config, run: Path, source: ClipSource, looking: Looking = "learned") -> GlimpsePolicy:
    """Load the checkpoint that validation chose for an arm of a run."""
    policy = make_policy(config, source, looking)
    policy.load_state_dict(Checkpoints(arm_folder(run, looking)).load_best())
    return policy.eval().to(config.device)


def summarise(config: Config, measured: dict[str, Any], test: ClipSource) -> dict[str, Any]:
    """Put what each arm reached on the test split side by side; where windows slide over its videos, `test_clips` are
    the videos, and `test_windows` stands beside. An arm is left out of a measure that it has not, or that there was not
    yet when it was tested.
    """
    tests = {arm: values["test"] for arm, values in measured.items()}
    always = {
        name: {arm: test[name] for arm, test in tests.items()} for name in ("accuracy", "vote_accuracy", "reward")
    }
    known = {
        name: {arm: test[name] for arm, test in tests.items() if test.get(name) is not None}
        for name in ("top3", "mean_average_precision", "hit_at_3", "focus", "focus_per_look")
    }
    return (
        always
        | known
        | {
            "validation_accuracy": {arm: values["validation_accuracy"] for arm, values in measured.items()},
            "glimpses_per_frame": measured["learned"]["test"]["glimpses_per_frame"],
            "test_clips": videos_of(test).num_clips,
            "train_seconds": measured["learned"]["train_seconds"],
            "seed": config.seed,
            "reward_maximised": config.reward,
        }
        | ({} if config.window_seconds is None else {"test_windows": test.num_clips})
    )


def table(result: dict[str, Any]) -> str:
    """Lay out a result for reading."""
    lines = [f"{'':10}{'accuracy':>10}{'vote':>8}{'focus':>8}{'per look':>10}"]
    for arm in result["accuracy"]:
        cells = [result[name].get(arm) for name in ("accuracy", "vote_accuracy", "focus", "focus_per_look")]
        shown = ["-" if value is None else f"{value:.3f}" for value in cells]
        lines.append(f"{arm:10}{shown[0]:>10}{shown[1]:>8}{shown[2]:>8}{shown[3]:>10}")
    return "\n".join(lines)


def _check_alike(trained: dict[str, Any], config: Config, source: ClipSource) -> None:
    """Raise ValueError where a source has not the shape and the classes that a run's config.json tells of its own."""
    found = describe_source(config, source)
    for name in ("grid_size", "depth", "frames", "class_names"):
        if name in trained and trained[name] != found[name]:
            raise ValueError(
                f"{config.source} has {name} {found[name]}, but the run was trained with {trained[name]}: play it on "
                "features of the same kind"
            )


def evaluate_run(run: Path, *, source: str | None = None, sampled: bool = False) -> dict[str, Any]:
    """Play the test split again, of the run's own source or of another, with every finished arm of a run, by the
    likeliest cells or `sampled` ones; nothing is written.

    Raises:
        ValueError: the other source's clips are not such as the run was trained on.
    """
    told = read_json(run / "config.json")
    config = Config.from_json(told["config"])
    config = config if source is None else dataclasses.replace(config, source=source)
    check_device(config.device)
    sources = open_splits(config)
    _check_alike(told["source"], config, sources["test"])
    measured: dict[str, Any] = {}
    for looking in arms_on_disk(run):
        earlier = read_json(arm_folder(run, looking) / "evaluation.json")
        policy = best_policy(config, run, sources["train"], looking)
        envs = make_envs(config, sources["test"], EVALUATION_ENVS, train=False, looking=looking)
        manner = dataclasses.replace(greedy_manner(config, looking), greedy=not sampled)
        again = evaluate(envs, policy, manner, seed=config.seed, video_score=config.video_score)
        measured[looking] = earlier | {"test": dataclasses.asdict(again)}
    return summarise(config, measured, sources["test"])
