"""Brightness of each pixel of a picture, by the attention to its cell: the paper's figures 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DIMMED = 0.35


def upsample(weights: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Spread (K, K) weights smoothly over a picture: bicubic between the centres of the cells, never negative.

    Returns:
        (height, width) float32; equal weights stay as they are.
    """
    spread = Image.fromarray(weights.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(spread).clip(0, None)


def brightness_of_weights(weights: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width): 1 at the strongest of (K, K) soft attention, `DIMMED` without any attention."""
    spread = upsample(weights, height, width)
    return DIMMED + (1 - DIMMED) * spread / max(float(spread.max()), 1e-12)


def brightness_of_cells(cells: Sequence[int], grid_size: int, height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width): 1 in the cells that were seen, `DIMMED` elsewhere."""
    brightness = np.full((height, width), DIMMED, np.float32)
    for cell in cells:
        left, top, right, bottom = (round(edge) for edge in cell_box(cell, grid_size, height, width))
        brightness[top:bottom, left:right] = 1
    return brightness


def cell_box(cell: int, grid_size: int, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom edge of a cell in a picture, in pixels."""
    row, column = divmod(cell, grid_size)
    down, across = height / grid_size, width / grid_size
    return column * across, row * down, (column + 1) * across, (row + 1) * down


def shaded(image: NDArray[np.uint8], brightness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a (height, width, 3) picture at the brightness of each of its pixels."""
    return (image * brightness[..., None]).astype(np.uint8)
