"""Rollouts of every model: the network steps the vector environments, and its looks are recorded.

Models that choose cells act frame by frame. The environments show the chosen slices; whole cubes are read from the
source, once for all episodes of a clip (features.py).

Models that learn by back-propagation weigh all cells of a frame, and their attention carries the gradient:

- "soft" (Sharma et al. 2015; Xu et al. 2015): frame n is seen through l_n, the softmax of the location logits of frame
  n's content and of the state after frame n - 1. Every slice is read and has some weight.
- "soft_hidden": the same without content; only the state and the cell score, as in Sharma et al.
- "soft_top": the softmax over only the m likeliest cells; the others are scored, but get no weight.
- "gumbel": hard glimpses like those of REINFORCE, chosen at frame n for frame n + 1. In training they are the m largest
  of logits plus Gumbel noise, with the gradient of the softmax of the same numbers (straight through; Jang et al.
  2017). A trained policy is played like any other that chooses cells.

All but "gumbel" begin in a state made from the mean of all slices of the clip, as in Sharma et al. At frame 1 they know
the average content of the whole clip; hard glimpses know only the first frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.config import InView
from ..learning.episodes import DropoutMasks, GlimpseRollout, Looks, Rollout, Steps, Views
from ..learning.glimpses import (
    choice_entropy,
    draw_cells,
    draw_classes,
    draw_sets,
    first_draw_entropy,
    likeliest_sets,
    random_cells,
    random_sets,
)
from ..learning.location import CellMemory, MemoryHead
from ..learning.models import MODELS, Model, Situation
from ..learning.policy import GlimpsePolicy, slice_weights
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


def collect_rollout(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    settings: PlaySettings,
    *,
    noise: Noise,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
) -> Rollout:
    """Play one episode of each of the (N,) `clips`.

    In grad mode, attention and class logits of models that learn by back-propagation carry gradients.

    Args:
        envs: N environments that show "slices", or that are "blind" because a bank on the policy's device has the
            features; they must not reset themselves (autoreset_mode "Disabled").
        policy, clips, settings: network, clips of the episodes, and how they are played.
        noise: of cells, classes and mirroring, on the policy's device.
        masks: dropout to act under.
        seed: of the environments, which draw windows if `jitter` is on.

    Returns:
        a `GlimpseRollout` if cells were chosen.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    learns, in_grad_mode = settings.model.learns, torch.is_grad_enabled()
    weighs = learns == "soft" or (learns == "gumbel" and in_grad_mode)
    player = (_WeighingPlayer if weighs else _ChoosingPlayer)(envs, policy, settings, noise, masks)
    with torch.set_grad_enabled(weighs and in_grad_mode):
        with policy.autocast():
            if isinstance(player, _ChoosingPlayer) and envs.engine.rules.observation == "slices":
                act = player.act
                outcome = play_out(envs, observations, lambda seen: act(seen).cpu().numpy(), policy.device)
            else:  # the policy needs nothing from the environments, and plays to the end before they are stepped
                actions = iter(player.plan(observations).cpu().numpy())
                outcome = play_out(envs, observations, lambda _: next(actions), policy.device)
        return player.rollout(clips, outcome)


play = torch.no_grad()(collect_rollout)
"""Play with a network that is not being trained."""


def play_out(
    envs: VideoGlimpseVectorEnv,
    observations: NDArray[Any],
    act: Callable[[NDArray[Any]], NDArray[np.int64]],
    device: torch.device,
) -> dict[str, Any]:
    """Step episodes that have just begun to their end, and return the environments' results as a rollout's fields."""
    engine, rewards, infos = envs.engine, np.zeros(envs.num_envs), dict[str, Any]()
    for step in range(engine.rules.frames):
        if engine.rules.jumps is None:
            observations, rewards, _, _, infos = envs.step(act(observations))
            continue
        if step > 1 and engine.done.all():  # a rollout has at least two steps
            break
        going = ~engine.done  # some episodes jump to their end before others
        rewards += engine.advance(engine.check_actions(act(observations), going), going)
        infos, observations = engine.info(), engine.blank()
        engine.observe(observations)
    counted = ("is_correct", "glimpses", "true_positives", "false_positives")
    return {
        "windows": engine.window.copy(),
        "frame_labels": torch.from_numpy(engine.truth()).to(device),
        "rewards": torch.from_numpy(rewards).float().to(device),
        "shares": torch.from_numpy(engine.shares()).float().to(device),
    } | {name: torch.from_numpy(infos[name]) for name in counted}


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


