"""Crops of frames: the square around a cell that a network sees in place of the whole frame.

The crop of a cell is centred on it, and shifted inwards where it would reach beyond the frame. The network runs over it
fully convolutionally, and the mean over all places is the cell's slice, so that one look costs about (crop / frame)^2
of a whole frame. With crops of two cells, 64 of 224 pixels, every cell of the 7 x 7 has one of its own; of three, the
outermost cells share theirs with their neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIDE = 32  # pixels of the networks' input that one place of their output stands for


def check_crop(crop: int) -> None:
    """Raise ValueError where the networks cannot run over crops of so many pixels a side."""
    if crop % STRIDE or not STRIDE <= crop <= 6 * STRIDE:
        raise ValueError(f"crop must be a multiple of {STRIDE} pixels, from {STRIDE} to {6 * STRIDE}, got {crop}")


def crop_corners(cells: NDArray[np.int64], *, grid_size: int, crop: int, frame_size: int) -> NDArray[np.int64]:
    """Return (n, 2) int64: the top and left pixel of the crop around each of the (n,) cells."""
    cell = frame_size // grid_size
    centres = np.stack(np.divmod(cells, grid_size), 1) * cell + cell // 2
    corners: NDArray[np.int64] = np.clip(centres - crop // 2, 0, frame_size - crop)
    return corners


def cut_crops(frame: NDArray[np.uint8], cells: NDArray[np.int64], *, grid_size: int, crop: int) -> NDArray[np.uint8]:
    """Return the (n, crop, crop, 3) crops around the (n,) cells of a (side, side, 3) frame."""
    corners = crop_corners(cells, grid_size=grid_size, crop=crop, frame_size=len(frame))
    crops = np.empty((len(cells), crop, crop, 3), np.uint8)
    for out, (top, left) in zip(crops, corners.tolist(), strict=True):
        out[...] = frame[top : top + crop, left : left + crop]
    return crops
