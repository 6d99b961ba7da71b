"""Videos to feature cubes in memory: decoding runs ahead on its own threads while the network works.

Batches cross the borders between clips and have one fixed size, the last one padded with black, since convolutions may
differ in their last bits from one batch size to another.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env.backbones import Backbone
from glimpse_env.decode import FRAME_SIZE, DecodedClip, VideoError, decode_clip

_CLIPS_AHEAD = 12  # decoded clips that may wait for the network, at most
_FRAMES_AHEAD = 1200  # and frames: 180 MB


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What the network makes of one video.

    Attributes:
        path: the video.
        times: (n,) float64 seconds.
        numbers: (n,) int64, which frames of the file they are.
        thumbnails: (n, 112, 112, 3) uint8 RGB.
        features: (n, K, K, D) float16.
    """

    path: Path
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float16]


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
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - begun


def extract_videos(
    paths: Sequence[Path],
    backbone: Backbone,
    *,
    frames_per_second: float,
    max_frames: int,
    batch_size: int = 16,
) -> list[VideoFeatures | VideoError]:
    """Extract features of any video files, in memory.

    Args:
        paths: the files.
        backbone: a loaded network.
        frames_per_second: the rate of the samples.
        max_frames: a longer video keeps its centred window of so many samples.
        batch_size: frames per network call.

    Returns:
        For each file, in order, its features, or the error that says why it cannot be read.
    """
    decoded = decode_ahead(paths, frames_per_second=frames_per_second, max_frames=max_frames, threads=1)
    return embed(zip(paths, decoded, strict=True), backbone, batch_size=batch_size, stopwatch=Stopwatch())


def decode_ahead(
    paths: Iterable[Path], *, frames_per_second: float, max_frames: int, threads: int
) -> Iterator[DecodedClip | VideoError]:
    """Decode files in order on threads of their own, a few clips before they are asked for."""

    def decode(path: Path) -> DecodedClip | VideoError:
        try:
            return decode_clip(path, frames_per_second=frames_per_second, max_frames=max_frames)
        except VideoError as error:
            return error

    remaining = iter(paths)
    ahead = max(threads, min(_CLIPS_AHEAD, _FRAMES_AHEAD // max_frames))
    # One thread for resizing leaves the processor to the network.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            waiting = deque(pool.submit(decode, path) for path in itertools.islice(remaining, ahead))
            while waiting:
                outcome = waiting.popleft().result()
                waiting.extend(pool.submit(decode, path) for path in itertools.islice(remaining, 1))
                yield outcome
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def embed(
    clips: Iterable[tuple[Path, DecodedClip | VideoError]],
    backbone: Backbone,
    *,
    batch_size: int,
    stopwatch: Stopwatch,
) -> list[VideoFeatures | VideoError]:
    """Run the network over decoded clips; what cannot be decoded comes out as it went in."""
    batcher = _Batcher(backbone, batch_size, stopwatch)
    results: list[VideoFeatures | VideoError] = []
    for path, clip in clips:
        if isinstance(clip, VideoError):
            results.append(clip)
            continue
        cubes = np.empty((len(clip.frames), backbone.grid_size, backbone.grid_size, backbone.depth), np.float16)
        batcher.add(clip.frames, cubes)
        results.append(
            VideoFeatures(path=path, times=clip.times, numbers=clip.numbers, thumbnails=clip.thumbnails, features=cubes)
        )
    batcher.flush()
    return results


class _Batcher:
    """Gathers frames of many clips into full batches and gives the cubes back to the clips."""

    def __init__(self, backbone: Backbone, batch_size: int, stopwatch: Stopwatch) -> None:
        self._backbone = backbone
        self._stopwatch = stopwatch
        self._frames = np.zeros((batch_size, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._targets: list[NDArray[np.float16]] = []

    def add(self, frames: NDArray[np.uint8], cubes: NDArray[np.float16]) -> None:
        """Take (n, 224, 224, 3) frames, and fill (n, K, K, D) `cubes` by the next flush at the latest."""
        for frame, target in zip(frames, cubes, strict=True):
            self._frames[len(self._targets)] = frame
            self._targets.append(target)
            if len(self._targets) == len(self._frames):
                self.flush()

    def flush(self) -> None:
        """Run what is gathered."""
        if self._targets:
            self._frames[len(self._targets) :] = 0
            with self._stopwatch.measure("network"):
                cubes = self._backbone.cubes(torch.from_numpy(self._frames)).half().cpu().numpy()
            for target, cube in zip(self._targets, cubes, strict=False):
                target[...] = cube
            self._targets.clear()
