"""Windows that slide over long videos: each is a clip, and knows the video that it is a part of."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import Array, ClipSource, Index, Segment, describe, feature_range

_SLACK = 1e-9  # seconds: borders that differ by rounding alone touch, and do not overlap


class SlidingWindows:
    """A clip source whose clips are windows of T frames of another source's clips, here its videos.

    The first window of a video begins with it, each next one `stride_seconds` later; if these do not reach the end, one
    more window ends with the video. A video no longer than a window is one window of all its frames. Windows are
    numbered video by video, in order of time. Nothing is copied.

    A window of an untrimmed video has the segments that overlap its time, uncut; background alone has none. A window of
    a trimmed video is one segment of the video's class.

    Args:
        source: the videos.
        window_seconds: length of a window; T is the nearest number of frames.
        stride_seconds: from the start of one window to that of the next, rounded to at least one frame; half of
            `window_seconds` without it.

    Attributes:
        num_frames: T.
        longest_video: frames of the longest clip of the source.
        stride_frames: from the start of one window to that of the next.
        videos: (windows,) int64, the clip of the source that each window is a part of.
        first_frames: (windows,) int64, the index of the window's first frame among the frames of that clip.

    Raises:
        TypeError: the seconds are not numbers.
        ValueError: the source is of crops, a window has no frame, or the stride is not positive or would skip frames.
    """

    def __init__(self, *, source: ClipSource, window_seconds: float, stride_seconds: float | None = None) -> None:
        stride = window_seconds if stride_seconds is None else stride_seconds
        seconds: dict[str, Any] = {"window_seconds": window_seconds, "stride_seconds": stride}
        for name, value in seconds.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
        if getattr(source, "crop", None) is not None:
            raise ValueError(
                "windows cannot slide over this source: its slices are of crops, and only a clip's first frame was "
                "seen whole, so episodes begin there; leave window_seconds out, or extract without --crop"
            )
        rate = source.frames_per_second
        if not 0 < window_seconds < math.inf or round(window_seconds * rate) < 1:
            raise ValueError(
                f"window_seconds must be finite and at least one frame, of {1 / rate:g} seconds here, "
                f"got {window_seconds}"
            )
        if not 0 < stride <= window_seconds:
            raise ValueError(
                f"stride_seconds must be positive and at most window_seconds ({window_seconds}), or frames "
                f"between windows would never be seen, got {stride}"
            )
        self.source, self.window_seconds, self.stride_seconds = source, window_seconds, stride_seconds
        self.class_names, self.trimmed = source.class_names, source.trimmed
        self.min_feature, self.max_feature = feature_range(source)
        self.frames_per_second, self.grid_size, self.depth = rate, source.grid_size, source.depth
        self.num_frames = round(window_seconds * rate)
        self.stride_frames = max(1, round((window_seconds / 2 if stride_seconds is None else stride) * rate))
        lengths = np.array([len(source.frame_times(video)) for video in range(source.num_clips)], np.int64)
        self.longest_video = int(lengths.max(initial=0))
        lasts = np.maximum(lengths - self.num_frames, 0)  # first frame of the last window of each video
        counts = -(-lasts // self.stride_frames) + 1
        self.videos = np.repeat(np.arange(len(lengths)), counts)
        self.num_clips = len(self.videos)
        numbers = np.arange(self.num_clips) - (counts.cumsum() - counts)[self.videos]  # of each window within its video
        self.first_frames = np.minimum(numbers * self.stride_frames, lasts[self.videos])

    __repr__ = describe

    def clip_id(self, clip: int) -> str:
        """Return the video's name and the second at which the window begins, like "abc@12.50"."""
        # Enough decimals to distinguish windows that begin one frame after another.
        decimals = max(2, len(str(int(self.frames_per_second))))
        return f"{self.source.clip_id(int(self.videos[clip]))}@{self.frame_times(clip)[0]:.{decimals}f}"

    def segments(self, clip: int) -> tuple[Segment, ...]:
        times, half = self.frame_times(clip), 0.5 / self.frames_per_second
        first, last = float(times[0] - half), float(times[-1] + half)
        segments = self.source.segments(int(self.videos[clip]))
        if self.trimmed:
            return tuple(Segment(first, last, label) for _, _, label in segments)
        return tuple(segment for segment in segments if segment.start < last - _SLACK and segment.end > first + _SLACK)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return self.source.frame_times(int(self.videos[clip]))[self._frames(clip)]

    def read_cubes(self, clips: Index, frames: Index, out: Array) -> None:
        self.source.read_cubes(self.videos[clips], self.first_frames[clips] + frames, out)

    def read_slices(self, clips: Index, frames: Index, cells: Index, out: Array) -> None:
        self.source.read_slices(self.videos[clips], self.first_frames[clips] + frames, cells, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        return self.source.image(int(self.videos[clip]), int(self.first_frames[clip]) + frame)

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        actor = self.source.actor(int(self.videos[clip]))
        return None if actor is None else actor[self._frames(clip)]

    def _frames(self, clip: int) -> slice:
        first = int(self.first_frames[clip])
        return slice(first, first + self.num_frames)
