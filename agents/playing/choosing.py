"""The player of models that choose cells, frame by frame.

The environments show the chosen slices; whole cubes are read from the source, once for all episodes of a clip
(features.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..learning.episodes import GlimpseRollout, Looks, Steps, Views
from ..learning.glimpses import choice_entropy, draw_cells, draw_classes, draw_sets, likeliest_sets
from ..learning.models import MODELS, Situation
from ..learning.policy import slice_weights
from .players import Player


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


class ChoosingPlayer(Player):
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
                content = self._content_of_all(cubes)
                if self.model.sees == "all":
                    change = self.compare_all(cubes)
                else:
                    change = self.compare(content, self.all_cells, (self.weights > 0).float())
                return Looks(content, self.all_cells, self.weights, change), self._view(visible)
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
        looks = self.policy.encoder.attend(slices, self.cells, self.weights)
        change = self.compare(slices, self.cells, (self.weights > 0).float())
        return looks._replace(change=change), self._view(visible)

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
