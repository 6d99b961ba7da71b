"""Label video files with a trained model.

    python -m agents.predict --run RUN VIDEO [VIDEO ...]
    python -m agents.predict --run RUN FOLDER --out predictions.json

Videos pass through the network that made the features of the run's store, and the model plays greedy episodes: one of a
video that fits into an episode, otherwise windows over the whole length, whose scores are averaged.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from glimpse_env.datasets import VIDEO_SUFFIXES
from glimpse_env.video.decode import VideoError

from .pictures.movies import FORMATS, check_format
from .prediction.model import Part, load
from .prediction.result import Prediction, draw
from .runs.command import parse_flags, run_command
from .runs.files import write_file

DRAWN_VIDEOS = 16  # more rows make a film strip unreadable


@dataclass(frozen=True)
class Arguments:
    """Label video files with a trained model."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files, or folders of them; unreadable files are skipped, and the reason is printed."""
    run: Path
    """Run on a feature store or a lazy source, a packed run, or a folder of runs, whose "reinforce" run is used."""
    weights: Path | None = None
    """Weights of the network that extracted the store, if the file has moved since."""
    out: Path | None = None
    """File to write: a film strip (.png) or a movie (.gif, .mp4) of the first sixteen videos, or all numbers (.json,
    .csv)."""
    overwrite: bool = False
    """Replace the file --out if it exists."""
    json: bool = False
    """Print one line of JSON for each video, with scores, times and cells of all frames."""
    top: int = 5
    """Number of classes to print for each video."""
    part: Part = "whole"
    """Part of each video that is judged: the whole of it, or the middle, as training does."""
    device: str = "cpu"
    """Device of the networks: "cpu", "cuda" or "cuda:1"."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("no video was named: name at least one video file")
        if self.top < 1:
            raise ValueError(f"--top must be at least 1, got {self.top}")


def check_out(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written to a path, in the format of its suffix."""
    if path.suffix not in (".json", ".csv"):
        if path.suffix not in FORMATS:
            raise ValueError(f"--out must end in {', '.join(FORMATS)}, .json or .csv, got {path.name!r}")
        check_format(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: there is no folder {path.parent}; make it, or choose another file")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"--out {path} exists: choose another file, or replace a file with --overwrite")


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """Return files, and the video files of folders, in the order of their names."""
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
            if not inside:
                print(f"skipped: {path}: no video file in this folder", file=sys.stderr)
            found += inside
        else:
            found.append(path)
    return found


def describe(prediction: Prediction, top: int) -> str:
    """Return lines with the best classes of one video."""
    start, end = prediction.judged
    windows = "" if prediction.windows == 1 else f" in {prediction.windows} windows"
    lines = [prediction.video, *(f"  {score:.3f}  {name}" for name, score in prediction.ranking[:top])]
    if prediction.no_prediction:
        lines.append(f"  {prediction.no_prediction:.3f}  (no prediction)")
    return "\n".join([*lines, f"  judged from {start:.2f} s to {end:.2f} s{windows}"])


def encode(predictions: Sequence[Prediction], suffix: str) -> bytes:
    """Return predictions as the bytes of a file."""
    if suffix == ".json":
        lines = ",\n".join(prediction.to_json() for prediction in predictions)
        return f"[\n{lines}\n]\n".encode()
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["video", "label", "no_prediction", *predictions[0].class_names])
        for prediction in predictions:
            scores = (f"{score:.6f}" for score in (prediction.no_prediction, *prediction.scores.tolist()))
            writer.writerow([prediction.video, prediction.label, *scores])
        return text.getvalue().encode("utf-8", "backslashreplace")
    return draw(predictions[:DRAWN_VIDEOS], suffix)


def main(arguments: Arguments) -> int:
    """Print the predictions and write them; returns the exit status, 1 if no video could be judged."""
    if arguments.out is not None:
        check_out(arguments.out, overwrite=arguments.overwrite)
    model = load(arguments.run, weights=arguments.weights, device=arguments.device)
    predictions: list[Prediction] = []
    paths = find_videos(arguments.videos)
    draws = arguments.out is not None and arguments.out.suffix in FORMATS
    for result in model.predict_each(paths, part=arguments.part):
        if isinstance(result, VideoError):
            print(f"skipped: {result}", file=sys.stderr, flush=True)
            continue
        print(result.to_json() if arguments.json else describe(result, arguments.top), flush=True)
        is_drawn = draws and len(predictions) < DRAWN_VIDEOS
        predictions.append(result if is_drawn else result.without_pictures())
    if not predictions:
        print(f"error: none of the {len(paths)} videos could be judged", file=sys.stderr)
        return 1
    if arguments.out is not None:
        write_file(arguments.out, encode(predictions, arguments.out.suffix))
        print(f"wrote {arguments.out}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return parse_flags(Arguments, arguments, program="videoglimpse predict")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
