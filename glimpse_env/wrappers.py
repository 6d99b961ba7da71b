"""Wrappers that change actions, observations, rewards or statistics; Gymnasium's own wrappers do the rest.

Names with `Vector` wrap the vector environment. The others wrap the single one, and go into
`gym.make_vec(..., vectorization_mode="sync", wrappers=[...])` too.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics
from numpy.typing import NDArray

from glimpse_env.engine import EpisodeEngine
from glimpse_env.sources.protocol import Array, Index

_MOST_ACTIONS = 2**20  # an output layer with more is a mistake: five looks of 49 and 8 classes make 2 * 10**9
_Env = gym.Env[Array, Index]
_Step = tuple[Array, Any, bool, bool, dict[str, Any]]
_Wrapper = gym.Wrapper[Array, Index, Array, Index]


class DiscreteAction(gym.ActionWrapper[Array, np.int64, Index], RecordConstructorArgs):
    """One number for the whole action, for DQN and its kind: `cell * C + class` with one glimpse and no jumps."""

    def __init__(self, env: _Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._counts = tuple(_multi_discrete(env).nvec.tolist())
        actions = prod(self._counts)
        if actions > _MOST_ACTIONS:
            raise ValueError(f"{actions} actions are too many for one Discrete space: use glimpses=1")
        self.action_space = spaces.Discrete(actions)

    def action(self, action: np.int64) -> Index:
        is_integer = isinstance(action, (int, np.integer)) and not isinstance(action, bool)
        if not is_integer or not 0 <= action < prod(self._counts):
            raise ValueError(f"an action must be an integer from 0 to {prod(self._counts) - 1}, got {action!r}")
        return np.array(np.unravel_index(action, self._counts), np.int64)


class TupleAction(gym.ActionWrapper[Array, tuple[Any, ...], Index], RecordConstructorArgs):
    """Cells and class apart, `(cells, class)`, as in the paper's a_n = (l_{n+1}, p_n).

    With jumps it is `(cells, jump, class)`.
    """

    def __init__(self, env: _Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        counts = _multi_discrete(env).nvec
        jumps = _engine_of(env, "TupleAction splits the actions of").rules.jumps
        self._names = ("cells", "class") if jumps is None else ("cells", "jump", "class")
        cells = len(counts) + 1 - len(self._names)
        self.action_space = spaces.Tuple((spaces.MultiDiscrete(counts[:cells]), *map(spaces.Discrete, counts[cells:])))

    def action(self, action: tuple[Any, ...]) -> Index:
        if not isinstance(action, (tuple, list)) or len(action) != len(self._names):
            raise ValueError(f"an action must be ({', '.join(self._names)}), got {action!r}")
        return np.hstack(action)


class _Appended(gym.ObservationWrapper[Array, Index, Array], RecordConstructorArgs):
    # A flat observation with `width` more numbers from 0 to 1.

    def __init__(self, env: _Env, width: int) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"the observation must be a flat Box, got {space}: wrap the environment in "
                "gymnasium.wrappers.FlattenObservation first"
            )
        low, high = np.append(space.low, np.zeros(width)), np.append(space.high, np.ones(width))
        dtype: Any = space.dtype
        self.observation_space = spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


class PreviousAction(_Appended):
    """Append the previous action to a flat observation, one-hot part by part; zeros after a reset."""

    def __init__(self, env: _Env) -> None:
        self._previous = np.zeros(spaces.flatdim(env.action_space))
        super().__init__(env, len(self._previous))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Any]:
        self._previous = np.zeros_like(self._previous)
        return super().reset(seed=seed, options=options)

    def step(self, action: Index) -> _Step:
        self._previous = np.asarray(spaces.flatten(self.env.action_space, action))
        return super().step(action)

    def observation(self, observation: Array) -> Array:
        return np.append(observation, self._previous.astype(observation.dtype))


class TimeLeft(_Appended):
    """Append the share of the episode's frames still to come to a flat observation: 1 at first, 0 at the end.

    Gymnasium's TimeAwareObservation needs a time limit, and these episodes end by themselves.
    """

    def __init__(self, env: _Env) -> None:
        self._engine = _engine_of(env, "TimeLeft counts the frames of")
        super().__init__(env, 1)

    def observation(self, observation: Array) -> Array:
        frames = self._engine.rules.frames  # not the calls of step: a wrapper may repeat actions
        left = 0.0 if self._engine.done[0] else (frames + 1 - int(self._engine.frame[0])) / frames
        return np.append(observation, np.asarray([left], observation.dtype))


class EpisodeStatistics(RecordEpisodeStatistics):
    """Gymnasium's episode statistics with the looks: `info["episode"]["g"]`, and `glimpses_queue` of the last ones."""

    def __init__(self, env: _Env, buffer_length: int = 100, stats_key: str = "episode") -> None:
        super().__init__(env, buffer_length=buffer_length, stats_key=stats_key)
        _engine_of(env, "EpisodeStatistics counts the looks of")
        self._key = stats_key
        self.glimpses_queue: deque[int] = deque(maxlen=buffer_length)

    def step(self, action: Index) -> _Step:
        observation, reward, terminated, truncated, info = super().step(action)
        if self._key in info:
            info[self._key]["g"] = int(info["glimpses"])
            self.glimpses_queue.append(int(info["glimpses"]))
        return observation, reward, terminated, truncated, info


