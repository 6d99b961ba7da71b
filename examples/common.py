"""Parts that the examples share: their command line, the message about a missing library, and a test of an agent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from own_features import FRAMES, make_source

from glimpse_env import ArraySource

Act = Callable[[NDArray[np.float32], int, Any], tuple[NDArray[np.int64], Any]]


@contextmanager
def installed_by(command: str) -> Iterator[None]:
    """End the program in one line that names the command, if an import in this block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: {command}")


def task_parser(description: str, *, steps: int) -> argparse.ArgumentParser:
    """Return a command line with --steps and --seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps, help="Environment steps to train for.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of every random choice.")
    return parser


def make_sources(seed: int, *, grid: int) -> tuple[ArraySource, ArraySource]:
    """Make 2,048 clips to train on and 400 to test on.

    The grid is small because the embedded source takes millions of steps to learn from the reward alone.
    """
    train, test = (np.random.default_rng(seed + part) for part in (0, 1))
    return make_source(train, clips=2048, grid=grid), make_source(test, clips=400, grid=grid)


def play(act: Act, source: ArraySource, **arguments: Any) -> str:
    """Play every clip once in the native vector environment.

    Args:
        act: takes the observations, the number of the frame from 0, and the memory that it returned for the frame
            before (None at first); returns the actions and its memory.
        source: clips to play.
        arguments: of the environment.

    Returns:
        the mean return, and the share of clips whose most frequent prediction is right.
    """
    clips = np.arange(source.num_clips)
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=len(clips), source=source, autoreset_mode="Disabled", **arguments)
    observations, infos = envs.reset(options={"clip": clips})
    rewards, memory = np.zeros(len(clips)), None
    for frame in range(FRAMES):
        actions, memory = act(observations, frame, memory)
        observations, rewards, _, _, infos = envs.step(actions)
    return f"mean return {rewards.mean():.2f}, accuracy {infos['is_correct'].mean():.3f}"
