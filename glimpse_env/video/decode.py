"""Video files to frames at a fixed rate, with decord, or with PyAV where decord cannot be imported.

decord 0.6 gives wrong frames of some containers without noticing, so that those are left to PyAV: it begins MPEG
transport streams in the middle. In AVI and other files without timestamps its seeks go astray, so that they are read
in order. Files that decord cannot open, such as Matroska with a single frame, get a second chance with PyAV. Both give
the same pictures.

Time: a frame's timestamp counts from the first frame of its file. AVI files keep no presentation times, and some
others keep broken ones: their frame i is taken to show at i / (the file's average rate). The samples of a clip lie at
t_n = start + (n - 1) / frames_per_second, and each is the decoded frame whose timestamp is nearest, ties to the
earlier one. Pictures are upright: a file that says it is to be shown turned by a quarter or a half comes out so.

Resize rule `direct-bilinear-224`: the decoded frame as 8-bit RGB at its own size, then each side scaled to 224 on its
own, so that the aspect ratio is not kept and nothing is cropped, with a triangle filter that widens as the picture
shrinks (bilinear with antialiasing, half-pixel centres, rounded to 8 bits). Thumbnails are made alike, at 112.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from glimpse_env.video.stopwatch import Stopwatch

RESIZE_RULE = "direct-bilinear-224"
FRAME_SIZE = 224
THUMBNAIL_SIZE = 112
_CHUNK = 16  # frames held at the file's own size at once, at most
_CHUNK_BYTES = 64_000_000  # and their bytes
Decoder = Literal["decord", "pyav"]


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
        seconds: spent on `decode` and `resize`.
    """

    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    frames: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    seconds: Mapping[str, float] = field(compare=False)


class _Reader(Protocol):
    """An open video: when its frames show, and the pictures of chosen ones."""

    timestamps: NDArray[np.float64]

    def read(self, numbers: list[int]) -> NDArray[np.uint8]:
        """Return (n, height, width, 3) RGB of the frames with these ascending numbers."""


def decoder_versions() -> str:
    """Return the names and versions of the libraries that decode."""
    packages = ("decord", "av") if _has_decord() else ("av",)
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def decoders_for(path: Path) -> tuple[Decoder, ...]:
    """Return the decoders to try: for AVI, MP4 and Matroska decord first where it is installed, then PyAV."""
    return ("decord", "pyav") if _has_decord() and _container(path) != "other" else ("pyav",)


def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None


