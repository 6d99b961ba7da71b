"""Film strips like the paper's figures 2 and 3: the looks of an episode frame by frame, and the predicted classes.

Hard glimpses are bright and numbered in the order in which they were chosen. Soft attention brightens a frame by its
upsampled weights: the picture has its own brightness at the strongest one, whose weight is printed in the corner.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.episodes import GlimpseRollout, Rollout
from ..learning.models import Model
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from ..playing.evaluation import class_scores
from ..playing.rollout import PlaySettings, play
from .brightness import brightness_of_cells, brightness_of_weights, cell_box, shaded

SHOWN_CLASSES = 3
GREY_SIDE = 112  # pixels of the grey picture of a frame that the source keeps no picture of


@dataclass(frozen=True, kw_only=True)
class DrawnFrame:
    """Contents of the drawing of one frame of one episode.

    Attributes:
        image: (height, width, 3) RGB, grey if the source keeps no pictures.
        brightness: (height, width), in 0..1; None if the frame was seen whole.
        cells: those that were seen, in the order in which they were chosen if there was one.
        largest_weight: of soft attention; None for other models.
        prediction, probability: the likeliest class, or "no prediction", and its softmax.
        is_right: whether that class is true at the frame; None if the truth is unknown or nothing was predicted.
    """

    image: NDArray[np.uint8]
    brightness: NDArray[np.float32] | None
    cells: tuple[int, ...]
    largest_weight: float | None
    prediction: str
    probability: float
    is_right: bool | None


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes that one model has played.

    Attributes:
        model: the way to look.
        rollout: N episodes, not mirrored.
        source: of the clips.
        windows: (N, T) int64, the index of each frame among those of its clip.
    """

    model: Model
    rollout: Rollout
    source: ClipSource
    windows: NDArray[np.int64]

    @classmethod
    def of(cls, envs: VideoGlimpseVectorEnv, rollout: Rollout, model: Model) -> Played:
        """Return the episodes that the environments have just played."""
        return cls(model=model, rollout=rollout, source=envs.source, windows=envs.engine.window.copy())

    def only(self, episode: int) -> Played:
        """Return a copy of one episode, which keeps none of the others in memory."""
        rows = torch.tensor([episode])
        return dataclasses.replace(self, rollout=self.rollout.rows(rows), windows=self.windows[[episode]])

    def clip_id(self, episode: int) -> str:
        """Return the name of the clip that an episode plays; bytes of file names that are not UTF-8 are escaped."""
        name = self.source.clip_id(int(self.rollout.clips[episode]))
        return name.encode("utf-8", "backslashreplace").decode()

    def truth(self, episode: int) -> list[int]:
        """Return the classes that are true at some frame of an episode; none if they are unknown."""
        return np.flatnonzero(self.rollout.frame_labels[episode].any(0).cpu().numpy()).tolist()

    def truth_names(self, episode: int) -> str:
        """Return the names of these classes in one line."""
        return ", ".join(self.source.class_names[label] for label in self.truth(episode)) or "unknown"

    def scores(self, episode: int) -> NDArray[np.float32]:
        """Return the episode's (C,) class scores."""
        scores = class_scores(self.rollout.class_logits[[episode]], len(self.source.class_names))[0]
        return np.asarray(scores.cpu().numpy(), np.float32)

    def frame(self, episode: int, frame: int) -> DrawnFrame:
        """Return the contents of the drawing of a frame, counted from 0."""
        image = self._image(episode, frame)
        scores = self.rollout.class_logits[episode, frame].softmax(0)
        best = int(scores.argmax())
        abstained = best == len(self.source.class_names)
        brightness, cells, largest = self._attention(episode, frame, *image.shape[:2])
        is_known = not abstained and bool(self.truth(episode))
        return DrawnFrame(
            image=image,
            brightness=brightness,
            cells=cells,
            largest_weight=largest,
            prediction="no prediction" if abstained else self.source.class_names[best],
            probability=float(scores.max()),
            is_right=bool(self.rollout.frame_labels[episode, frame, best]) if is_known else None,
        )

    def _attention(
        self, episode: int, frame: int, height: int, width: int
    ) -> tuple[NDArray[np.float32] | None, tuple[int, ...], float | None]:
        size = self.source.grid_size
        if self.model.is_soft:
            weights = self.rollout.attention[episode, frame].float().cpu().numpy().reshape(size, size)
            return brightness_of_weights(weights, height, width), (), float(weights.max())
        if frame == 0 or self.model.sees == "all":
            return None, (), None
        cells = tuple(self._cells(episode, frame).tolist())
        return brightness_of_cells(cells, size, height, width), cells, None

    def _cells(self, episode: int, frame: int) -> NDArray[np.int64]:
        if isinstance(self.rollout, GlimpseRollout) and self.rollout.cells.dtype != torch.bool:
            return self.rollout.cells[episode, frame - 1].cpu().numpy()
        return np.flatnonzero((self.rollout.attention[episode, frame] > 0).cpu().numpy())

    def _image(self, episode: int, frame: int) -> NDArray[np.uint8]:
        image = self.source.image(int(self.rollout.clips[episode]), int(self.windows[episode, frame]))
        return np.full((GREY_SIDE, GREY_SIDE, 3), 128, np.uint8) if image is None else image


