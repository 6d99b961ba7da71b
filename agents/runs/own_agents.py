"""Agents that were trained elsewhere: measured like our own models, and saved as runs that tables and reports take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.config import Config
from ..learning.episodes import Rollout
from ..learning.models import OWN
from ..learning.presets import preset_for
from ..playing.envs import SPLITS, SourceRecord, absolute_source, in_windows, name_of, open_splits
from ..playing.evaluation import EVALUATION_ENVS, Evaluation, measure
from ..playing.features import videos_of
from ..playing.players import actor_cells
from ..playing.rollout import play_out
from .folder import RunFolder, RunResult
from .provenance import git_commit

Agent: TypeAlias = Callable[[NDArray[Any]], Any]
"""Takes (N, ...) observations and returns (N, parts) actions, or a pair of actions and (N, C) class scores."""


def evaluate(
    agent: Agent,
    source: str | ClipSource = "synthetic",
    split: str = "test",
    *,
    observation: str = "glimpsed",
    num_envs: int = EVALUATION_ENVS,
    seed: int = 0,
    **arguments: Any,
) -> Evaluation:
    """Play every clip of a split once with any agent, and measure it as our own models are measured.

    Args:
        agent: takes the observations of the vector environment, and returns its actions or a pair: actions and class
            scores, (N, C) or, with "no prediction" as the last class, (N, C + 1). Scores are not negative, like
            probabilities; those of each frame are divided by their sum, and a clip's scores are their mean over the
            frames. Without them, each prediction is a vote. If the agent has a method `reset(num_envs)`, it is called
            before each batch of episodes, which all begin and end together.
        source: name of a source, path of a store, or a `ClipSource`.
        split: "train", "validation" or "test".
        observation: "glimpsed", "cube" or "slices".
        num_envs: episodes that are played at once.
        seed: of the environments, which draw windows if `jitter` is on.
        arguments: others of `gym.make_vec`, such as `glimpses`, `fold`, `frames` and `abstain`.

    Raises:
        ValueError: an action or a score is not allowed, or `jumps` are given.
    """
    envs = gym.make_vec(
        "VideoGlimpse-v0",
        num_envs=num_envs,
        source=source,
        split=split,
        observation=observation,
        autoreset_mode="Disabled",
        **arguments,
    )
    assert isinstance(envs, VideoGlimpseVectorEnv)
    if envs.engine.rules.jumps is not None:
        raise ValueError("jumps must be None, since all episodes of a batch end together here; leave the argument out")
    return measure(_rollouts(envs, agent, seed), envs, sees_all=False)


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
        ValueError: the title is empty, a setting is not allowed, `test` has other videos or frames than the test split,
            or the folder holds another run.
    """
    if not title.strip() or len(title.splitlines()) > 1:
        raise ValueError(f"title must be one line of text, got {title!r}")
    name = source if isinstance(source, str) else name_of(source, "synthetic")
    settings = {"model": f"{OWN}{title}", "source": absolute_source(name), "glimpses": glimpses, "seed": seed}
    config = preset_for(name).with_settings(settings | task)
    given = dict.fromkeys(SPLITS, source) if isinstance(source, ClipSource) else open_splits(config)
    sources, run = in_windows(config, given), RunFolder(Path(path))
    train = sources["train"]
    config = config.for_source(train)
    _check_measured(test, sources["test"], config)
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


def _check_measured(test: Evaluation, source: ClipSource, config: Config) -> None:
    videos, frames = videos_of(source).num_clips, config.task.frames or source.num_frames
    if len(test.correct) != videos:
        raise ValueError(
            f"test measures {len(test.correct)} videos, and the test split has {videos}: pass what evaluate returned "
            'for the split "test" of this source'
        )
    if len(test.accuracy_by_frames) != frames:
        raise ValueError(
            f"test measures episodes of {len(test.accuracy_by_frames)} frames, and the task has {frames}: give "
            "evaluate and save_run the same frames="
        )


def _rollouts(envs: VideoGlimpseVectorEnv, agent: Agent, seed: int) -> Iterator[tuple[Rollout, int]]:
    """Yield the episodes of every clip, N at a time, in order, and the number of the first ones that count."""
    for start in range(0, envs.num_clips, envs.num_envs):
        clips = np.arange(start, start + envs.num_envs)
        valid = int((clips < envs.num_clips).sum())
        clips[valid:] = 0
        observations, _ = envs.reset(seed=seed, options={"clip": clips})
        if callable(reset := getattr(agent, "reset", None)):
            reset(envs.num_envs)
        answers: list[tuple[NDArray[Any], Any]] = []

        def act(seen: NDArray[Any], answers: list[tuple[NDArray[Any], Any]] = answers) -> NDArray[Any]:
            answer = agent(seen)
            actions, scores = answer if isinstance(answer, tuple) else (answer, None)
            try:
                answers.append((np.asarray(actions), scores))
            except ValueError as error:
                raise ValueError(
                    f"the agent must return an array of actions, or a tuple of actions and scores: {error}"
                ) from error
            return answers[-1][0]

        actors = actor_cells(envs)
        outcome = play_out(envs, observations, act, torch.device("cpu"))  # refuses wrong actions
        played = torch.from_numpy(np.stack([actions for actions, _ in answers], 1).astype(np.int64))  # (N, T, parts)
        attention = _attention(envs, played)
        yield (
            Rollout(
                clips=clips,
                attention=attention,
                entropy=torch.full((len(clips), attention.shape[1] - 1), torch.nan),
                predictions=played[..., -1],
                class_logits=torch.stack([_frame_scores(envs, *answer) for answer in answers], 1).log(),
                actors=actors,
                **outcome,
            ),
            valid,
        )


def _frame_scores(envs: VideoGlimpseVectorEnv, actions: NDArray[Any], scores: Any) -> Tensor:
    """Return (N, outputs) positive float32 scores that sum to 1; without scores the prediction has all."""
    classes, outputs = len(envs.class_names), len(envs.class_names) + envs.engine.rules.abstain
    if scores is None:
        given = np.eye(outputs)[actions[:, -1]]
    else:
        given = np.asarray(scores, np.float64)
        allowed = {(len(actions), classes), (len(actions), outputs)}
        if given.shape not in allowed or not np.isfinite(given).all() or (given < 0).any():
            shapes = " or ".join(map(str, sorted(allowed)))
            raise ValueError(f"class scores must be finite, not negative and of shape {shapes}, got {given.shape}")
        if given.shape[1] < outputs:  # the rest is for "no prediction"
            given = np.concatenate([given, np.maximum(1 - given.sum(1, keepdims=True), 0)], 1)
    given = np.maximum(given, 1e-30)
    return torch.from_numpy(given / given.sum(1, keepdims=True)).float().clamp_min(1e-30)


def _attention(envs: VideoGlimpseVectorEnv, actions: Tensor) -> Tensor:
    """Return (N, T, K*K) equal weights of the cells seen in each frame, for (N, T, parts) actions."""
    rules, cells = envs.engine.rules, envs.source.grid_size**2
    chosen = actions[:, :-1, :-1]
    seen = torch.zeros(*chosen.shape[:2], cells).scatter_(2, chosen, 1.0) if rules.glimpses else chosen.float()
    first = torch.full_like(seen[:, :1], float(rules.first_glance == "whole"))
    looks = torch.cat([first, seen], 1)
    return looks / looks.sum(2, keepdim=True).clamp_min(1)
