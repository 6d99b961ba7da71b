"""Clips of a report: videos of the test split chosen by a rule, not for their looks, as the models saw them.

The rule compares REINFORCE with soft attention, or else the next model: `describe_rule` says it in words.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from glimpse_env import ClipSource
from glimpse_env.terminal import shows_bars
from glimpse_env.video.decode import VideoError

from ..learning.config import Config
from ..learning.models import ModelName
from ..pictures.movies import readable_rate
from ..pictures.strips import Played
from ..playing.envs import SourceRecord, greedy_play, make_envs, open_splits
from ..playing.evaluation import EVALUATION_ENVS, middle_clips, play_split
from ..prediction.model import load
from ..tables.plots import style_of
from ..tables.records import Record
from .html import data_uri

SIDE = 336  # at most so many pixels along the side of a frame on the page
YOURS = "your video"  # group of clips that are not of the test split
LABELS = 4  # classes whose scores are drawn, apart from the true ones

Right = Sequence[bool]  # of each video of the test split, whether a model has it right
Names = tuple[ModelName, ModelName | None]  # of the two compared models


class Choice(NamedTuple):
    """A video to show, by its place in the test split, and the group that it stands for."""

    video: int
    group: str


@dataclass(frozen=True)
class Clip:
    """One clip, of which each model has played one episode; `group` says why it is shown."""

    group: str
    models: tuple[Played, ...]

    @property
    def name(self) -> str:
        return self.models[0].clip_id(0)

    @property
    def truth(self) -> str:
        return self.models[0].truth_names(0)

    @property
    def frames_per_second(self) -> float:
        """Rate at which it is shown."""
        return readable_rate(self.models[0].source.frames_per_second)

    def data(self) -> dict[str, Any]:
        """Return everything that the page's viewer draws (viewer.js), ready for JSON."""
        first = self.models[0]
        names, truth = first.source.class_names, first.truth(0)
        frames = range(first.windows.shape[1])
        drawn = [[played.frame(0, frame) for frame in frames] for played in self.models]
        scores = [played.frame_scores(0) for played in self.models]
        best = np.argsort(-np.mean(scores, axis=(0, 1))[: len(names)], kind="stable")[:LABELS].tolist()
        labels = truth + [label for label in best if label not in truth]
        true_now = first.rollout.frame_labels[0].cpu().numpy()
        return {
            "name": self.name,
            "group": self.group,
            "rate": self.frames_per_second,
            "grid": first.source.grid_size,
            "seconds": [round(one.seconds, 3) for one in drawn[0]],
            "truth": [", ".join(names[label] for label in np.flatnonzero(now)) for now in true_now],
            "labels": [{"name": names[label], "isTrue": label in truth} for label in labels],
            "frames": [data_uri(_webp(one.image), "image/webp") for one in drawn[0]],
            "models": [
                {
                    "name": played.model.name,
                    "title": played.model.title,
                    "colour": style_of(played.model.name).colour,
                    "cells": [one.cells for one in seen],
                    "heat": [None if one.weights is None else _percent(one.weights) for one in seen],
                    "largest": [None if one.weights is None else round(float(one.weights.max()), 3) for one in seen],
                    "said": [f"{one.prediction} {one.probability:.2f}" for one in seen],
                    "isRight": [one.is_right for one in seen],
                    "scores": np.round(of_frames[:, labels].T.astype(float), 3).tolist(),
                }
                for played, seen, of_frames in zip(self.models, drawn, scores, strict=True)
            ],
        }


def _percent(weights: NDArray[np.float32]) -> list[int]:
    return np.round(100 * weights / max(float(weights.max()), 1e-12)).astype(int).ravel().tolist()


def _webp(image: NDArray[np.uint8]) -> bytes:
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def compared_pair(watched: Sequence[Record]) -> tuple[Record, Record | None]:
    """Return the first of the watched runs, and the one that it is compared with: soft attention, or the next one."""
    return watched[0], min(watched[1:], key=lambda record: not record.model.is_soft, default=None)


