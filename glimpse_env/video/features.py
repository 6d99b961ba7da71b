"""Compute the feature cubes of decoded videos.

Batches cross the borders between clips and have one size, the last one padded with black, since convolutions may differ
in their last bits from one batch size to another.

With a `crop` the network sees a clip's first frame whole, and of later frames only a square around each cell, shifted
inwards if it would leave the frame. The mean of its cube is the cell's slice, so that one look costs about
(crop / frame)^2 of a whole frame. With a crop of 64 pixels each of the 49 cells has a square of its own; with 96 the
outermost cells share theirs with their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env.video.backbones import Backbone
from glimpse_env.video.decode import DecodedClip, Stopwatch, VideoError
from glimpse_env.video.readers import DecoderName

STRIDE = 32  # pixels of a picture for each cell of a GoogLeNet's last cube
CROPS_A_FRAME = 4  # crops in a network call, for each frame in a call of whole frames


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """Features of one video; other attributes as in `DecodedClip`."""

    path: Path
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float16]  # (n, K, K, D)
    decoder: DecoderName = "pyav"


def embed(
    clips: Iterable[tuple[Path, DecodedClip | VideoError]],
    backbone: Backbone,
    *,
    batch_size: int,
    crop: int | None = None,
    stopwatch: Stopwatch,
) -> list[VideoFeatures | VideoError]:
    """Run the network over decoded clips; errors are returned unchanged, in their place."""
    size, depth = backbone.grid_size, backbone.depth
    whole = _Batcher(backbone, backbone.cubes, batch_size, backbone.rule.size, stopwatch)
    cropped = _Batcher(backbone, backbone.slices, CROPS_A_FRAME * batch_size, crop or 0, stopwatch)
    results: list[VideoFeatures | VideoError] = []
    for path, clip in clips:
        if isinstance(clip, VideoError):
            results.append(clip)
            continue
        stopwatch.add(clip.seconds)
        cubes = np.empty((len(clip.frames), size, size, depth), np.float16)
        seen_whole = 1 if crop else len(cubes)
        whole.add(clip.frames[:seen_whole], cubes[:seen_whole])
        if crop:
            for frame, cube in zip(clip.frames[1:], cubes[1:], strict=True):
                cropped.add(cut_crops(frame, np.arange(size**2), grid_size=size, crop=crop), cube.reshape(-1, depth))
        known = {name: getattr(clip, name) for name in ("times", "numbers", "thumbnails", "decoder")}
        results.append(VideoFeatures(path=path, features=cubes, **known))
    whole.flush()
    cropped.flush()
    return results


def check_crop(crop: int) -> None:
    """Raise ValueError unless the networks can run over crops of so many pixels a side."""
    if crop % STRIDE or not STRIDE <= crop <= 6 * STRIDE:
        raise ValueError(f"crop must be a multiple of {STRIDE} pixels, from {STRIDE} to {6 * STRIDE}, got {crop}")


def crop_corners(cells: NDArray[np.int64], *, grid_size: int, crop: int, frame_size: int) -> NDArray[np.int64]:
    """Return (n, 2) int64: the top and left pixel of the crop around each of the (n,) cells."""
    cell = frame_size // grid_size
    centres = np.stack(np.divmod(cells, grid_size), 1) * cell + cell // 2
    corners: NDArray[np.int64] = np.clip(centres - crop // 2, 0, frame_size - crop)
    return corners


def cut_crops(frame: NDArray[np.uint8], cells: NDArray[np.int64], *, grid_size: int, crop: int) -> NDArray[np.uint8]:
    """Return the (n, crop, crop, 3) crops around the (n,) cells of a (side, side, 3) frame."""
    corners = crop_corners(cells, grid_size=grid_size, crop=crop, frame_size=len(frame))
    return np.stack([frame[top : top + crop, left : left + crop] for top, left in corners.tolist()])


class _Batcher:
    """Gathers pictures of many clips into full batches, and fills the next batch while a GPU works on one.

    The network turns (size, side, side, 3) pictures into (size, ...) features.
    """

    def __init__(
        self, backbone: Backbone, network: Callable[[Tensor], Tensor], size: int, side: int, stopwatch: Stopwatch
    ) -> None:
        self._device, self._network, self._stopwatch = backbone.device, network, stopwatch
        self._shape = size, side, side, 3
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.float16]]] = []
        self._running: Any = [], torch.empty(0), None  # targets, and features that are valid after an event

    def add(self, pictures: NDArray[np.uint8], features: NDArray[np.float16]) -> None:
        """Take (n, side, side, 3) pictures, and fill (n, ...) `features` by the next flush at the latest."""
        for pair in zip(pictures, features, strict=True):
            self._waiting.append(pair)
            if len(self._waiting) == self._shape[0]:
                self._run()

    def flush(self) -> None:
        """Run the last pictures, and wait for the features."""
        if self._waiting:
            self._run()
        with self._stopwatch.measure("network"):
            self._finish()

    def _run(self) -> None:
        with self._stopwatch.measure("network"):
            on_gpu = self._device.type == "cuda"
            batch = torch.empty(self._shape, dtype=torch.uint8, pin_memory=on_gpu)  # read while the processor works
            batch[len(self._waiting) :] = 0
            for row, (picture, _) in zip(batch.numpy(), self._waiting, strict=False):
                row[...] = picture
            computed = self._network(batch)
            features = torch.empty(computed.shape, dtype=torch.float16, pin_memory=on_gpu)
            features.copy_(computed, non_blocking=True)
            done: Any = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
            if on_gpu:
                done.record(torch.cuda.current_stream(self._device))
            self._finish()
            self._running = [target for _, target in self._waiting], features, done
            self._waiting = []

    def _finish(self) -> None:
        targets, features, done = self._running
        if done is not None:
            done.synchronize()
        for target, values in zip(targets, features.numpy(), strict=False):
            target[...] = values
        self._running = [], features, None
