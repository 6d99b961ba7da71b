"""Videos to feature cubes in memory: decoding runs ahead in processes of its own while the network works.

Batches cross the borders between clips and have one fixed size, the last one padded with black, since convolutions may
differ in their last bits from one batch size to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env.backbones import Backbone
from glimpse_env.decode import FRAME_SIZE, DecodedClip, VideoError
from glimpse_env.decoders import Decoders
from glimpse_env.stopwatch import Stopwatch


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
    with Decoders(frames_per_second=frames_per_second, max_frames=max_frames) as decoders:
        clips = zip(paths, decoders.decode(paths), strict=True)
        return embed(clips, backbone, batch_size=batch_size, stopwatch=Stopwatch())


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
        stopwatch.add(clip.seconds)
        cubes = np.empty((len(clip.frames), backbone.grid_size, backbone.grid_size, backbone.depth), np.float16)
        batcher.add(clip.frames, cubes)
        results.append(
            VideoFeatures(path=path, times=clip.times, numbers=clip.numbers, thumbnails=clip.thumbnails, features=cubes)
        )
    batcher.flush()
    return results


class _Batch:
    """Frames on their way to the network, and the cubes that it makes of them."""

    def __init__(self, backbone: Backbone, size: int) -> None:
        on_gpu = backbone.device.type == "cuda"
        cube = (backbone.grid_size, backbone.grid_size, backbone.depth)
        self._backbone = backbone
        # A GPU fetches and returns pinned memory while the processor goes on.
        self._frames = torch.zeros((size, FRAME_SIZE, FRAME_SIZE, 3), dtype=torch.uint8, pin_memory=on_gpu)
        self._cubes = torch.zeros((size, *cube), dtype=torch.float16, pin_memory=on_gpu)
        self._targets: list[NDArray[np.float16]] = []
        self._done: Any = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def add(self, frame: NDArray[np.uint8], target: NDArray[np.float16]) -> None:
        """Take a (224, 224, 3) frame whose (K, K, D) cube goes to `target`."""
        self._frames.numpy()[len(self._targets)] = frame
        self._targets.append(target)

    def is_full(self) -> bool:
        """Return whether no more frames fit."""
        return len(self._targets) == len(self._frames)

    def is_empty(self) -> bool:
        """Return whether there is nothing to run."""
        return not self._targets

    def begin(self) -> None:
        """Start the network on the frames, what is missing of them black."""
        self._frames[len(self._targets) :] = 0
        self._cubes.copy_(self._backbone.cubes(self._frames), non_blocking=True)
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(self._backbone.device))

    def finish(self) -> None:
        """Wait for the network and give the targets their cubes."""
        if self._done is not None:
            self._done.synchronize()
        for target, cube in zip(self._targets, self._cubes.numpy(), strict=False):
            target[...] = cube
        self._targets.clear()


class _Batcher:
    """Gathers frames of many clips into full batches; while a GPU works on one batch, the other is being filled."""

    def __init__(self, backbone: Backbone, batch_size: int, stopwatch: Stopwatch) -> None:
        self._filling, self._running = (_Batch(backbone, batch_size) for _ in range(2))
        self._stopwatch = stopwatch

    def add(self, frames: NDArray[np.uint8], cubes: NDArray[np.float16]) -> None:
        """Take (n, 224, 224, 3) frames, and fill (n, K, K, D) `cubes` by the next flush at the latest."""
        for frame, target in zip(frames, cubes, strict=True):
            self._filling.add(frame, target)
            if self._filling.is_full():
                self._run()

    def flush(self) -> None:
        """Run what is gathered, and wait for it."""
        self._run()
        self._run()

    def _run(self) -> None:
        self._filling, self._running = self._running, self._filling
        with self._stopwatch.measure("network"):
            if not self._running.is_empty():
                self._running.begin()
            self._filling.finish()
