"""Episodes: the sizes of their input, their dropout, and records of looks, views and the outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, stack
from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """Sizes that the network has to fit.

    Attributes:
        grid_size: K.
        depth: D.
        outputs: classes, "no prediction" included.
        frames: T.
        values: number of learned baselines of a state: one for the choice of cells and, if classes are sampled, one for
            the class; 0 without a value head.
        starts_from_mean: whether the memory begins in a state made from the mean of all slices of a clip.
        first_set_size: number of cells that sets of cells are drawn with at first; 0 if the number of cells is fixed.
        jumps: number of jumps to choose from, if the choice is learned; otherwise 0.
        trimmed: whether the class of a clip lasts as long as the clip. If not, cells are watched for changes.
    """

    grid_size: int
    depth: int
    outputs: int
    frames: int
    values: int = 0
    starts_from_mean: bool = False
    first_set_size: int = 0
    jumps: int = 0
    trimmed: bool = True


@dataclass(frozen=True)
class DropoutMasks:
    """Dropout of N episodes, drawn once, so that the update sees the network that acted."""

    inputs: list[Tensor]  # for each LSTM layer (N, width)
    state: Tensor  # (N, H), on the LSTM's state in the class head; (N, 1) ones if no input skips to it
    head: Tensor  # (N, H)
    scorer: Tensor  # (N, S)

    def repeated(self, times: int) -> DropoutMasks:
        """Return the masks of N * times episodes, each of these `times` times in a row."""
        return self._each(lambda mask: mask.repeat_interleave(times, 0))

    def rows(self, rows: slice) -> DropoutMasks:
        """Return the masks of some of the episodes."""
        return self._each(lambda mask: mask[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> DropoutMasks:
        inputs = [change(mask) for mask in self.inputs]
        return DropoutMasks(inputs, change(self.state), change(self.head), change(self.scorer))


class Looks(NamedTuple):
    """Looks of one frame, or of several frames (a further axis before m).

    `content` is the weighted sum of the slices, (N, ..., D), with the "sum" encoder, and the slices themselves,
    (N, ..., m, D), with "what_and_where": content that needs no parameters is reduced before it is stored.
    """

    content: Tensor
    cells: Tensor  # (N, ..., m)
    weights: Tensor  # (N, ..., m)
    change: Tensor  # (N, ..., m): unusual distance of the slice from earlier ones of its cell, as in `UsualSlices`

    @classmethod
    def of_frames(cls, looks: list[Looks]) -> Looks:
        """Stack the looks of T frames along a new second axis; frames with fewer looks get looks of weight 0."""
        most = max(look.cells.shape[1] for look in looks)
        padded = [look._padded(most) for look in looks]
        return cls(*(stack(column, 1) for column in zip(*padded, strict=True)))

    def _padded(self, most: int) -> Looks:
        missing = most - self.cells.shape[1]
        # Content with one row per look is (N, m, D); a sum over looks is (N, D).
        content = F.pad(self.content, (0, 0, 0, missing)) if self.content.dim() == 3 else self.content
        return Looks(content, *(F.pad(part, (0, missing)) for part in self[1:]))


class Views(NamedTuple):
    """Input of the location logits for one frame, or for several (a further axis after the first)."""

    content: Tensor  # (N, ..., K*K, P)
    seen: Tensor  # (N, ..., K*K) 0 or 1: seen in this frame
    visits: Tensor  # (N, ..., K*K): number of times each cell was chosen up to this frame
    age: Tensor  # (N, ..., K*K): number of observed frames since each cell was last seen, or since the start
    change: Tensor  # (N, ..., K*K): that of the last look at each cell, 0 before the first

    def as_one_frame(self) -> Views:
        """Return the view with a frame axis of length 1."""
        return Views(*(part[:, None] for part in self))


class Steps(NamedTuple):
    """Steps of episodes with jumps: each observes one of the T frames, and its answer stands until the next one."""

    frames: Tensor  # (N, S) int64: the frame observed, from 0; T after the end
    jumps: Tensor  # (N, S) int64: the jump chosen there

    def standing(self, values: Tensor, frames: int) -> Tensor:
        """Return (N, T, ...): at each of T frames the (N, S, ...) value that stands there."""
        every = torch.arange(frames, device=values.device)
        index = (self.frames[:, None] <= every[:, None]).sum(2) - 1  # (N, T)
        return values[torch.arange(len(values), device=values.device)[:, None], index]

    def observed(self, frames: int) -> Tensor:
        """Return (N, T) bool, True at the frames that were observed."""
        seen = torch.zeros(len(self.frames), frames + 1, dtype=torch.bool, device=self.frames.device)
        return seen.scatter(1, self.frames, torch.ones_like(self.frames, dtype=torch.bool))[:, :-1]

    def lasts(self, frames: int) -> Tensor:
        """Return (N, T) int64: the last frame that the answer at each frame stands for."""
        return self.standing(F.pad(self.frames[:, 1:], (0, 1), value=frames) - 1, frames)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """N whole episodes. Cells are in the policy's coordinates: mirrored if the episode was."""

    clips: NDArray[np.int64]  # (N,)
    windows: NDArray[np.int64]  # (N, T) index of each frame among the source's frames of the clip
    attention: Tensor  # (N, T, K*K) l of eq. 3; soft models learn by its gradient
    entropy: Tensor  # (N, T - 1) nats, of the choice of the cells that are seen in frames 2..T
    predictions: Tensor  # (N, T) int64
    class_logits: Tensor  # (N, T, outputs), as they were when acting
    frame_labels: Tensor  # (N, T, C) bool
    rewards: Tensor  # (N,) eq. 7, minus the cost of looks
    shares: Tensor  # (N, T) of the predictions in eq. 7; with segment matching, of each run at its last frame
    true_positives: Tensor  # (N,) int64
    false_positives: Tensor  # (N,) int64
    is_correct: Tensor  # (N,) bool
    glimpses: Tensor  # (N,) int64
    actors: Tensor | None  # (N, T, K*K) bool; None if the source does not know the actor
    values: Tensor | None = None  # (N, T, 1 or 2), of the states when acting, if the policy has values
    cell_logits: Tensor | None = None  # (N, T - 1, K*K) of hard glimpses that learn by back-propagation
    steps: Steps | None = None  # of episodes with jumps; fields with an axis of T frames hold what stands at a frame

    def rows(self, rows: slice | Tensor) -> Self:
        """Return some of the episodes; a slice of them shares memory with this rollout."""
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (Looks, Views, Steps)):
                parts[field.name] = type(value)(*(tensor[rows] for tensor in value))
            elif isinstance(value, np.ndarray) and isinstance(rows, Tensor):
                parts[field.name] = value[rows.cpu().numpy()]  # NumPy reads a tensor of one element as a number
            else:
                parts[field.name] = None if value is None else value[rows]
        return dataclasses.replace(self, **parts)

    @property
    def looked(self) -> Tensor:
        """(N, T - 1, K*K) bool: the cells attended to in frames 2..T."""
        return self.attention[:, 1:] > 0

    def observed(self) -> Tensor:
        """Return (N, T) bool, True at the frames that were observed."""
        if self.steps is None:
            return torch.ones_like(self.predictions, dtype=torch.bool)
        return self.steps.observed(self.predictions.shape[1])

    def hits(self) -> Tensor | None:
        """Return (N, T - 1, K*K) bool: the looks on the actor; None if the source does not know the actor."""
        return None if self.actors is None else self.looked & self.actors[:, 1:]


@dataclass(frozen=True, kw_only=True)
class GlimpseRollout(Rollout):
    """Episodes of a policy that chose cells, with everything needed to play them again after the network changed.

    With jumps the axes of T and T - 1 frames are S and S - 1 steps here.
    """

    first: Looks
    rest: Looks  # (N, T - 1, ...)
    views: Views | None  # (N, T - 1, ...), if cells were scored
    cells: Tensor  # chosen at frames 1..T-1: (N, T - 1, m) int64 in order, or (N, T - 1, K*K) bool
    explored: Tensor  # (N, T - 1) bool: chosen at random instead of by the policy
    states: Tensor | None  # (N, T, H) of the LSTM, if values are learned from them

    def cells_of_frames(self) -> Tensor:
        """Return the choices that were seen in frames 2..T, (N, T - 1, ...).

        At a frame that a jump left out nothing was seen, and the entry has no meaning.
        """
        if self.steps is None:
            return self.cells
        from_first = torch.cat([self.cells[:, :1], self.cells], 1)  # (N, S, ...)
        return self.steps.standing(from_first, self.predictions.shape[1])[:, 1:]
