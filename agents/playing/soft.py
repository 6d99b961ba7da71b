"""Attention learned by back-propagation, on the same network: the alternatives to REINFORCE.

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

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.episodes import Rollout, Views
from ..learning.glimpses import draw_classes, first_draw_entropy, random_cells
from ..learning.policy import CellMeans, DropoutMasks, GlimpsePolicy, MemoryHead
from ..parallel.noise import Noise
from .features import feature_reader
from .rollout import PlaySettings, actor_cells, follow, play_out


def play_softly(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    settings: PlaySettings,
    *,
    noise: Noise,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
) -> Rollout:
    """Play one episode of each of the (N,) `clips`; in grad mode the attention and the class logits carry gradients.

    The policy needs nothing from the environments, so it plays to the end before they are stepped. Their actions are
    the m cells of the largest weights. Arguments are those of `collect_rollout`.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    actors = actor_cells(envs)
    viewer = _Viewer(envs, policy, settings, noise, masks)
    with policy.autocast():
        for frame in range(policy.shape.frames):
            viewer.see(frame)
    class_logits, attention = viewer.class_logits(), torch.stack(viewer.attention, 1)
    with torch.no_grad():
        predictions = class_logits.argmax(2)
        if settings.sample_classes:
            predictions = draw_classes(class_logits.flatten(0, 1), noise).reshape(predictions.shape)
        planned = viewer.actions(attention, predictions)
    return Rollout(
        clips=clips,
        attention=attention,
        entropy=first_draw_entropy(torch.stack(viewer.cell_logits, 1)),
        predictions=predictions,
        class_logits=class_logits,
        actors=None if actors is None else viewer.mirror.values(actors.to(class_logits.device), axis=2),
        **play_out(envs, observations, follow(planned), class_logits.device),
    )


class _Viewer:
    """N episodes that are seen frame by frame, with the graph of everything that was seen."""

    def __init__(
        self,
        envs: VideoGlimpseVectorEnv,
        policy: GlimpsePolicy,
        settings: PlaySettings,
        noise: Noise,
        masks: DropoutMasks | None,
    ) -> None:
        rules, device = envs.engine.rules, policy.device
        assert rules.glimpses is not None
        self.policy, self.settings, self.model, self.noise, self.masks = policy, settings, settings.model, noise, masks
        self.glimpses, self.features = rules.glimpses, feature_reader(envs, device)
        size = policy.shape.grid_size
        self.all_cells = torch.arange(size**2, device=device).expand(envs.num_envs, -1)
        self.mirror = settings.draw_mirror(envs.num_envs, size, noise)
        self.visits = torch.zeros(envs.num_envs, size**2, device=device)
        self.state = policy.memory.initial_state(envs.num_envs)
        self._shown: list[tuple[Tensor, Tensor]] = []  # `_show` of all T frames, if the initial state needs them
        if policy.shape.starts_from_mean:
            self._shown = [self._show(frame) for frame in range(policy.shape.frames)]
            mean = torch.stack([projected.mean(1) for _, projected in self._shown]).mean(0)
            self.state = policy.memory.state_of_mean(mean[self.features.window_index])
        self.means = CellMeans() if policy.location_head.remembers else None
        self.attention: list[Tensor] = []  # T of (N, K*K)
        self.cell_logits: list[Tensor] = []  # of the choices of frames 2..T
        self._hidden: list[Tensor] = []
        self._inputs: list[Tensor] = []

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
                weights = head.attention(projected, weights, self.masks)
        else:
            logits = self._score(0 * projected if self.model.ignores_content else projected, self.state.output)
            weights = self._softmax(logits)
            if frame:
                self.cell_logits.append(logits)
        hidden, inputs, self.state = self.policy.memory.step(self.state, self._attended(cubes, weights), self.masks)
        self.attention.append(weights)
        self._hidden.append(hidden)
        self._inputs.append(inputs)
        if not self.model.is_soft and frame + 1 < self.policy.shape.frames:
            shown = projected if self.settings.in_view == "cube" else projected * seen[..., None]
            shown = shown if self.means is None else self.means.add(shown, seen)
            self.visits = self.visits if frame == 0 else self.visits + seen
            self.cell_logits.append(self._score(shown, hidden[:, 0], seen))

    def class_logits(self) -> Tensor:
        """Return (N, T, outputs), of all frames in one batch."""
        hidden, inputs = torch.cat(self._hidden, 1), torch.cat(self._inputs, 1)
        with self.policy.autocast():
            return self.policy.class_head(hidden, inputs, self.masks).float()  # type: ignore[no-any-return]

    def actions(self, attention: Tensor, predictions: Tensor) -> Tensor:
        """Return (T, N, m + 1) for the environments: the m cells of the next frame with most weight, and the class."""
        cells = attention.roll(-1, 1).topk(self.glimpses, dim=2).indices  # those of the last step are ignored
        return torch.cat([self.mirror.cells(cells), predictions[..., None]], 2).transpose(0, 1)

    def _show(self, frame: int) -> tuple[Tensor, Tensor]:
        """Return (U, K*K, D) cubes and their (U, K*K, P) content for the location logits."""
        cubes = self.policy.scale(self.features.cubes(frame))
        return cubes, self.policy.location_head.project(cubes)

    def _score(self, shown: Tensor, hidden: Tensor, seen: Tensor | None = None) -> Tensor:
        seen = torch.ones_like(self.visits) if seen is None else seen
        view = Views(shown, seen, self.visits).as_one_frame()
        return self.policy.location_head(hidden[:, None], view, self.masks)[:, 0].float()  # type: ignore[no-any-return]

    def _softmax(self, logits: Tensor) -> Tensor:
        if self.model.sees == "cells":
            likeliest = torch.zeros_like(logits).scatter(1, logits.topk(self.glimpses, dim=1).indices, 1.0)
            logits = logits.masked_fill(likeliest == 0, -torch.inf)
        return logits.softmax(1)

    def _choice(self, frame: int) -> Tensor:
        """Return the weights of m hard glimpses, with the gradient of a softmax; at random in a share of choices."""
        if frame == 0:
            return torch.full_like(self.visits, 1 / self.visits.shape[1])
        logits = self.cell_logits[-1]
        perturbed = logits + self.noise.gumbel(logits.shape)
        relaxed = perturbed.softmax(1)
        cells = perturbed.topk(self.glimpses, dim=1).indices
        if self.settings.random_share:
            explored = self.noise.uniform((len(cells),)) < self.settings.random_share
            elsewhere = random_cells(self.visits.shape, self.glimpses, self.noise)
            cells = torch.where(explored[:, None], elsewhere, cells)
            relaxed = torch.where(explored[:, None], relaxed.detach(), relaxed)
        hard = torch.zeros_like(relaxed).scatter(1, cells, 1 / self.glimpses)
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
