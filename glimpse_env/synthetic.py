"""The embedded source: small rendered videos in which the order of one marked actor's poses is the action.

Needs NumPy alone. A clip is a function of its split and index, computed in integers (where floats hold them, exactly),
so it is the same on every platform and in whatever order clips are read.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources import Segment, gather_rows

CLASS_NAMES = ("AABC", "ABBC", "CBAA", "CBBA", "DDBC", "DBBC", "CBDD", "CBBD")
NUM_CLIPS = {"train": 4000, "validation": 400, "test": 1000}
NUM_FRAMES = 16
GRID_SIZE = 7
DEPTH = 32
MAX_FEATURE = 8.0

_SEED = 2017
_CONTRAST_SCALE = np.float32(2**-12)  # clutter alone seldom reaches 1, where a feature begins
_CELL_PIXELS = 16
_NUM_DISTRACTORS = 8
_NOISE_BITS = 4  # colours stay below 256 - 16: adding noise then never overflows a byte
_POSE_ORDERS = np.array([["ABCD".index(pose) for pose in name] for name in CLASS_NAMES])

# Each character is two by two pixels of a body.
_POSES = (
    ("##...##", "##...##", "##...##", ".##.##.", "..###..", "...#...", "......."),  # A: arms up
    (".......", ".......", "#######", "#######", "#######", ".......", "......."),  # B: lying
    (".......", "...#...", "..###..", ".##.##.", "##...##", "##...##", "##...##"),  # C: legs apart
    ("..###..", "..###..", "..###..", "..###..", "..###..", "..###..", "..###.."),  # D: standing
)
_ACTOR_COLOUR = np.array((239, 180, 60), np.uint8)
_DISTRACTOR_COLOURS = np.array([(130, 140, 150), (110, 150, 160), (130, 120, 170), (115, 165, 140)], np.uint8)

_STEPS = np.zeros((16, 2), np.int64)  # a quarter of all frames begin with a move, so a cell is kept for four on average
_STEPS[:4] = (-1, 0), (1, 0), (0, -1), (0, 1)


def _draw_sprites() -> NDArray[np.bool_]:
    """Return (poses, 3, 3, P * P * 3), where each pose covers a pixel, shifted by -1, 0 or 1 pixels down and right."""
    bodies = np.array([[[mark == "#" for mark in row] for row in pose] for pose in _POSES]).repeat(2, 1).repeat(2, 2)
    centred = np.pad(bodies, ((0, 0), (1, 1), (1, 1)))
    shifted = [[np.roll(centred, (down, right), (1, 2)) for right in (-1, 0, 1)] for down in (-1, 0, 1)]
    return np.array(shifted).transpose(2, 0, 1, 3, 4).reshape(len(_POSES), 3, 3, -1).repeat(3, axis=3)


def _draw_projection() -> NDArray[np.float32]:
    """Return (P * P * 3, D) whole weights that sum to zero in each column: contrasts of shape, then of hue."""
    hues = 4 * np.array(list(permutations((1, 0, -1)))).T  # (3, 6), over the whole cell
    rng = np.random.Generator(np.random.PCG64(_SEED))
    shapes = rng.integers(-2, 3, (16, DEPTH - hues.shape[1]))
    shapes -= rng.permuted(shapes, axis=0)
    shapes = shapes.reshape(4, 4, 1, -1).repeat(4, 0).repeat(4, 1).repeat(3, 2)  # (P, P, 3, D - 6), in grey
    weights = np.concatenate((shapes, np.broadcast_to(hues, (_CELL_PIXELS, _CELL_PIXELS, *hues.shape))), axis=3)
    return weights.reshape(-1, DEPTH).astype(np.float32, copy=False)


_SPRITES = _draw_sprites()
_PROJECTION = _draw_projection()


class _Script(NamedTuple):
    """What everyone does in a clip: N figures, the actor last."""

    poses: NDArray[np.int64]  # (T, N)
    rows: NDArray[np.int64]  # (T, N)
    columns: NDArray[np.int64]  # (T, N)
    shifts: NDArray[np.int64]  # (2, T, N), 0..2 for -1..1 pixels down and right
    colours: NDArray[np.uint8]  # (N, 3)


def _write_script(rng: np.random.Generator, label: int) -> _Script:
    """Draw what the actor does to act out `label`, and what the distractors do, each acting out a class of its own.

    That class may be the actor's: if it never were, who sees many distractors could tell the label by what is missing.
    """
    count, frames = _NUM_DISTRACTORS + 1, np.arange(NUM_FRAMES)[:, None, None]
    others = rng.integers(0, len(CLASS_NAMES), _NUM_DISTRACTORS)
    segments = _POSE_ORDERS.shape[1]
    changes = np.arange(1, segments) * NUM_FRAMES // segments + rng.integers(-1, 2, (count, segments - 1))
    orders = _POSE_ORDERS[np.append(others, label)]  # (N, segments)
    poses = orders[np.arange(count), (frames >= changes).sum(2)]  # (T, N)

    cells = np.empty((NUM_FRAMES, count, 2), np.int64)
    cells[0] = rng.integers(0, GRID_SIZE, (count, 2))
    cells[1:] = _STEPS[rng.integers(0, len(_STEPS), (NUM_FRAMES - 1, count))]
    period = 2 * (GRID_SIZE - 1)
    cells = cells.cumsum(0) % period
    rows, columns = np.minimum(cells, period - cells).transpose(2, 0, 1)  # walks are mirrored at the borders
    shifts = rng.integers(0, 3, (2, NUM_FRAMES, count))
    colours = _DISTRACTOR_COLOURS[rng.integers(0, len(_DISTRACTOR_COLOURS), count)]
    colours[-1] = _ACTOR_COLOUR
    return _Script(poses, rows, columns, shifts, colours)


def _render(rng: np.random.Generator, script: _Script) -> NDArray[np.uint8]:
    """Return (T, K, K, P * P * 3) RGB, cell by cell; of those who share a cell the actor shows."""
    blocks = rng.integers(50, 85, (GRID_SIZE, GRID_SIZE, 4, 4, 1), np.uint8)
    clutter = blocks.repeat(4, 2).repeat(4, 3).repeat(3, 4).reshape(GRID_SIZE, GRID_SIZE, -1)
    colours = np.tile(script.colours, _CELL_PIXELS**2)  # (N, P * P * 3)
    down, right = script.shifts
    drawn = np.where(_SPRITES[script.poses, down, right], colours, clutter[script.rows, script.columns])
    cells = clutter[None].repeat(NUM_FRAMES, 0)
    cells[np.arange(NUM_FRAMES)[:, None], script.rows, script.columns] = drawn  # the last one drawn stays
    pairs = np.frombuffer(rng.bytes(cells.size // 2), np.uint8)
    cells += np.concatenate((pairs & 2**_NOISE_BITS - 1, pairs >> _NOISE_BITS)).reshape(cells.shape)
    return cells


def _embed(cells: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return (..., D) features of (..., P * P * 3) pixels: rectified contrasts, zero where a cell is plain."""
    contrasts: NDArray[np.float32] = cells.astype(np.float32) @ _PROJECTION
    features: NDArray[np.float32] = np.clip(contrasts * _CONTRAST_SCALE - 1, 0, MAX_FEATURE)
    return features.astype(np.float16)


