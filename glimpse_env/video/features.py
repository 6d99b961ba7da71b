"""Videos to feature cubes in memory: decoding runs ahead in processes of its own while the network works.

Batches cross the borders between clips and have one fixed size, the last one padded with black, since convolutions may
differ in their last bits from one batch size to another.

With a `crop` the network sees a clip's first frame whole, and of the others a crop around each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env.video.backbones import Backbone
from glimpse_env.video.crops import cut_crops
from glimpse_env.video.decode import FRAME_SIZE, DecodedClip, VideoError
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.readers import DecoderChoice, DecoderName
from glimpse_env.video.stopwatch import Stopwatch

CROPS_A_FRAME = 4  # crops in a network call, for each frame that a call of whole frames has
_Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What the network makes of one video.

    Attributes:
        path: the video.
        times: (n,) float64 seconds.
        numbers: (n,) int64, which frames of the file they are.
        thumbnails: (n, 112, 112, 3) uint8 RGB.
        features: (n, K, K, D) float16.
        decoder: library that decoded it.
    """

    path: Path
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float16]
    decoder: DecoderName = "pyav"


def extract_videos(
    paths: Sequence[Path],
    backbone: Backbone,
    *,
    frames_per_second: float,
    max_frames: int,
    batch_size: int = 16,
    crop: int | None = None,
    decoder: DecoderChoice = "auto",
) -> list[VideoFeatures | VideoError]:
    """Extract features of any video files, in memory.

    Args:
        paths: the files.
        backbone: a loaded network.
        frames_per_second: the rate of the samples.
        max_frames: a longer video keeps its centred window of so many samples.
        batch_size: frames per network call.
        crop: pixels along the side of the crop seen of a cell in all frames but a video's first; None sees them whole.
        decoder: library to decode with; "auto" chooses by the file.

    Returns:
        For each file, in order, its features, or the error that says why it cannot be read.
    """
    with Decoders(frames_per_second=frames_per_second, max_frames=max_frames, decoder=decoder) as decoders:
        clips = zip(paths, decoders.decode(paths), strict=True)
        return embed(clips, backbone, batch_size=batch_size, crop=crop, stopwatch=Stopwatch())


def embed(
    clips: Iterable[tuple[Path, DecodedClip | VideoError]],
    backbone: Backbone,
    *,
    batch_size: int,
    crop: int | None = None,
    stopwatch: Stopwatch,
) -> list[VideoFeatures | VideoError]:
    """Run the network over decoded clips; what cannot be decoded comes out as it went in."""
    size, depth = backbone.grid_size, backbone.depth
    whole = _Batcher(backbone, backbone.cubes, batch_size, FRAME_SIZE, (size, size, depth), stopwatch)
    cropped = crop and _Batcher(backbone, backbone.slices, CROPS_A_FRAME * batch_size, crop, (depth,), stopwatch)
    results: list[VideoFeatures | VideoError] = []
    for path, clip in clips:
        if isinstance(clip, VideoError):
            results.append(clip)
            continue
        stopwatch.add(clip.seconds)
        cubes = np.empty((len(clip.frames), size, size, depth), np.float16)
        seen_whole = 1 if crop else len(cubes)
        whole.add(clip.frames[:seen_whole], cubes[:seen_whole])
        if crop and cropped:
            for frame, cube in zip(clip.frames[1:], cubes[1:], strict=True):
                cropped.add(cut_crops(frame, np.arange(size**2), grid_size=size, crop=crop), cube.reshape(-1, depth))
        results.append(
            VideoFeatures(
                path=path,
                times=clip.times,
                numbers=clip.numbers,
                thumbnails=clip.thumbnails,
                features=cubes,
                decoder=clip.decoder,
            )
        )
    whole.flush()
    if cropped:
        cropped.flush()
    return results


class _Batch:
    """Pictures on their way to the network, and the features that it makes of them."""

    def __init__(self, backbone: Backbone, network: _Network, size: int, side: int, shape: tuple[int, ...]) -> None:
        on_gpu = backbone.device.type == "cuda"
        self._device, self._network = backbone.device, network
        # A GPU fetches and returns pinned memory while the processor goes on.
        self._pictures = torch.zeros((size, side, side, 3), dtype=torch.uint8, pin_memory=on_gpu)
        self._features = torch.zeros((size, *shape), dtype=torch.float16, pin_memory=on_gpu)
        self._targets: list[NDArray[np.float16]] = []
        self._done: Any = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def add(self, picture: NDArray[np.uint8], target: NDArray[np.float16]) -> None:
        """Take a (side, side, 3) picture whose features go to `target`."""
        self._pictures.numpy()[len(self._targets)] = picture
        self._targets.append(target)

    def is_full(self) -> bool:
        """Return whether no more pictures fit."""
        return len(self._targets) == len(self._pictures)

    def is_empty(self) -> bool:
        """Return whether there is nothing to run."""
        return not self._targets

    def begin(self) -> None:
        """Start the network on the pictures, what is missing of them black."""
        self._pictures[len(self._targets) :] = 0
        self._features.copy_(self._network(self._pictures), non_blocking=True)
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(self._device))

    def finish(self) -> None:
        """Wait for the network and give the targets their features."""
        if self._done is not None:
            self._done.synchronize()
        for target, features in zip(self._targets, self._features.numpy(), strict=False):
            target[...] = features
        self._targets.clear()


class _Batcher:
    """Gathers pictures of many clips into full batches; while a GPU works on one batch, the other is being filled.

    Args:
        backbone: says where the network runs.
        network: (size, side, side, 3) pictures to (size, *shape) features.
        size: pictures in a batch.
        side: of a picture, in pixels.
        shape: of a picture's features.
        stopwatch: measures "network".
    """

    def __init__(
        self,
        backbone: Backbone,
        network: _Network,
        size: int,
        side: int,
        shape: tuple[int, ...],
        stopwatch: Stopwatch,
    ) -> None:
        self._filling, self._running = (_Batch(backbone, network, size, side, shape) for _ in range(2))
        self._stopwatch = stopwatch

    def add(self, pictures: NDArray[np.uint8], features: NDArray[np.float16]) -> None:
        """Take (n, side, side, 3) pictures, and fill (n, *shape) `features` by the next flush at the latest."""
        for picture, target in zip(pictures, features, strict=True):
            self._filling.add(picture, target)
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
