"""Videos as clips, with features made by the network that made those of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env import ClipSource, Segment, SlidingWindows, open_source
from glimpse_env.sources.protocol import refuse_masked
from glimpse_env.video.backbones import TIMM, Backbone, Precision, WeightsError, load_backbone
from glimpse_env.video.decode import THUMBNAILS, DecodedClip, ResizeRule, resize
from glimpse_env.video.features import VideoFeatures

from ..learning.config import Config
from .envs import SourceRecord

BATCH_SIZE = 16  # for a store that was merged from parts with different batch sizes


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Settings that turned the videos of a run into features, as in the store's manifest."""

    backbone: str
    weights_sha256: str
    resize_rule: str
    max_frames: int
    batch_size: int
    precision: Precision = "float32"
    crop: int | None = None
    layer: str | None = None
    weights: str | None = None  # path of the file at the time; None if it is unknown

    @classmethod
    def of_run(cls, config: Config, source: SourceRecord) -> Extraction:
        """Return the extraction of a run's source; a ValueError if it has none of single videos."""
        if source.extraction is None:
            raise ValueError(
                f"the run was trained on {config.task.source!r}, which is neither a feature store nor a lazy source: "
                "use a run on a store of videoglimpse extract"
            )
        extraction = cls(**source.extraction)
        try:
            ResizeRule.parse(extraction.resize_rule)
        except ValueError as error:
            raise ValueError(f"the run's features cannot be made here ({error}): extract and train again") from error
        return extraction

    @property
    def rule(self) -> ResizeRule:
        """How frames become the network's pictures."""
        return ResizeRule.parse(self.resize_rule)

    @property
    def frames_at_once(self) -> int:
        """Frames in one call of the network."""
        return self.batch_size or BATCH_SIZE

    def find_weights(self, given: Path | None) -> Path | None:
        """Return the file of the weights: the given one or that of the extraction; None is the network's own."""
        path = given if given is not None or self.weights is None else Path(self.weights)
        if path is not None and not path.is_file():
            raise WeightsError(
                f"no weights of {self.backbone} at {path}: pass the file with sha256 {self.weights_sha256} as weights= "
                "(--weights of a command)"
            )
        if path is None and self.backbone != "googlenet" and not self.backbone.startswith(TIMM):
            raise WeightsError(
                f"the run does not name the file of its weights of {self.backbone}: pass the file with sha256 "
                f"{self.weights_sha256} as weights= (--weights of a command)"
            )
        return path

    def load_backbone(self, weights: Path | None, device: str) -> Backbone:
        """Load the network; a WeightsError if the weights are not those that made the run's features."""
        found = self.find_weights(weights)
        backbone = load_backbone(
            self.backbone, layer=self.layer, weights=found, device=device, precision=self.precision
        )
        if backbone.weights_sha256 != self.weights_sha256:
            raise WeightsError(
                f"{found or 'the downloaded weights'} have sha256 {backbone.weights_sha256}, but {self.backbone} "
                f"made the run's features with weights of sha256 {self.weights_sha256}: pass that file as weights= "
                "(--weights of a command)"
            )
        return backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoSource:
    """Videos of any lengths as clips of unknown class."""

    videos: Sequence[VideoFeatures]  # at least one
    class_names: tuple[str, ...]
    num_frames: int  # T, unless windows slide over the videos
    frames_per_second: float  # at which the videos were sampled
    trimmed: bool

    @cached_property
    def min_feature(self) -> float:
        return min(float(video.features.min()) for video in self.videos)

    @cached_property
    def max_feature(self) -> float:
        return max(float(video.features.max()) for video in self.videos)

    @property
    def num_clips(self) -> int:
        return len(self.videos)

    @property
    def grid_size(self) -> int:
        return int(self.videos[0].features.shape[1])

    @property
    def depth(self) -> int:
        return int(self.videos[0].features.shape[3])

    def clip_id(self, clip: int) -> str:
        return self.videos[clip].path.name

    def segments(self, clip: int) -> tuple[Segment, ...]:
        return ()

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return self.videos[clip].times

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        for place, (clip, frame) in enumerate(zip(clips.tolist(), frames.tolist(), strict=True)):
            out[place] = self.videos[clip].features[frame]

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        wanted = zip(clips.tolist(), frames.tolist(), *np.divmod(cells, self.grid_size), strict=True)
        for place, (clip, frame, row, column) in enumerate(wanted):
            out[place] = self.videos[clip].features[frame, row, column]

    def image(self, clip: int, frame: int) -> NDArray[np.uint8]:
        return np.asarray(self.videos[clip].thumbnails[frame])

    def actor(self, clip: int) -> None:
        return None