class SyntheticSource:
    """Clips of one bright amber actor among dull distractors; the order of the actor's poses is the class.

    A clip has 16 frames of 112 x 112 pixels, on a grid of 7 x 7 cells. The actor fills one cell, moves to a
    neighbouring one every fourth frame or so, and goes through four poses of about four frames each, which the class's
    name spells: A is arms up, B lying, C legs apart, D standing. Eight distractors move alike, each through the
    order of a class drawn at random, over grey clutter and noise.

    So no frame tells the class, most cells mislead, and the mean over cells mixes nine orders: who finds the actor and
    follows it knows the action. Classes come in pairs that share their poses and pairs that share their timing, so that
    each look that lands rules some out.

    Features are 32 fixed contrasts of a cell's pixels, rectified and held as float16. Clips are made when first read,
    and kept.

    Args:
        split: "train", "validation" or "test"; no clip is in two of them.

    Raises:
        ValueError: there is no such split.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    num_frames: int = NUM_FRAMES
    frames_per_second: float = 8.0
    grid_size: int = GRID_SIZE
    depth: int = DEPTH
    max_feature: float = MAX_FEATURE
    trimmed: bool = True

    def __init__(self, split: str = "train") -> None:
        if split not in NUM_CLIPS:
            raise ValueError(f"the synthetic source has no split {split!r}: choose one of {', '.join(NUM_CLIPS)}")
        self.split = split
        self.num_clips = NUM_CLIPS[split]
        # Memory that was never written is not resident, so opening costs nothing.
        self._cubes = np.empty((self.num_clips * NUM_FRAMES, GRID_SIZE**2 * DEPTH), np.float16)
        self._is_made = np.zeros(self.num_clips, np.bool_)

    def __reduce__(self) -> tuple[type[SyntheticSource], tuple[str]]:
        return type(self), (self.split,)  # copies make their clips anew, which is cheaper than carrying them

    def clip_id(self, clip: int) -> str:
        return f"synthetic-{self.split}-{clip:04d}"

    def segments(self, clip: int) -> tuple[Segment, ...]:
        return (Segment(0.0, NUM_FRAMES / self.frames_per_second, self._label(clip)),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(NUM_FRAMES) / self.frames_per_second

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        self._make_missing(clips)
        gather_rows(self._cubes, clips * NUM_FRAMES + frames, out)

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        self._make_missing(clips)
        rows = (clips * NUM_FRAMES + frames) * GRID_SIZE**2 + cells
        gather_rows(self._cubes.reshape(-1, DEPTH), rows, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8]:
        cells = self._pixels(clip)[frame].reshape(GRID_SIZE, GRID_SIZE, _CELL_PIXELS, _CELL_PIXELS, 3)
        return np.concatenate(np.concatenate(cells, axis=1), axis=1)

    def actor(self, clip: int) -> NDArray[np.bool_]:
        script = _write_script(self._generator(clip), self._label(clip))
        where = np.zeros((NUM_FRAMES, GRID_SIZE, GRID_SIZE), np.bool_)
        where[np.arange(NUM_FRAMES), script.rows[:, -1], script.columns[:, -1]] = True
        return where

    def _label(self, clip: int) -> int:
        return clip % len(CLASS_NAMES)

    def _generator(self, clip: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([_SEED, list(NUM_CLIPS).index(self.split), clip]))

    def _pixels(self, clip: int) -> NDArray[np.uint8]:
        rng = self._generator(clip)
        return _render(rng, _write_script(rng, self._label(clip)))

    def _make_missing(self, clips: NDArray[np.int64]) -> None:
        missing = clips[~self._is_made[clips]]
        for clip in np.unique(missing).tolist() if missing.size else ():
            features = _embed(self._pixels(clip)).reshape(NUM_FRAMES, -1)
            self._cubes[clip * NUM_FRAMES : (clip + 1) * NUM_FRAMES] = features
            self._is_made[clip] = True
