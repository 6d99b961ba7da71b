"""Clips of a report: videos chosen by a rule, as the models saw them.

The rule uses the test split, of which every model has each video right or wrong. Shown are the first two videos that
REINFORCE has right and another model wrong, the first two of the reverse, the first that both have right and the first
that both have wrong, in the order of the split. If a group has too few, the next group gives more, and after the last
group the first. The other model is soft attention if it was trained, or else the next model. No clip is chosen for its
looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from glimpse_env import ClipSource

from ..learning.config import Config
from ..learning.models import ModelName
from ..pictures.movies import animation, encode_gif, readable_rate
from ..pictures.strips import Played, comparison_strip, png
from ..playing.envs import SourceRecord, greedy_play, make_envs, open_splits
from ..playing.evaluation import EVALUATION_ENVS, middle_clips, play_split
from ..tables.records import Record
from .experiments import Experiment

Right = Sequence[bool]  # of each video of the test split, whether a model has it right


@dataclass(frozen=True)
class Choice:
    """A video to show, by its place in the test split, and the group that it stands for."""

    video: int
    group: str


@dataclass(frozen=True, kw_only=True)
class DrawnClip:
    """A clip as the models saw it.

    Attributes:
        choice: the reason why it is shown.
        clip_id: its name.
        truth: names of its classes.
        models: names of the models, from top to bottom and from left to right.
        strip: PNG file.
        pictures: all frames, (height, width, 3) RGB each.
        frames_per_second: rate of the movie.
        gif: GIF file of the frames.
    """

    choice: Choice
    clip_id: str
    truth: str
    models: tuple[str, ...]
    strip: bytes
    pictures: list[NDArray[np.uint8]]
    frames_per_second: float
    gif: bytes


def compared_pair(experiment: Experiment) -> tuple[Record, Record | None]:
    """Return REINFORCE, or else the first model, and the model that it is compared with, if there is another."""
    records = list(experiment.records)
    ours = next((record for record in records if record.model.name == "reinforce"), records[0])
    records.remove(ours)
    return ours, min(records, key=lambda record: not record.model.is_soft, default=None)


def choose_videos(ours: Right, theirs: Right | None, names: tuple[ModelName, ModelName | None]) -> list[Choice]:
    """Choose the videos to show, by the rule at the top of this module.

    Args:
        ours: of the first model.
        theirs: of the other model; without one, three videos that are right and three that are wrong are chosen.
        names: of the two models.
    """
    right, (name, other) = np.asarray(ours, np.bool_), names
    if theirs is None:
        return _take([(f"{name} right", right, 3), (f"{name} wrong", ~right, 3)])
    also = np.asarray(theirs, np.bool_)
    return _take(
        [
            (f"{name} right, {other} wrong", right & ~also, 2),
            (f"{name} wrong, {other} right", ~right & also, 2),
            (f"{name} and {other} right", right & also, 1),
            (f"{name} and {other} wrong", ~right & ~also, 1),
        ]
    )


def describe_rule(experiment: Experiment) -> str:
    """Return the rule by which the videos of an experiment are chosen, as a sentence."""
    ours, theirs = compared_pair(experiment)
    name = ours.model.name
    if theirs is None:
        return (
            f"the first three videos of the test split that {name} gets right, and the first three that it gets wrong; "
            "if one group has too few, the other gives more."
        )
    other = theirs.model.name
    return (
        f"in the order of the test split, the first two videos that {name} gets right and {other} wrong, the first two "
        f"that {name} gets wrong and {other} right, the first that both get right, and the first that both get wrong; "
        "if a group has too few, the next one gives more, and after the last group the first."
    )


def draw_clips(experiment: Experiment, *, device: str, source: str | None = None) -> Iterator[DrawnClip]:
    """Play the chosen videos as they were tested, by the two compared models and random glimpses, and draw them.

    A video over which windows slide is shown by its middle window.

    Args:
        experiment: the runs.
        device: to play on.
        source: the store of the runs, if it has moved.

    Raises:
        FileNotFoundError: the store or a checkpoint is missing.
        ValueError: the store is not the one that the runs were tested on.
    """
    ours, theirs = compared_pair(experiment)
    changes = {"device": device} | ({} if source is None else {"source": source})
    test = open_splits(ours.record.config.with_settings(changes))["test"]
    middle = middle_clips(test)
    identity = SourceRecord.of(ours.record.config, test).identity
    if identity != ours.record.source.identity or len(middle) != len(ours.test.correct):
        raise ValueError(
            f"{source or ours.record.config.task.source} is not the store that {ours.run.path} was tested on: name "
            "that store with --source"
        )
    names = (ours.model.name, None if theirs is None else theirs.model.name)
    choices = choose_videos(ours.test.correct, None if theirs is None else theirs.test.correct, names)
    clips = middle[[choice.video for choice in choices]].tolist()
    shown = [record for record in experiment.records if record in (ours, theirs) or record.model.name == "random"]
    models = [play_as_tested(record, record.record.config.with_settings(changes), test, clips) for record in shown]
    for choice, clip in zip(choices, clips, strict=True):
        yield _draw(choice, [played[clip] for played in models])


def play_as_tested(record: Record, config: Config, test: ClipSource, clips: list[int]) -> dict[int, Played]:
    """Play the test split again up to the last of the clips, so that random glimpses are those of the test.

    Returns:
        the episode of each clip.
    """
    envs = make_envs(config, test, EVALUATION_ENVS, train=False)
    policy = record.run.best_policy(config, test)
    batches = max(clips) // EVALUATION_ENVS + 1
    played: dict[int, Played] = {}
    rollouts = islice(play_split(envs, policy, greedy_play(config), seed=config.training.seed), batches)
    progress = tqdm(rollouts, desc=record.model.name, total=batches, disable=None, leave=False)
    for batch, (rollout, _) in enumerate(progress):
        episodes = Played.of(envs, rollout, record.model)
        first = batch * EVALUATION_ENVS
        for clip in clips:
            if first <= clip < first + EVALUATION_ENVS:
                played[clip] = episodes.only(clip - first)
    return played


def _draw(choice: Choice, models: Sequence[Played]) -> DrawnClip:
    """Draw one clip, of which each model has played one episode."""
    pictures = animation(models, 0)
    rate = readable_rate(models[0].source.frames_per_second)
    return DrawnClip(
        choice=choice,
        clip_id=models[0].clip_id(0),
        truth=models[0].truth_names(0),
        models=tuple(played.model.name for played in models),
        strip=png(comparison_strip(models, 0)),
        pictures=pictures,
        frames_per_second=rate,
        gif=encode_gif(pictures, rate),
    )


def _take(groups: Sequence[tuple[str, NDArray[np.bool_], int]]) -> list[Choice]:
    """Take from each group its number of videos, and as many as the groups before it had too few."""
    left = {name: np.flatnonzero(members).tolist() for name, members, _ in groups}
    taken: dict[str, list[int]] = {name: [] for name in left}
    missing = 0
    for name, quota in [(name, quota) for name, _, quota in groups] + [(name, 0) for name in left]:
        wanted = quota + missing
        taken[name] += left[name][:wanted]
        missing = max(0, wanted - len(left[name]))
        del left[name][:wanted]
    return [Choice(video, name) for name, videos in taken.items() for video in videos]
