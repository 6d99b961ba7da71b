"""The vector environment of `VideoGlimpse-v0`: N episodes in one process; `glimpse_env.env` says what an episode is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from typing_extensions import Unpack

from glimpse_env.env import RENDER_MODES, EpisodeArguments, build_engine, check_options
from glimpse_env.rendering import check_render_mode, render_engine


class VideoGlimpseVectorEnv(VectorEnv[NDArray[Any], NDArray[np.int64], NDArray[Any]]):
    """N episodes in one process, advanced together by array operations.

    Environment i of N plays exactly what a single environment seeded with `seed + i` plays (the rule of Gymnasium's
    `SyncVectorEnv`), and infos are arrays with `_key` masks, as Gymnasium's.

    Args:
        num_envs: N.
        autoreset_mode: a `gymnasium.vector.AutoresetMode` or its value, which a spec can hold as JSON; with DISABLED,
            finished episodes are started again by `reset(options={"reset_mask": mask})`.
        copy: False returns the same observation array from every call: read it before the next one, and do not write
            into it, since only the slices that were shown are cleared.
        Others: as for `VideoGlimpseEnv`.
    """

    metadata: dict[str, Any]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        render_mode: str | None = None,
        **episode: Unpack[EpisodeArguments],
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs must be a positive integer, got {num_envs!r}")
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False, got {copy!r}")
        num_envs = int(num_envs)
        check_render_mode(render_mode, RENDER_MODES)
        self.render_mode, self.num_envs, self.copy = render_mode, num_envs, copy
        modes = [mode.value for mode in AutoresetMode]
        if getattr(autoreset_mode, "value", autoreset_mode) not in modes:
            raise ValueError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": 10, "autoreset_mode": self.autoreset_mode}
        self.engine = build_engine(num_envs, **episode)
        self.source = self.engine.source
        self.num_clips, self.class_names = self.source.num_clips, self.source.class_names
        self.single_observation_space = self.engine.rules.observation_space(self.source)
        self.single_action_space = self.engine.rules.action_space(self.source)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._shared = None if copy else self.engine.blank()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The N generators, one for each environment."""
        self._seed(None)
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The N seeds that the generators were last made from."""
        self._seed(None)
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start episodes in all environments, or in those of `options["reset_mask"]`, (N,) bool.

        Args:
            seed: an integer s seeds environment i with s + i; a sequence has one seed, or None, for each.
            options: `clip`, one index or an (N,) array of them, and `reset_mask`; never changed.

        Raises:
            IndexError, TypeError, ValueError: an option is unknown or of the wrong shape, or there is no such clip.
        """
        options = check_options(options, {"clip", "reset_mask"})
        mask = self._reset_mask(options.get("reset_mask"))
        clips = self._clips(options.get("clip"), mask)
        self._seed(seed, mask)
        self._erase()
        self._begin(mask, clips)
        return self._observe(), self._infos(mask)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play N integer actions, one a row; an environment that is due for its autoreset ignores its own.

        Raises:
            gymnasium.error.ResetNeeded: an environment has no episode under way and is not reset by itself.
            TypeError, ValueError: an action is not in the action space.
        """
        engine = self.engine
        acting = ~engine.done
        if (engine.frame == 0).any():
            raise ResetNeeded("no episode is under way: call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and not acting.all():
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(~acting).tolist()} are over: with autoreset_mode "
                "'Disabled' call reset(options={'reset_mask': mask}) for them first"
            )
        checked = engine.check_actions(actions, acting)
        self._erase()
        rewards = engine.advance(checked, acting)
        self._begin(~acting, None)
        terminations = engine.done.copy()
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and terminations.any():
            infos = self._final(terminations)
            self._begin(terminations, None)
        infos |= self._infos(np.ones(self.num_envs, np.bool_))
        return self._observe(), rewards, terminations, np.zeros(self.num_envs, np.bool_), infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture, (height, width, 3), for each environment."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render mode: pass render_mode='rgb_array' to gym.make_vec")
            return None
        return tuple(render_engine(self.engine, env) for env in range(self.num_envs))

    def _seed(self, seed: int | Sequence[int | None] | None, mask: NDArray[np.bool_] | None = None) -> None:
        if seed is not None and not isinstance(seed, (int, np.integer)):
            if not hasattr(seed, "__len__"):
                raise TypeError(f"seed must be None, an integer or {self.num_envs} of these, got {seed!r}")
            if len(seed) != self.num_envs:
                raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seed)}")
        if not self._generators:
            made = [seeding.np_random() for _ in range(self.num_envs)]
            self._generators, self._seeds = [pair[0] for pair in made], [pair[1] for pair in made]
        accepted = {}
        for env in range(self.num_envs):
            own = seed if seed is None else int(seed) + env if isinstance(seed, (int, np.integer)) else seed[env]
            if own is not None and (mask is None or mask[env]):
                accepted[env] = seeding.np_random(own)
        for env, pair in accepted.items():  # only after all seeds were accepted
            self._generators[env], self._seeds[env] = pair

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {found}")
        if not mask.any():
            raise ValueError("options['reset_mask'] chooses no environment: set at least one True")
        return mask

    def _clips(self, clip: Any, mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
        if clip is None:
            return None
        clips = np.asarray(clip)
        if clips.dtype.kind not in "iu" or clips.shape not in ((), (self.num_envs,)):
            raise ValueError(
                f"options['clip'] must be an integer or ({self.num_envs},) integers, got {clips.dtype} {clips.shape}"
            )
        clips = np.broadcast_to(clips, (self.num_envs,)).astype(np.int64)
        for chosen in np.unique(clips[mask]).tolist():
            self.engine.check_clip(chosen)
        return clips

    def _begin(self, mask: NDArray[np.bool_], clips: NDArray[np.int64] | None) -> None:
        for env in np.flatnonzero(mask):
            generator = self._generators[env]
            clip = generator.integers(self.num_clips) if clips is None else clips[env]
            self.engine.begin(int(env), int(clip), generator)

    def _erase(self) -> None:
        if self._shared is not None:
            self.engine.erase(self._shared)

    def _observe(self) -> NDArray[Any]:
        observations = self.engine.blank() if self._shared is None else self._shared
        self.engine.observe(observations)
        return observations

    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        done = self.engine.done & mask
        final = _masked(self.engine.final_info(), done) if done.any() else {}
        return _masked(self.engine.info(), mask) | final

    def _final(self, done: NDArray[np.bool_]) -> dict[str, Any]:
        observations = np.full(self.num_envs, None, object)
        for env in np.flatnonzero(done):
            observations[env] = np.zeros(self.engine.observation_shape, self.engine.rules.dtype)
        infos = _masked(self.engine.info(), done) | _masked(self.engine.final_info(), done)
        return {
            "final_obs": observations,
            "_final_obs": done.copy(),
            "final_info": infos,
            "_final_info": done.copy(),
        }


def _masked(values: dict[str, NDArray[Any]], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Blank the rows outside the mask and add the mask of each array, as in Gymnasium's vector infos."""
    infos: dict[str, Any] = {}
    for key, array in values.items():
        array[~mask] = None if array.dtype == object else 0
        infos |= {key: array, f"_{key}": mask.copy()}
    return infos
