"""The clips of a report: which videos are shown, chosen by a rule, and what each arm saw of them.

The rule, from the run's own test split, where each arm has every video right or wrong: the first two videos that the
learned policy has right and its rival wrong, the first two the other way round, the first that both have right and the
first that both have wrong, in the order of the split. What a group lacks is made up for by the next ones, from the last
on again by the first. The rival is soft attention where the run has it, or else the first control of `RIVALS` that it
has. Nobody picks a clip because it looks good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from glimpse_env import ClipSource

from ..learning.config import Config
from ..pictures.movies import animation, encode_gif, readable_rate
from ..pictures.strips import Played, arm_name, comparison_strip, png, truth_of
from ..playing.envs import greedy_manner, make_envs, open_splits, videos_of
from ..playing.evaluation import middle_clips, play_split
from ..playing.rollout import Looking
from ..runs.results import EVALUATION_ENVS, best_policy

RIVALS: tuple[Looking, ...] = (
    "soft", "soft_hidden", "soft_top", "gumbel", "random", "centre", "all", "mean", "max", "unlimited", "oracle"
)  # fmt: skip

Right = Sequence[bool]  # of each video of the test split, whether an arm has it right


@dataclass(frozen=True)
class Choice:
    """A video that is shown, by its place in the test split, and the group that it stands for."""

    video: int
    group: str


@dataclass(frozen=True, kw_only=True)
class DrawnClip:
    """A clip as the arms saw it.

    Attributes:
        choice: why it is shown.
        clip_id, truth: what it is, and what is in it.
        arms: names of the arms, from top to bottom or left to right.
        strip: PNG file.
        pictures: all frames, (height, width, 3) RGB each.
        frames_per_second: to show them at.
        gif: GIF file of them.
    """

    choice: Choice
    clip_id: str
    truth: str
    arms: tuple[str, ...]
    strip: bytes
    pictures: list[NDArray[np.uint8]]
    frames_per_second: float
    gif: bytes


def rival_of(arms: Sequence[str]) -> Looking | None:
    """Return the arm that the learned policy is compared with, or None where it has no controls."""
    return next((arm for arm in RIVALS if arm in arms), None)


def choose_videos(learned: Right, rival: Right | None = None, *, rival_name: str = "soft") -> list[Choice]:
    """Choose the videos to show, by the rule at the top of this module.

    Args:
        learned: of REINFORCE.
        rival: of the other arm; without one, three videos that are right and three that are wrong.
        rival_name: what it is called.
    """
    ours = np.asarray(learned, np.bool_)
    if rival is None:
        return _drawn([("REINFORCE right", ours, 3), ("REINFORCE wrong", ~ours, 3)])
    theirs = np.asarray(rival, np.bool_)
    groups = [
        (f"REINFORCE right, {rival_name} wrong", ours & ~theirs, 2),
        (f"REINFORCE wrong, {rival_name} right", ~ours & theirs, 2),
        (f"REINFORCE and {rival_name} right", ours & theirs, 1),
        (f"REINFORCE and {rival_name} wrong", ~ours & ~theirs, 1),
    ]
    return _drawn(groups)


def rule(arms: Sequence[str]) -> str:
    """Say for reading by which rule the videos of a run with these arms are chosen."""
    rival = rival_of(arms)
    if rival is None:
        chosen = "the first three videos of the test split that REINFORCE gets right, and the first three that it gets "
        return f"{chosen}wrong; what one of the two lacks is made up for by the other."
    name = arm_name(rival)
    return (
        f"in the order of the test split, the first two videos that REINFORCE gets right and {name} wrong, the first "
        f"two that REINFORCE gets wrong and {name} right, the first that both get right, and the first that both get "
        "wrong; what a group lacks is made up for by the next ones, from the last on again by the first."
    )


def draw_clips(
    config: Config, run: Path, correct: dict[str, Right], *, device: str, source: str | None = None
) -> Iterator[DrawnClip]:
    """Play the chosen videos as they were tested, by the learned policy, its rival and random glimpses, and draw them.

    A video over which windows slide is shown by its middle window.

    Args:
        config: of the run.
        run: its folder.
        correct: by arm, as in its evaluation.json.
        device: to play on.
        source: the feature store, where it is not any more where the run says.

    Raises:
        FileNotFoundError: the store or a checkpoint is not there.
        ValueError: the store is not the one that the run was tested on, by its number of videos.
    """
    config = dataclasses.replace(config, device=device, source=source or config.source)
    test = open_splits(config)["test"]
    if videos_of(test).num_clips != len(correct["learned"]):
        raise ValueError(
            f"{config.source} has {videos_of(test).num_clips} test videos, and the run was tested on "
            f"{len(correct['learned'])}: name the run's own store with --source"
        )
    rival = rival_of(config.controls)
    theirs = None if rival is None else correct[rival]
    choices = choose_videos(correct["learned"], theirs, rival_name=arm_name(rival or ""))
    clips = middle_clips(test)[[choice.video for choice in choices]].tolist()
    shown = [arm for arm in config.arms if arm in ("learned", rival, "random")]
    arms = [play_as_tested(config, run, test, clips, looking) for looking in shown]
    for choice, clip in zip(choices, clips, strict=True):
        yield _draw(choice, [played[clip] for played in arms])


def play_as_tested(
    config: Config, run: Path, test: ClipSource, clips: list[int], looking: Looking
) -> dict[int, Played]:
    """Play the test split once more up to the last of the clips, so that random glimpses are those of the test.

    Returns:
        by clip its one episode.
    """
    envs = make_envs(config, test, EVALUATION_ENVS, train=False, looking=looking)
    policy, manner = best_policy(config, run, test, looking), greedy_manner(config, looking)
    batches = max(clips) // EVALUATION_ENVS + 1
    played: dict[int, Played] = {}
    rollouts = islice(play_split(envs, policy, manner, seed=config.seed), batches)
    for batch, (rollout, _) in enumerate(tqdm(rollouts, desc=looking, total=batches, disable=None, leave=False)):
        episodes = Played.just_now(envs, rollout, looking)
        first = batch * EVALUATION_ENVS
        for clip in clips:
            if first <= clip < first + EVALUATION_ENVS:
                played[clip] = episodes.only(clip - first)
    return played


def _draw(choice: Choice, arms: Sequence[Played]) -> DrawnClip:
    """Draw one clip, of which each arm has played one episode."""
    pictures = animation(arms, 0)
    rate = readable_rate(arms[0].source.frames_per_second)
    return DrawnClip(
        choice=choice,
        clip_id=arms[0].clip_id(0),
        truth=truth_of(arms[0], 0),
        arms=tuple(arm_name(played.looking) for played in arms),
        strip=png(comparison_strip(arms, 0)),
        pictures=pictures,
        frames_per_second=rate,
        gif=encode_gif(pictures, rate),
    )


def _drawn(groups: Sequence[tuple[str, NDArray[np.bool_], int]]) -> list[Choice]:
    """Take from each group its number of videos and what the groups before it lacked."""
    left = {name: np.flatnonzero(members).tolist() for name, members, _ in groups}
    taken: dict[str, list[int]] = {name: [] for name in left}
    lacking = 0
    for name, quota in [(name, quota) for name, _, quota in groups] + [(name, 0) for name in left]:
        wanted = quota + lacking
        taken[name] += left[name][:wanted]
        lacking = max(0, wanted - len(left[name]))
        del left[name][:wanted]
    return [Choice(video, name) for name, videos in taken.items() for video in videos]
