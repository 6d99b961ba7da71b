"""Label video files with the policy of a finished run.

    python -m agents.predict --run RUN VIDEO [VIDEO ...] --weights FILE

Videos pass through the extraction that made the features of the run's store, and the policy plays one greedy episode of
each video. A run that was trained on sliding windows plays all windows of a video, and the scores are their mean.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from glimpse_env import ClipSource
from glimpse_env.video.decode import VideoError
from glimpse_env.video.features import VideoFeatures, extract_videos

from .learning.config import Config
from .learning.policy import GlimpsePolicy
from .pictures.movies import check_format, draw_episodes
from .pictures.strips import Played, play_clips
from .playing.envs import check_device, greedy_play, make_envs
from .playing.evaluation import class_scores, middle_clips, play_split, video_scores
from .playing.videos import Extraction, as_source
from .runs.command import run_command
from .runs.files import write_file
from .runs.folder import RunFolder, find_runs

DRAWN_VIDEOS = 16  # more rows make a film strip unreadable


@dataclass(frozen=True)
class Arguments:
    """Label video files with the policy of a finished run."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files; unreadable ones are skipped, and the reason is printed."""
    run: Path
    """Run that was trained on a feature store, or a folder of runs, whose "reinforce" run is used."""
    weights: Path | None = None
    """Weights of the network that extracted the store; those of googlenet are found where torchvision keeps them."""
    out: Path = Path("glimpses.png")
    """Picture of the first sixteen videos, of the middle window of each if windows slide over them: a film strip (.png)
    or a movie (.gif, .mp4)."""
    overwrite: bool = False
    """Replace the file --out if it exists."""
    top: int = 5
    """Number of classes to print for each video."""
    device: str = "cpu"
    """Device of the networks: "cpu", "cuda" or "cuda:1"."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("no video was named: name at least one video file")
        if self.top < 1:
            raise ValueError(f"--top must be at least 1, got {self.top}")


def check_out(path: Path, *, overwrite: bool) -> None:
    """Check that a picture can be written to a path.

    Raises:
        FileNotFoundError: its folder does not exist.
        FileExistsError: the file exists, and must not be replaced.
        ValueError: the suffix names no known format.
    """
    check_format(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: there is no folder {path.parent}; make it, or choose another file")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"--out {path} exists: choose another file, or replace a file with --overwrite")


def choose_run(path: Path) -> RunFolder:
    """Return the run at a path; of several runs in a folder the one of the model "reinforce".

    Raises:
        ValueError: there are several runs, and not exactly one of that model.
    """
    runs = find_runs(path)
    chosen = runs if len(runs) == 1 else [run for run in runs if run.record().config.model == "reinforce"]
    if len(chosen) != 1:
        names = ", ".join(run.path.name for run in runs)
        raise ValueError(f"{path} holds the runs {names}: name one of them, such as --run {runs[0].path}")
    return chosen[0]


def score_videos(source: ClipSource, policy: GlimpsePolicy, config: Config) -> NDArray[np.float32]:
    """Play one greedy episode of each video of a source, or of each of its windows.

    Returns:
        (videos, C) class scores.
    """
    envs = make_envs(config, source, min(source.num_clips, DRAWN_VIDEOS), train=False)
    classes, video_score = len(source.class_names), config.training.advanced.video_score
    scores = [
        class_scores(rollout.class_logits, classes, video_score)[:valid]
        for rollout, valid in play_split(envs, policy, greedy_play(config), seed=0)
    ]
    return video_scores(torch.cat(scores).cpu(), source).numpy()


def play_shown(source: ClipSource, policy: GlimpsePolicy, config: Config, *, most: int = DRAWN_VIDEOS) -> Played:
    """Play the episodes to draw: one of each of the first videos, of its middle window if windows slide over it."""
    clips = middle_clips(source)[:most].tolist()
    envs = make_envs(config, source, len(clips), train=False)
    return play_clips(envs, policy, clips, greedy_play(config), seed=0)


def describe(path: Path, scores: NDArray[np.float32], names: Sequence[str], top: int) -> str:
    """Return lines with the best classes of one video."""
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return "\n".join([str(path), *(f"  {scores[label]:.3f}  {names[label]}" for label in best)])


def main(arguments: Arguments) -> int:
    """Print the scores, then write the picture; returns the exit status, 1 if no video could be read."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not fit the terminal's encoding
    check_out(arguments.out, overwrite=arguments.overwrite)
    check_device(arguments.device)
    run = choose_run(arguments.run)
    record = run.record()
    config = record.config.with_settings({"device": arguments.device})
    extraction = Extraction.of_run(config, record.source)
    run.load_best()  # fails before the videos are read
    backbone = extraction.load_backbone(arguments.weights, arguments.device)
    results = extract_videos(
        arguments.videos,
        backbone,
        frames_per_second=record.source.frames_per_second,
        max_frames=extraction.max_frames,
        batch_size=extraction.frames_at_once,
        crop=extraction.crop,
    )
    for result in results:
        if isinstance(result, VideoError):
            print(f"skipped: {result}", file=sys.stderr)
    videos = [result for result in results if isinstance(result, VideoFeatures)]
    if not videos:
        print(f"error: none of the {len(results)} videos could be read", file=sys.stderr)
        return 1
    source = as_source(videos, config, record.source)
    policy = run.best_policy(config, source)
    for video, scores in zip(videos, score_videos(source, policy, config), strict=True):
        print(describe(video.path, scores, source.class_names, arguments.top), flush=True)
    write_file(arguments.out, draw_episodes(play_shown(source, policy, config), arguments.out.suffix))
    print(f"wrote {arguments.out}")
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return tyro.cli(Arguments, args=arguments, prog="python -m agents.predict")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