class VectorEpisodeStatistics(VectorRecordEpisodeStatistics):
    """Gymnasium's statistics of a vector environment with the looks: `infos["episode"]["g"]`, (N,), and
    `glimpses_queue`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], buffer_length: int = 100) -> None:
        super().__init__(env, buffer_length=buffer_length)
        self.glimpses_queue: deque[int] = deque(maxlen=buffer_length)

    def step(self, actions: Index) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = super().step(actions)
        if "episode" in infos:
            ended = infos["_episode"]
            infos["episode"]["g"] = infos.get("final_info", infos)["glimpses"]
            self.glimpses_queue.extend(infos["episode"]["g"][ended].tolist())
            if self.env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
                # Before 1.3, Gymnasium did not count the first step of the episodes that begin in this step.
                self.episode_returns[ended], self.episode_lengths[ended] = 0, 0
                self.prev_dones = np.zeros_like(ended)
        return observations, rewards, terminations, truncations, infos


class FrameShares:
    """Shares of r_T, paid in the step that makes a prediction instead of all at the end.

    With frame matching r_T is a sum over frames, so an episode's return stays the same, and the credit comes sooner. A
    prediction is paid for all frames that it stands for. Costs of looks and of frames are paid at the end. Segment
    matching gives a prediction no share of its own, and is refused.
    """

    def __init__(self, engine: EpisodeEngine) -> None:
        if engine.rules.matching != "frame":
            raise ValueError(f"matching must be 'frame' to pay frame by frame, got {engine.rules.matching!r}")
        self._engine, self.num_frames = engine, engine.rules.frames
        self.restart()

    def restart(self) -> None:
        """Start the payments of episodes that a reset has begun."""
        self._paid = self._engine.earned()

    def pay(self, rewards: Any, terminations: Any) -> NDArray[np.float64]:
        """Return the (N,) shares of a step with `rewards` and `terminations`."""
        earned, paid = self._engine.earned(), self._paid
        has_begun = self._engine.steps() == 0  # in this step: after a truncation, nothing is taken back
        self._paid = earned
        return np.where(terminations, rewards - paid, np.where(has_begun, 0.0, earned - paid))


class FrameRewards(_Wrapper, RecordConstructorArgs):
    """Pay every prediction its share of r_T in the step that makes it (`FrameShares`)."""

    def __init__(self, env: _Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._shares = FrameShares(_engine_of(env, "FrameRewards pays for predictions of"))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Any]:
        result = self.env.reset(seed=seed, options=options)
        self._shares.restart()
        return result

    def step(self, action: Index) -> _Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(self._shares.pay(reward, terminated)[0]), terminated, truncated, info


class VectorFrameRewards(VectorWrapper):
    """Pay every prediction its share of r_T in the step that makes it (`FrameShares`).

    Raises:
        TypeError: the environment is no VideoGlimpseVectorEnv.
        ValueError: it truncates episodes in SAME_STEP mode, whose last share is lost when the next episode begins.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._shares = FrameShares(_engine_of(env, "VectorFrameRewards pays for predictions of"))
        limit = getattr(env.unwrapped, "max_episode_steps", None)
        if (
            limit is not None
            and limit < self._shares.num_frames
            and env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        ):
            raise ValueError(
                f"episodes that are truncated after {limit} steps cannot be paid frame by frame with autoreset_mode "
                "'SameStep': leave max_episode_steps out, or take another mode"
            )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._shares.restart()
        return result

    def step(self, actions: Index) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        return observations, self._shares.pay(rewards, terminations), terminations, truncations, infos


def _engine_of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], purpose: str) -> EpisodeEngine:
    engine, kind = getattr(env.unwrapped, "engine", None), "Env" if isinstance(env, gym.Env) else "VectorEnv"
    if not isinstance(engine, EpisodeEngine):
        raise TypeError(f"{purpose} a VideoGlimpse{kind}, got {env.unwrapped}")
    return engine


def _multi_discrete(env: gym.Env[Any, Any]) -> spaces.MultiDiscrete:
    if not isinstance(env.action_space, spaces.MultiDiscrete):
        raise ValueError(f"the action space must be MultiDiscrete, got {env.action_space}")
    return env.action_space