def as_source(
    videos: Sequence[VideoFeatures], config: Config, record: SourceRecord, *, whole: bool = False
) -> ClipSource:
    """Return videos as clips of a run's kind, or the windows that slide over them.

    Windows are those that the run was trained on; otherwise, if a video is longer than a clip and `whole` is set, they
    have the length of a clip and begin every half clip.
    """
    clips = VideoSource(
        videos=videos,
        class_names=record.class_names,
        num_frames=record.frames,
        frames_per_second=record.frames_per_second,
        trimmed=record.trimmed,
    )
    task, rate = config.task, record.frames_per_second
    if task.window_seconds is None and whole and max(len(video.times) for video in videos) > record.frames:
        return SlidingWindows(
            source=clips, window_seconds=record.frames / rate, stride_seconds=max(record.frames // 2, 1) / rate
        )
    return open_source(clips, window_seconds=task.window_seconds, stride_seconds=task.advanced.stride_seconds)


def check_videos(videos: Sequence[Any], given_rate: Any) -> None:
    """Check that each of some objects is the path of a video or frames, and that frames have a rate.

    Raises:
        TypeError: an object is neither, or the rate is no number.
        ValueError: there is no rate, or it is not positive.
    """
    for number, video in enumerate(videos, 1):
        if isinstance(video, (str, os.PathLike)):
            continue
        is_other = isinstance(video, (bytes, Mapping)) or (isinstance(video, np.ndarray) and video.dtype.kind in "SU")
        try:
            iter(video)
        except TypeError:
            is_other = True
        if is_other:
            raise TypeError(
                f"video {number} must be a path, a (T, height, width, 3) uint8 array or an iterable of frames, got "
                f"{type(video).__name__}; several videos are a list"
            )
        if given_rate is None:
            raise ValueError("frames need their rate: pass frames_per_second=")
    if given_rate is None:
        return
    if isinstance(given_rate, bool) or not isinstance(given_rate, Real):
        raise TypeError(f"frames_per_second must be a number, got {given_rate!r}")
    if not 0 < given_rate < float("inf"):  # type: ignore[operator]
        raise ValueError(f"frames_per_second must be a positive number, got {given_rate}")


_Sample = tuple[int, NDArray[np.uint8], NDArray[np.uint8]]


def _sample(number: int, picture: NDArray[np.uint8], rule: ResizeRule) -> _Sample:
    # the frame's number, its picture for the network and its thumbnail
    return number, resize(picture[None], rule)[0], resize(picture[None], THUMBNAILS)[0]


def sample_frames(
    frames: Iterable[NDArray[np.uint8]], *, given_rate: float, rate: float, max_frames: int, rule: ResizeRule
) -> DecodedClip:
    """Sample (height, width, 3) uint8 RGB frames as a video file of the same rate is sampled.

    Args:
        frames: one at a time; only samples are kept, at the size that the network takes.
        given_rate: of the frames, in frames per second.
        rate: of the samples.
        max_frames: a longer video keeps its centred window of this many samples.
        rule: how frames are resized.
    """
    samples: list[_Sample] = []
    number = -1
    for number, frame in enumerate(frames):
        refuse_masked(frame=frame)
        picture = np.array(frame, order="C")  # a view may be mirrored or read-only, which torch does not take
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(
                f"frame {number} must be a (height, width, 3) uint8 RGB picture, got {picture.shape} {picture.dtype}"
            )
        # The frame nearest to a sample's time, ties to the earlier one; times are rounded as those of files.
        while np.ceil(len(samples) / rate * given_rate - 0.5 - 1e-6) <= number:
            samples.append(samples[-1] if samples and samples[-1][0] == number else _sample(number, picture, rule))
    if number < 0:
        raise ValueError("the video has no frame")
    available = int((number / given_rate + 1e-3) * rate) + 1
    if len(samples) < available:  # the last frame stands for samples just after it
        samples += [_sample(number, picture, rule)] * (available - len(samples))
    kept = min(available, max_frames)
    first = (available - kept) // 2
    numbers, pictures, thumbnails = zip(*samples[first : first + kept], strict=True)
    return DecodedClip(
        times=(first + np.arange(kept)) / rate,
        numbers=np.array(numbers, np.int64),
        frames=np.stack(pictures),
        thumbnails=np.stack(thumbnails),
        decoder="pyav",  # unused
        seconds={},
    )
