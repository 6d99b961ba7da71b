"""Protocol of clip sources, and clips held in memory.

A source is one split of one dataset. It knows nothing of episodes, windows or rewards: it numbers its clips, says what
is true of them and copies features into arrays that the caller owns. A cell is an index 0..K*K-1, row-major; a frame
is an index 0..length-1 into the frames that the source holds of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


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
        num_clips: how many clips the split has; clips are 0..num_clips-1.
        num_frames: T, the frames of an episode by default.
        frames_per_second: the fixed rate at which clips were sampled.
        grid_size: K, the cells along each side of a cube.
        depth: D, the channels of a slice.
        max_feature: the largest activation of the whole dataset; activations are never negative.
        trimmed: True if every clip is one segment of one class, False if clips are long and may have several.
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
        """Return the clip's name, unique in the dataset."""

    def segments(self, clip: int) -> tuple[Segment, ...]:
        """Return the ground truth; empty if it is unknown."""

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        """Return (length,) seconds, one for each frame held of the clip, ascending."""

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy whole cubes: `clips` and `frames` are (n,), `out` (n, K, K, D) in the dtype wanted."""

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        """Copy single slices: `clips`, `frames` and `cells` are (n,), `out` is (n, D) in the dtype wanted."""

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        """Return (height, width, 3) RGB of the frame, or None if the source keeps no pictures."""

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        """Return (length, K, K), True for cells that the actor covers more than a tenth of; None if unknown."""


def crop_of(source: ClipSource) -> int | None:
    """Return the side in pixels of the crops that a source's slices are made of; None for cells of whole frames.

    Such a source says so by an attribute `crop`, which others need not have. Only the first frame that it holds of a
    clip was seen whole, so that an episode must begin there.
    """
    return getattr(source, "crop", None)


def computes_features(source: ClipSource) -> bool:
    """Return whether a source computes features when they are read, so that none should be that are not looked at.

    Such a source says so by an attribute `computes_features`, which others need not have.
    """
    return bool(getattr(source, "computes_features", False))


_WIDE = 2**13  # numbers: from here on a row at a time is fastest, and needs no buffer of the output's size


def gather_rows(bank: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy `bank[rows]` into `out`, converting if the dtypes differ.

    Args:
        bank: (rows, width) float16 or float32, finite and never negative.
        rows: (n,), within the bank: they are not checked, since every caller has validated its clips and cells.
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

    The bits of a half, moved to where a float has its exponent and fraction, are the number over 2 ** 112.
    """
    bits = out.view(np.int32)
    bits[...] = halves.view(np.int16)  # the sign fills the upper half
    bits <<= 13
    bits &= ~0x70000000  # of the sign's copies only the first is one
    out *= np.float32(2.0**112)


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Clips of equal length whose features are arrays in memory: for one's own features, tests and benchmarks.

    Args:
        features: (clips, T, K, K, D), float16 or float32, finite and never negative.
        labels: (clips,) integers in 0..C-1, or -1 if the class is unknown.
        class_names: the C classes.
        frames_per_second: the rate at which the frames were taken.
        clip_ids: one name for each clip; numbered names without it.
        images: (clips, T, height, width, 3) uint8 RGB, for rendering.
        actors: (clips, T, K, K) bool, True for the actor's cells.

    Raises:
        ValueError: the arrays do not fit together, or the features are negative or not finite.
    """

    features: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    frames_per_second: float = 30.0
    clip_ids: Sequence[str] | None = None
    images: NDArray[np.uint8] | None = None
    actors: NDArray[np.bool_] | None = None
    max_feature: float = field(init=False)
    _cubes: NDArray[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        features = self.features
        if features.ndim != 5 or features.shape[2] != features.shape[3]:
            raise ValueError(f"features must be (clips, T, K, K, D), got shape {features.shape}")
        if features.dtype not in (np.float16, np.float32):
            raise ValueError(f"features must be float16 or float32, got {features.dtype}: convert them first")
        labels = np.asarray(self.labels)
        if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be ({len(features)},) integers, got {labels.dtype} {labels.shape}")
        if labels.size and not (labels.min() >= -1 and labels.max() < len(self.class_names)):
            raise ValueError(
                f"labels must be -1 (unknown) or 0..{len(self.class_names) - 1}, got {labels.min()}..{labels.max()}"
            )
        for name, array, shape in (
            ("images", self.images, features.shape[:2]),
            ("actors", self.actors, features.shape[:4]),
        ):
            if array is not None and array.shape[: len(shape)] != shape:
                raise ValueError(f"{name} must begin with shape {shape}, got {array.shape}")
        if self.clip_ids is not None and len(self.clip_ids) != len(features):
            raise ValueError(f"{len(features)} clips need as many clip_ids, got {len(self.clip_ids)}")
        smallest, largest = (features.min(), features.max()) if features.size else (0.0, 0.0)
        if not (smallest >= 0 and np.isfinite(largest)):
            raise ValueError(f"features must be finite and never negative, got values from {smallest} to {largest}")
        object.__setattr__(self, "max_feature", float(largest))
        bank = np.ascontiguousarray(features).reshape(self.num_clips * self.num_frames, self.grid_size**2 * self.depth)
        object.__setattr__(self, "_cubes", bank)

    @property
    def num_clips(self) -> int:
        return int(self.features.shape[0])

    @property
    def num_frames(self) -> int:
        return int(self.features.shape[1])

    @property
    def grid_size(self) -> int:
        return int(self.features.shape[2])

    @property
    def depth(self) -> int:
        return int(self.features.shape[4])

    @property
    def trimmed(self) -> bool:
        return True

    def clip_id(self, clip: int) -> str:
        return f"clip{clip:06d}" if self.clip_ids is None else self.clip_ids[clip]

    def segments(self, clip: int) -> tuple[Segment, ...]:
        label = int(self.labels[clip])
        return () if label < 0 else (Segment(0.0, self.num_frames / self.frames_per_second, label),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(self.num_frames) / self.frames_per_second

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        gather_rows(self._cubes, clips * self.num_frames + frames, out)

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        rows = (clips * self.num_frames + frames) * self.grid_size**2 + cells
        gather_rows(self._cubes.reshape(-1, self.depth), rows, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        return None if self.images is None else self.images[clip, frame]

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        return None if self.actors is None else self.actors[clip]
