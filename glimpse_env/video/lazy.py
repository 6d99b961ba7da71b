"""A clip source whose features are computed where they are looked at, from the videos themselves.

    gym.make("VideoGlimpse-v0", source="lazy:STORE")           # the store's lazy.json, not its features
    gym.make("VideoGlimpse-v0", source="lazy:videos.json")     # one written by hand: `glimpse_env.extract.description`

A clip is decoded when an episode of it begins. With a `crop` the first frame goes through the network whole, and of the
others a crop around each cell that is looked at, so that the network's work grows with the looks; without one, every
frame that is looked at goes through it whole. All looks that a read asks for run together, and none is computed twice
as long as its clip is held in memory.

The network runs in batches of 64 crops or 16 frames and, for what is left, of halves of that down to one: nothing is
padded, so that what is counted is what was run. Features are those of a store with the same settings: bit for bit where
convolutions do not depend on the batch size (bfloat16 on the CPUs tried), otherwise up to float16's rounding.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env.extract.description import Description, read_description
from glimpse_env.extract.shards import open_coverage
from glimpse_env.sources.protocol import Segment
from glimpse_env.sources.splits import SPLITS
from glimpse_env.store.reader import COVERED
from glimpse_env.video.backbones import Backbone, Precision, WeightsError, load_backbone
from glimpse_env.video.crops import cut_crops
from glimpse_env.video.decode import DecodedClip, decode_clip
from glimpse_env.video.stopwatch import Stopwatch

_FRAMES_A_CALL, _CROPS_A_CALL = 16, 64
Item = TypeVar("Item")


@dataclass
class _Held:
    """A clip in memory: its frames, and what is known of their features."""

    decoded: DecodedClip
    features: NDArray[np.float16]  # (n, K*K, D)
    known: NDArray[np.bool_] = field(init=False)  # (n, K*K)

    def __post_init__(self) -> None:
        self.known = np.zeros(self.features.shape[:2], np.bool_)

    @property
    def num_bytes(self) -> int:
        return self.decoded.frames.nbytes + self.decoded.thumbnails.nbytes + self.features.nbytes


class LazySource:
    """One split of a data set's videos as a `ClipSource` that runs its network on demand.

    Clips have the numbers that they have in a store of the same description.

    Args:
        path: a description's file, or a folder with a `lazy.json`, such as a store.
        split: "train", "validation" or "test".
        fold: which official split of the data set.
        bytes_kept: frames and features held; beyond that the clip that was not read for longest is forgotten. Clips in
            play should fit: a second of 30 frames takes 9 MB.

    Attributes:
        computes_features: True.
        crop: pixels along the side of the crops; None where every frame is seen whole.
        backbone: the network, which splits of one description share.
        frames_computed: frames that went through the network whole, so far.
        crops_computed: crops that did.
        stopwatch: seconds spent on "decode", "resize" and "network".

    Raises:
        FileNotFoundError: there is no such description.
        ValueError: the description is wrong, the data set is not there, or has no such split or fold.
        WeightsError: the weights are missing or are not those described.
    """

    computes_features = True

    def __init__(self, path: Path, *, split: str = "train", fold: int = 1, bytes_kept: int = 2**30) -> None:
        self.path, self.split, self.fold, self.bytes_kept = path, split, fold, bytes_kept
        self._description = description = read_description(path)
        self._settings = settings = description.settings
        dataset = settings.dataset()
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {path} has {', '.join(SPLITS)}")
        if not (isinstance(fold, (int, np.integer)) and 1 <= fold <= dataset.num_folds):
            folds = ", ".join(str(number) for number in range(1, dataset.num_folds + 1))
            raise ValueError(f"unknown fold {fold!r}: {path} has fold {folds}")
        self._clips = [
            clip
            for clip in dataset.clips
            if clip.splits[fold - 1] == split and clip.clip_id not in description.unreadable
        ]
        if not self._clips:
            raise ValueError(f"split {split!r} of fold {fold} has no clips in {path}")
        self._coverage = open_coverage(settings.actor_coverage, self._clips)
        self.backbone = _load(description)
        self.class_names, self.trimmed = dataset.class_names, dataset.trimmed
        self.num_frames, self.frames_per_second = settings.frames, settings.fps
        self.grid_size, self.depth = self.backbone.grid_size, self.backbone.depth
        self.max_feature, self.crop = description.max_feature, settings.crop
        self.frames_computed = self.crops_computed = 0
        self.stopwatch = Stopwatch()
        self._held: OrderedDict[int, _Held] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.split, self.fold, self.bytes_kept)

    @property
    def num_clips(self) -> int:
        return len(self._clips)

    def clip_id(self, clip: int) -> str:
        return self._clips[clip].clip_id

    def segments(self, clip: int) -> tuple[Segment, ...]:
        """Return the ground truth; that of a trimmed clip has no end, since how long it is only decoding tells."""
        known = self._clips[clip]
        return (Segment(0.0, math.inf, known.label),) if self.trimmed else known.segments

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return self._hold(clip).decoded.times.copy()

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        cells = self.grid_size**2
        held = self._compute(clips.repeat(cells), frames.repeat(cells), np.tile(np.arange(cells), len(clips)))
        for cube, clip, frame in zip(out, clips.tolist(), frames.tolist(), strict=True):
            cube[...] = held[clip].features[frame].reshape(cube.shape)

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        held = self._compute(clips, frames, cells)
        for place, clip, frame, cell in zip(out, clips.tolist(), frames.tolist(), cells.tolist(), strict=True):
            place[...] = held[clip].features[frame, cell]

    def image(self, clip: int, frame: int) -> NDArray[np.uint8]:
        return np.array(self._hold(clip).decoded.thumbnails[frame])

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        if self._coverage is None:
            return None
        coverage = self._coverage[self.clip_id(clip)]
        return np.asarray(coverage[self._hold(clip).decoded.numbers] > COVERED)

    def forget(self) -> None:
        """Forget all frames and features that are held, as if nothing had been read yet."""
        self._held.clear()

    def _hold(self, clip: int) -> _Held:
        """Return a clip in memory, decoding it if need be.

        Raises:
            VideoError: it cannot be read.
        """
        held = self._held.pop(clip, None)
        if held is None:
            settings = self._settings
            decoded = decode_clip(
                self._clips[clip].path,
                frames_per_second=settings.fps,
                max_frames=settings.frames_kept,
                decoder=settings.decoder,
            )
            self.stopwatch.add(decoded.seconds)
            held = _Held(decoded, np.zeros((len(decoded.frames), self.grid_size**2, self.depth), np.float16))
        self._held[clip] = held  # the last to be forgotten
        excess = sum(other.num_bytes for other in self._held.values()) - self.bytes_kept
        while excess > 0 and len(self._held) > 1:
            excess -= self._held.popitem(last=False)[1].num_bytes
        return held

    def _compute(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64]
    ) -> dict[int, _Held]:
        """Return the clips asked for once the features of (n,) looks are known."""
        held = {clip: self._hold(clip) for clip in dict.fromkeys(clips.tolist())}
        looks = dict.fromkeys(zip(clips.tolist(), frames.tolist(), cells.tolist(), strict=True))
        missing = [(clip, frame, cell) for clip, frame, cell in looks if not held[clip].known[frame, cell]]
        whole = list(dict.fromkeys((clip, frame) for clip, frame, _ in missing if self._is_whole(frame)))
        for part in _batches(whole, _FRAMES_A_CALL):
            pictures = np.stack([held[clip].decoded.frames[frame] for clip, frame in part])
            for (clip, frame), cube in zip(part, self._run(self.backbone.cubes, pictures), strict=True):
                held[clip].features[frame] = cube.reshape(-1, self.depth)
                held[clip].known[frame] = True
            self.frames_computed += len(part)
        cropped = [look for look in missing if not self._is_whole(look[1])]
        for looked in _batches(cropped, _CROPS_A_CALL):
            pictures = np.concatenate([self._crop(held[clip], frame, cell) for clip, frame, cell in looked])
            for (clip, frame, cell), values in zip(looked, self._run(self.backbone.slices, pictures), strict=True):
                held[clip].features[frame, cell] = values
                held[clip].known[frame, cell] = True
            self.crops_computed += len(looked)
        return held

    def _is_whole(self, frame: int) -> bool:
        return self.crop is None or frame == 0

    def _crop(self, held: _Held, frame: int, cell: int) -> NDArray[np.uint8]:
        assert self.crop is not None
        return cut_crops(held.decoded.frames[frame], np.array([cell]), grid_size=self.grid_size, crop=self.crop)

    def _run(self, network: Callable[[Tensor], Tensor], pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
        with self.stopwatch.measure("network"):
            features: NDArray[np.float16] = network(torch.from_numpy(pictures)).half().cpu().numpy()
        # Observations lie within the recorded maximum, which rounding might exceed.
        return np.minimum(features, np.float16(self.max_feature), out=features)


def _batches(items: Sequence[Item], largest: int) -> Iterator[Sequence[Item]]:
    """Cut items into parts of `largest`, a power of two, and what is left into its halves, quarters and so on."""
    begin, size = 0, largest
    while begin < len(items):
        while size > len(items) - begin:
            size //= 2
        yield items[begin : begin + size]
        begin += size


def _load(description: Description) -> Backbone:
    settings = description.settings
    backbone = _network(settings.backbone, settings.weights, settings.device, settings.precision)
    if description.weights_sha256 not in (None, backbone.weights_sha256):
        raise WeightsError(
            f"{settings.weights or 'the downloaded weights'} have sha256 {backbone.weights_sha256}, and the features "
            f"described were made with weights of sha256 {description.weights_sha256}: give that file"
        )
    return backbone


@functools.lru_cache(maxsize=1)
def _network(name: str, weights: Path | None, device: str, precision: Precision) -> Backbone:
    return load_backbone(name, weights=weights, device=device, precision=precision)


def _reopen(path: Path, split: str, fold: int, bytes_kept: int) -> LazySource:
    return LazySource(path, split=split, fold=fold, bytes_kept=bytes_kept)
