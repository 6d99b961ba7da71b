"""Stable-Baselines3 on VideoGlimpse: its kind of vector environment, and feature extractors for slices and cubes.

    from sb3_contrib import RecurrentPPO
    from glimpse_env.sb3 import GlimpseVecEnv, SliceFeatures

    envs = GlimpseVecEnv(64, observation="slices")
    model = RecurrentPPO("MlpLstmPolicy", envs, gamma=1.0, policy_kwargs={"features_extractor_class": SliceFeatures})
    model.learn(1_000_000)

Set gamma to 1: the only reward comes at the end of an episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn
from typing_extensions import Unpack

from glimpse_env import EpisodeArguments, VideoGlimpseVectorEnv
from glimpse_env.env import info_of
from glimpse_env.sources.protocol import Array, Index
from glimpse_env.wrappers import FrameShares


class GlimpseVecEnv(VecEnv):
    """N episodes as a Stable-Baselines3 `VecEnv`, stepped by the native vector environment without N Python objects.

    An episode that ends is followed by a new one in the same step; the infos of that step are those of the end, with
    `terminal_observation`. Nothing is ever truncated. Observations are fresh arrays, since Stable-Baselines3 keeps the
    last one while it steps.

    Args:
        num_envs: N.
        render_mode: "rgb_array" or None.
        episode: as for `VideoGlimpseEnv`.

    Raises:
        TypeError: `episode` holds another argument of the vector environment.
    """

    def __init__(
        self, num_envs: int = 1, *, render_mode: str | None = None, **episode: Unpack[EpisodeArguments]
    ) -> None:
        if fixed := sorted(episode.keys() & {"autoreset_mode", "copy", "max_episode_steps"}):
            raise TypeError(
                f"{', '.join(fixed)} cannot be set: Stable-Baselines3 needs whole episodes and fresh arrays"
            )
        self.envs = VideoGlimpseVectorEnv(
            num_envs, autoreset_mode=AutoresetMode.SAME_STEP, render_mode=render_mode, **episode
        )
        self._actions: Index | None = None
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)
        self.metadata = self.envs.metadata

    def reset(self) -> Array:
        """Start an episode everywhere, with the last `seed` and `set_options`."""
        chosen = [options["clip"] for options in self._options if "clip" in options]
        if len(chosen) not in (0, self.num_envs) or any(set(options) - {"clip"} for options in self._options):
            raise ValueError(f"options must be a clip for every environment or for none, got {self._options}")
        observations, infos = self.envs.reset(seed=self._seeds, options={"clip": np.array(chosen)} if chosen else None)
        self.reset_infos = _rows(infos, range(self.num_envs))
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Index) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Array, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        assert self._actions is not None, "step_async comes first"
        observations, rewards, dones, _, infos = self.envs.step(self._actions)
        rows = _rows(infos, range(self.num_envs))
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            for env, final in zip(ended, _rows(infos["final_info"], ended), strict=True):
                self.reset_infos[env] = rows[env]
                rows[env] = final | {"terminal_observation": infos["final_obs"][env]}
        for row in rows:
            row["TimeLimit.truncated"] = False
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return self.envs.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return the attribute of the vector environment for each of `indices`; spaces are those of one episode."""
        is_space = attr_name in ("action_space", "observation_space")
        value = getattr(self if is_space else self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Raise AttributeError: the rules are fixed when the environments are made."""
        raise AttributeError(f"{attr_name} cannot be set: pass it to GlimpseVecEnv when it is made")

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Return the rows of `action_masks`, which sb3-contrib's MaskablePPO asks for; refuse other methods."""
        if method_name != "action_masks":
            raise AttributeError(f"{method_name} cannot be called on single environments: use .envs, the vector one")
        masks = self.envs.action_masks()
        return [masks[env] for env in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class FrameRewards(VecEnvWrapper):
    """Pay every prediction its share of r_T in the step that makes it (`glimpse_env.wrappers.FrameShares`).

    Args:
        venv: a `GlimpseVecEnv`, itself or in wrappers that leave rewards as they are.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        if unwrap_vec_wrapper(venv, VecNormalize) is not None:
            raise ValueError("FrameRewards needs the rewards as they are: put VecNormalize around it, not inside")
        engine = venv.get_attr("engine")[0]
        if engine.num_envs != venv.num_envs:
            raise ValueError("FrameRewards wraps a GlimpseVecEnv: wrap others' environments in wrappers.FrameRewards")
        self._shares = FrameShares(engine)

    def reset(self) -> Array:
        observations = self.venv.reset()
        self._shares.restart()
        return observations  # type: ignore[return-value]

    def step_wait(self) -> tuple[Array, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, self._shares.pay(rewards, dones).astype(np.float32), dones, infos  # type: ignore[return-value]


def _rows(infos: dict[str, Any], envs: Iterable[int]) -> list[dict[str, Any]]:
    # Gymnasium's infos of arrays as one dictionary for each of `envs`.
    keys = [key for key in infos if not key.startswith("_") and not key.startswith("final_")]
    return [{key: info_of(infos[key], env) for key in keys} for env in envs]


class SliceFeatures(BaseFeaturesExtractor):
    """Embed each row of a "slices" observation with its place, and sum over the looks.

    (N, m, D + 2) -> (N, features_dim). Rows of zeros, which are no looks, add nothing.
    """

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        self.embed = nn.Linear(observation_space.shape[1], features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        is_look = observations[..., -1:] > 0  # a place is never 0
        return (F.relu(self.embed(observations)) * is_look).sum(1)


class CubeFeatures(BaseFeaturesExtractor):
    """Embed each slice of a "glimpsed" or "cube" observation with its cell, and sum over the slices that are not zero.

    (N, K, K, D) -> (N, features_dim).
    """

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        size, _, depth = observation_space.shape
        self.what = nn.Linear(depth, features_dim)
        self.where = nn.Parameter(torch.randn(size * size, features_dim) * 0.1)

    def forward(self, observations: Tensor) -> Tensor:
        slices = observations.flatten(1, 2)  # (N, K, K, D) -> (N, K*K, D)
        is_seen = (slices != 0).any(-1, keepdim=True)
        return (F.relu(self.what(slices) + self.where) * is_seen).sum(1)
