"""Say what happens in anyone's video files, with the policy of a finished run.

    python -m agents.predict --run RUN VIDEO [VIDEO ...] --weights FILE

Videos go through the extraction that made the features of the run's store, and the policy plays one greedy episode of
each, seeing no more of them than it saw of the clips it was trained on. A run that was trained on sliding windows
slides them over what its store would keep of each video, and its scores are their mean.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from glimpse_env import ClipSource, Segment, open_source
from glimpse_env.video.backbones import Backbone, Precision, WeightsError, load_backbone
from glimpse_env.video.decode import RESIZE_RULE, VideoError
from glimpse_env.video.features import VideoFeatures, extract_videos

from .learning.config import Config
from .pictures.strips import save_film_strip
from .playing.envs import check_device, greedy_manner, make_envs
from .playing.evaluation import class_scores, middle_clips, play_split, video_scores
from .runs.folder import read_json
from .runs.results import best_policy

BATCH_SIZE = 16  # of a store that was merged of parts with several
DRAWN_VIDEOS = 16  # rows of a film strip that can still be looked at


@dataclass(frozen=True)
class Arguments:
    """Say what happens in video files, with the policy of a finished run."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files; those that cannot be read are skipped with the reason."""
    run: Path
    """Folder of a run that was trained on a feature store."""
    weights: Path | None = None
    """Weights of the network that extracted the store; googlenet's are found where torchvision keeps them."""
    out: Path = Path("glimpses.png")
    """Film strip to write, of the first sixteen videos, or of their middle windows where windows slide over them."""
    top: int = 5
    """How many classes to print for each video."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:1"."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("name at least one video file")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run's config.json says of the videos behind it, and so of what it takes to play another one.

    Attributes:
        config: of the run.
        class_names: the C classes.
        frames: T.
        frames_per_second: the rate at which videos were sampled.
        max_frames: the most frames that were kept of a video, its middle ones; an episode plays the middle T of them,
            or a window of T that slides over them.
        backbone, weights_sha256, resize_rule, batch_size, precision, crop: as in the store's manifest.
    """

    config: Config
    class_names: tuple[str, ...]
    frames: int
    frames_per_second: float
    max_frames: int
    backbone: str
    weights_sha256: str
    resize_rule: str
    batch_size: int
    precision: Precision = "float32"
    crop: int | None = None

    @classmethod
    def of_run(cls, run: Path) -> Recipe:
        """Read it.

        Raises:
            FileNotFoundError: `run` is no run's folder.
            ValueError: the run's features do not come from videos, or were resized by a rule that is not this code's.
        """
        content = read_json(run / "config.json")
        config, source = Config.from_json(content["config"]), content["source"]
        if source["extraction"] is None:
            raise ValueError(
                f"{run} was trained on {config.source!r}, which has no network that turns videos into features: take "
                "a run that was trained on a store written by python -m glimpse_env.extract"
            )
        recipe = cls(
            config=config,
            class_names=tuple(source["class_names"]),
            frames=source["frames"],
            frames_per_second=source["frames_per_second"],
            **source["extraction"],
        )
        if recipe.resize_rule != RESIZE_RULE:
            raise ValueError(
                f"the features of {run} were resized by {recipe.resize_rule!r}, and this version resizes by "
                f"{RESIZE_RULE!r}: extract and train with one version"
            )
        return recipe


def load_recorded_backbone(recipe: Recipe, weights: Path | None, device: str) -> Backbone:
    """Load the network that extracted the run's features.

    Raises:
        WeightsError: `weights` are missing, do not fit, or are not those that the run's features were made with.
    """
    backbone = load_backbone(recipe.backbone, weights=weights, device=device, precision=recipe.precision)
    if backbone.weights_sha256 != recipe.weights_sha256:
        raise WeightsError(
            f"{weights or 'the downloaded weights'} have sha256 {backbone.weights_sha256}, but the run's features were "
            f"made by {recipe.backbone} with weights of sha256 {recipe.weights_sha256}: give that file"
        )
    return backbone


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoSource:
    """Videos of any lengths as clips of unknown class, read from the arrays that they are in.

    Attributes:
        videos: at least one.
        class_names: the C classes.
        num_frames: T, unless windows slide over the videos.
        frames_per_second: the rate at which they were sampled.
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


def as_source(videos: Sequence[VideoFeatures], recipe: Recipe) -> ClipSource:
    """Make clips of unknown class of the videos, or of the windows that slide over them if the run was trained so."""
    source = VideoSource(
        videos=videos,
        class_names=recipe.class_names,
        num_frames=recipe.frames,
        frames_per_second=recipe.frames_per_second,
    )
    config = recipe.config
    return open_source(source, window_seconds=config.window_seconds, stride_seconds=config.stride_seconds)


def play_videos(
    videos: Sequence[VideoFeatures], recipe: Recipe, run: Path, *, out: Path, device: str, rows: int = DRAWN_VIDEOS
) -> NDArray[np.float32]:
    """Play one episode of each video, or of each window of it, with the run's best policy, and draw the first `rows`
    videos into `out`, each by one episode, that of its middle window.

    Returns:
        (videos, C) class scores.
    """
    config = dataclasses.replace(recipe.config, device=device)
    source = as_source(videos, recipe)
    envs = make_envs(config, source, min(source.num_clips, rows), train=False)
    policy = best_policy(config, run, source)
    scores = [
        class_scores(rollout.class_logits, len(recipe.class_names), config.video_score)[:valid]
        for rollout, valid in play_split(envs, policy, greedy_manner(config), seed=0)
    ]
    shown = middle_clips(source)[:rows].tolist()
    save_film_strip(
        out, make_envs(config, source, len(shown), train=False), policy, shown, greedy_manner(config), seed=0
    )
    return video_scores(torch.cat(scores).cpu(), source).numpy()


def describe(path: Path, scores: NDArray[np.float32], names: Sequence[str], top: int) -> str:
    """Lay out the best classes of one video for reading."""
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return "\n".join([str(path), *(f"  {scores[label]:.3f}  {names[label]}" for label in best)])


def main(arguments: Arguments) -> int:
    """Do what the command line asks and return the exit status: 1 where no video could be read."""
    check_device(arguments.device)
    recipe = Recipe.of_run(arguments.run)
    backbone = load_recorded_backbone(recipe, arguments.weights, arguments.device)
    results = extract_videos(
        arguments.videos,
        backbone,
        frames_per_second=recipe.frames_per_second,
        max_frames=recipe.max_frames,
        batch_size=recipe.batch_size or BATCH_SIZE,
        crop=recipe.crop,
    )
    for result in results:
        if isinstance(result, VideoError):
            print(f"skipped: {result}", file=sys.stderr)
    videos = [result for result in results if isinstance(result, VideoFeatures)]
    if not videos:
        print(f"error: none of the {len(results)} videos could be read", file=sys.stderr)
        return 1
    all_scores = play_videos(videos, recipe, arguments.run, out=arguments.out, device=arguments.device)
    for video, scores in zip(videos, all_scores, strict=True):
        print(describe(video.path, scores, recipe.class_names, arguments.top))
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Arguments, prog="python -m agents.predict")))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
