"""Settings of an extraction for each data set; the fields are the command line's flags."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from glimpse_env.datasets import VideoDataset, activitynet, folder, hmdb51, ucf101
from glimpse_env.video.backbones import TIMM, Precision, check_layer, num_threads, parse_device
from glimpse_env.video.decoders import SECONDS_PER_VIDEO
from glimpse_env.video.features import check_crop
from glimpse_env.video.readers import DecoderChoice

_CORES_A_DECODER = 8  # of the processor, while the network runs on it too
_MOST_DECODERS = 16
_FRAMES_IN_DECODERS = 4800  # of all decoders: each holds its clip twice, 2 GB together


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of every data set's extraction."""

    videos: Path
    """Folder of videos, with a folder per class."""
    out: Path
    """Folder of the store to write or to resume."""
    backbone: str = "bvlc_googlenet"
    """Network whose activations are stored: bvlc_googlenet, googlenet (torchvision's), or timm:NAME, a convolutional
    model or a vision transformer of timm, which needs pip install "videoglimpse[timm]"."""
    layer: str | None = None
    """Layer of the network whose activations are stored, such as inception_4e. By default the last. An unknown one is
    refused with the names of all."""
    weights: Path | None = None
    """Weights of the network: a .safetensors or .pth file. For bvlc_googlenet make one with
    `python -m glimpse_env.weights convert`. By default googlenet takes torchvision's
    weights and timm:NAME takes timm's; both are downloaded once."""
    frames: int = 30
    """Number of frames of an episode."""
    fps: float = 30.0
    """Frames sampled per second of video."""
    max_frames: int | None = None
    """Most frames to keep of a clip, its middle ones. More than --frames lets training jitter. By default --frames."""
    actor_coverage: Path | None = None
    """.npz file with an array per clip id, uint8 (frames, K, K) on the network's grid (7 x 7 by default): how
    much of each cell the actor covers, 255 = all. Ids are `<class>/<name>`, for your own videos with the suffix."""
    batch_size: int = 16
    """Frames per network call. 256 suits a GPU."""
    device: str = "cpu"
    """Device of the network: cpu, cuda or cuda:<number>."""
    crop: int | None = None
    """Side in pixels of a crop around each cell. In every frame but a clip's first the network sees only these crops.
    Train on such a store to play `lazy:` sources. 64 gives every cell its own crop at 8 % of a frame's work."""
    precision: Precision = "float32"
    """Precision of the convolutions. bfloat16 (or float16 on a GPU) is faster, and changes features by 1 % (0.2 %)."""
    compile: bool = False
    """Compile the network first, which takes half a minute and pays off in long runs."""
    threads: int = field(default_factory=num_threads)
    """Threads of the network on the CPU."""
    decoder: DecoderChoice = "auto"
    """Library that decodes. auto takes decord for files in which it is proven to give the same frames as PyAV, and PyAV
    for all others. torchcodec needs pip install "videoglimpse[torchcodec]"."""
    decoders: int | None = None
    """Number of processes that decode. By default one for every 8 cores, with a GPU one for each core but one, at most
    16, and fewer for long clips."""
    seconds_per_video: float = SECONDS_PER_VIDEO
    """Seconds of decoding after which a video is given up."""
    shard_frames: int = 1024
    """Most frames in a shard of the store, which a killed run computes again (100 MB for 1024)."""
    engine: Literal["local", "ray"] = "local"
    """Place of the work: this process, or Ray's workers, on this machine or the cluster of $RAY_ADDRESS."""
    workers: int | None = None
    """Number of Ray's workers, each with --threads cores and on CUDA with a GPU. By default as many as fit."""
    strict: bool = False
    """Stop at the first bad line of an annotation file, missing video or closed folder, instead of skipping it."""
    retry_failed: bool = False
    """Try unreadable videos of an earlier run again, for example after a disk was gone. Rewrites their shards."""
    dry_run: bool = False
    """Write nothing. Print the clips, size and time of the extraction, estimated from a few videos."""

    def __post_init__(self) -> None:
        for name in (
            "frames",
            "fps",
            "batch_size",
            "threads",
            "decoders",
            "seconds_per_video",
            "shard_frames",
            "workers",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        check_layer(self.backbone, self.layer)
        if self.max_frames is not None and self.max_frames < self.frames:
            raise ValueError(
                f"max_frames must be at least frames ({self.frames}), got {self.max_frames}: keep more, or play fewer"
            )
        if self.crop is not None:
            check_crop(self.crop)
            if self.backbone.startswith(TIMM):
                raise ValueError(f"crops need a GoogLeNet, got backbone {self.backbone}: leave --crop out")
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
        # A batch system limits the cores that a process may use.
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = self.threads if self.engine == "ray" else allowed
        wanted = cores - 1 if self.device.startswith("cuda") else cores // _CORES_A_DECODER
        return max(1, min(wanted, _MOST_DECODERS, _FRAMES_IN_DECODERS // self.frames_kept))

    def absolute(self) -> Settings:
        """Return the same with absolute paths, for processes that run in other folders."""
        paths: dict[str, Any] = {key: value.absolute() for key, value in vars(self).items() if isinstance(value, Path)}
        return replace(self, **paths)

    @abstractmethod
    def dataset(self) -> VideoDataset:
        """Describe the videos."""


@dataclass(frozen=True, kw_only=True)
class _Listed(Settings):
    splits: Path
    """Folder of the official split files."""
    classes: tuple[str, ...] = ()
    """Classes to keep. By default all."""
    allow_missing: bool = False
    """Skip missing videos even with --strict."""

    _describe: ClassVar[Callable[..., VideoDataset]]

    def dataset(self) -> VideoDataset:
        return type(self)._describe(
            self.videos, self.splits, strict=self.strict, classes=self.classes, allow_missing=self.allow_missing
        )


class HMDB51(_Listed):
    """HMDB-51, or J-HMDB, with its official splits: `<class>_test_split<fold>.txt`."""

    _describe = staticmethod(hmdb51)


class UCF101(_Listed):
    """UCF-101 with its official splits: classInd.txt, trainlist<fold>.txt and testlist<fold>.txt."""

    _describe = staticmethod(ucf101)


@dataclass(frozen=True, kw_only=True)
class ActivityNet(Settings):
    """ActivityNet v1.3, untrimmed: all of its videos that are present."""

    videos: Path
    """Folder of videos, v_<id>.mp4 and the like, at any depth."""
    annotations: Path
    """The official JSON file."""
    fps: float = 2.0
    """Frames sampled per second of video."""
    max_frames: int | None = 600
    """Most frames to keep of a video, its middle ones. Episodes are windows of --frames of these."""
    shard_frames: int = 4096
    """Most frames in a shard of the store, which a killed run computes again (100 MB for 1024)."""

    def dataset(self) -> VideoDataset:
        return activitynet(self.videos, self.annotations, strict=self.strict)


@dataclass(frozen=True, kw_only=True)
class Folder(Settings):
    """Your own videos, in a folder per class. Folders train, val and test, a CSV file or the names split them."""

    videos: Path
    """Folder of the class folders, or of the folders train, val and test of class folders."""
    splits: Path | None = None
    """CSV file of rows such as `walk/a.mp4,train`: a video and train, val or test."""

    def dataset(self) -> VideoDataset:
        return folder(self.videos, splits=self.splits, strict=self.strict)


COMMANDS: dict[str, type[Settings]] = {"hmdb51": HMDB51, "ucf101": UCF101, "activitynet": ActivityNet, "folder": Folder}
