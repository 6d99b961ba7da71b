"""Clip sources: their protocol, clips held in memory, and the copying of features.

A source is one split of a data set. It knows nothing of episodes or rewards: it numbers its clips, knows their truth,
and copies features into arrays of the caller. A cell is an index 0..K*K-1, row-major; a frame is an index into the
frames that the source holds of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Index = NDArray[np.int64]

LARGEST_GRID = 32  # cells along each side of a cube, at most
_WIDE = 2**13  # numbers: rows of this width are converted fastest one by one, without a buffer
_FIRST_ROWS = 256


class Segment(NamedTuple):
    """A stretch of a clip in which one class is true, from `start` to `end` seconds, both included."""

    start: float
    end: float
    label: int


@runtime_checkable
class ClipSource(Protocol):
    """A set of labelled clips, as an environment needs it.

    Attributes:
        class_names: the C classes; a label is an index into them.
        num_frames: T, the frames of an episode by default.
        frames_per_second: the fixed rate at which clips were sampled.
        grid_size: K, the cells along each side of a cube.
        depth: D, the channels of a slice.
        max_feature: the largest feature of the data set.
        trimmed: True if every clip is one segment of one class, False if clips are long and may have several.
        min_feature (optional): the smallest feature of the data set, 0 by default.
        crop (optional): side in pixels of the crops that slices are made of. Only the first frame of a clip was then
            seen whole, so an episode must begin there.
        computes_features (optional): True if features are computed when they are read.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def num_clips(self) -> int: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def frames_per_second(self) -> float: ...
    @property
    def grid_size(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def max_feature(self) -> float: ...
    @property
    def trimmed(self) -> bool: ...

    def clip_id(self, clip: int) -> str:
        """Return the clip's name, unique in the data set."""

    def segments(self, clip: int) -> tuple[Segment, ...]:
        """Return the ground truth; empty if it is unknown."""

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        """Return (length,) ascending seconds, one per frame held of the clip."""

    def read_cubes(self, clips: Index, frames: Index, out: Array) -> None:
        """Copy whole cubes: `clips` and `frames` are (n,), `out` is (n, K, K, D) in the dtype wanted."""

    def read_slices(self, clips: Index, frames: Index, cells: Index, out: Array) -> None:
        """Copy single slices: `clips`, `frames` and `cells` are (n,), `out` is (n, D) in the dtype wanted."""

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        """Return (height, width, 3) RGB of the frame, or None if the source keeps no pictures."""

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        """Return (length, K, K), True for cells that the actor covers more than a tenth of; None if unknown."""


def describe(source: ClipSource) -> str:
    """Return one line about a source, for its `repr`."""
    name = f"{type(source).__name__} {getattr(source, 'split', '')}".rstrip()
    return (
        f"<{name}: {source.num_clips} clips of {len(source.class_names)} classes, {source.num_frames} frames of "
        f"{source.grid_size} x {source.grid_size} x {source.depth}>"
    )


def refuse_masked(**arrays: Any) -> None:
    """Raise ValueError if an array is a masked one, whose mask NumPy's functions drop."""
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray):
            raise ValueError(f"{name} must be a plain array, got a masked one: fill it first, with {name}.filled(...)")


def feature_range(source: ClipSource) -> tuple[float, float]:
    """Return the least and the most that a value of an observation can be; a cell that is not seen is 0."""
    return min(0.0, getattr(source, "min_feature", 0.0)), max(0.0, source.max_feature)


def gather_rows(bank: Array, rows: Index, out: Array) -> None:
    """Copy `bank[rows]` into `out`, converting if the dtypes differ.

    Args:
        bank: (rows, width) float16 or float32, finite.
        rows: (n,) rows of the bank, which are not checked.
        out: float16 or float32, n rows of `width` values, of any shape.
    """
    if bank.dtype == out.dtype and out.flags.c_contiguous:
        # With mode="raise" NumPy buffers the whole output first, which doubles the bytes moved.
        np.take(bank, rows, axis=0, out=out.reshape(len(rows), bank.shape[1]), mode="clip")
    elif bank.dtype == np.float16 and out.dtype == np.float32 and out.flags.c_contiguous:
        floats = out.reshape(len(rows), bank.shape[1])
        if bank.shape[1] < _WIDE:
            widen(np.take(bank, rows, axis=0, mode="clip"), floats)
            return
        for row, place in zip(rows.tolist(), floats, strict=True):
            widen(bank[row], place)
    else:
        out[...] = bank[rows].reshape(out.shape)


