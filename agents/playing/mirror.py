"""Episodes that are shown mirrored left to right: the policy sees another video, the environment plays the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ..parallel.ranks import WHOLE, Share, uniform


class Mirror:
    """Turns what belongs to N episodes between the environment's grid and the policy's; the same both ways.

    Args:
        episodes: N.
        grid_size: K.
        chance: show episodes mirrored with probability one half; otherwise none is, and nothing is drawn.
        together: how many episodes in a row are mirrored or not together.
        generator: on the device of what is turned.
        share: which of a larger batch's episodes these are.
    """

    def __init__(
        self,
        episodes: int,
        grid_size: int,
        *,
        chance: bool,
        together: int,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> None:
        device = generator.device
        self._flip = torch.arange(grid_size**2, device=device).reshape(grid_size, grid_size).flip(1).flatten()
        self.mirrored: Tensor | None = None
        if chance:
            draws = uniform((episodes // together,), generator, share)
            self.mirrored = (draws < 0.5).repeat_interleave(together)

    def cells(self, cells: Tensor) -> Tensor:
        """Return where (N, ...) cells of one grid are in the other."""
        return cells if self.mirrored is None else torch.where(self._rows(cells), self._flip[cells], cells)

    def values(self, values: Tensor, *, axis: int = 1) -> Tensor:
        """Return (N, ...) values of which one axis is the cells."""
        if self.mirrored is None:
            return values
        return torch.where(self._rows(values), values.index_select(axis, self._flip), values)

    def _rows(self, like: Tensor) -> Tensor:
        assert self.mirrored is not None
        return self.mirrored.reshape([len(like)] + [1] * (like.ndim - 1))
