"""Trained models that label videos: files, arrays or streams of frames."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env.sources.splits import check_split
from glimpse_env.video.backbones import Backbone
from glimpse_env.video.decode import DecodedClip, Stopwatch, VideoError, decode_clip
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.features import VideoFeatures, embed

from ..learning.config import Config
from ..learning.episodes import GlimpseRollout, Rollout
from ..learning.models import MODELS
from ..learning.policy import GlimpsePolicy
from ..pictures.strips import Played
from ..playing.envs import SourceRecord, check_device, check_ours, greedy_play, make_envs, open_splits
from ..playing.evaluation import Evaluation, class_scores, evaluate_split, play_split, video_scores
from ..playing.videos import Extraction, VideoSource, as_source, check_videos, sample_frames
from ..runs.folder import RunFolder, find_run
from .result import Prediction

Frames: TypeAlias = "NDArray[np.uint8] | Iterable[NDArray[np.uint8]]"
Video: TypeAlias = "str | os.PathLike[str] | Frames"
Part = Literal["whole", "middle"]
WINDOWS_AT_ONCE = 16
SECONDS_PER_VIDEO = 3600.0  # after which a decoder gives a file up


def load(run: str | Path, *, weights: str | Path | None = None, device: str = "cpu") -> TrainedModel:
    """Load a trained model.

    Args:
        run: folder of a run, a folder of runs, whose "reinforce" run is used, a packed run, or the name of a packed run
            that is installed with the package, such as "synthetic".
        weights: file of the network that made the run's features, if it has moved since they were made.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        FileNotFoundError: there is no run, or it has not validated yet.
        ValueError: the run is damaged, or of another version; or the device does not exist.
        WeightsError: there is no file of weights at that place.
    """
    return TrainedModel(find_run(Path(run)), None if weights is None else Path(weights), device)


class TrainedModel:
    """A trained model.

    Attributes:
        record: configuration, source and versions of the run.
        config: of the run, on this model's device.
        policy: the network.
    """

    def __init__(self, run: RunFolder, weights: Path | None, device: str) -> None:
        check_device(device)
        self.run, self.record = run, run.record()
        self.config: Config = self.record.config.with_settings({"device": device})
        check_ours(self.config)
        self._weights = weights
        if self.record.source.extraction is not None:  # fails before any video is read
            self._extraction.find_weights(weights)
        source = self.record.source
        blank = np.zeros((1, source.grid_size, source.grid_size, source.depth), np.float16)
        video = VideoFeatures(
            path=Path("blank"),
            times=np.zeros(1),
            numbers=np.zeros(1, np.int64),
            thumbnails=np.zeros((1, 1, 1, 3), np.uint8),
            features=blank,
        )
        self.policy: GlimpsePolicy = run.best_policy(self.config, as_source([video], self.config, source, whole=False))

    def __repr__(self) -> str:
        return f"TrainedModel({str(self.run.path)!r}, {self.config.model}, {len(self.class_names)} classes)"

    def evaluate(self, split: str = "test", *, source: str | None = None) -> Evaluation:
        """Measure the model on a split of its own source, or of another one of the same kind.

        Raises:
            ValueError: there is no such split, or the source has changed or is of another kind.
        """
        check_split(split, place="a run")
        config = self.config if source is None else self.config.with_settings({"source": source})
        clips = open_splits(config)[split]
        record = SourceRecord.of(config, clips)
        if source is None:
            self.record.source.check_unchanged(record, config.task.source, self.run.path)
        else:
            self.record.source.check_same_kind(record, config.task.source)
        return evaluate_split(config, self.policy, clips)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.record.source.class_names

    @cached_property
    def _extraction(self) -> Extraction:
        return Extraction.of_run(self.config, self.record.source)

    @cached_property
    def _backbone(self) -> Backbone:
        return self._extraction.load_backbone(self._weights, self.config.training.device)

    @overload
    def predict(self, video: Sequence[Video], *, frames_per_second: float | None = ..., part: Part = ...) -> Any: ...
    @overload
    def predict(self, video: Video, *, frames_per_second: float | None = ..., part: Part = ...) -> Prediction: ...
    def predict(self, video: Any, *, frames_per_second: float | None = None, part: Part = "whole") -> Any:
        """Label a video, or each video of a list.

        Args:
            video: path of a file; (T, height, width, 3) uint8 RGB; an iterable of (height, width, 3) frames; or a list
                of such videos. A whole video is in memory, sampled at the rate that the model was trained with.
            frames_per_second: rate of frames that do not come from a file.
            part: judge the "whole" of each video, one longer than an episode by windows that slide over it; or its
                "middle", as training does. A model that was trained on crops always judges the middle.

        Returns:
            a `Prediction`, or a list of them.

        Raises:
            TypeError: it is no video, or the rate is no number.
            ValueError: the model's features do not come from videos, or the frames or their rate are wrong.
            VideoError: a file cannot be read.
            WeightsError: the weights of the network are not those of the run.
        """
        is_list = isinstance(video, (list, tuple)) and not (video and all(np.ndim(one) == 3 for one in video))
        results = []
        for result in self._predict(video if is_list else [video], frames_per_second, part, in_processes=is_list):
            if isinstance(result, VideoError):
                raise result
            results.append(result)
        return results if is_list else results[0]

    def predict_each(
        self, videos: Iterable[Video], *, frames_per_second: float | None = None, part: Part = "whole"
    ) -> Iterator[Prediction | VideoError]:
        """Label videos one after the other; a file that cannot be read gives its error."""
        return self._predict(videos, frames_per_second, part, in_processes=True)

    def _predict(
        self, videos: Iterable[Video], given_rate: float | None, part: Part, *, in_processes: bool
    ) -> Iterator[Prediction | VideoError]:
        for result in self.features(videos, given_rate, part, in_processes=in_processes):
            yield result if isinstance(result, VideoError) else self.judge(result, part)

    def features(
        self, videos: Iterable[Video], given_rate: float | None, part: Part, *, in_processes: bool
    ) -> Iterator[VideoFeatures | VideoError]:
        """Yield the features of videos; models that were trained on one store can share them.

        With `in_processes`, other processes decode the files: they work ahead, and a file that ends its decoder gives
        an error instead of ending this process.
        """
        if MODELS[self.config.model].needs_actor:
            raise ValueError(f"model {self.config.model!r} has to know where the actor is, and videos do not show that")
        if part not in get_args(Part):
            raise ValueError(f"part must be 'whole' or 'middle', got {part!r}")
        extraction, rate = self._extraction, self.record.source.frames_per_second
        whole = part == "whole" and extraction.crop is None
        sampling: dict[str, Any] = {
            "frames_per_second": rate,
            "max_frames": sys.maxsize if whole else extraction.max_frames,
        }
        videos = list(videos)
        check_videos(videos, given_rate)
        paths = [Path(video) for video in videos if isinstance(video, (str, os.PathLike))]
        with Decoders(**sampling, seconds_per_video=SECONDS_PER_VIDEO) as decoders:
            rule = extraction.rule
            files = (
                decoders.decode(paths, rule)
                if in_processes
                else (decode_clip(path, **sampling, rule=rule) for path in paths)
            )
            for number, video in enumerate(videos, 1):
                clip: DecodedClip | VideoError
                if isinstance(video, (str, os.PathLike)):
                    name, clip = Path(video), next(files)
                else:
                    assert given_rate is not None
                    name = Path(f"video {number}")
                    clip = sample_frames(
                        video, given_rate=given_rate, rate=rate, max_frames=sampling["max_frames"], rule=rule
                    )
                (result,) = embed(
                    [(name, clip)],
                    self._backbone,
                    batch_size=extraction.frames_at_once,
                    crop=extraction.crop,
                    stopwatch=Stopwatch(),
                )
                yield result

    def judge(self, video: VideoFeatures, part: Part) -> Prediction:
        """Label a video whose features are known."""
        whole = part == "whole" and self._extraction.crop is None
        source = as_source([video], self.config, self.record.source, whole=whole)
        envs = make_envs(self.config, source, min(source.num_clips, WINDOWS_AT_ONCE), train=False)
        settings = greedy_play(self.config)
        rollouts, frames, starts = [], [], getattr(source, "first_frames", np.zeros(source.num_clips, np.int64))
        for rollout, valid in play_split(envs, self.policy, settings, seed=0):
            rollouts.append(rollout.rows(slice(0, valid)))
            frames.append(envs.engine.window[:valid] + starts[rollout.clips[:valid], None])
        class_logits = torch.cat([rollout.class_logits for rollout in rollouts])
        scores = class_scores(class_logits, len(self.class_names), self.config.training.advanced.video_score)
        softmax = class_logits.softmax(2).cpu().numpy()  # (windows, T, outputs)
        classes = len(self.class_names)
        nothing = softmax[..., classes] if softmax.shape[2] > classes else np.zeros(softmax.shape[:2], np.float32)
        # The first window that contains a frame, and its place there.
        seen, firsts = np.unique(np.concatenate(frames), return_index=True)
        windows, places = np.divmod(firsts, softmax.shape[1])
        attention = torch.cat([rollout.attention for rollout in rollouts]).float().cpu().numpy()[windows, places]
        size = source.grid_size
        pictures = VideoSource(
            videos=[dataclasses.replace(video, features=video.features[:0])],
            class_names=self.class_names,
            num_frames=len(seen),
            frames_per_second=source.frames_per_second,
            trimmed=source.trimmed,
        )
        played = Played(
            model=settings.model,
            rollout=dataclasses.replace(_as_one_episode(rollouts, windows, places), windows=seen[None]),
            source=pictures,
        )
        return Prediction(
            video=str(video.path),
            class_names=self.class_names,
            scores=video_scores(scores.cpu(), source)[0].numpy(),
            no_prediction=float(nothing.mean()),
            frame_times=video.times[seen],
            frames_per_second=source.frames_per_second,
            frame_scores=softmax[windows, places, :classes],
            frame_no_prediction=nothing[windows, places],
            cells=tuple(played.cells(0, frame) for frame in range(len(seen))),
            attention=attention.reshape(-1, size, size),
            windows=source.num_clips,
            played=played,
        )


def _as_one_episode(rollouts: Sequence[Rollout], windows: NDArray[np.int64], places: NDArray[np.int64]) -> Rollout:
    """Return some frames of several episodes as one episode, to be drawn."""
    rows, columns = torch.from_numpy(windows), torch.from_numpy(places)

    def gathered(name: str) -> torch.Tensor:
        return torch.cat([getattr(rollout, name).cpu() for rollout in rollouts])[rows, columns][None]

    first = rollouts[0].rows(slice(0, 1))
    names = ("attention", "predictions", "class_logits", "frame_labels")
    changed: dict[str, Any] = {name: gathered(name) for name in names}
    if isinstance(first, GlimpseRollout):
        cells = torch.cat([one.cells_of_frames().cpu() for one in rollouts if isinstance(one, GlimpseRollout)])
        changed |= {"cells": cells[rows, (columns - 1).clamp_min(0)][None, 1:], "steps": None}
    return dataclasses.replace(first, **changed)
