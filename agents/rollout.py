"""Playing episodes: the policy steps the vector environment through its public API, and what it did is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributed import WHOLE, Share, uniform
from agents.glimpses import centre_cells, draw_cells, draw_classes, oracle_cells, random_cells
from agents.policy import DropoutMasks, GlimpsePolicy, Looks, Views, slice_weights
from agents.sight import sight_of
from glimpse_env import VideoGlimpseVectorEnv

Looking = Literal["learned", "random", "centre", "mean", "all", "oracle"]
InView = Literal["glimpsed", "cube"]
SEES_EVERYTHING: tuple[Looking, ...] = ("mean", "all")


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How episodes are played.

    Attributes:
        looking: which cells are chosen; "mean" and "all" attend to every cell of the cube.
        in_view: what the location logits may see of a frame: the slices chosen in it, or the whole cube.
        greedy: take the likeliest cells instead of drawing them.
        sample_classes: draw the predicted class instead of taking the likeliest.
        mirror: show episodes mirrored left to right with probability one half.
        mirrored_together: how many episodes in a row are mirrored or not together.
        random_share: the probability that a frame's cells are drawn at random instead.
    """

    looking: Looking = "learned"
    in_view: InView = "glimpsed"
    greedy: bool = False
    sample_classes: bool = False
    mirror: bool = False
    mirrored_together: int = 1
    random_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """N whole episodes. Cells are in the policy's coordinates: mirrored where the episode was."""

    clips: NDArray[np.int64]  # (N,)
    first: Looks
    rest: Looks  # (N, T - 1, ...)
    views: Views  # (N, T - 1, ...)
    cells: Tensor  # (N, T - 1, m) int64, chosen at frames 1..T-1
    explored: Tensor  # (N, T - 1) bool: chosen at random, whatever the manner
    predictions: Tensor  # (N, T) int64
    class_logits: Tensor  # (N, T, outputs), as they were when acting
    frame_labels: Tensor  # (N, T, C) bool
    rewards: Tensor  # (N,) eq. 7
    is_correct: Tensor  # (N,) bool
    glimpses: Tensor  # (N,) int64
    actors: Tensor | None  # (N, T, K*K) bool, where the source knows

    def part(self, rows: slice | Tensor) -> Rollout:
        """Return some of the episodes; those of a slice share memory with all of them."""
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (Looks, Views)):
                parts[field.name] = type(value)(*(tensor[rows] for tensor in value))
            else:
                parts[field.name] = None if value is None else value[rows]
        return Rollout(**parts)

    def hits(self) -> Tensor | None:
        """Return (N, T - 1, m) bool: the looks that fell on the actor; None where the source does not know."""
        return None if self.actors is None else self.actors[:, 1:].gather(2, self.cells)


def actor_cells(envs: VideoGlimpseVectorEnv) -> Tensor | None:
    """Return (N, T, K*K) bool for the episodes just begun: where the actor is; None where the source does not know."""
    actors = []
    for clip, window in zip(envs.engine.clip.tolist(), envs.engine.window, strict=True):
        actor = envs.source.actor(clip)
        if actor is None:
            return None
        actors.append(actor[window].reshape(len(window), -1))
    return torch.from_numpy(np.stack(actors))