def widen(halves: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """Convert finite float16 into `out` exactly, six times as fast as NumPy does.

    The bits of a half, moved to the exponent and fraction of a float, are the number over 2 ** 112.
    """
    bits = out.view(np.int32)
    bits[...] = halves.view(np.int16)  # the sign fills the upper half
    bits <<= 13
    bits &= ~0x70000000  # only the first copy of the sign stays
    out *= np.float32(2.0**112)


class ClipBank:
    """Rows of features that are made when a clip is first read; memory grows with the clips that were read.

    Attributes:
        firsts: (num_clips,) int64, the row at which each clip begins; -1 for a clip that has no rows yet.
        rows: (capacity, width); replaced by a larger array when it is full, so do not keep it.
    """

    def __init__(self, num_clips: int, width: int, dtype: type[np.floating[Any]]) -> None:
        self.firsts = np.full(num_clips, -1, np.int64)
        self.rows = np.empty((0, width), dtype)
        self._used = 0

    def add(self, clip: int, count: int) -> Array:
        """Return the (count, width) uninitialised rows of a clip that has none yet."""
        first, end = self._used, self._used + count
        if end > len(self.rows):
            # One array per clip would be slower to gather from. One array for all clips would be resident at once,
            # because the kernel backs large arrays with pages of 2 MB.
            grown = np.empty((max(end, 2 * len(self.rows), _FIRST_ROWS), self.rows.shape[1]), self.rows.dtype)
            grown[:first] = self.rows[:first]
            self.rows = grown
        self.firsts[clip], self._used = first, end
        return self.rows[first:end]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ArraySource:
    """Clips of equal length whose features are arrays in memory.

    Args:
        features: (clips, T, K, K, D), float16 or float32, finite.
        labels: (clips,) integers in 0..C-1, or -1 if the class is unknown.
        class_names: the C classes.
        frames_per_second: the rate at which the frames were taken.
        clip_ids: one name per clip; numbered names without it.
        images: (clips, T, height, width, 3) uint8 RGB, for rendering.
        actors: (clips, T, K, K) bool, True for the actor's cells.

    Raises:
        ValueError: the arrays do not fit together, or a value is out of range.
    """

    features: Array
    labels: Index
    class_names: tuple[str, ...]
    frames_per_second: float = 30.0
    clip_ids: Sequence[str] | None = None
    images: NDArray[np.uint8] | None = None
    actors: NDArray[np.bool_] | None = None
    num_clips: int = field(init=False)
    num_frames: int = field(init=False)
    grid_size: int = field(init=False)
    depth: int = field(init=False)
    min_feature: float = field(init=False)
    max_feature: float = field(init=False)
    trimmed: ClassVar[bool] = True
    __repr__ = describe

    def __post_init__(self) -> None:
        refuse_masked(features=self.features, labels=self.labels, images=self.images, actors=self.actors)
        features, labels, shape = self.features, np.asarray(self.labels), self.features.shape
        if len(shape) != 5 or shape[2] != shape[3] or not all(shape[1:]):
            raise ValueError(f"features must be (clips, T, K, K, D), got shape {shape}")
        if features.dtype not in (np.float16, np.float32):
            raise ValueError(f"features must be float16 or float32, got {features.dtype}: convert them first")
        if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be ({shape[0]},) integers, got {labels.dtype} {labels.shape}")
        if labels.size and not (labels.min() >= -1 and labels.max() < len(self.class_names)):
            raise ValueError(
                f"labels must be -1 (unknown) or 0..{len(self.class_names) - 1}, got {labels.min()}..{labels.max()}"
            )
        if not 0 < self.frames_per_second < np.inf:
            raise ValueError(f"frames_per_second must be positive and finite, got {self.frames_per_second}")
        pictures: tuple[Any, ...] = (*shape[:2], "height", "width", 3)
        for name, array, kind, wanted in (
            ("images", self.images, np.uint8, pictures),
            ("actors", self.actors, np.bool_, shape[:4]),
        ):
            if array is None:
                continue
            fits = len(array.shape) == len(wanted) and array.dtype == kind
            if not fits or any(
                size not in (own, "height", "width") for size, own in zip(wanted, array.shape, strict=True)
            ):
                sizes = ", ".join(map(str, wanted))
                raise ValueError(f"{name} must be {np.dtype(kind)} ({sizes}), got {array.dtype} {array.shape}")
        if self.clip_ids is not None and len(self.clip_ids) != len(features):
            raise ValueError(f"{len(features)} clips need as many clip_ids, got {len(self.clip_ids)}")
        smallest, largest = (features.min(), features.max()) if features.size else (0.0, 0.0)
        if not np.isfinite([smallest, largest]).all():
            raise ValueError(f"features must be finite, got values from {smallest} to {largest}")
        clips, frames, size, _, depth = map(int, shape)
        derived: dict[str, Any] = {"num_clips": clips, "num_frames": frames, "grid_size": size, "depth": depth}
        derived |= {"min_feature": float(smallest), "max_feature": float(largest)}
        derived |= {"features": np.ascontiguousarray(features)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def clip_id(self, clip: int) -> str:
        return f"clip{clip:06d}" if self.clip_ids is None else self.clip_ids[clip]

    def segments(self, clip: int) -> tuple[Segment, ...]:
        label = int(self.labels[clip])
        return () if label < 0 else (Segment(0.0, self.num_frames / self.frames_per_second, label),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(self.num_frames) / self.frames_per_second

    def read_cubes(self, clips: Index, frames: Index, out: Array) -> None:
        bank = self.features.reshape(-1, self.grid_size**2 * self.depth)
        gather_rows(bank, clips * self.num_frames + frames, out)

    def read_slices(self, clips: Index, frames: Index, cells: Index, out: Array) -> None:
        rows = (clips * self.num_frames + frames) * self.grid_size**2 + cells
        gather_rows(self.features.reshape(-1, self.depth), rows, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        return None if self.images is None else self.images[clip, frame]

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        return None if self.actors is None else self.actors[clip]
