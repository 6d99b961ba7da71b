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

from glimpse_env import EasySyntheticSource

Act = Callable[[NDArray[np.float32], Any], tuple[NDArray[np.int64], Any]]

TASK = "VideoGlimpseEasy-v0"  # the source synthetic takes millions of steps to learn from the reward alone
FRAMES = EasySyntheticSource.num_frames


@contextmanager
def installed_by(command: str) -> Iterator[None]:
    """End the program in one line that names the command, if an import in this block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: {command}")


def positive_integer(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def task_parser(description: str, *, steps: int) -> argparse.ArgumentParser:
    """Return a command line with --steps and --seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=positive_integer, default=steps, help="Environment steps to train for.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of every random choice.")
    return parser


def play(act: Act) -> str:
    """Play every test clip of the task with the agent's own glimpses, and with random ones.

    Args:
        act: takes the (N, 3, 3, D) observations and the memory that it returned for the frame before (None at first);
            returns (N, 2) actions and its memory.

    Returns:
        the two shares of clips whose most frequent prediction is right, as text.
    """
    envs = gym.make_vec(TASK, num_envs=EasySyntheticSource("test").num_clips, split="test", autoreset_mode="Disabled")
    accuracies, rng = [], np.random.default_rng(0)
    for looks_at_random in (False, True):
        observations, infos = envs.reset(options={"clip": np.arange(envs.num_envs)})
        memory = None
        for _ in range(FRAMES):
            actions, memory = act(observations, memory)
            if looks_at_random:
                actions[:, 0] = rng.integers(0, envs.single_action_space.nvec[0], envs.num_envs)
            observations, _, _, _, infos = envs.step(actions)
        accuracies.append(infos["is_correct"].mean())
    return "accuracy {:.3f}, with random glimpses {:.3f}".format(*accuracies)