class _Player(ABC):
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
        self.memory = CellMemory() if policy.location_head.remembers else None
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
        return Views(content, seen, self.visits, self.age)

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


class _Frame(NamedTuple):
    """Record of one frame of a player that chooses cells; of all frames, each field is a list."""

    looks: Any
    view: Any
    chosen: Any
    explored: Any
    prediction: Any
    class_logits: Any
    cell_logits: Any
    hidden: Any
    number: Any  # from 0, (N,) with jumps; T after the end
    jump: Any  # (N,), or None without jumps


class _ChoosingPlayer(_Player):
    """Plays models that choose cells."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen = torch.ones_like(self.visits)
        self.cells, self.weights = self.all_cells, slice_weights(self.visits, self.all_cells, "uniform")
        self.norms = torch.zeros_like(self.visits)  # of the slice that each cell was last seen with
        self.frames: list[_Frame] = []

    def plan(self, observations: NDArray[np.float32]) -> Tensor:
        return torch.stack([self.act(observations) for _ in range(self.policy.shape.frames)])

    def act(self, observations: NDArray[np.float32]) -> Tensor:
        """Answer the (N, m, D + 2) observations of one frame with (N, m + 1) actions, on the policy's device.

        With jumps, episodes are at different frames, and actions are (N, m + 2).
        """
        number = self.state.frame
        looks, view = self._look(observations)
        looks = self.policy.weighed(looks, self.state, self.masks)
        class_logits, cell_logits, self.state = self.policy.step(self.state, looks, view, self.masks)
        prediction = draw_classes(class_logits, self.noise) if self.settings.sample_classes else class_logits.argmax(1)
        jump = None if self.jumps is None else self._jump(number)
        chosen, explored = self.explore(self._choose(cell_logits, view))
        self.frames.append(
            _Frame(
                looks, view, chosen, explored, prediction, class_logits, cell_logits, self.state.output, number, jump
            )
        )
        self._turn_to(chosen, cell_logits)
        parts = [self._placed(chosen), prediction[:, None]]
        return torch.cat(parts if jump is None else [parts[0], jump[:, None], parts[1]], 1)

    def _jump(self, number: int | Tensor) -> Tensor:
        """Choose the (N,) jumps from frame `number`, and set the state to the frames that they lead to."""
        assert self.jumps is not None
        logits = self.policy.jump_logits(self.state.output)
        if self.settings.smallest_jumps:
            jump = torch.zeros(len(self.visits), dtype=torch.int64, device=self.jumps.device)
        elif logits is None:
            uniform = torch.zeros(len(self.visits), len(self.jumps), device=self.jumps.device)
            jump = draw_classes(uniform, self.noise)
        else:
            jump = logits.argmax(1) if self.settings.greedy else draw_classes(logits, self.noise)
        self.state.frame = (number + self.jumps[jump]).clamp_max(self.num_frames)
        return jump

    def _turn_to(self, chosen: Tensor, cell_logits: Tensor) -> None:
        """Look at the chosen cells: (N, m) in order, or (N, K*K) bool."""
        if chosen.dtype == torch.bool:
            self.visits = self.visits + chosen
            self.seen = chosen.float()
            # The environment shows the chosen cells in the order of its own grid, then zeros, which are left out.
            most = max(int(chosen.sum(1).max()), 1)
            order = self._placed(chosen).argsort(dim=1, descending=True, stable=True)[:, :most]
            self.cells = self.mirror.cells(order)
            self.weights = self.seen.gather(1, self.cells) / self.seen.sum(1, keepdim=True).clamp_min(1)
            return
        self.visits = self.visits.scatter_add(1, chosen, torch.ones_like(chosen, dtype=self.visits.dtype))
        if self.model.sees != "all":
            # Location logits that are not learned weigh nothing.
            kind = self.policy.config.advanced.slice_weights if self.model.learns == "reinforce" else "uniform"
            self.cells, self.weights = chosen, slice_weights(cell_logits, chosen, kind)
            self.seen = torch.zeros_like(self.visits).scatter_(1, chosen, 1.0)

    def _look(self, observations: NDArray[np.float32]) -> tuple[Looks, Views | None]:
        """Return the looks at the frame and, if cells are scored, the view of the location logits."""
        is_first = not self.frames
        attends_to_all = is_first or self.model.sees == "all"
        scores = self.model.learns is not None
        if is_first and not self.sees_first and not self.model.reads_all:
            return self._look_at_nothing(scores)
        visible: Tensor | None = None
        if attends_to_all or (scores and self.settings.in_view == "cube"):
            raw = self.features.cubes(len(self.frames))  # (U, K*K, D); with jumps, of the first frame alone
            cubes = self.policy.scale(raw)
            if self.model.uses_norms:
                self.norms = self.mirror.values(raw.norm(dim=-1)[self.features.window_index])
            if scores:
                visible = self.mirror.values(self.policy.location_head.project(cubes)[self.features.window_index])
            if attends_to_all:
                return Looks(self._content_of_all(cubes), self.all_cells, self.weights), self._view(visible)
        cells = self.mirror.cells(self.cells)
        slices = self.features.slices(len(self.frames), cells, observations)  # (N, m, D); with jumps, as observed
        if self.model.uses_norms:
            self.norms = self.norms.scatter(1, self.cells, slices.norm(dim=-1))
        slices = self.policy.scale(slices)
        if self.glimpses is None:  # a bank also has the slices that were not chosen
            slices = slices * (self.weights > 0)[..., None]
        if scores and visible is None:
            projected = self.policy.location_head.project(slices)
            places = self.cells[..., None].expand_as(projected)
            visible = projected.new_zeros(*self.visits.shape, projected.shape[2]).scatter_(1, places, projected)
        return self.policy.encoder.attend(slices, self.cells, self.weights), self._view(visible)

    def _look_at_nothing(self, scores: bool) -> tuple[Looks, Views | None]:
        """Return the looks and the view of a first frame that shows nothing."""
        self.weights, self.seen = torch.zeros_like(self.weights), torch.zeros_like(self.seen)
        episodes, size = len(self.visits), self.policy.shape
        nothing = self.visits.new_zeros(episodes, size.grid_size**2, size.depth)
        visible = self.policy.location_head.project(nothing) if scores else None
        return self.policy.encoder.attend(nothing, self.all_cells, self.weights), self._view(visible)

    def _view(self, visible: Tensor | None) -> Views | None:
        return None if visible is None else self.view(visible, self.seen)

    def _content_of_all(self, cubes: Tensor) -> Tensor:
        """Return the content of looks at all cells of (U, K*K, D) cubes, for N episodes."""
        if self.model.pools_maximum:
            return cubes.amax(1)[self.features.window_index]
        count, encoder = len(cubes), self.policy.encoder
        content = encoder.attend(cubes, self.all_cells[:count], self.weights[:count]).content
        content = content[self.features.window_index]
        # A sum over all cells is the same if mirrored.
        return content if encoder.reduces else self.mirror.values(content)

    def rollout(self, clips: NDArray[np.int64], outcome: dict[str, Any]) -> GlimpseRollout:
        played = _Frame(*zip(*self.frames, strict=True))  # of lists
        attention = [torch.zeros_like(self.visits).scatter_(1, look.cells, look.weights) for look in played.looks]
        views = [view for view in played.view if view is not None]
        has_choice, value_head = self.model.learns is not None or self.model.name == "random", self.policy.value_head
        states = None if value_head is None else torch.stack(played.hidden, 1)
        entropy = choice_entropy(torch.stack(played.cell_logits, 1), sets=self.glimpses is None) * has_choice
        shown, steps = torch.stack(attention, 1), None
        predictions, class_logits = torch.stack(played.prediction, 1), torch.stack(played.class_logits, 1)
        if self.jumps is not None:
            numbers = [torch.zeros_like(played.jump[0]), *played.number[1:]]
            steps = Steps(torch.stack(numbers, 1), torch.stack(played.jump, 1))
            entropy, shown, predictions, class_logits = (
                steps.standing(values, self.num_frames) for values in (entropy, shown, predictions, class_logits)
            )
            shown = shown * steps.observed(self.num_frames)[..., None]
        return GlimpseRollout(
            clips=clips,
            attention=shown,
            entropy=entropy[:, :-1],
            first=played.looks[0],
            rest=Looks.of_frames(played.looks[1:]),
            views=Views(*(torch.stack(parts, 1) for parts in zip(*views[:-1], strict=True))) if views else None,
            cells=torch.stack(played.chosen[:-1], 1),
            explored=torch.stack(played.explored[:-1], 1),
            predictions=predictions,
            class_logits=class_logits,
            actors=self.actors,
            states=states,
            steps=steps,
            values=None if states is None or value_head is None else value_head(states),
            **outcome,
        )

    def _placed(self, chosen: Tensor) -> Tensor:
        """Return a choice in the environment's coordinates."""
        return self.mirror.values(chosen).long() if chosen.dtype == torch.bool else self.mirror.cells(chosen)

    def _choose(self, cell_logits: Tensor, view: Views | None) -> Tensor:
        """Choose the cells of the next frame; the choice after the last frame is ignored."""
        glimpses = self.glimpses
        if glimpses is None:
            if self.model.rule is not None:
                return self.random()
            return likeliest_sets(cell_logits) if self.settings.greedy else draw_sets(cell_logits, self.noise)
        if self.model.learns is None:
            # Models that see all cells choose nothing; the environment still expects m cells.
            rule = self.model.rule or MODELS["centre"].rule
            assert rule is not None
            actor = None if self.actors is None else self._actor_at(self.actors)
            situation = Situation(self.policy.shape.grid_size, glimpses, actor, self.visits, self.norms)
            return rule(situation, self.noise)
        if not self.policy.location_head.is_sequential:
            return self._draw(cell_logits, glimpses)
        assert view is not None
        return self.policy.location_head.draw_in_sequence(
            self.state.output, view, self.masks, glimpses=glimpses, draw=lambda logits: self._draw(logits, 1)
        )

    def _actor_at(self, actors: Tensor) -> Tensor:
        """Return the actor's (N, K*K) cells in the next observed frame."""
        frames = torch.as_tensor(self.state.frame, device=actors.device).clamp_max(actors.shape[1] - 1)
        return actors[torch.arange(len(actors), device=actors.device), frames]

    def _draw(self, logits: Tensor, glimpses: int) -> Tensor:
        """Return (N, glimpses) cells in order: drawn from (N, K*K) logits without replacement, or the likeliest."""
        if self.settings.greedy:
            return logits.topk(glimpses, dim=1).indices
        return draw_cells(logits, glimpses, self.noise)


