"""Sample the frames of a video at a fixed rate.

The samples of a clip lie at t_n = start + (n - 1) / frames_per_second. Each is the shown frame with the nearest time,
ties to the earlier one; `timeline` defines the times, and `readers` chooses the decoder. Pictures are turned and
mirrored as their file says. Sides of pixels that are not square are not corrected.

Resize rule `direct-bilinear-224`: the decoded frame as 8-bit RGB at its own size, then each side scaled to 224 without
keeping the aspect ratio or cropping, with a triangle filter that widens as the picture shrinks (bilinear with
antialiasing, half-pixel centres, rounded to 8 bits). Other networks take other sizes, or a cubic filter. Thumbnails are
112 pixels wide and high, by `direct-bilinear-112`.

Only resizing needs torch: processes that only decode never import it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glimpse_env.video.readers import DecoderChoice, DecoderError, DecoderName, open_video

Interpolation = Literal["bilinear", "bicubic"]
THUMBNAIL_SIZE = 112


@dataclass(frozen=True)
class ResizeRule:
    """How a frame becomes a square picture of `size` pixels a side; as text like "direct-bilinear-224"."""

    size: int = 224
    interpolation: Interpolation = "bilinear"

    def __str__(self) -> str:
        return f"direct-{self.interpolation}-{self.size}"

    @classmethod
    def parse(cls, text: str) -> ResizeRule:
        """Return the rule of a text; a ValueError if this version has no such rule."""
        for interpolation in get_args(Interpolation):
            size = text.removeprefix(f"direct-{interpolation}-")
            if size.isdecimal() and text == str(cls(int(size), interpolation)):
                return cls(int(size), interpolation)
        raise ValueError(f"this version has no resize rule {text!r}: direct-bilinear-224 is one")


USUAL, THUMBNAILS = ResizeRule(), ResizeRule(THUMBNAIL_SIZE)


class VideoError(RuntimeError):
    """A video file cannot be read; the message names the file and the reason.

    Attributes:
        reason: one line that is the same from run to run.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass
class Stopwatch:
    """Seconds spent, by activity."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the time that the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({activity: time.perf_counter() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds measured elsewhere."""
        for activity, value in seconds.items():
            self.seconds[activity] = self.seconds.get(activity, 0.0) + value


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The frames that show at a fixed rate.

    Attributes:
        times: (n,) float64 seconds, t_1 ... t_n, evenly spaced.
        numbers: (n,) int64, the frame of the file that each sample shows, from 0.
        decoder: library that decoded it.
        seconds: spent on `decode` and `resize`.
    """

    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    decoder: DecoderName
    seconds: Mapping[str, float] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class DecodedClip(Samples):
    """The samples of one video, with their pictures.

    Attributes:
        frames: (n, side, side, 3) uint8 RGB, by the network's resize rule.
        thumbnails: (n, 112, 112, 3) uint8 RGB.
    """

    frames: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A decoded frame: number `place` of `count` different ones, (height, width, 3) uint8 RGB."""

    place: int
    count: int
    rgb: NDArray[np.uint8]


def decode_clip(
    path: Path,
    *,
    frames_per_second: float,
    max_frames: int,
    decoder: DecoderChoice = "auto",
    rule: ResizeRule = USUAL,
) -> DecodedClip:
    """Sample a video at a fixed rate; memory grows with the samples, not with the file.

    Args:
        path: the video file.
        frames_per_second: rate of the samples; above the file's own rate, frames repeat.
        max_frames: a longer clip keeps its centred window of this many samples.
        decoder: the library to decode with; "auto" takes the fastest that is proven right for the file.
        rule: how frames are resized.

    Raises:
        VideoError: the file is missing, not a video, without frames, or not for the library chosen.
        DecoderError: the library chosen is not installed.
    """
    return resized(sample(path, frames_per_second=frames_per_second, max_frames=max_frames, decoder=decoder), rule)


