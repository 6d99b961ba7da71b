"""A clip source that decodes videos, and computes the features of a cell when an agent looks at it.

    gym.make("VideoGlimpse-v0", source="lazy:STORE")           # the store's lazy.json, not its features
    gym.make("VideoGlimpse-v0", source="lazy:videos.json")     # one written by hand: `glimpse_env.extract.description`

A clip is decoded when it is first read. With a `crop` the network runs on the whole first frame and then on a crop
around each cell that is looked at; without one it runs on every whole frame that is looked at. All looks of one read
run together, and no look is computed twice while its clip is held in memory.

Batches have 64 crops or 16 frames, and the rest halves of that down to one: nothing is padded, so that the counts are
those of the work done. Features are those of a store with the same settings: bit for bit if convolutions do not depend
on the batch size (bfloat16 on the CPUs tried), otherwise up to float16's rounding.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env.extract.description import Description, read_description
from glimpse_env.extract.shards import open_coverage
from glimpse_env.sources.protocol import Segment, feature_range
from glimpse_env.sources.splits import check_split
from glimpse_env.store.reader import COVERED
from glimpse_env.video.backbones import Backbone, WeightsError, load_backbone
from glimpse_env.video.decode import DecodedClip, Stopwatch, decode_clip
from glimpse_env.video.features import cut_crops

_FRAMES_A_CALL, _CROPS_A_CALL = 16, 64
_load_backbone = functools.lru_cache(maxsize=1)(load_backbone)
Item = TypeVar("Item")


@dataclass
class _Held:
    decoded: DecodedClip
    features: NDArray[np.float16]  # (n, K*K, D)
    known: NDArray[np.bool_]  # (n, K*K)

    @property
    def num_bytes(self) -> int:
        return self.decoded.frames.nbytes + self.decoded.thumbnails.nbytes + self.features.nbytes


class LazySource:
    """One split of a data set's videos as a `ClipSource` that runs its network on demand.

    Clips have the same numbers as in a store of the same description.

    Args:
        path: a description's file, or a folder with a `lazy.json`, such as a store.
        split: "train", "validation" or "test".
        fold: number of an official split of the data set.
        bytes_kept: limit of frames and features in memory, beyond which the clip that was not read for longest is
            forgotten. All clips in play should fit: a second of 30 frames takes 9 MB.

    Attributes:
        extraction: settings that make features of videos, by their names in a store's manifest, and the file of the
            weights.
        fingerprint: sha256 of the clips, labels, splits and settings, the same for all splits and folds.
        crop: pixels along the side of the crops; None if frames are seen whole.
        backbone: the network, which splits of one description share.
        frames_computed: whole frames that went through the network so far; likewise crops_computed.
        stopwatch: seconds spent on "decode", "resize" and "network".

    Raises:
        FileNotFoundError: there is no such description.
        ValueError: the description is wrong, or the data set is missing or has no such split or fold.
        WeightsError: the weights are missing or are not those described.
    """

    computes_features = True

    def __init__(self, path: Path, *, split: str = "train", fold: int = 1, bytes_kept: int = 2**30) -> None:
        self.path, self.split, self.fold, self.bytes_kept = path.absolute(), split, fold, bytes_kept
        description = read_description(path)
        self._settings = settings = description.settings
        dataset = settings.dataset()
        check_split(split, fold, num_folds=dataset.num_folds, place=path)
        readable = [clip for clip in dataset.clips if clip.clip_id not in description.unreadable]
        self._clips = [clip for clip in readable if clip.splits[fold - 1] == split]
        if not self._clips:
            raise ValueError(f"split {split!r} of fold {fold} has no clips in {path}")
        self._coverage = open_coverage(settings.actor_coverage, self._clips)
        self.backbone = _load_network(description)
        self.class_names, self.trimmed = dataset.class_names, dataset.trimmed
        self.num_frames, self.frames_per_second = settings.frames, settings.fps
        self.grid_size, self.depth = self.backbone.grid_size, self.backbone.depth
        self.min_feature, self.max_feature = description.min_feature, description.max_feature
        self.crop = settings.crop
        self.extraction: dict[str, Any] = {
            "backbone": self.backbone.name,
            "layer": self.backbone.layer,
            "weights_sha256": self.backbone.weights_sha256,
            "resize_rule": str(self.backbone.rule),
            "max_frames": settings.frames_kept,
            "batch_size": _FRAMES_A_CALL,
            "precision": self.backbone.precision,
            "crop": settings.crop,
        }
        facts = (dataset.clips_sha256, sorted(description.unreadable), settings.fps, settings.frames, self.class_names)
        self.fingerprint = hashlib.sha256(repr((facts, sorted(self.extraction.items()))).encode()).hexdigest()
        self.extraction["weights"] = None if settings.weights is None else str(settings.weights)
        self.frames_computed = self.crops_computed = 0
        self.stopwatch = Stopwatch()
        self._held: OrderedDict[int, _Held] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        reopen = functools.partial(LazySource, split=self.split, fold=self.fold, bytes_kept=self.bytes_kept)
        return reopen, (self.path,)

    @property
    def num_clips(self) -> int:
        return len(self._clips)

    def clip_id(self, clip: int) -> str:
        return self._clips[clip].clip_id

    def segments(self, clip: int) -> tuple[Segment, ...]:
        """Return the ground truth; that of a trimmed clip has no end, since its length is unknown before decoding."""
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
        """Forget all frames and features in memory."""
        self._held.clear()

    def _hold(self, clip: int) -> _Held:
        held = self._held.pop(clip, None)
        if held is None:
            path, known = self._clips[clip].path, self._settings
            decoded = decode_clip(
                path,
                frames_per_second=known.fps,
                max_frames=known.frames_kept,
                decoder=known.decoder,
                rule=self.backbone.rule,
            )
            self.stopwatch.add(decoded.seconds)
            cells = len(decoded.frames), self.grid_size**2
            held = _Held(decoded, np.zeros((*cells, self.depth), np.float16), np.zeros(cells, np.bool_))
        self._held[clip] = held  # the last to be forgotten
        excess = sum(other.num_bytes for other in self._held.values()) - self.bytes_kept
        while excess > 0 and len(self._held) > 1:
            excess -= self._held.popitem(last=False)[1].num_bytes
        return held

    def _compute(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64]
    ) -> dict[int, _Held]:
        """Compute the features of (n,) looks that are not known, and return the clips."""
        held = {clip: self._hold(clip) for clip in dict.fromkeys(clips.tolist())}
        looks = dict.fromkeys(zip(clips.tolist(), frames.tolist(), cells.tolist(), strict=True))
        missing = [(clip, frame, cell) for clip, frame, cell in looks if not held[clip].known[frame, cell]]
        whole = list(dict.fromkeys((clip, frame) for clip, frame, _ in missing if self.crop is None or frame == 0))
        for part in _batches(whole, _FRAMES_A_CALL):
            pictures = np.stack([held[clip].decoded.frames[frame] for clip, frame in part])
            for (clip, frame), cube in zip(part, self._run(self.backbone.cubes, pictures), strict=True):
                held[clip].features[frame] = cube.reshape(-1, self.depth)
                held[clip].known[frame] = True
            self.frames_computed += len(part)
        cropped = [look for look in missing if self.crop is not None and look[1] > 0]
        for looked in _batches(cropped, _CROPS_A_CALL):
            assert self.crop is not None
            cut = functools.partial(cut_crops, grid_size=self.grid_size, crop=self.crop)
            crops = [cut(held[clip].decoded.frames[frame], np.array([cell])) for clip, frame, cell in looked]
            pictures = np.concatenate(crops)
            for (clip, frame, cell), values in zip(looked, self._run(self.backbone.slices, pictures), strict=True):
                held[clip].features[frame, cell] = values
                held[clip].known[frame, cell] = True
            self.crops_computed += len(looked)
        return held

    def _run(self, network: Callable[[Tensor], Tensor], pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
        with self.stopwatch.measure("network"):
            features: NDArray[np.float16] = network(torch.from_numpy(pictures)).half().cpu().numpy()
        # Observations lie within the recorded range, which rounding might exceed.
        return features.clip(*np.array(feature_range(self), np.float16), out=features)


def _batches(items: Sequence[Item], largest: int) -> Iterator[Sequence[Item]]:
    """Cut items into parts of `largest`, a power of two, and the rest into halves, quarters and so on of that."""
    begin, size = 0, largest
    while begin < len(items):
        while size > len(items) - begin:
            size //= 2
        yield items[begin : begin + size]
        begin += size


def _load_network(description: Description) -> Backbone:
    settings = description.settings
    backbone = _load_backbone(
        settings.backbone,
        layer=settings.layer,
        weights=settings.weights,
        device=settings.device,
        precision=settings.precision,
    )
    if description.weights_sha256 not in (None, backbone.weights_sha256):
        raise WeightsError(
            f"{settings.weights or 'the downloaded weights'} have sha256 {backbone.weights_sha256}, and the features "
            f"described were made with weights of sha256 {description.weights_sha256}: give that file"
        )
    return backbone