class _WeighingPlayer(_Player):
    """Plays models that learn by back-propagation, with the graph of everything that was seen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._shown: list[tuple[Tensor, Tensor]] = []  # `_show` of all T frames, if the initial state needs them
        if self.policy.shape.starts_from_mean:
            self._shown = [self._show(frame) for frame in range(self.policy.shape.frames)]
            mean = torch.stack([projected.mean(1) for _, projected in self._shown]).mean(0)
            self.state = self.policy.memory.state_of_mean(mean[self.features.window_index])
        self.attention: list[Tensor] = []  # T of (N, K*K)
        self.cell_logits: list[Tensor] = []  # of the choices of frames 2..T
        self._hidden: list[Tensor] = []
        self._inputs: list[Tensor] = []

    def plan(self, observations: NDArray[np.float32]) -> Tensor:
        for frame in range(self.policy.shape.frames):
            self.see(frame)
        hidden, inputs = torch.cat(self._hidden, 1), torch.cat(self._inputs, 1)
        self.class_logits = self.policy.class_head(hidden, inputs, self.masks).float()
        self.predictions = self.class_logits.argmax(2)
        if self.settings.sample_classes:
            drawn = draw_classes(self.class_logits.flatten(0, 1), self.noise)
            self.predictions = drawn.reshape(self.predictions.shape)
        # The m cells of the next frame with most weight; those of the last step are ignored.
        assert self.glimpses is not None
        cells = torch.stack(self.attention, 1).roll(-1, 1).topk(self.glimpses, dim=2).indices
        return torch.cat([self.mirror.cells(cells), self.predictions[..., None]], 2).transpose(0, 1)

    def rollout(self, clips: NDArray[np.int64], outcome: dict[str, Any]) -> Rollout:
        cell_logits = torch.stack(self.cell_logits, 1)
        return Rollout(
            clips=clips,
            attention=torch.stack(self.attention, 1),
            entropy=first_draw_entropy(cell_logits),
            predictions=self.predictions,
            class_logits=self.class_logits,
            actors=self.actors,
            cell_logits=None if self.model.is_soft else cell_logits,
            **outcome,
        )

    def see(self, frame: int) -> None:
        """Attend to a frame, and advance the state."""
        cubes, projected = self._shown[frame] if self._shown else self._show(frame)
        projected = self.mirror.values(projected[self.features.window_index])
        if not self.model.is_soft:
            weights = self._choice(frame)
            seen = (weights > 0).float()
            if self.policy.config.advanced.slice_weights == "attended":
                head = self.policy.location_head
                assert isinstance(head, MemoryHead)
                weights = head.attention(projected, weights, self.state.output, self.masks)
        else:
            shown = 0 * projected if self.model.ignores_content else projected
            view = Views(shown, torch.ones_like(self.visits), self.visits, self.age)
            logits = self._score(view, self.state.output)
            weights = self._softmax(logits)
            if frame:
                self.cell_logits.append(logits)
        hidden, inputs, self.state = self.policy.memory.step(self.state, self._attended(cubes, weights), self.masks)
        self.attention.append(weights)
        self._hidden.append(hidden)
        self._inputs.append(inputs)
        if not self.model.is_soft and frame + 1 < self.policy.shape.frames:
            shown = projected if self.settings.in_view == "cube" else projected * seen[..., None]
            self.visits = self.visits if frame == 0 else self.visits + seen
            self.cell_logits.append(self._score(self.view(shown, seen), hidden[:, 0]))

    def _show(self, frame: int) -> tuple[Tensor, Tensor]:
        """Return (U, K*K, D) cubes and their (U, K*K, P) content for the location logits."""
        cubes = self.policy.scale(self.features.cubes(frame))
        return cubes, self.policy.location_head.project(cubes)

    def _score(self, view: Views, hidden: Tensor) -> Tensor:
        logits = self.policy.location_head(hidden[:, None], view.as_one_frame(), self.masks)
        return logits[:, 0].float()  # type: ignore[no-any-return]

    def _softmax(self, logits: Tensor) -> Tensor:
        if self.model.sees == "cells":
            likeliest = torch.zeros_like(logits).scatter(1, logits.topk(self.glimpses or 0, dim=1).indices, 1.0)
            logits = logits.masked_fill(likeliest == 0, -torch.inf)
        return logits.softmax(1)

    def _choice(self, frame: int) -> Tensor:
        """Return the weights of m hard glimpses, with the gradient of a softmax; at random in a share of choices."""
        if frame == 0:
            return torch.full_like(self.visits, self.sees_first / self.visits.shape[1])
        logits = self.cell_logits[-1]
        perturbed = logits + self.noise.gumbel(logits.shape)
        relaxed = perturbed.softmax(1)
        cells, explored = self.explore(perturbed.topk(self.glimpses or 0, dim=1).indices)
        relaxed = torch.where(explored[:, None], relaxed.detach(), relaxed)
        hard = torch.zeros_like(relaxed).scatter(1, cells, 1 / cells.shape[1])
        # For cells that were not chosen the sum is exactly 0, so their slices have no part in the input.
        return hard + (relaxed - relaxed.detach())

    def _attended(self, cubes: Tensor, weights: Tensor) -> Tensor:
        """Return (N, width): X' of eq. 3."""
        cubes, encoder = cubes[self.features.window_index], self.policy.encoder
        if encoder.reduces:  # mirroring the weights is cheaper, and gives the same sum
            looks = encoder.attend(cubes, self.all_cells, self.mirror.values(weights))
        else:
            looks = encoder.attend(self.mirror.values(cubes), self.all_cells, weights)
        # The number of hard glimpses is fixed, so it has no gradient.
        return encoder(looks._replace(weights=weights), soft=self.model.is_soft)  # type: ignore[no-any-return]
