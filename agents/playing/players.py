"""Settings of played episodes, and the base of all players."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.config import InView
from ..learning.episodes import DropoutMasks, Rollout, Views
from ..learning.glimpses import random_cells, random_sets
from ..learning.location import CellMemory, MemoryHead, UsualSlices
from ..learning.models import MODELS, Model
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from .features import FeatureReader


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """Settings of played episodes."""

    model: Model = MODELS["reinforce"]
    in_view: InView = "glimpsed"  # what the location logits may see of a frame: the chosen cells, or all
    greedy: bool = False  # take the likeliest cells instead of drawing them; of a set, as many as are drawn on average
    sample_classes: bool = False  # draw the predicted class instead of taking the likeliest
    mirror: bool = False  # mirror episodes left to right with probability one half
    mirrored_together: int = 1  # number of episodes in a row that are mirrored together or not at all
    random_share: float = 0.0  # probability that a frame's cells are drawn at random instead
    smallest_jumps: bool = False  # take the smallest jump everywhere


def actor_cells(envs: VideoGlimpseVectorEnv) -> Tensor | None:
    """Return (N, T, K*K) bool, the actor's cells in the episodes just begun; None if the source does not know them."""
    engine, known, actors = envs.engine, dict[int, NDArray[np.bool_] | None](), []
    for clip, window in zip(engine.clip.tolist(), engine.window, strict=True):
        if clip not in known:  # rollouts of one clip share it
            known[clip] = envs.source.actor(clip)
        actor = known[clip]
        if actor is None:
            return None
        actors.append(actor[window].reshape(len(window), -1))
    return torch.from_numpy(np.stack(actors))


class Mirror:
    """Converts between the environments' grid and the policy's for N episodes; the same conversion works both ways.

    The policy sees a mirrored episode flipped left to right, and the environment plays it unchanged.
    """

    def __init__(self, episodes: int, grid_size: int, settings: PlaySettings, noise: Noise) -> None:
        cells = torch.arange(grid_size**2, device=noise.device)
        self._flip = cells.reshape(grid_size, grid_size).flip(1).flatten()
        self.mirrored: Tensor | None = None
        if settings.mirror:
            together = settings.mirrored_together
            self.mirrored = (noise.uniform((episodes // together,)) < 0.5).repeat_interleave(together)

    def cells(self, cells: Tensor) -> Tensor:
        """Return the places of (N, ...) cells of one grid in the other grid."""
        return cells if self.mirrored is None else torch.where(self._rows(cells), self._flip[cells], cells)

    def values(self, values: Tensor, *, axis: int = 1) -> Tensor:
        """Return (N, ...) values with one axis of cells in the order of the other grid."""
        if self.mirrored is None:
            return values
        return torch.where(self._rows(values), values.index_select(axis, self._flip), values)

    def _rows(self, like: Tensor) -> Tensor:
        assert self.mirrored is not None
        return self.mirrored.reshape([len(like)] + [1] * (like.ndim - 1))


class Player(ABC):
    """N episodes from the policy's side while they are played."""

    def __init__(
        self,
        envs: VideoGlimpseVectorEnv,
        policy: GlimpsePolicy,
        settings: PlaySettings,
        noise: Noise,
        masks: DropoutMasks | None,
    ) -> None:
        episodes, rules, model = envs.num_envs, envs.engine.rules, settings.model
        device, size = policy.device, policy.shape.grid_size
        self.policy, self.settings, self.model, self.noise, self.masks = policy, settings, model, noise, masks
        if rules.observation not in ("slices", "blind"):
            raise ValueError(f"rollouts need the observation 'slices' or 'blind', got {rules.observation!r}")
        if rules.glimpses is None and model.sees != "set" and model.name != "random":
            raise ValueError(f"{model.name!r} takes the same number of looks in every frame: set glimpses")
        self.glimpses, self.features = rules.glimpses, FeatureReader(envs, device)
        self.sees_first = rules.first_glance == "whole"  # models that see all of every frame see the first one too
        self.all_cells = torch.arange(size**2, device=device).expand(episodes, -1)
        self.mirror = Mirror(episodes, size, settings, noise)
        actors = actor_cells(envs)
        self.actors = None if actors is None else self.mirror.values(actors.to(device), axis=2)
        if model.needs_actor and actors is None:
            raise ValueError(f"model {model.name!r} needs a source that knows where the actor is")
        self.state = policy.memory.initial_state(episodes)
        self.visits = torch.zeros(episodes, size**2, device=device)
        self.age = torch.zeros_like(self.visits)
        self.change = torch.zeros_like(self.visits)
        self.memory, self.usual = None, None
        if isinstance(head := policy.location_head, MemoryHead):
            self.memory = CellMemory()
            if head.watches_changes:
                self.usual = UsualSlices(size**2, head.usual_distance)
        self.jumps = None if rules.jumps is None else torch.tensor(rules.jumps, device=device)
        self.num_frames = rules.frames

    @abstractmethod
    def plan(self, observations: NDArray[np.float32]) -> Tensor:
        """Play all frames, and return (T, N, m + 1) actions."""

    @abstractmethod
    def rollout(self, clips: NDArray[np.int64], outcome: dict[str, Any]) -> Rollout:
        """Return the record of the episodes."""

    def view(self, content: Tensor, seen: Tensor) -> Views:
        """Return the view of the next frame, of (N, K*K, P) content and (N, K*K) cells that are seen in it."""
        self.age = (self.age + 1) * (1 - seen)
        if self.memory is not None:
            content = self.memory.add(content, seen)
        return Views(content, seen, self.visits, self.age, self.change)

    def compare(self, slices: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
        """Return the (N, m) change of (N, m, D) scaled slices at (N, m) cells, and keep that of cells that are seen."""
        if self.usual is None:
            return torch.zeros_like(seen)
        change = self.usual.add(slices, cells, seen)
        before = self.change.gather(1, cells)
        self.change = self.change.scatter(1, cells, torch.where(seen > 0, change, before))
        return change

    def compare_all(self, cubes: Tensor) -> Tensor:
        """Return the (N, K*K) change of all slices of a frame, of (U, K*K, D) cubes, if all of every frame is seen."""
        if self.usual is None:
            return torch.zeros_like(self.visits)
        cells = self.all_cells[: len(cubes)]
        change = self.usual.add(cubes, cells, torch.ones_like(cells, dtype=cubes.dtype))
        return self.mirror.values(change[self.features.window_index])

    def explore(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Replace a share of N choices by random ones; returns the choices, and (N,) bool, which were replaced."""
        explored = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
        if self.settings.random_share:
            explored = self.noise.uniform((len(chosen),)) < self.settings.random_share
            chosen = torch.where(explored[:, None], self.random(), chosen)
        return chosen, explored

    def random(self) -> Tensor:
        """Return random (N, m) cells, or (N, K*K) bool."""
        if self.glimpses is None:
            return random_sets(self.visits.shape, self.noise)
        return random_cells(self.visits.shape, self.glimpses, self.noise)
