"""Windows that slide over long videos: each is a clip, and knows the video that it is a part of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import ClipSource, Segment, crop_of

_SLACK = 1e-9  # seconds: borders that agree but for rounding touch, and do not overlap


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidingWindows:
    """A clip source whose clips are windows of T frames of another source's clips, here its videos.

    The first window of a video begins with it, the next ones `stride_seconds` later each, and if these do not reach
    its end, one more window ends with it: every frame is in a window. A video no longer than a window is one window,
    of the frames that there are. Windows are numbered video by video, in order of time, and read from the source where
    they are: nothing is copied.

    A window of an untrimmed video has the segments that overlap its time, whole, and none if there is background
    alone. A window of a trimmed one is one segment of the video's class.

    Args:
        source: the videos.
        window_seconds: how long a window is; T is the nearest number of frames.
        stride_seconds: from the start of one window to that of the next, rounded to frames, and at least one; half of
            `window_seconds` without it.

    Attributes:
        num_frames: T.
        stride_frames: from the start of one window to that of the next.
        videos: (windows,) int64, the clip of the source that each window is a part of.
        first_frames: (windows,) int64, the index of the window's first frame among the frames of that clip.

    Raises:
        TypeError: the seconds are not numbers.
        ValueError: the source is of crops, a window has no frame, or the stride is not positive or would leave frames
            out.
    """

    source: ClipSource
    window_seconds: float
    stride_seconds: float | None = None
    num_frames: int = field(init=False)
    stride_frames: int = field(init=False)
    videos: NDArray[np.int64] = field(init=False, repr=False)
    first_frames: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("window_seconds", self.window_seconds), ("stride_seconds", self.stride_seconds)):
            is_left_out = name == "stride_seconds" and value is None
            if not is_left_out and (isinstance(value, bool) or not isinstance(value, Real)):
                raise TypeError(f"{name} must be a number, got {value!r}")
        if crop_of(self.source) is not None:
            raise ValueError(
                "windows cannot slide over this source: its slices are of crops, and only a clip's first frame was "
                "seen whole, so that episodes begin there; leave window_seconds out, or extract without --crop"
            )
        rate = self.source.frames_per_second
        if not 0 < self.window_seconds < math.inf or round(self.window_seconds * rate) < 1:
            raise ValueError(
                f"window_seconds must be finite and at least one frame, of {1 / rate:g} seconds here, "
                f"got {self.window_seconds}"
            )
        stride_seconds = self.window_seconds / 2 if self.stride_seconds is None else self.stride_seconds
        if not 0 < stride_seconds <= self.window_seconds:
            raise ValueError(
                f"stride_seconds must be positive and at most window_seconds ({self.window_seconds}), or frames "
                f"between windows would never be seen, got {stride_seconds}"
            )
        object.__setattr__(self, "num_frames", round(self.window_seconds * rate))
        object.__setattr__(self, "stride_frames", max(1, round(stride_seconds * rate)))
        lengths = [len(self.source.frame_times(video)) for video in range(self.source.num_clips)]
        lasts = np.maximum(np.array(lengths, np.int64) - self.num_frames, 0)  # where the last window of a video begins
        counts = -(-lasts // self.stride_frames) + 1
        videos = np.repeat(np.arange(len(lengths)), counts)
        numbers = np.arange(len(videos)) - (counts.cumsum() - counts)[videos]  # of each window within its video
        object.__setattr__(self, "videos", videos)
        object.__setattr__(self, "first_frames", np.minimum(numbers * self.stride_frames, lasts[videos]))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def num_clips(self) -> int:
        return len(self.videos)

    @property
    def frames_per_second(self) -> float:
        return self.source.frames_per_second

    @property
    def grid_size(self) -> int:
        return self.source.grid_size

    @property
    def depth(self) -> int:
        return self.source.depth

    @property
    def max_feature(self) -> float:
        return self.source.max_feature

    @property
    def trimmed(self) -> bool:
        return self.source.trimmed

    def clip_id(self, clip: int) -> str:
        """Return the video's name and the second at which the window begins, like "abc@12.50"."""
        # Enough decimals to tell windows apart that begin one frame after another.
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

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        self.source.read_cubes(self.videos[clips], self.first_frames[clips] + frames, out)

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        self.source.read_slices(self.videos[clips], self.first_frames[clips] + frames, cells, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        return self.source.image(int(self.videos[clip]), int(self.first_frames[clip]) + frame)

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        actor = self.source.actor(int(self.videos[clip]))
        return None if actor is None else actor[self._frames(clip)]

    def _frames(self, clip: int) -> slice:
        first = int(self.first_frames[clip])
        return slice(first, first + self.num_frames)
