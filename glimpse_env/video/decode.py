"""Video files to frames at a fixed rate.

The samples of a clip lie at t_n = start + (n - 1) / frames_per_second, and each is the shown frame whose time is
nearest, ties to the earlier one; `timeline` defines the times, and `readers` chooses the decoder.
Pictures are upright: turned and mirrored as their file says. Sides that are not square pixels are not corrected.

Resize rule `direct-bilinear-224`: the decoded frame as 8-bit RGB at its own size, then each side scaled to 224 on its
own, so that the aspect ratio is not kept and nothing is cropped, with a triangle filter that widens as the picture
shrinks (bilinear with antialiasing, half-pixel centres, rounded to 8 bits). Thumbnails are made alike, at 112.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from glimpse_env.video.readers import DecoderChoice, DecoderError, DecoderName, Reader, open_video
from glimpse_env.video.stopwatch import Stopwatch

RESIZE_RULE = "direct-bilinear-224"
FRAME_SIZE = 224
THUMBNAIL_SIZE = 112


class VideoError(RuntimeError):
    """A video file cannot be read; the message names the file and the reason.

    Attributes:
        reason: why, in one line that is the same from run to run.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The sampled frames of one video.

    Attributes:
        times: (n,) float64 seconds, t_1 ... t_n, evenly spaced.
        numbers: (n,) int64, which frame of the file each sample is, from 0.
        frames: (n, 224, 224, 3) uint8 RGB, by the resize rule.
        thumbnails: (n, 112, 112, 3) uint8 RGB.
        decoder: library that decoded it.
        seconds: spent on `decode` and `resize`.
    """

    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    frames: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    decoder: DecoderName
    seconds: Mapping[str, float] = field(compare=False)


def decode_clip(
    path: Path, *, frames_per_second: float, max_frames: int, decoder: DecoderChoice = "auto"
) -> DecodedClip:
    """Sample a video at a fixed rate.

    Args:
        path: the video file.
        frames_per_second: rate of the samples; above the file's own rate, frames repeat.
        max_frames: a longer clip keeps its centred window of this many samples.
        decoder: the library to decode with; "auto" takes the fastest that is proven right for the file.

    Returns:
        The samples; memory grows with them, not with the file.

    Raises:
        VideoError: the file is missing, not a video, without frames, or not for the library chosen.
        DecoderError: the library chosen is not installed.
    """
    if not path.is_file():
        raise VideoError(path, "no such file")
    try:
        return _decode(path, decoder, frames_per_second=frames_per_second, max_frames=max_frames)
    except (MemoryError, DecoderError):  # says nothing about the video
        raise
    except Exception as error:  # decoders raise whatever their C code reports, of many types
        raise VideoError(path, _reason(path, error)) from error


def _decode(path: Path, decoder: DecoderChoice, *, frames_per_second: float, max_frames: int) -> DecodedClip:
    stopwatch = Stopwatch()
    with stopwatch.measure("decode"):
        reader = open_video(path, decoder)
    expected = None
    while True:  # again if the frames shown are not the ones that the file announced
        times = sample_times(reader.times, frames_per_second=frames_per_second, max_frames=max_frames)
        order = np.argsort(reader.times, kind="stable")
        numbers = order[nearest_frames(reader.times[order], times)]
        if expected is not None and np.array_equal(times, expected[0]) and np.array_equal(numbers, expected[1]):
            break
        needed, positions = np.unique(numbers, return_inverse=True)
        frames, thumbnails = _read_resized(reader, needed.tolist(), stopwatch)
        expected = times, numbers
    if len(needed) < len(numbers):  # some frames show more than once
        frames, thumbnails = frames[positions], thumbnails[positions]
    return DecodedClip(
        times=times,
        numbers=numbers,
        frames=frames,
        thumbnails=thumbnails,
        decoder=reader.decoder,
        seconds=stopwatch.seconds,
    )


def sample_times(timestamps: NDArray[np.float64], *, frames_per_second: float, max_frames: int) -> NDArray[np.float64]:
    """Return the samples' times: all that lie within the clip, or the centred `max_frames` of them.

    Args:
        timestamps: (frames,) seconds, the first at 0.
        frames_per_second: the rate of the samples.
        max_frames: the most samples to keep.

    Returns:
        (n,) seconds; the last is not after the last timestamp, give or take the millisecond to which some files round.
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


def _read_resized(
    reader: Reader, numbers: list[int], stopwatch: Stopwatch
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the frames with these numbers at both sizes; rows stay empty if the file shows fewer."""
    frames = np.empty((len(numbers), FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    thumbnails = np.empty((len(numbers), THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), np.uint8)
    pictures = reader.read(numbers)
    for frame, thumbnail in zip(frames, thumbnails, strict=True):
        with stopwatch.measure("decode"):
            picture = next(pictures, None)
        if picture is None:
            break
        with stopwatch.measure("resize"):
            frame[...], thumbnail[...] = resize(picture[None], FRAME_SIZE)[0], resize(picture[None], THUMBNAIL_SIZE)[0]
    with stopwatch.measure("decode"):
        for _ in pictures:  # to the end of the file, where its times are known for certain
            pass
    return frames, thumbnails


def resize(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale (n, height, width, 3) RGB to (n, size, size, 3) by the resize rule."""
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (n, height, width, 3) -> (n, 3, height, width)
    scaled = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def _reason(path: Path, error: Exception) -> str:
    """Return a decoder's message in one line, without the times, paths and addresses that differ from run to run."""
    message = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", str(error).strip())
    for spelt in (repr(str(path))[1:-1], str(path)):  # FFmpeg's messages have one or the other
        message = message.replace(spelt, repr(path.name)[1:-1])
    return f"{type(error).__name__}: {(message.splitlines() or ['the video breaks off'])[0]}"
