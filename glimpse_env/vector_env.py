"""The vector environment of `VideoGlimpse-v0`: N episodes in one process; `glimpse_env.env` defines an episode."""

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

from glimpse_env.env import EpisodeArguments, build_engine, check_options
from glimpse_env.rendering import check_render_mode, render_engine, render_metadata
from glimpse_env.sources.protocol import Array, Index, refuse_masked


class VideoGlimpseVectorEnv(VectorEnv[Array, Index, Array]):
    """N episodes in one process, advanced together by array operations.

    Environment i of N plays exactly what a single environment seeded with `seed + i` plays (the rule of Gymnasium's
    `SyncVectorEnv`), and infos are arrays with `_key` masks, as Gymnasium's.

    Args:
        num_envs: N.
        autoreset_mode: a `gymnasium.vector.AutoresetMode` or its value, which a spec can hold as JSON. With DISABLED,
            finished episodes are restarted by `reset(options={"reset_mask": mask})`.
        copy: False returns the same observation array from every call: read it before the next one, and do not write
            into it, since only the slices that were shown are cleared.
        max_episode_steps: truncates episodes, as Gymnasium's TimeLimit does; None by default.
        render_mode: "rgb_array" or None.
        episode: as for `VideoGlimpseEnv`.
    """

    metadata: dict[str, Any]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **episode: Unpack[EpisodeArguments],
    ) -> None:
        numbers = {"num_envs": num_envs, "max_episode_steps": 1 if max_episode_steps is None else max_episode_steps}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(copy, bool):
            raise TypeError(f"copy must be True or False, got {copy!r}")
        check_render_mode(render_mode)
        modes = [mode.value for mode in AutoresetMode]
        if getattr(autoreset_mode, "value", autoreset_mode) not in modes:
            raise ValueError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}")
        self.render_mode, self.num_envs, self.copy = render_mode, int(num_envs), copy
        self.autoreset_mode, self.max_episode_steps = AutoresetMode(autoreset_mode), max_episode_steps
        self.engine = build_engine(self.num_envs, episode, "autoreset_mode", "copy", "max_episode_steps", "render_mode")
        self.source = self.engine.source
        self.metadata = render_metadata(self.source) | {"autoreset_mode": self.autoreset_mode}
        self.num_clips, self.class_names = self.source.num_clips, self.source.class_names
        self.single_observation_space = self.engine.observation_space
        self.single_action_space = self.engine.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        made = [seeding.np_random() for _ in range(self.num_envs)]
        self._generators, self._seeds = [pair[0] for pair in made], [pair[1] for pair in made]
        self._shared = None if copy else self.engine.blank()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The N generators, one per environment."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The N seeds of the generators."""
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all environments, or where `options["reset_mask"]`, (N,) bool, is True.

        Args:
            seed: an integer s seeds environment i with s + i; a sequence has one seed, or None, for each.
            options: `clip`, one index or an (N,) array of them, and `reset_mask`; never changed.
        """
        options = check_options(options, {"clip", "reset_mask"})
        mask = self._reset_mask(options.get("reset_mask"))
        clips = self._clips(options.get("clip"), mask)
        self._seed(seed, mask)
        with self.engine.undone_on_error(self._of(mask)):
            self._erase()
            self._begin(mask, clips)
            return self._observe(), _masked(self.engine.info(), mask)

    def step(
        self, actions: Index
    ) -> tuple[Array, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play N integer actions, one a row; an environment that is due for its autoreset ignores its own.

        If the source fails, all episodes stay where they were, and the step can be tried again.

        Raises:
            gymnasium.error.ResetNeeded: an environment has no episode under way and is not reset by itself.
            TypeError, ValueError: an action is not in the action space.
        """
        engine, everyone = self.engine, np.ones(self.num_envs, np.bool_)
        if (engine.frame == 0).any():
            raise ResetNeeded("no episode is under way: call reset() before step()")
        limit = np.iinfo(np.int64).max if self.max_episode_steps is None else self.max_episode_steps
        over = engine.done | (engine.steps() >= limit)
        if self.autoreset_mode == AutoresetMode.DISABLED and over.any():
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(over).tolist()} are over: with autoreset_mode "
                "'Disabled' call reset(options={'reset_mask': mask}) for them first"
            )
        checked = engine.check_actions(actions, ~over)
        same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        may_begin = engine.may_end() | (engine.steps() + 1 >= limit) if same_step else over
        with engine.undone_on_error(self._of(may_begin)):
            self._erase()
            rewards = engine.advance(checked, ~over)
            self._begin(over, None)
            terminations, truncations = engine.done.copy(), engine.steps() >= limit
            ended, infos = terminations | truncations, dict[str, Any]()
            if same_step and ended.any():
                infos = self._final(ended)
                self._begin(ended, None)
            infos |= _masked(engine.info(), everyone)
            return self._observe(), rewards, terminations, truncations, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture, (height, width, 3), per environment."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render mode: pass render_mode='rgb_array' to gym.make_vec")
            return None
        return tuple(render_engine(self.engine, env) for env in range(self.num_envs))

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the masks of N single environments, a row each."""
        return np.ones((self.num_envs, int(self.engine.action_space.nvec.sum())), np.bool_)

    def _seed(self, seed: int | Sequence[int | None] | None, mask: NDArray[np.bool_]) -> None:
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + env for env in range(self.num_envs)]
        elif seed is None:
            seed = [None] * self.num_envs
        elif not hasattr(seed, "__len__"):
            raise TypeError(f"seed must be None, an integer or {self.num_envs} of these, got {seed!r}")
        if len(seed) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seed)}")
        chosen = [env for env, own in enumerate(seed) if own is not None and mask[env]]
        accepted = [seeding.np_random(seed[env]) for env in chosen]  # all, before any of them is used
        for env, (generator, own) in zip(chosen, accepted, strict=True):
            self._generators[env], self._seeds[env] = generator, own

    def _of(self, mask: NDArray[np.bool_]) -> list[np.random.Generator]:
        return [self._generators[env] for env in np.flatnonzero(mask)]

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {found}")
        if not mask.any():
            raise ValueError("options['reset_mask'] chooses no environment: set at least one True")
        return mask

    def _clips(self, clip: Any, mask: NDArray[np.bool_]) -> Index | None:
        if clip is None:
            return None
        refuse_masked(clip=clip)
        clips = np.asarray(clip)
        if clips.dtype.kind not in "iu" or clips.shape not in ((), (self.num_envs,)):
            raise ValueError(
                f"options['clip'] must be an integer or ({self.num_envs},) integers, got {clips.dtype} {clips.shape}"
            )
        clips = np.broadcast_to(clips, (self.num_envs,)).astype(np.int64)
        for chosen in np.unique(clips[mask]).tolist():
            self.engine.check_clip(chosen)
        return clips

    def _begin(self, mask: NDArray[np.bool_], clips: Index | None) -> None:
        for env in np.flatnonzero(mask):
            generator = self._generators[env]
            clip = generator.integers(self.num_clips) if clips is None else clips[env]
            self.engine.begin(int(env), int(clip), generator)

    def _erase(self) -> None:
        if self._shared is not None:
            self.engine.erase(self._shared)

    def _observe(self) -> Array:
        observations = self.engine.blank() if self._shared is None else self._shared
        try:
            self.engine.observe(observations)
        except BaseException:
            observations[...] = 0  # the shared array holds no part of this observation
            raise
        return observations

    def _final(self, ended: NDArray[np.bool_]) -> dict[str, Any]:
        last = self.engine.blank()
        if not self.engine.done[ended].all():  # truncated: their last observation is no blank
            self.engine.observe(last)
        observations = np.full(self.num_envs, None, object)
        for env in np.flatnonzero(ended):
            observations[env] = last[env].copy()
        infos = _masked(self.engine.info(), ended)
        return {
            "final_obs": observations,
            "_final_obs": ended.copy(),
            "final_info": infos,
            "_final_info": ended.copy(),
        }


def _masked(values: dict[str, Array], mask: NDArray[np.bool_]) -> dict[str, Any]:
    # Blanks the rows outside the mask and adds the mask of each array, as in Gymnasium's vector infos.
    infos: dict[str, Any] = {}
    for key, array in values.items():
        array[~mask] = None if array.dtype == object else 0
        infos |= {key: array, f"_{key}": mask.copy()}
    return infos