def _container(path: Path) -> Literal["avi", "mp4", "matroska", "other"]:
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] == b"RIFF" and header[8:] == b"AVI ":
        return "avi"
    if header[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if header[:4] == b"\x1a\x45\xdf\xa3" else "other"


def decode_clip(
    path: Path, *, frames_per_second: float, max_frames: int, decoder: Decoder | None = None
) -> DecodedClip:
    """Sample a video at a fixed rate.

    Args:
        path: the video file.
        frames_per_second: the rate of the samples; above the file's own rate, frames repeat.
        max_frames: a longer clip keeps its centred window of so many samples.
        decoder: the library to decode with; all of `decoders_for(path)` in turn without it.

    Returns:
        The samples; only the frames that they need are decoded and converted.

    Raises:
        VideoError: the file is missing, no video, without frames, or breaks off before a frame that is needed.
    """
    if not path.is_file():
        raise VideoError(path, "no such file")
    try:
        choices = (decoder,) if decoder else decoders_for(path)
    except OSError as error:
        raise VideoError(path, _reason(path, error)) from error
    errors: list[Exception] = []
    for choice in choices:
        try:
            return _decode(path, choice, frames_per_second=frames_per_second, max_frames=max_frames)
        except MemoryError:  # says nothing of the video
            raise
        except Exception as error:  # decoders raise whatever their C code reports, of many types
            errors.append(error)
    raise VideoError(path, _reason(path, errors[0])) from errors[0]


def _decode(path: Path, decoder: Decoder, *, frames_per_second: float, max_frames: int) -> DecodedClip:
    stopwatch = Stopwatch()
    with stopwatch.measure("decode"):
        reader = _DecordReader(path) if decoder == "decord" else _PyAVReader(path)
    if len(reader.timestamps) == 0:
        raise ValueError("the file holds no video frames")
    times = sample_times(reader.timestamps, frames_per_second=frames_per_second, max_frames=max_frames)
    numbers = nearest_frames(reader.timestamps, times)
    needed, positions = np.unique(numbers, return_inverse=True)
    frames, thumbnails = _read_resized(reader, needed.tolist(), stopwatch)
    if len(needed) < len(numbers):  # some frames show more than once
        frames, thumbnails = frames[positions], thumbnails[positions]
    return DecodedClip(
        times=times,
        numbers=numbers,
        frames=frames,
        thumbnails=thumbnails,
        seconds=stopwatch.seconds,
    )


def sample_times(timestamps: NDArray[np.float64], *, frames_per_second: float, max_frames: int) -> NDArray[np.float64]:
    """Return the samples' times: all that lie within the clip, or the centred `max_frames` of them.

    Args:
        timestamps: (frames,) seconds, ascending from 0.
        frames_per_second: the rate of the samples.
        max_frames: the most samples to keep.

    Returns:
        (n,) seconds; the last is not after the last timestamp, give or take a thousandth of a sample.
    """
    available = int(timestamps[-1] * frames_per_second + 1e-3) + 1
    kept = min(available, max_frames)
    times: NDArray[np.float64] = ((available - kept) // 2 + np.arange(kept)) / frames_per_second
    return times


def nearest_frames(timestamps: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each time the index of the nearest timestamp, ties to the earlier; both ascend, in seconds."""
    borders = (timestamps[1:] + timestamps[:-1]) / 2
    # The sixth decimal is far below a frame and above the rounding of n / frames_per_second.
    return np.searchsorted(borders, times - 1e-6, side="left")


def _read_resized(
    reader: _Reader, numbers: list[int], stopwatch: Stopwatch
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    frames = np.empty((len(numbers), FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    thumbnails = np.empty((len(numbers), THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), np.uint8)
    read, chunk = 0, 1  # the first frame tells how large the others are
    while read < len(numbers):
        part = slice(read, read + chunk)
        with stopwatch.measure("decode"):
            pictures = reader.read(numbers[part])
        with stopwatch.measure("resize"):
            frames[part] = resize(pictures, FRAME_SIZE)
            thumbnails[part] = resize(pictures, THUMBNAIL_SIZE)
        read += chunk
        chunk = max(1, min(_CHUNK, _CHUNK_BYTES // pictures[0].nbytes))
    return frames, thumbnails


def resize(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale (n, height, width, 3) RGB to (n, size, size, 3) by the resize rule."""
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (n, height, width, 3) -> (n, 3, height, width)
    scaled = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def _usable_timestamps(
    path: Path, timestamps: NDArray[np.float64], frames_per_second: float
) -> tuple[NDArray[np.float64], bool]:
    """Count timestamps from the first; where the file has none worth the name, space them evenly and say False."""
    if _container(path) == "avi" or not (np.isfinite(timestamps).all() and (np.diff(timestamps) > 0).all()):
        if not frames_per_second > 0:
            raise ValueError("the file says neither when its frames show nor how many a second")
        return np.arange(len(timestamps)) / frames_per_second, False
    return timestamps - timestamps[:1], True


class _DecordReader:
    def __init__(self, path: Path) -> None:
        # A truncated file makes decord retry its end; by default so often that it seems to hang.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._video: Any = decord.VideoReader(str(path), num_threads=1)
        starts = np.asarray(self._video.get_frame_timestamp(range(len(self._video))), dtype=np.float64)[:, 0]
        self.timestamps, timed = _usable_timestamps(path, starts, self._video.get_avg_fps())
        self._next = None if timed else 0

    def read(self, numbers: list[int]) -> NDArray[np.uint8]:
        if self._next is None:
            pictures: NDArray[np.uint8] = self._video.get_batch(numbers).asnumpy()
            return pictures
        # Without timestamps decord's seeks land on wrong frames, and it does not notice: read every frame in turn.
        first, self._next = self._next, numbers[-1] + 1
        kept = set(numbers)
        frames = [(number, self._video.next()) for number in range(first, self._next)]
        return np.stack([frame.asnumpy() for number, frame in frames if number in kept])


class _PyAVReader:
    """Decodes every frame up to the last one needed: seeking differs too much between containers to be trusted."""

    def __init__(self, path: Path) -> None:
        import av

        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            rate, unit = float(stream.average_rate or 0), float(stream.time_base)
        pts = np.sort(np.array([np.nan if packet.pts is None else packet.pts for packet in packets], dtype=np.float64))
        self.timestamps, _ = _usable_timestamps(path, pts * unit, rate)
        self._frames: Iterator[tuple[int, Any]] = enumerate(_decoded(path))

    def read(self, numbers: list[int]) -> NDArray[np.uint8]:
        return np.stack([_upright(self._find(number)) for number in numbers])

    def _find(self, number: int) -> Any:
        for position, frame in self._frames:
            if position == number:
                return frame
        raise EOFError(f"frame {number} of {len(self.timestamps)} cannot be decoded")


def _upright(frame: Any) -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, round(frame.rotation / 90))  # degrees counter-clockwise; decord turns by itself


def _decoded(path: Path) -> Iterator[Any]:
    import av

    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def _reason(path: Path, error: Exception) -> str:
    """Return a decoder's message in one line, without the times, paths and addresses that differ from run to run."""
    lines = str(error).strip().splitlines() or ["the video breaks off"]
    message = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", lines[0]).replace(str(path), path.name)
    return f"{type(error).__name__}: {message}"
