"""The player of models that learn by back-propagation: it weighs all cells of a frame.

- "soft" (Sharma et al. 2015; Xu et al. 2015): frame n is seen through l_n, the softmax of the location logits of frame
  n's content and of the state after frame n - 1. Every slice is read and has some weight. On untrimmed clips the scorer
  "memory" adds an empty slice, so the weights sum to less than 1.
- "soft_hidden": the same without content; only the state and the cell score, as in Sharma et al.
- "soft_top": the softmax over only the m likeliest cells; the others are scored, but get no weight.
- "gumbel": hard glimpses like those of REINFORCE, chosen at frame n for frame n + 1. In training they are the m largest
  of logits plus Gumbel noise, with the gradient of the softmax of the same numbers (straight through; Jang et al.
  2017). A trained policy is played like any other that chooses cells.

All but "gumbel" begin in a state made from the mean of all slices of the clip, as in Sharma et al. At frame 1 they know
the average content of the whole clip; hard glimpses know only the first frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..learning.episodes import Rollout, Views
from ..learning.glimpses import draw_classes, first_draw_entropy
from ..learning.location import MemoryHead
from .players import Player


class WeighingPlayer(Player):
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
            change = self._change_of_chosen(cubes, seen)
            if self.policy.config.advanced.slice_weights == "attended":
                head = self.policy.location_head
                assert isinstance(head, MemoryHead)
                weights = head.attention(projected, weights, change, self.state.output, self.masks)
        else:
            shown = 0 * projected if self.model.ignores_content else projected
            every = torch.ones_like(self.visits)
            change = 0 * every if self.model.ignores_content else self.compare_all(cubes)
            view = Views(shown, every, self.visits, self.age, change)
            logits = self._score(view, self.state.output)
            weights = self._weights(logits)
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

    def _change_of_chosen(self, cubes: Tensor, seen: Tensor) -> Tensor:
        """Return the (N, K*K) change of the slices of (U, K*K, D) cubes that are seen, equally many in each episode."""
        if self.usual is None:
            return torch.zeros_like(seen)
        cells = seen.topk(int(seen[0].sum()), dim=1).indices
        windows, places = self.features.window_index[:, None], self.mirror.cells(cells)
        change = self.compare(cubes[windows, places], cells, torch.ones_like(cells, dtype=seen.dtype))
        return torch.zeros_like(seen).scatter(1, cells, change)

    def _score(self, view: Views, hidden: Tensor) -> Tensor:
        logits = self.policy.location_head(hidden[:, None], view.as_one_frame(), self.masks)
        return logits[:, 0].float()  # type: ignore[no-any-return]

    def _weights(self, logits: Tensor) -> Tensor:
        if self.model.sees == "cells":
            likeliest = torch.zeros_like(logits).scatter(1, logits.topk(self.glimpses or 0, dim=1).indices, 1.0)
            logits = logits.masked_fill(likeliest == 0, -torch.inf)
        head = self.policy.location_head
        if isinstance(head, MemoryHead) and head.nothing is not None:
            return head.weigh(logits, torch.ones_like(logits))
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
