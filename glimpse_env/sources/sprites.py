"""Small rendered videos of figures that walk over a grid and strike poses, and the features of their cells.

All numbers are integers, exact also as floats, so videos are the same on every platform.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID_SIZE = 7
CELL_PIXELS = 16
DEPTH = 32
MAX_FEATURE = 8.0
SEED = 2017

_CONTRAST_SCALE = np.float32(2**-12)  # clutter alone seldom reaches 1, from which a feature is positive
_NOISE_BITS = 4  # colours stay below 256 - 16, so that adding noise never overflows a byte

# Each character is two by two pixels of a body. All poses cover 84 pixels and all colours add up to 420, so that no
# statistic over cells of one channel shows which pose is the actor's.
POSES = (
    ("##...##", "##...##", "##...##", ".##.##.", "..###..", "...#...", "...#..."),  # A: arms up
    (".......", ".......", "#######", "#######", "#######", ".......", "......."),  # B: lying
    ("...#...", "...#...", "..###..", ".##.##.", "##...##", "##...##", "##...##"),  # C: legs apart
    ("..###..", "..###..", "..###..", "..###..", "..###..", "..###..", "..###.."),  # D: standing
    (".......", ".......", "...#...", ".#####.", ".#####.", ".#####.", ".#####."),  # E: ducked, the pose of the idle
)
_ACTOR_COLOUR = np.array((210, 158, 52), np.uint8)
_DISTRACTOR_COLOURS = np.array([(130, 140, 150), (110, 150, 160), (130, 120, 170), (115, 165, 140)], np.uint8)

_STEPS = np.zeros((16, 2), np.int64)  # a quarter of all frames begin with a move, so a cell is kept for four on average
_STEPS[:4] = (-1, 0), (1, 0), (0, -1), (0, 1)


def _draw_sprites() -> NDArray[np.bool_]:
    # (poses, 3, 3, P * P * 3): the pixels of each pose, shifted by -1, 0 or 1 pixels down and right
    bodies = np.array([[[mark == "#" for mark in row] for row in pose] for pose in POSES]).repeat(2, 1).repeat(2, 2)
    centred = np.pad(bodies, ((0, 0), (1, 1), (1, 1)))
    shifted = [[np.roll(centred, (down, right), (1, 2)) for right in (-1, 0, 1)] for down in (-1, 0, 1)]
    return np.array(shifted).transpose(2, 0, 1, 3, 4).reshape(len(POSES), 3, 3, -1).repeat(3, axis=3)


def _draw_projection() -> NDArray[np.float32]:
    # (P * P * 3, D) whole weights that sum to zero in each column: contrasts of shape, then of hue
    hues = 4 * np.array(list(permutations((1, 0, -1)))).T  # (3, 6), over the whole cell
    rng = np.random.Generator(np.random.PCG64(SEED))
    shapes = rng.integers(-2, 3, (16, DEPTH - hues.shape[1]))
    shapes -= rng.permuted(shapes, axis=0)
    shapes = shapes.reshape(4, 4, 1, -1).repeat(4, 0).repeat(4, 1).repeat(3, 2)  # (P, P, 3, D - 6), in grey
    weights = np.concatenate((shapes, np.broadcast_to(hues, (CELL_PIXELS, CELL_PIXELS, *hues.shape))), axis=3)
    return weights.reshape(-1, DEPTH).astype(np.float32, copy=False)


_SPRITES = _draw_sprites()
_PROJECTION = _draw_projection()


class Script(NamedTuple):
    """Poses, places and colours of N figures in a clip, the actor last."""

    poses: NDArray[np.int64]  # (T, N), indices into POSES
    rows: NDArray[np.int64]  # (T, N)
    columns: NDArray[np.int64]  # (T, N)
    shifts: NDArray[np.int64]  # (2, T, N), 0..2 for -1..1 pixels down and right
    colours: NDArray[np.uint8]  # (N, 3)


def write_still_script(rng: np.random.Generator, poses: NDArray[np.int64], *, grid_size: int) -> Script:
    """Draw a cell for each figure that strikes (T, N) `poses` and does not move, and colours."""
    rows, columns = np.divmod(rng.permutation(grid_size**2)[: poses.shape[1]], grid_size)
    return _finish(rng, poses, np.broadcast_to(rows, poses.shape), np.broadcast_to(columns, poses.shape))


def write_script(rng: np.random.Generator, poses: NDArray[np.int64]) -> Script:
    """Draw walks and colours of figures that strike (T, N) `poses`."""
    frames, count = poses.shape
    cells = np.empty((frames, count, 2), np.int64)
    cells[0] = rng.integers(0, GRID_SIZE, (count, 2))
    cells[1:] = _STEPS[rng.integers(0, len(_STEPS), (frames - 1, count))]
    period = 2 * (GRID_SIZE - 1)
    cells = cells.cumsum(0) % period
    rows, columns = np.minimum(cells, period - cells).transpose(2, 0, 1)  # walks are mirrored at the borders
    return _finish(rng, poses, rows, columns)


def _finish(
    rng: np.random.Generator, poses: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Script:
    shifts = rng.integers(0, 3, (2, *poses.shape))
    colours = _DISTRACTOR_COLOURS[rng.integers(0, len(_DISTRACTOR_COLOURS), poses.shape[1])]
    colours[-1] = _ACTOR_COLOUR
    return Script(poses, rows, columns, shifts, colours)


def render(rng: np.random.Generator, script: Script, *, grid_size: int = GRID_SIZE) -> NDArray[np.uint8]:
    """Return (T, K, K, P * P * 3) RGB, cell by cell; of figures that share a cell the actor shows."""
    frames = len(script.poses)
    blocks = rng.integers(50, 85, (grid_size, grid_size, 4, 4, 1), np.uint8)
    clutter = blocks.repeat(4, 2).repeat(4, 3).repeat(3, 4).reshape(grid_size, grid_size, -1)
    colours = np.tile(script.colours, CELL_PIXELS**2)  # (N, P * P * 3)
    down, right = script.shifts
    drawn = np.where(_SPRITES[script.poses, down, right], colours, clutter[script.rows, script.columns])
    cells = clutter[None].repeat(frames, 0)
    cells[np.arange(frames)[:, None], script.rows, script.columns] = drawn  # the last one drawn remains
    pairs = np.frombuffer(rng.bytes(cells.size // 2), np.uint8)
    cells += np.concatenate((pairs & 2**_NOISE_BITS - 1, pairs >> _NOISE_BITS)).reshape(cells.shape)
    return cells


def embed(cells: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return (..., D) features of (..., P * P * 3) pixels: rectified contrasts, zero for a plain cell."""
    contrasts: NDArray[np.float32] = cells.astype(np.float32) @ _PROJECTION
    features: NDArray[np.float32] = np.clip(contrasts * _CONTRAST_SCALE - 1, 0, MAX_FEATURE)
    return features.astype(np.float16)
