"""Rollouts of models that choose cells: the policy steps the vector environment and records its choices.

Observations of chosen slices come from the environment. Whole cubes are read from the source, once for all episodes of
a clip (agents/playing/features.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.config import InView
from ..learning.episodes import GlimpseRollout, Looks, Views
from ..learning.glimpses import choice_entropy, draw_cells, draw_classes, draw_sets, random_cells, random_sets
from ..learning.models import MODELS, Model, Situation
from ..learning.policy import CellMeans, DropoutMasks, GlimpsePolicy, slice_weights
from ..parallel.noise import Noise
from .features import feature_reader
from .mirror import Mirror


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """Settings of played episodes.

    Attributes:
        model: the way to look.
        in_view: slices of a frame that the location logits may see: those chosen in it, or the whole cube.
        greedy: take the likeliest cells instead of drawing them.
        sample_classes: draw the predicted class instead of taking the likeliest.
        mirror: mirror episodes left to right with probability one half.
        mirrored_together: number of episodes in a row that are mirrored together or not at all.
        random_share: probability that a frame's cells are drawn at random instead.
    """

    model: Model = MODELS["reinforce"]
    in_view: InView = "glimpsed"
    greedy: bool = False
    sample_classes: bool = False
    mirror: bool = False
    mirrored_together: int = 1
    random_share: float = 0.0

    def draw_mirror(self, episodes: int, grid_size: int, noise: Noise) -> Mirror:
        """Draw which of N episodes are mirrored."""
        return Mirror(episodes, grid_size, chance=self.mirror, together=self.mirrored_together, noise=noise)


def actor_cells(envs: VideoGlimpseVectorEnv) -> Tensor | None:
    """Return (N, T, K*K) bool, the actor's cells in the episodes just begun; None if the source does not know them."""
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
    settings: PlaySettings,
    *,
    noise: Noise,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
) -> GlimpseRollout:
    """Play one episode of each of the (N,) `clips`.

    Args:
        envs: N environments that show "slices", or that are "blind" because a bank on the policy's device has the
            features; they must not reset themselves (autoreset_mode "Disabled").
        policy: the network.
        clips: of the episodes.
        settings: how they are played.
        noise: of cells, classes and mirroring, on the policy's device.
        masks: dropout to act under; None acts without.
        seed: of the environments, which draw windows if `jitter` is on.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    player = _Player(policy, settings, noise, masks, actor_cells(envs), envs)
    with policy.autocast():
        if envs.engine.rules.observation == "blind":  # the policy needs nothing from the environments
            planned = torch.stack([player.act(observations) for _ in range(policy.shape.frames)])
            outcome = play_out(envs, observations, follow(planned), planned.device)
        else:
            outcome = play_out(envs, observations, lambda seen: player.act(seen).cpu().numpy(), policy.device)
    return player.rollout(clips, outcome)


Act = Callable[[NDArray[Any]], NDArray[np.int64]]


def follow(planned: Tensor) -> Act:
    """Return a function that answers any observations with the next of (T, N, m + 1) actions."""
    actions = iter(planned.cpu().numpy())
    return lambda _: next(actions)


def play_out(
    envs: VideoGlimpseVectorEnv, observations: NDArray[Any], act: Act, device: torch.device
) -> dict[str, Tensor]:
    """Step episodes that have just begun to their end, and return the environments' results as a rollout's fields."""
    frame_labels, rewards, infos = [], np.zeros(envs.num_envs), dict[str, Any]()
    for _ in range(envs.engine.rules.frames):
        observations, rewards, _, _, infos = envs.step(act(observations))
        frame_labels.append(torch.from_numpy(infos["frame_labels"]))
    counted = ("is_correct", "glimpses", "true_positives", "false_positives")
    return {
        "frame_labels": torch.stack(frame_labels, 1).to(device),
        "rewards": torch.from_numpy(rewards).float().to(device),
    } | {name: torch.from_numpy(infos[name]) for name in counted}


class _Player:
    """N episodes from the policy's side while they are played."""

    def __init__(
        self,
        policy: GlimpsePolicy,
        settings: PlaySettings,
        noise: Noise,
        masks: DropoutMasks | None,
        actors: Tensor | None,
        envs: VideoGlimpseVectorEnv,
    ) -> None:
        episodes, rules, model = envs.num_envs, envs.engine.rules, settings.model
        device, size = policy.device, policy.shape.grid_size
        self.policy, self.settings, self.model, self.noise, self.masks = policy, settings, model, noise, masks
        if rules.observation not in ("slices", "blind"):
            raise ValueError(f"rollouts need the observation 'slices' or 'blind', got {rules.observation!r}")
        if rules.glimpses is None and model.sees != "set" and model.name != "random":
            raise ValueError(f"{model.name!r} takes the same number of looks in every frame: set glimpses")
        if model.needs_actor and actors is None:
            raise ValueError(f"model {model.name!r} needs a source that knows where the actor is")
        self.features = feature_reader(envs, device)
        self.all_cells = torch.arange(size**2, device=device).expand(episodes, -1)
        self.mirror = settings.draw_mirror(episodes, size, noise)
        self.actors = None if actors is None else self.mirror.values(actors.to(device), axis=2)
        self.state = policy.memory.initial_state(episodes)
        self.visits = torch.zeros(episodes, size**2, device=device)
        self.seen = torch.ones_like(self.visits)
        self.cells, self.weights = self.all_cells, slice_weights(self.visits, self.all_cells, "uniform")
        self.looks: list[Looks] = []
        self.views: list[Views] = []
        self.chosen: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.class_logits: list[Tensor] = []
        self.cell_logits: list[Tensor] = []
        self.explored: list[Tensor] = []
        self.states: list[Tensor] = []
        self.glimpses = rules.glimpses
        self.means = CellMeans() if policy.location_head.remembers else None

    def act(self, observations: NDArray[np.float32]) -> Tensor:
        """Answer the (N, m, D + 2) observations of one frame with (N, m + 1) actions, on the policy's device."""
        looks, view = self._look(observations)
        looks = self.policy.weighed(looks, self.masks)
        class_logits, cell_logits, self.state = self.policy.step(self.state, looks, view, self.masks)
        prediction = self._predict(class_logits)
        chosen = self._explore(self._choose(cell_logits, view))
        self.looks.append(looks)
        if view is not None:
            self.views.append(view)
        self.chosen.append(chosen)
        self.predictions.append(prediction)
        self.class_logits.append(class_logits)
        self.cell_logits.append(cell_logits)
        if self.policy.value_head is not None:
            self.states.append(self.state.output)
        self._turn_to(chosen, cell_logits)
        return torch.cat([self._placed(chosen), prediction[:, None]], 1)

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
        attends_to_all = self.state.frame == 0 or self.model.sees == "all"
        scores = self.model.learns is not None
        visible: Tensor | None = None
        if attends_to_all or (scores and self.settings.in_view == "cube"):
            cubes = self.policy.scale(self.features.cubes(self.state.frame))  # (U, K*K, D)
            if scores:
                visible = self.mirror.values(self._project(cubes)[self.features.window_index])
            if attends_to_all:
                return Looks(self._content_of_all(cubes), self.all_cells, self.weights), self._view(visible)
        cells = self.mirror.cells(self.cells)
        slices = self.policy.scale(self.features.slices(self.state.frame, cells, observations))  # (N, m, D)
        if self.glimpses is None:  # a bank also has the slices that were not chosen
            slices = slices * (self.weights > 0)[..., None]
        if scores and visible is None:
            projected = self._project(slices)
            places = self.cells[..., None].expand_as(projected)
            visible = projected.new_zeros(*self.visits.shape, projected.shape[2]).scatter_(1, places, projected)
        return self.policy.encoder.attend(slices, self.cells, self.weights), self._view(visible)

    def _project(self, slices: Tensor) -> Tensor:
        return self.policy.location_head.project(slices)

    def _view(self, visible: Tensor | None) -> Views | None:
        if visible is not None and self.means is not None:
            visible = self.means.add(visible, self.seen)
        return None if visible is None else Views(visible, self.seen, self.visits)

    def _content_of_all(self, cubes: Tensor) -> Tensor:
        """Return the content of looks at all cells of (U, K*K, D) cubes, for N episodes."""
        if self.model.pools_maximum:
            return cubes.amax(1)[self.features.window_index]
        count, encoder = len(cubes), self.policy.encoder
        content = encoder.attend(cubes, self.all_cells[:count], self.weights[:count]).content
        content = content[self.features.window_index]
        # A sum over all cells is the same if mirrored.
        return content if encoder.reduces else self.mirror.values(content)

    def rollout(self, clips: NDArray[np.int64], outcome: dict[str, Tensor]) -> GlimpseRollout:
        """Return the record of the episodes."""
        attention = [torch.zeros_like(self.visits).scatter_(1, look.cells, look.weights) for look in self.looks]
        logits = torch.stack(self.cell_logits[:-1], 1)
        states = torch.stack(self.states, 1) if self.states else None
        views = None
        if self.views:
            views = Views(*(torch.stack(parts, 1) for parts in zip(*self.views[:-1], strict=True)))
        has_choice = self.model.learns is not None or self.model.name == "random"
        value_head = self.policy.value_head
        return GlimpseRollout(
            clips=clips,
            attention=torch.stack(attention, 1),
            entropy=choice_entropy(logits, sets=self.glimpses is None) * has_choice,
            first=self.looks[0],
            rest=Looks.of_frames(self.looks[1:]),
            views=views,
            cells=torch.stack(self.chosen[:-1], 1),
            explored=torch.stack(self.explored[:-1], 1),
            predictions=torch.stack(self.predictions, 1),
            class_logits=torch.stack(self.class_logits, 1),
            actors=self.actors,
            states=states,
            values=None if states is None or value_head is None else value_head(states),
            **outcome,
        )

    def _placed(self, chosen: Tensor) -> Tensor:
        """Return a choice in the environment's coordinates."""
        return self.mirror.values(chosen).long() if chosen.dtype == torch.bool else self.mirror.cells(chosen)

    def _predict(self, class_logits: Tensor) -> Tensor:
        return draw_classes(class_logits, self.noise) if self.settings.sample_classes else class_logits.argmax(1)

    def _explore(self, chosen: Tensor) -> Tensor:
        """Replace a share of the N choices by random ones, and record which."""
        explored = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
        if self.settings.random_share:
            explored = self.noise.uniform((len(chosen),)) < self.settings.random_share
            chosen = torch.where(explored[:, None], self._random(), chosen)
        self.explored.append(explored)
        return chosen

    def _random(self) -> Tensor:
        if self.glimpses is None:
            return random_sets(self.visits.shape, self.noise)
        return random_cells(self.visits.shape, self.glimpses, self.noise)

    def _choose(self, cell_logits: Tensor, view: Views | None) -> Tensor:
        """Choose the cells of the next frame; the choice after the last frame is ignored."""
        glimpses = self.glimpses
        if glimpses is None:
            if self.model.rule is not None:
                return self._random()
            return cell_logits > 0 if self.settings.greedy else draw_sets(cell_logits, self.noise)
        if self.model.learns is None:
            # Models that see all cells choose nothing; the environment still expects m cells.
            rule = self.model.rule or MODELS["centre"].rule
            assert rule is not None
            return rule(self._situation(glimpses), self.noise)
        if not self.policy.location_head.is_sequential:
            return self._draw(cell_logits, glimpses)
        assert view is not None
        return self.policy.location_head.draw_in_sequence(
            self.state.output, view, self.masks, glimpses=glimpses, draw=lambda logits: self._draw(logits, 1)
        )

    def _situation(self, glimpses: int) -> Situation:
        actor = None
        if self.actors is not None:
            actor = self.actors[:, min(self.state.frame, self.actors.shape[1] - 1)]
        return Situation(len(self.visits), self.policy.shape.grid_size, glimpses, actor)

    def _draw(self, logits: Tensor, glimpses: int) -> Tensor:
        """Return (N, glimpses) cells in order: drawn from (N, K*K) logits without replacement, or the likeliest."""
        if self.settings.greedy:
            return logits.topk(glimpses, dim=1).indices
        return draw_cells(logits, glimpses, self.noise)