def play_clips(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, clips: Sequence[int], settings: PlaySettings, *, seed: int
) -> Played:
    """Play one episode of each of the `clips`, as many as there are environments, to be drawn."""
    noise = Noise.seeded(seed, policy.device)
    rollout = play(envs, policy, np.asarray(clips, np.int64), settings, noise=noise, seed=seed)
    return Played.of(envs, rollout, settings.model)


def film_strip(played: Played, *, columns: int = 8) -> Figure:
    """Draw episodes, one row each.

    Args:
        played: N episodes.
        columns: at most this many frames, evenly spread, the first and the last among them.
    """
    episodes, frames = played.rollout.predictions.shape
    figure, axes = _canvas(episodes, frames, columns)
    for episode in range(episodes):
        _draw_row(axes[episode], played, episode)
        axes[episode, 0].set_ylabel(_shortened(played.clip_id(episode)), fontsize=7, parse_math=False)
    return figure


def comparison_strip(models: Sequence[Played], episode: int, *, columns: int = 8) -> Figure:
    """Draw the same frames of the same clip as several models saw them, one row each.

    Args:
        models: episodes of each, of the same clips.
        episode: number of the episode.
        columns: as for `film_strip`.
    """
    first = models[0]
    figure, axes = _canvas(len(models), first.rollout.predictions.shape[1], columns)
    for row, played in zip(axes, models, strict=True):
        _draw_row(row, played, episode)
        row[0].set_ylabel(played.model.name, fontsize=9)
    title = f"{first.clip_id(episode)}, truth: {first.truth_names(episode)}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _canvas(rows: int, frames: int, columns: int) -> tuple[Figure, NDArray[np.object_]]:
    shown = min(columns, frames)
    figure = Figure(figsize=(1.5 * shown + 3.4, 1.85 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, shown + 1, squeeze=False, width_ratios=[1.0] * shown + [1.6])


def _draw_row(axes: NDArray[np.object_], played: Played, episode: int) -> None:
    """Draw the frames of an episode on all axes but the last one, which shows the scores."""
    frames = played.rollout.predictions.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, len(axes) - 1).round().astype(int))
    for axis, frame in zip(axes[:-1], shown.tolist(), strict=True):
        drawn = played.frame(episode, frame)
        _draw_frame(axis, drawn, played.source.grid_size)
        title = f"{frame + 1}: {_shortened(drawn.prediction, 18)} {drawn.probability:.2f}"
        axis.set_title(title, fontsize=7, color=_colour(drawn.is_right, unknown="black"), parse_math=False)
    _draw_scores(axes[-1], played.scores(episode), played.truth(episode), played.source.class_names)


def _draw_frame(axis: Axes, drawn: DrawnFrame, grid_size: int) -> None:
    height, width = drawn.image.shape[:2]
    stroke = withStroke(linewidth=1, foreground="black")
    gold: dict[str, Any] = {"color": "gold", "fontsize": 6, "path_effects": [stroke]}
    for rank, cell in enumerate(drawn.cells, 1):
        left, top, right, bottom = cell_box(cell, grid_size, height, width)
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, ec="gold", lw=1.0))
        axis.text(left + 1, top + 1, str(rank), va="top", **gold)
    if drawn.largest_weight is not None:
        weight = f"{drawn.largest_weight:.3f}"
        axis.text(0.97, 0.03, weight, ha="right", transform=axis.transAxes, **gold)
    axis.imshow(drawn.image if drawn.brightness is None else shaded(drawn.image, drawn.brightness))
    axis.set_xticks([])
    axis.set_yticks([])


def _draw_scores(axis: Axes, scores: NDArray[np.float32], truth: list[int], names: Sequence[str]) -> None:
    """Draw the scores of the best classes and of the true ones: green if true, red if not, blue if that is unknown."""
    best = np.argsort(-scores)[:SHOWN_CLASSES].tolist()
    shown = best + [label for label in truth if label not in best]
    colours = [_colour(label in truth if truth else None, unknown="tab:blue") for label in shown]
    axis.barh(range(len(shown)), scores[shown], color=colours)
    axis.set_yticks(range(len(shown)), [_shortened(names[label], 18) for label in shown], fontsize=7, parse_math=False)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=6)
    axis.invert_yaxis()


def _colour(is_right: bool | None, *, unknown: str) -> str:
    return unknown if is_right is None else "tab:green" if is_right else "tab:red"


def _shortened(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
