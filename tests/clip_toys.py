"""Clip sources for tests that make their own."""

from dataclasses import dataclass

import numpy as np

from glimpse_env.sources.protocol import ArraySource, Segment


@dataclass(frozen=True, kw_only=True, eq=False)
class UnevenSource(ArraySource):
    """Clips of different lengths, and any segments: the arrays hold the longest, the rest of a row is never read."""

    lengths: tuple[int, ...]
    truths: tuple[tuple[Segment, ...], ...] | None = None

    @property
    def trimmed(self):
        return self.truths is None

    def frame_times(self, clip):
        return np.arange(self.lengths[clip]) / self.frames_per_second

    def segments(self, clip):
        return super().segments(clip) if self.truths is None else self.truths[clip]


def counted(clips, frames):
    """Return (clips, frames, 3, 3, 2) features that count up from 1: all differ, and all are exact in float16.

    Slice k of frame n of clip i (all from 0) is (v, v + 1) with v = 1 + 2 * (9 * (frames * i + n) + k).
    """
    shape = (clips, frames, 3, 3, 2)
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def assert_same(first, second):
    """Hold two results of reset or step to the same structure, types, dtypes and bits."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        if first.dtype == object:
            for one, other in zip(first, second, strict=True):
                assert_same(one, other)
        else:
            np.testing.assert_array_equal(first, second)
    else:
        assert first == second
