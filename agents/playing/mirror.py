"""Mirrored episodes: the policy sees the video flipped left to right, and the environment plays it unchanged."""

from __future__ import annotations

import torch
from torch import Tensor

from ..parallel.noise import Noise


class Mirror:
    """Converts between the environment's grid and the policy's for N episodes; the same conversion works both ways.

    Args:
        episodes: N.
        grid_size: K.
        chance: mirror episodes with probability one half; otherwise mirror none, and draw nothing.
        together: number of episodes in a row that are mirrored together or not at all.
        noise: on the device of the converted tensors.
    """

    def __init__(self, episodes: int, grid_size: int, *, chance: bool, together: int, noise: Noise) -> None:
        cells = torch.arange(grid_size**2, device=noise.device)
        self._flip = cells.reshape(grid_size, grid_size).flip(1).flatten()
        self.mirrored: Tensor | None = None
        if chance:
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