@torch.no_grad()
def collect_rollout(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    manner: Manner,
    *,
    generator: torch.Generator,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
    share: Share = WHOLE,
) -> Rollout:
    """Play one episode of each of the (N,) `clips`.

    Args:
        envs: N environments that show "slices", or are "blind" beside a bank of the features on the policy's device,
            and are not reset by themselves (autoreset_mode "Disabled").
        generator: of cells, classes and mirroring, on the policy's device.
        masks: the dropout to act under; None acts without.
        seed: of the environments, which draw windows where `jitter` is on.
        share: which of a larger batch's episodes these are: what is drawn for them does not depend on it.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    player = _Player(policy, manner, generator, masks, actor_cells(envs), envs, share)
    infos: dict[str, Any] = {}
    frame_labels, rewards, frames = [], np.zeros(len(clips)), policy.shape.frames
    planned: Iterator[NDArray[np.int64]] | None = None
    with policy.autocast():
        if envs.engine.rules.observation == "blind":  # nothing that the policy sees comes from the environments
            planned = iter(torch.stack([player.act(observations) for _ in range(frames)]).cpu().numpy())
        for _ in range(frames):
            actions = player.act(observations).cpu().numpy() if planned is None else next(planned)
            observations, rewards, _, _, infos = envs.step(actions)
            frame_labels.append(torch.from_numpy(infos["frame_labels"]))
    return player.rollout(clips, torch.stack(frame_labels, 1), rewards, infos)


class _Player:
    """What N episodes look like from the policy's side while they are played."""

    def __init__(
        self,
        policy: GlimpsePolicy,
        manner: Manner,
        generator: torch.Generator,
        masks: DropoutMasks | None,
        actors: Tensor | None,
        envs: VideoGlimpseVectorEnv,
        share: Share,
    ) -> None:
        episodes = envs.num_envs
        device, size = policy.place.device, policy.shape.grid_size
        self.policy, self.manner, self.generator, self.masks = policy, manner, generator, masks
        self.share = share
        if envs.engine.rules.glimpses is None:
            raise ValueError("this policy takes the same number of looks in every frame: set glimpses")
        if envs.engine.rules.observation not in ("slices", "blind"):
            raise ValueError(
                f"rollouts take the observation 'slices' or 'blind', got {envs.engine.rules.observation!r}: what else "
                "a manner sees is read once for all episodes of a clip"
            )
        if manner.looking == "oracle" and actors is None:
            raise ValueError("the oracle needs a source that knows where the actor is, and this one does not")
        self.sight = sight_of(envs, device)
        self.everything = torch.arange(size**2, device=device).expand(episodes, -1)
        self.flip = self.everything[0].reshape(size, size).flip(1).flatten()
        self.mirrored = torch.zeros(episodes, dtype=torch.bool, device=device)
        if manner.mirror:
            draws = uniform((episodes // manner.mirrored_together,), generator, share)
            self.mirrored = (draws < 0.5).repeat_interleave(manner.mirrored_together)
        self.actors = None if actors is None else self._mirror(actors.to(device), axis=2)
        self.state = policy.initial_state(episodes)
        self.visits = torch.zeros(episodes, size**2, device=device)
        self.cells, self.weights = self.everything, slice_weights(self.visits, self.everything, "uniform")
        self.looks: list[Looks] = []
        self.views: list[Views] = []
        self.chosen: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.class_logits: list[Tensor] = []
        self.explored: list[Tensor] = []
        self.glimpses = envs.engine.rules.glimpses

    def act(self, observations: NDArray[np.float32]) -> Tensor:
        """Answer the (N, m, D + 2) observations of one frame with (N, m + 1) actions, on the policy's device."""
        looks, visible = self._look(observations)
        seen = torch.zeros_like(self.visits).scatter_(1, self.cells, 1.0)
        view = Views(visible, seen, self.visits)
        class_logits, cell_logits, self.state = self.policy.step(self.state, looks, view, self.masks)
        prediction = self._predict(class_logits)
        cells = self._explore(self._choose(cell_logits))
        self._remember(looks, view, cells, prediction, class_logits)
        if self.manner.looking not in SEES_EVERYTHING:
            # Location logits that are not learned from weigh nothing.
            kind = self.policy.config.slice_weights if self.manner.looking == "learned" else "uniform"
            self.cells, self.weights = cells, slice_weights(cell_logits, cells, kind)
        self.visits = self.visits.scatter_add(1, cells, torch.ones_like(cells, dtype=self.visits.dtype))
        return torch.cat([self._place(cells), prediction[:, None]], 1)

    def _look(self, observations: NDArray[np.float32]) -> tuple[Looks, Tensor]:
        """Return what is attended to, and (N, K*K, P): what the location logits see of the frame."""
        attends_to_all = self.state.frame == 0 or self.manner.looking in SEES_EVERYTHING
        if attends_to_all or self.manner.in_view == "cube":
            cubes = self.sight.cubes(self.state.frame)
            visible = self._mirror(self.policy.project(cubes)[self.sight.episodes], axis=1)
            if attends_to_all:
                count = len(cubes)
                content = self.policy.attend(cubes, self.everything[:count], self.weights[:count]).content
                content = content[self.sight.episodes]
                if self.policy.config.encoder == "what_and_where":  # a sum over all cells is the same mirrored
                    content = self._mirror(content, axis=1)
                return Looks(content, self.everything, self.weights), visible
        slices = self.sight.slices(self.state.frame, self._place(self.cells), observations)
        if self.manner.in_view == "glimpsed":
            projected = self.policy.project(slices)
            places = self.cells[..., None].expand_as(projected)
            visible = projected.new_zeros(*self.visits.shape, projected.shape[2]).scatter_(1, places, projected)
        return self.policy.attend(slices, self.cells, self.weights), visible

    def rollout(
        self,
        clips: NDArray[np.int64],
        frame_labels: Tensor,
        rewards: NDArray[np.float64],
        infos: dict[str, Any],
    ) -> Rollout:
        """Put what was done beside what came of it."""
        device = self.everything.device
        return Rollout(
            clips=clips,
            first=self.looks[0],
            rest=Looks(*(torch.stack(parts, 1) for parts in zip(*self.looks[1:], strict=True))),
            views=Views(*(torch.stack(parts, 1) for parts in zip(*self.views[:-1], strict=True))),
            cells=torch.stack(self.chosen[:-1], 1),
            explored=torch.stack(self.explored[:-1], 1),
            predictions=torch.stack(self.predictions, 1),
            class_logits=torch.stack(self.class_logits, 1),
            frame_labels=frame_labels.to(device),
            rewards=torch.from_numpy(rewards).float().to(device),
            is_correct=torch.from_numpy(infos["is_correct"]),
            glimpses=torch.from_numpy(infos["glimpses"]),
            actors=self.actors,
        )

    def _remember(self, looks: Looks, view: Views, cells: Tensor, prediction: Tensor, class_logits: Tensor) -> None:
        self.looks.append(looks)
        self.views.append(view)
        self.chosen.append(cells)
        self.predictions.append(prediction)
        self.class_logits.append(class_logits)

    def _place(self, cells: Tensor) -> Tensor:
        """Return where (N, m) cells of the policy are in the environment's grid."""
        return torch.where(self.mirrored[:, None], self.flip[cells], cells) if self.manner.mirror else cells

    def _mirror(self, values: Tensor, *, axis: int) -> Tensor:
        if not self.manner.mirror:
            return values
        shape = [len(values)] + [1] * (values.ndim - 1)
        return torch.where(self.mirrored.reshape(shape), values.index_select(axis, self.flip), values)

    def _predict(self, class_logits: Tensor) -> Tensor:
        if not self.manner.sample_classes:
            return class_logits.argmax(1)
        return draw_classes(class_logits, self.generator, self.share)

    def _explore(self, cells: Tensor) -> Tensor:
        """Replace a share of (N, m) choices by random ones, and remember which."""
        explored = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
        if self.manner.random_share:
            draws = uniform((len(cells),), self.generator, self.share)
            explored = draws < self.manner.random_share
            elsewhere = random_cells(self.visits.shape, self.glimpses, self.generator, self.share)
            cells = torch.where(explored[:, None], elsewhere, cells)
        self.explored.append(explored)
        return cells

    def _choose(self, cell_logits: Tensor) -> Tensor:
        """Choose (N, m) cells of the next frame; any will do after the last one, where they are ignored."""
        looking, glimpses = self.manner.looking, self.glimpses
        if looking == "learned":
            if self.manner.greedy:
                return cell_logits.topk(glimpses, dim=1).indices
            return draw_cells(cell_logits, glimpses, self.generator, self.share)
        if looking == "random":
            return random_cells(cell_logits.shape, glimpses, self.generator, self.share)
        if looking == "oracle":
            assert self.actors is not None
            following = min(self.state.frame, self.actors.shape[1] - 1)
            return oracle_cells(self.actors[:, following], glimpses, self.generator, self.share)
        centre = centre_cells(self.policy.shape.grid_size, glimpses).to(cell_logits.device)
        return centre.expand(len(cell_logits), -1)
