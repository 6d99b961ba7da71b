"""Videos in memory as clips, with features made by the network that made those of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env import ClipSource, Segment, open_source
from glimpse_env.video.backbones import Backbone, Precision, WeightsError, load_backbone
from glimpse_env.video.decode import RESIZE_RULE
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

    @classmethod
    def of_run(cls, config: Config, source: SourceRecord) -> Extraction:
        """Return the extraction of a run's source.

        Raises:
            ValueError: the features do not come from videos, or were resized by a rule of another version.
        """
        if source.extraction is None:
            raise ValueError(
                f"the run was trained on {config.task.source!r}, whose features no network made from videos: use a run "
                "that was trained on a store of python -m glimpse_env.extract"
            )
        extraction = cls(**source.extraction)
        if extraction.resize_rule != RESIZE_RULE:
            raise ValueError(
                f"the run's features were resized by {extraction.resize_rule!r}, and this version resizes by "
                f"{RESIZE_RULE!r}: extract and train with one version"
            )
        return extraction

    @property
    def frames_at_once(self) -> int:
        """Frames in one call of the network."""
        return self.batch_size or BATCH_SIZE

    def load_backbone(self, weights: Path | None, device: str) -> Backbone:
        """Load the network.

        Raises:
            WeightsError: the weights are missing, do not fit, or are not those that made the run's features.
        """
        backbone = load_backbone(self.backbone, weights=weights, device=device, precision=self.precision)
        if backbone.weights_sha256 != self.weights_sha256:
            raise WeightsError(
                f"{weights or 'the downloaded weights'} have sha256 {backbone.weights_sha256}, but {self.backbone} "
                f"made the run's features with weights of sha256 {self.weights_sha256}: pass that file as --weights"
            )
        return backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoSource:
    """Videos of any lengths as clips of unknown class.

    Attributes:
        videos: at least one.
        class_names: the C classes.
        num_frames: T, unless windows slide over the videos.
        frames_per_second: rate at which the videos were sampled.
    """

    videos: Sequence[VideoFeatures]
    class_names: tuple[str, ...]
    num_frames: int
    frames_per_second: float
    trimmed: bool = True
    max_feature: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_feature", max(float(video.features.max()) for video in self.videos))

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


def as_source(videos: Sequence[VideoFeatures], config: Config, source: SourceRecord) -> ClipSource:
    """Return videos as clips of a run's kind, or the windows that slide over them if the run was trained so."""
    clips = VideoSource(
        videos=videos,
        class_names=source.class_names,
        num_frames=source.frames,
        frames_per_second=source.frames_per_second,
    )
    task = config.task
    return open_source(clips, window_seconds=task.window_seconds, stride_seconds=task.stride_seconds)
