"""Prediction for one video: scores, frames and cells, and how they are drawn."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pictures.movies import animation, check_format, encode_gif, encode_mp4, readable_rate
from ..pictures.strips import Played, film_strip
from ..playing.detection import Detection, detections_of_runs
from ..runs.files import write_file
from ..tables.plots import png


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Prediction of a model for one video.

    Frames are the samples that the model saw. A frame in two windows is reported as the earlier one saw it.
    """

    video: str
    class_names: tuple[str, ...]
    scores: NDArray[np.float32]  # (C,) the mean over the video's windows
    no_prediction: float  # mean probability of "no prediction"; 0 if the model cannot answer so
    frame_times: NDArray[np.float64]  # (n,) seconds from the start of the video
    frames_per_second: float
    frame_scores: NDArray[np.float32]  # (n, C) probabilities of the classes
    frame_no_prediction: NDArray[np.float32]  # (n,) probability of "no prediction"
    cells: tuple[tuple[int, ...] | None, ...]  # row-major numbers, in the order of choice; None if all cells were seen,
    # and empty at a frame that a jump left out
    attention: NDArray[np.float32]  # (n, K, K) weights of the cells in the frame's input
    windows: int  # number of episodes played
    played: Played | None = field(repr=False)

    @property
    def label(self) -> str:
        """The class with the best score."""
        return self.class_names[int(self.scores.argmax())]

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """All classes with their scores, the best first."""
        order = np.argsort(-self.scores, kind="stable").tolist()
        return [(self.class_names[label], float(self.scores[label])) for label in order]

    @property
    def segments(self) -> list[Detection]:
        """Runs of frames with the same likeliest class, each with the mean of its scores; none of "no prediction"."""
        answers = np.column_stack([self.frame_scores, self.frame_no_prediction]).argmax(1)
        rate = self.frames_per_second
        found = detections_of_runs(answers, self.frame_scores, self.frame_times, frames_per_second=rate)
        # A frame stands for the time around it, and no video begins before 0.
        return [one._replace(segment=one.segment._replace(start=max(one.segment.start, 0.0))) for one in found]

    @property
    def judged(self) -> tuple[float, float]:
        """Times of the first and the last frame that the model saw, in seconds."""
        return float(self.frame_times[0]), float(self.frame_times[-1])

    def without_pictures(self) -> Prediction:
        """Return this prediction without the pictures, which take most of its memory; it cannot be drawn any more."""
        return dataclasses.replace(self, played=None)

    def __str__(self) -> str:
        return f"{self.video}: {self.label} ({self.scores.max():.3f})"

    def to_json(self) -> str:
        """Return everything but the pictures as one line of JSON."""
        frames = zip(self.frame_times, self.frame_scores, self.frame_no_prediction, self.cells, strict=True)
        return json.dumps(
            {
                "video": self.video,
                "label": self.label,
                "scores": {name: _short(score) for name, score in self.ranking},
                "no_prediction": _short(self.no_prediction),
                "judged_seconds": [_short(time) for time in self.judged],
                "windows": self.windows,
                "segments": [
                    {"class": self.class_names[one.label], "start": _short(one.start), "end": _short(one.end)}
                    | {"score": _short(score)}
                    for one, score in self.segments
                ],
                "grid_size": self.attention.shape[1],
                "frames": [
                    {
                        "seconds": _short(time),
                        "scores": dict(zip(self.class_names, map(_short, scores), strict=True)),
                        "no_prediction": _short(nothing),
                        "cells": cells,
                    }
                    for time, scores, nothing, cells in frames
                ],
            }
        )

    def save_strip(self, path: str | Path) -> None:
        """Draw up to eight frames side by side, with the cells looked at, into a PNG file."""
        _save([self], Path(path), (".png",))

    def save_video(self, path: str | Path) -> None:
        """Draw all frames with the cells looked at into a moving picture, .gif or .mp4."""
        _save([self], Path(path), (".gif", ".mp4"))


def _short(number: float) -> float:
    return round(float(number), 6)


def _save(predictions: Sequence[Prediction], path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix not in suffixes:
        raise ValueError(f"the name of the file must end in {' or '.join(suffixes)}, got {path.name!r}")
    check_format(path)
    write_file(path, draw(predictions, path.suffix))


def draw(predictions: Sequence[Prediction], suffix: str) -> bytes:
    """Return a picture of videos: their film strips (.png), or a movie of all, one after the other (.gif, .mp4)."""
    played = [prediction.played for prediction in predictions if prediction.played is not None]
    if len(played) < len(predictions):
        raise ValueError("a prediction without pictures cannot be drawn")
    if suffix == ".png":
        return _stacked([png(film_strip(one), dpi=110) for one in played])
    pictures = [picture for one in played for picture in animation([one], 0)]
    encode = encode_gif if suffix == ".gif" else encode_mp4
    return encode(pictures, readable_rate(played[0].source.frames_per_second))


def _stacked(strips: Sequence[bytes]) -> bytes:
    """Return pictures one below the other, as PNG."""
    images = [Image.open(io.BytesIO(strip)).convert("RGB") for strip in strips]
    size = max(image.width for image in images), sum(image.height for image in images)
    page, top, buffer = Image.new("RGB", size, "white"), 0, io.BytesIO()
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    page.save(buffer, format="PNG")
    return buffer.getvalue()
