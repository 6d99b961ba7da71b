"""Attention that is learned by back-propagation: the rivals of REINFORCE, on the same network.

- "soft" (Sharma et al. 2015; Xu et al. 2015): frame n is seen through l_n, the softmax of the location logits of what
  is in frame n and of the state after frame n - 1. Every slice is read, and weighs something.
- "soft_hidden": the same without content; the state and the cell alone score, as Sharma et al. wrote it.
- "soft_top": the softmax over the m likeliest cells alone; the others weigh nothing, though they are scored.
- "gumbel": hard glimpses like those of REINFORCE, chosen at frame n for frame n + 1, of which nothing else is seen; in
  training the m largest of logits plus Gumbel noise, whose gradient is that of the softmax of the same numbers
  (straight through; Jang et al. 2017). Once trained it is played like any policy that chooses cells.

All but "gumbel" begin from a state that the mean of all of the clip's slices sets, so that they know at frame 1 already
what the clip holds on average, as in Sharma et al.; hard glimpses know nothing but the first frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.glimpses import draw_classes, first_draw_entropy, gumbel_noise, random_cells
from ..learning.policy import DropoutMasks, GlimpsePolicy, Views
from ..parallel.ranks import WHOLE, Share, uniform
from .features import sight_of
from .rollout import Manner, Rollout, actor_cells, follow, play_out


def play_softly(
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
    """Play one episode of each of the (N,) `clips`, with a gradient through what is seen and said in grad mode.

    Nothing that the policy sees depends on the environments, so it plays to the end before they are stepped. They are
    told the m cells that weigh most. Arguments are those of `collect_rollout`.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    actors = actor_cells(envs)
    viewer = _Viewer(envs, policy, manner, generator, masks, share)
    with policy.autocast():
        for frame in range(policy.shape.frames):
            viewer.see(frame)
    class_logits, attention = viewer.class_logits(), torch.stack(viewer.attention, 1)
    with torch.no_grad():
        predictions = class_logits.argmax(2)
        if manner.sample_classes:
            predictions = draw_classes(class_logits.flatten(0, 1), generator, share).reshape(predictions.shape)
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
        manner: Manner,
        generator: torch.Generator,
        masks: DropoutMasks | None,
        share: Share,
    ) -> None:
        rules, device = envs.engine.rules, policy.place.device
        assert rules.glimpses is not None
        self.policy, self.manner, self.generator, self.masks, self.share = policy, manner, generator, masks, share
        self.glimpses, self.sight = rules.glimpses, sight_of(envs, device)
        size = policy.shape.grid_size
        self.everything = torch.arange(size**2, device=device).expand(envs.num_envs, -1)
        self.mirror = manner.draw_mirror(envs.num_envs, size, generator, share)
        self.visits = torch.zeros(envs.num_envs, size**2, device=device)
        self.state = policy.initial_state(envs.num_envs)
        self._shown: list[tuple[Tensor, Tensor]] = []  # what `_show` returns of T frames, where the start needs all
        if policy.config.start == "mean":
            self._shown = [self._show(frame) for frame in range(policy.shape.frames)]
            mean = torch.stack([projected.mean(1) for _, projected in self._shown]).mean(0)
            self.state = policy.state_of_mean(mean[self.sight.episodes])
        self.attention: list[Tensor] = []  # T of (N, K*K)
        self.cell_logits: list[Tensor] = []  # those that frames 2..T are seen by
        self._hidden: list[Tensor] = []
        self._inputs: list[Tensor] = []

    def see(self, frame: int) -> None:
        """Attend to a frame, and let the state know."""
        cubes, projected = self._shown[frame] if self._shown else self._show(frame)
        projected = self.mirror.values(projected[self.sight.episodes])
        if self.manner.looking == "gumbel":
            weights = self._choice(frame)
        else:
            hidden = self.state.output
            logits = self._score(projected if self.manner.looking != "soft_hidden" else 0 * projected, hidden)
            weights = self._softmax(logits)
            if frame:
                self.cell_logits.append(logits)
        hidden, inputs, self.state = self.policy.advance(self.state, self._attended(cubes, weights), self.masks)
        self.attention.append(weights)
        self._hidden.append(hidden)
        self._inputs.append(inputs)
        if self.manner.looking == "gumbel" and frame + 1 < self.policy.shape.frames:
            seen = (weights > 0).float()
            shown = projected if self.manner.in_view == "cube" else projected * seen[..., None]
            self.visits = self.visits if frame == 0 else self.visits + seen
            self.cell_logits.append(self._score(shown, hidden[:, 0], seen))

    def class_logits(self) -> Tensor:
        """Return (N, T, outputs), of all frames in one batch."""
        hidden, inputs = torch.cat(self._hidden, 1), torch.cat(self._inputs, 1)
        with self.policy.autocast():
            return self.policy.class_logits(hidden, inputs, self.masks).float()

    def actions(self, attention: Tensor, predictions: Tensor) -> Tensor:
        """Return (T, N, m + 1) for the environments: the cells of the next frame that weigh most, then the class."""
        cells = attention.roll(-1, 1).topk(self.glimpses, dim=2).indices  # those of the last step are ignored
        return torch.cat([self.mirror.cells(cells), predictions[..., None]], 2).transpose(0, 1)

    def _show(self, frame: int) -> tuple[Tensor, Tensor]:
        """Return (U, K*K, D) cubes and (U, K*K, P), what the location logits see of them."""
        cubes = self.sight.cubes(frame)
        return cubes, self.policy.project(cubes)

    def _score(self, shown: Tensor, hidden: Tensor, seen: Tensor | None = None) -> Tensor:
        seen = torch.ones_like(self.visits) if seen is None else seen
        view = Views(shown[:, None], seen[:, None], self.visits[:, None])
        return self.policy.cell_logits(hidden[:, None], view, self.masks)[:, 0].float()

    def _softmax(self, logits: Tensor) -> Tensor:
        if self.manner.looking == "soft_top":
            likeliest = torch.zeros_like(logits).scatter(1, logits.topk(self.glimpses, dim=1).indices, 1.0)
            logits = logits.masked_fill(likeliest == 0, -torch.inf)
        return logits.softmax(1)

    def _choice(self, frame: int) -> Tensor:
        """Return the weights of m hard glimpses, with the gradient of a softmax; at random in a share of choices."""
        everywhere = torch.full_like(self.visits, 1 / self.visits.shape[1])
        if frame == 0:
            return everywhere
        logits = self.cell_logits[-1]
        perturbed = logits + gumbel_noise(logits.shape, self.generator, self.share)
        relaxed = perturbed.softmax(1)
        cells = perturbed.topk(self.glimpses, dim=1).indices
        if self.manner.random_share:
            explored = uniform((len(cells),), self.generator, self.share) < self.manner.random_share
            elsewhere = random_cells(self.visits.shape, self.glimpses, self.generator, self.share)
            cells = torch.where(explored[:, None], elsewhere, cells)
            relaxed = torch.where(explored[:, None], relaxed.detach(), relaxed)
        hard = torch.zeros_like(relaxed).scatter(1, cells, 1 / self.glimpses)
        # Where nothing was chosen the sum is exactly 0, so that the slice has no part in what is seen.
        return hard + (relaxed - relaxed.detach())

    def _attended(self, cubes: Tensor, weights: Tensor) -> Tensor:
        """Return (N, width): X' of eq. 3."""
        cubes = cubes[self.sight.episodes]
        if self.policy.config.encoder == "sum":  # the same mirrored, if the weights are
            looks = self.policy.attend(cubes, self.everything, self.mirror.values(weights))
        else:
            looks = self.policy.attend(self.mirror.values(cubes), self.everything, weights)
        # The number of hard glimpses is what it is: it has no gradient.
        return self.policy.encode(looks._replace(weights=weights), soft=self.manner.looking != "gumbel")
