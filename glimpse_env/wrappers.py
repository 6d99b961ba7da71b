"""Other shapes of the same episodes, for algorithms that want them; Gymnasium's own wrappers do the rest.

All but `VectorEpisodeStatistics` wrap the single environment, and go into `gym.make_vec(..., vectorization_mode="sync",
wrappers=[...])` too.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics
from numpy.typing import NDArray

from glimpse_env.env import VideoGlimpseEnv

_MOST_ACTIONS = 2**20  # an output layer with more is a mistake: five looks of 49 and 8 classes make 2 * 10**9


class DiscreteAction(gym.ActionWrapper[NDArray[Any], np.int64, NDArray[np.int64]], RecordConstructorArgs):
    """One number for cells and class together, as DQN and its kind want: `cell * C + class` if glimpses is 1.

    Raises:
        ValueError: the action space is no MultiDiscrete, or has more than 2**20 actions.
    """

    def __init__(self, env: gym.Env[NDArray[Any], NDArray[np.int64]]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        counts = _multi_discrete(env).nvec
        actions = prod(counts.tolist())
        if actions > _MOST_ACTIONS:
            raise ValueError(f"{actions} actions are too many for one Discrete space: use glimpses=1")
        self.action_space = spaces.Discrete(actions)
        self._counts = tuple(counts.tolist())

    def action(self, action: np.int64) -> NDArray[np.int64]:
        is_integer = isinstance(action, (int, np.integer)) and not isinstance(action, bool)
        if not is_integer or not 0 <= action < prod(self._counts):
            raise ValueError(f"an action must be an integer from 0 to {prod(self._counts) - 1}, got {action!r}")
        return np.array(np.unravel_index(action, self._counts), np.int64)


class TupleAction(gym.ActionWrapper[NDArray[Any], tuple[Any, ...], NDArray[np.int64]], RecordConstructorArgs):
    """Where to look and what to say apart: `(cells, class)`, as in the paper's a_n = (l_{n+1}, p_n).

    Raises:
        ValueError: the action space is no MultiDiscrete.
    """

    def __init__(self, env: gym.Env[NDArray[Any], NDArray[np.int64]]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        counts = _multi_discrete(env).nvec
        self.action_space = spaces.Tuple((spaces.MultiDiscrete(counts[:-1]), spaces.Discrete(counts[-1])))

    def action(self, action: tuple[Any, ...]) -> NDArray[np.int64]:
        if not isinstance(action, (tuple, list)) or len(action) != 2:
            raise ValueError(f"an action must be (cells, class), got {action!r}")
        looks, prediction = action
        return np.append(looks, prediction)


class PreviousAction(
    gym.Wrapper[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]], RecordConstructorArgs
):
    """Append the previous action to a flat observation, one-hot part by part; zeros after a reset.

    Raises:
        ValueError: the observation is not flat.
    """

    def __init__(self, env: gym.Env[NDArray[Any], NDArray[np.int64]]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._width = spaces.flatdim(env.action_space)
        self.observation_space = _longer(env, np.zeros(self._width), np.ones(self._width))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], Any]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.append(observation, np.zeros(self._width, observation.dtype)), info

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        previous = np.asarray(spaces.flatten(self.env.action_space, action), observation.dtype)
        return np.append(observation, previous), reward, terminated, truncated, info


class TimeLeft(gym.Wrapper[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]], RecordConstructorArgs):
    """Append the share of the episode's steps that are still to come to a flat observation: 1 at first, 0 at the end.

    Gymnasium's TimeAwareObservation needs a time limit, and these episodes end by themselves.

    Raises:
        TypeError: the environment is another one.
        ValueError: the observation is not flat.
    """

    def __init__(self, env: gym.Env[NDArray[Any], NDArray[np.int64]]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.unwrapped, VideoGlimpseEnv):
            raise TypeError(f"TimeLeft counts the frames of a VideoGlimpseEnv, got {env.unwrapped}")
        self._engine = env.unwrapped.engine
        self.observation_space = _longer(env, np.zeros(1), np.ones(1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], Any]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._append(observation), info

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._append(observation), reward, terminated, truncated, info

    def _append(self, observation: NDArray[Any]) -> NDArray[Any]:
        frames = self._engine.rules.frames
        left = frames + 1 - int(self._engine.frame[0]) - int(self._engine.done[0])  # also if a wrapper repeats actions
        return np.append(observation, np.asarray([left / frames], observation.dtype))


class EpisodeStatistics(RecordEpisodeStatistics):
    """Gymnasium's episode statistics with the looks: `info["episode"]["g"]`, and `glimpses_queue` of the last ones."""

    def __init__(
        self,
        env: gym.Env[NDArray[Any], NDArray[np.int64]],
        buffer_length: int = 100,
        stats_key: str = "episode",
    ) -> None:
        super().__init__(env, buffer_length=buffer_length, stats_key=stats_key)
        if not isinstance(env.unwrapped, VideoGlimpseEnv):
            raise TypeError(f"EpisodeStatistics counts the looks of a VideoGlimpseEnv, got {env.unwrapped}")
        self._key = stats_key
        self.glimpses_queue: deque[int] = deque(maxlen=buffer_length)

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._key in info:
            info[self._key]["g"] = info["glimpses"]
            self.glimpses_queue.append(info["glimpses"])
        return observation, reward, terminated, truncated, info


class VectorEpisodeStatistics(VectorRecordEpisodeStatistics):
    """Gymnasium's episode statistics of a vector environment with the looks: `infos["episode"]["g"]`, (N,), and
    `glimpses_queue` of the last ones.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], buffer_length: int = 100) -> None:
        super().__init__(env, buffer_length=buffer_length)
        self.glimpses_queue: deque[int] = deque(maxlen=buffer_length)

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = super().step(actions)
        if "episode" in infos:
            infos["episode"]["g"] = infos.get("final_info", infos)["glimpses"]
            self.glimpses_queue.extend(infos["episode"]["g"][infos["_episode"]].tolist())
        return observations, rewards, terminations, truncations, infos


def _multi_discrete(env: gym.Env[Any, Any]) -> spaces.MultiDiscrete:
    if not isinstance(env.action_space, spaces.MultiDiscrete):
        raise ValueError(f"the action space must be MultiDiscrete, got {env.action_space}")
    return env.action_space


def _longer(env: gym.Env[Any, Any], low: NDArray[Any], high: NDArray[Any]) -> spaces.Box:
    """Return the flat observation space of `env` with values within `low` and `high` appended."""
    space = env.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"the observation must be a flat Box, got {space}: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation first"
        )
    dtype: Any = space.dtype
    return spaces.Box(np.append(space.low, low).astype(dtype), np.append(space.high, high).astype(dtype), dtype=dtype)