def _groups(ours: Right, theirs: Right, names: Names) -> list[tuple[str, NDArray[np.bool_], int]]:
    """Return the groups: a name, (videos,) bool whether each video is a member, and how many members to show."""
    right, also, (name, other) = np.asarray(ours, np.bool_), np.asarray(theirs, np.bool_), names
    if other is None:
        return [(f"{name} right", right, 3), (f"{name} wrong", ~right, 3)]
    return [
        (f"{name} right, {other} wrong", right & ~also, 2),
        (f"{name} wrong, {other} right", ~right & also, 2),
        (f"{name} and {other} right", right & also, 1),
        (f"{name} and {other} wrong", ~right & ~also, 1),
    ]


def choose_videos(ours: Right, theirs: Right, names: Names) -> list[Choice]:
    """Take from each group its number of videos, and as many as the groups before it had too few."""
    groups = _groups(ours, theirs, names)
    left = {name: np.flatnonzero(members).tolist() for name, members, _ in groups}
    taken: dict[str, list[int]] = {name: [] for name in left}
    missing = 0
    for name, quota in [(name, quota) for name, _, quota in groups] + [(name, 0) for name in left]:
        wanted = quota + missing
        taken[name] += left[name][:wanted]
        missing = max(0, wanted - len(left[name]))
        del left[name][:wanted]
    return [Choice(video, name) for name, videos in taken.items() for video in videos]


def describe_rule(watched: Sequence[Record]) -> str:
    """Return the rule by which the videos of watched runs are chosen, as a sentence."""
    quotas = [f'{quota} of "{name}"' for name, _, quota in _groups([], [], _names(watched))]
    return (
        f"in the order of the test split, the first {', '.join(quotas)}; if a group has too few, the next one gives "
        "more, and after the last group the first."
    )


def _names(watched: Sequence[Record]) -> Names:
    ours, theirs = compared_pair(watched)
    return ours.model.name, None if theirs is None else theirs.model.name


def split_clips(watched: Sequence[Record], *, device: str, source: str | None = None) -> Iterator[Clip]:
    """Play the chosen videos as they were tested; a video over which windows slide is shown by its middle window.

    Args:
        watched: runs of different models on one fold.
        device: to play on.
        source: the store of the runs, if it has moved.

    Raises:
        FileNotFoundError: the store or a checkpoint is missing.
        ValueError: the store is not the one that the runs were tested on.
    """
    ours, theirs = compared_pair(watched)
    changes = {"device": device} | ({} if source is None else {"source": source})
    test = open_splits(ours.record.config.with_settings(changes))["test"]
    middle = middle_clips(test)
    identity = SourceRecord.of(ours.record.config, test).identity
    if identity != ours.record.source.identity or len(middle) != len(ours.test.correct):
        raise ValueError(
            f"{source or ours.record.config.task.source} is not the store that {ours.run.path} was tested on: name "
            "that store with --source"
        )
    choices = choose_videos(ours.test.correct, (theirs or ours).test.correct, _names(watched))
    clips = middle[[choice.video for choice in choices]].tolist()
    models = [play_as_tested(record, record.record.config.with_settings(changes), test, clips) for record in watched]
    for choice, clip in zip(choices, clips, strict=True):
        yield Clip(choice.group, tuple(played[clip] for played in models))


def video_clips(
    watched: Sequence[Record], videos: Sequence[Path], *, weights: Path | None, device: str
) -> Iterator[Clip]:
    """Play whole video files, whose classes are unknown; unreadable ones are left out and named.

    Raises:
        ValueError: the runs' features were not made from videos, or no video can be read.
        WeightsError: the weights are missing, or did not make the runs' features.
    """
    models = [
        load(record.run.path, weights=weights, device=device) for record in watched if not record.model.needs_actor
    ]
    found = False
    for features in models[0].features(videos, None, "whole", in_processes=True):  # of all models
        if isinstance(features, VideoError):
            print(f"skipped: {features}", file=sys.stderr)
            continue
        found = True
        played = [model.judge(features, "whole").played for model in models]
        yield Clip(YOURS, tuple(one for one in played if one is not None))
    if not found:
        raise ValueError(f"none of the {len(videos)} videos could be read")


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
    progress = tqdm(rollouts, desc=record.model.name, total=batches, disable=not shows_bars(), leave=False)
    for batch, (rollout, _) in enumerate(progress):
        episodes = Played(model=record.model, rollout=rollout, source=envs.source)
        first = batch * EVALUATION_ENVS
        for clip in clips:
            if first <= clip < first + EVALUATION_ENVS:
                played[clip] = episodes.only(clip - first)
    return played