def sample(
    path: Path, *, frames_per_second: float, max_frames: int, decoder: DecoderChoice = "auto"
) -> Iterator[Picture | Samples]:
    """Yield the different pictures that the samples of a video show, then the samples; errors as of `decode_clip`.

    If the file shows other frames than it announced, pictures begin again from place 0.
    """
    if not path.is_file():
        raise VideoError(path, "it is a folder: name the video files in it" if path.is_dir() else "no such file")
    stopwatch, chosen = Stopwatch(), None
    try:
        with stopwatch.measure("decode"):
            reader = open_video(path, decoder)
        while True:
            times = sample_times(reader.times, frames_per_second=frames_per_second, max_frames=max_frames)
            order = np.argsort(reader.times, kind="stable")
            numbers = order[nearest_frames(reader.times[order], times)]
            if chosen is not None and np.array_equal(times, chosen[0]) and np.array_equal(numbers, chosen[1]):
                break
            chosen = times, numbers
            needed = np.unique(numbers).tolist()
            pictures = enumerate(reader.read(needed))
            while True:  # to the end of the file, where its times are known for certain
                with stopwatch.measure("decode"):
                    place, rgb = next(pictures, (-1, None))
                if rgb is None:
                    break
                yield Picture(place, len(needed), rgb)
    except (MemoryError, DecoderError):  # not the video's fault
        raise
    except Exception as error:  # decoders raise many types
        raise VideoError(path, _reason(path, error)) from error
    yield Samples(times=times, numbers=numbers, decoder=reader.decoder, seconds=stopwatch.seconds)


def resized(parts: Iterable[Picture | Samples], rule: ResizeRule) -> DecodedClip:
    """Resize the pictures of `sample` as they come."""
    stopwatch = Stopwatch()
    for part in parts:
        if isinstance(part, Samples):
            samples = part
            break
        if part.place == 0:
            frames = np.empty((part.count, rule.size, rule.size, 3), np.uint8)
            thumbnails = np.empty((part.count, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), np.uint8)
        with stopwatch.measure("resize"):
            frames[part.place] = resize(part.rgb[None], rule)[0]
            thumbnails[part.place] = resize(part.rgb[None], THUMBNAILS)[0]
    if len(frames) < len(samples.numbers):  # some frames show more than once
        _, places = np.unique(samples.numbers, return_inverse=True)
        frames, thumbnails = frames[places], thumbnails[places]
    stopwatch.add(samples.seconds)
    pictures = {"frames": frames, "thumbnails": thumbnails}
    return DecodedClip(**(vars(samples) | pictures | {"seconds": stopwatch.seconds}))


def sample_times(timestamps: NDArray[np.float64], *, frames_per_second: float, max_frames: int) -> NDArray[np.float64]:
    """Return the samples' times: all within the clip, or the centred `max_frames`.

    Timestamps are seconds, the first at 0. A sample may be a millisecond after the last, since some files round to one.
    """
    available = int((timestamps.max() + 1e-3) * frames_per_second) + 1
    kept = min(available, max_frames)
    times: NDArray[np.float64] = ((available - kept) // 2 + np.arange(kept)) / frames_per_second
    return times


def nearest_frames(timestamps: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each time the index of the nearest timestamp, ties to the earlier; both ascend, in seconds."""
    borders = (timestamps[1:] + timestamps[:-1]) / 2
    # The sixth decimal is far below a frame and above the rounding of n / frames_per_second.
    return np.searchsorted(borders, times - 1e-6, side="left")


def resize(pictures: NDArray[np.uint8], rule: ResizeRule) -> NDArray[np.uint8]:
    """Scale (n, height, width, 3) RGB to (n, size, size, 3) by a rule."""
    import torch
    from torch.nn.functional import interpolate

    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (n, height, width, 3) -> (n, 3, height, width)
    size = rule.size, rule.size
    scaled = interpolate(planes, size=size, mode=rule.interpolation, antialias=True, align_corners=False)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def _reason(path: Path, error: Exception) -> str:
    """Return a decoder's message in one line, without the times, paths and addresses that differ from run to run."""
    message = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", str(error).strip())
    for spelt in (repr(str(path))[1:-1], str(path)):  # FFmpeg's messages have one or the other
        message = message.replace(spelt, repr(path.name)[1:-1])
    return f"{type(error).__name__}: {(message.splitlines() or ['the video breaks off'])[0]}"
