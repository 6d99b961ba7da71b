"""Settings of an extraction, by data set; the fields are the command line's flags."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from glimpse_env.datasets import VideoDataset, activitynet, folder, hmdb51, ucf101
from glimpse_env.video.backbones import BackboneName, Precision
from glimpse_env.video.crops import check_crop
from glimpse_env.video.decoders import SECONDS_PER_VIDEO
from glimpse_env.video.process import num_threads, parse_device
from glimpse_env.video.readers import DecoderChoice

_CORES_A_DECODER = 8  # of the processor, while the network runs on it too
_MOST_DECODERS = 16
_FRAMES_IN_DECODERS = 4800  # of all decoders: each holds its clip twice, 2 GB together


def _available_cores() -> int:
    """Return how many cores this process may use, which a batch system limits."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of every data set's extraction."""

    videos: Path
    """folder of videos, with a folder per class"""
    out: Path
    """folder of the store to write, or to resume"""
    backbone: BackboneName = "bvlc_googlenet"
    """network whose last activations are kept"""
    weights: Path | None = None
    """its weights: .safetensors, for googlenet also torchvision's .pth"""
    frames: int = 30
    """frames of an episode"""
    fps: float = 30.0
    """frames sampled per second of video"""
    max_frames: int | None = None
    """most frames to keep of a clip, its middle ones; more than --frames lets training jitter (default: --frames)"""
    actor_coverage: Path | None = None
    """.npz with, under each clip's id, uint8 (frames, 7, 7): how much of each cell the actor covers, 255 = all; ids are
    `<class>/<name>`, of your own videos with the suffix"""
    batch_size: int = 16
    """frames per network call; 256 suits a GPU"""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>"""
    crop: int | None = None
    """pixels along the side of a crop around each cell, which is what the network sees of every frame but a clip's
    first: a store to train on that `lazy:` sources compute where they are looked at (64 gives every cell a crop of its
    own at 8 % of a frame's work)"""
    precision: Precision = "float32"
    """of the convolutions: bfloat16 and float16 (on a GPU) are faster, and change features by 1 % and 0.2 %"""
    compile: bool = False
    """compile the network first, half a minute: for long runs"""
    threads: int = field(default_factory=num_threads)
    """of the network on the CPU"""
    decoder: DecoderChoice = "auto"
    """library that decodes: auto takes decord for files in which it is proven to give the frames that PyAV gives, and
    PyAV for all others; torchcodec needs pip install "videoglimpse[torchcodec]" """
    decoders: int | None = None
    """processes that decode (default: one for every 8 cores, with a GPU one for each but one, up to 16, fewer where
    clips are long)"""
    seconds_per_video: float = SECONDS_PER_VIDEO
    """of decoding, after which a video is given up"""
    shard_frames: int = 1024
    """frames that a shard of the store may hold: what a killed run computes again at most (100 MB for 1024)"""
    engine: Literal["local", "ray"] = "local"
    """where the work is done: in this process, or by Ray's workers, on this machine or the cluster of $RAY_ADDRESS"""
    workers: int | None = None
    """of Ray, each with --threads cores, on CUDA with a GPU each (default: as many as fit)"""
    strict: bool = False
    """stop at the first bad line of an annotation file, missing video or folder that cannot be opened, instead of
    naming and skipping it"""
    retry_failed: bool = False
    """try videos again that could not be read before, as on a disk that was gone: their shards are written again"""
    dry_run: bool = False
    """write nothing: say what extracting would do, its size and time, judged by a few videos"""

    def __post_init__(self) -> None:
        names = ("frames", "fps", "batch_size", "threads", "decoders", "seconds_per_video", "shard_frames", "workers")
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.max_frames is not None and self.max_frames < self.frames:
            raise ValueError(
                f"max_frames must be at least frames ({self.frames}), got {self.max_frames}: keep more, or play fewer"
            )
        if self.crop is not None:
            check_crop(self.crop)
            if self.frames_kept != self.frames:
                raise ValueError(
                    "with crops only the first frame kept of a clip is seen whole, so that episodes begin there: "
                    f"max_frames must be frames ({self.frames}), got {self.max_frames}; give --max-frames None"
                )
        if self.workers and self.engine != "ray":
            raise ValueError("workers are Ray's: add --engine ray, or leave them out")
        device = parse_device(self.device)
        if self.engine == "ray" and device.index is not None:
            raise ValueError(f"Ray chooses each worker's GPU: give --device cuda, not {self.device}")

    @property
    def frames_kept(self) -> int:
        return self.max_frames or self.frames

    @property
    def clips_per_shard(self) -> int:
        return max(1, self.shard_frames // self.frames_kept)

    @property
    def num_decoders(self) -> int:
        if self.decoders is not None:
            return self.decoders
        cores = self.threads if self.engine == "ray" else _available_cores()
        wanted = cores - 1 if self.device.startswith("cuda") else cores // _CORES_A_DECODER
        return max(1, min(wanted, _MOST_DECODERS, _FRAMES_IN_DECODERS // self.frames_kept))

    def absolute(self) -> Settings:
        """Return the same with absolute paths, for processes that run in other folders."""
        paths: dict[str, Any] = {
            name: value.absolute() for name, value in vars(self).items() if isinstance(value, Path)
        }
        return replace(self, **paths)

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return folder(self.videos, strict=self.strict)


@dataclass(frozen=True, kw_only=True)
class HMDB51(Settings):
    """HMDB-51, or J-HMDB, with its official splits."""

    splits: Path
    """folder of `<class>_test_split<fold>.txt`"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return hmdb51(self.videos, self.splits, strict=self.strict)


@dataclass(frozen=True, kw_only=True)
class UCF101(Settings):
    """UCF-101 with its official splits."""

    splits: Path
    """folder of classInd.txt, trainlist<fold>.txt and testlist<fold>.txt"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return ucf101(self.videos, self.splits, strict=self.strict)


@dataclass(frozen=True, kw_only=True)
class ActivityNet(Settings):
    """ActivityNet v1.3, untrimmed, with as many of its videos as are there."""

    videos: Path
    """folder of videos, v_<id>.mp4 and the like, at any depth"""
    annotations: Path
    """the official JSON file"""
    fps: float = 2.0
    """frames sampled per second of video"""
    max_frames: int | None = 600
    """most frames to keep of a video, its middle ones; episodes are windows of --frames of them"""
    shard_frames: int = 4096
    """frames that a shard of the store may hold: what a killed run computes again at most (100 MB for 1024)"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return activitynet(self.videos, self.annotations, strict=self.strict)


class Folder(Settings):
    """Your own videos, split by name into train, validation and test."""
