"""Film strips like the paper's figures 2 and 3: the looks of an episode frame by frame, and the predicted classes.

Cells that were looked at are bright, in boxes that are numbered in the order of choice. Soft attention is a heat map
over the frame, scaled to its own maximum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.episodes import GlimpseRollout, Rollout
from ..learning.models import Model
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from ..playing.envs import greedy_play, make_envs, open_splits
from ..playing.evaluation import VALIDATION_SEED, Evaluation, class_scores, middle_clips
from ..playing.players import PlaySettings
from ..playing.rollout import play
from ..runs.files import write_file
from ..runs.folder import RunFolder
from ..tables.plots import png

DIMMED = 0.45  # brightness of cells that were not looked at
HEAT = 0.65  # share of the heat map in the colour of a pixel with the largest weight
SHOWN_CLASSES = 3
SIDE = 196  # pixels along the side of a drawn frame: a multiple of 7 and 14 cells
DARK, LIGHT = (20, 20, 24), (235, 235, 235)
MARKS = {True: "✓", False: "✗", None: ""}
LEGEND = (
    "box: a cell looked at, numbered in the order of choice; heat: soft attention, scaled to its maximum, which stands "
    "in the corner; ✓ right, ✗ wrong; on the right: scores of the whole clip"
)


@dataclass(frozen=True, kw_only=True)
class DrawnFrame:
    """Contents of the drawing of one frame of one episode."""

    image: NDArray[np.uint8]
    """(height, width, 3) RGB, grey if the source keeps no pictures."""
    seconds: float
    cells: tuple[int, ...] | None
    """Cells that were seen, in the order of choice if there was one; empty if a jump left the frame out, and None if
    the whole frame was seen."""
    weights: NDArray[np.float32] | None
    """(K, K) soft attention; None for other models."""
    prediction: str
    """The likeliest class, or "no prediction"."""
    probability: float
    is_right: bool | None
    """Whether that class is true at the frame; None if the truth is unknown or nothing was predicted."""

    def picture(self, grid_size: int, side: int = SIDE) -> Image.Image:
        """Draw the attention into the image: bright cells in numbered boxes, or a heat map with its maximum."""
        image = np.asarray(Image.fromarray(self.image).resize((side, side), Image.Resampling.BILINEAR))
        if self.weights is not None:
            spread = upsample(self.weights, side, side)
            heat = spread / max(float(spread.max()), 1e-12)
            share = HEAT * heat[..., None]
            image = ((1 - share) * image + share * 255 * matplotlib.colormaps["inferno"](heat)[..., :3]).round()
        elif self.cells is not None:
            bright = np.full((side, side, 1), DIMMED)
            for cell in self.cells:
                left, top, right, bottom = cell_box(cell, grid_size, side)
                bright[top:bottom, left:right] = 1
            image = image * bright
        picture = Image.fromarray(image.astype(np.uint8))
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=side / 14)
        text: dict[str, Any] = {"fill": LIGHT, "font": font, "stroke_width": 2, "stroke_fill": DARK}
        for rank, cell in enumerate(self.cells or (), 1):
            left, top, right, bottom = cell_box(cell, grid_size, side)
            for inset, colour in enumerate((DARK, LIGHT, DARK)):
                box = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
                pen.rectangle(box, outline=colour)
            pen.text((left + 5, top + 3), str(rank), **text)
        if self.weights is not None:
            pen.text((side - 4, side - 4), f"{self.weights.max():.3f}", anchor="rs", **text)
        return picture


def upsample(weights: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Spread (K, K) weights smoothly over a picture: bicubic between the centres of the cells, never negative.

    Returns:
        (height, width) float32; equal weights stay as they are.
    """
    spread = Image.fromarray(weights.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(spread).clip(0, None)


def cell_box(cell: int, grid_size: int, side: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edge of a cell in a square picture, in pixels."""
    row, column = divmod(cell, grid_size)
    left, top, right, bottom = (round(edge * side / grid_size) for edge in (column, row, column + 1, row + 1))
    return left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes that one model has played."""

    model: Model
    rollout: Rollout
    """N episodes, not mirrored."""
    source: ClipSource

    @property
    def windows(self) -> NDArray[np.int64]:
        """(N, T) the index of each frame among those of its clip."""
        return self.rollout.windows

    def only(self, episode: int) -> Played:
        """Return a copy of one episode, which keeps none of the others in memory."""
        return dataclasses.replace(self, rollout=self.rollout.rows(torch.tensor([episode])))

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

    def frame_scores(self, episode: int) -> NDArray[np.float32]:
        """Return the (T, outputs) softmax of each frame; an output after the C classes is "no prediction"."""
        return np.asarray(self.rollout.class_logits[episode].softmax(-1).float().cpu().numpy(), np.float32)

    def frame(self, episode: int, frame: int) -> DrawnFrame:
        """Return the contents of the drawing of a frame, counted from 0."""
        clip, place = int(self.rollout.clips[episode]), int(self.windows[episode, frame])
        image = self.source.image(clip, place)
        scores = self.frame_scores(episode)[frame]
        best = int(scores.argmax())
        abstained = best == len(self.source.class_names)
        is_known = not abstained and bool(self.truth(episode))
        return DrawnFrame(
            image=np.full((SIDE, SIDE, 3), 128, np.uint8) if image is None else image,
            seconds=float(self.source.frame_times(clip)[place]),
            cells=self.cells(episode, frame),
            weights=self._attention(episode, frame) if self.model.is_soft else None,
            prediction="no prediction" if abstained else self.source.class_names[best],
            probability=float(scores[best]),
            is_right=bool(self.rollout.frame_labels[episode, frame, best]) if is_known else None,
        )

    def _attention(self, episode: int, frame: int) -> NDArray[np.float32]:
        size = self.source.grid_size
        weights = self.rollout.attention[episode, frame].float().cpu().numpy()
        return np.asarray(weights.reshape(size, size), np.float32)

    def cells(self, episode: int, frame: int) -> tuple[int, ...] | None:
        """Return the cells seen in a frame, in the order of choice if there was one; None if the whole frame was seen.

        The tuple is empty if a jump left the frame out.
        """
        seen = self.rollout.attention[episode, frame] > 0
        if self.model.sees == "all" or self.model.is_soft or bool(seen.all()):
            return None
        if frame and seen.any() and isinstance(self.rollout, GlimpseRollout) and self.rollout.cells.dtype != torch.bool:
            return tuple(self.rollout.rows(slice(episode, episode + 1)).cells_of_frames()[0, frame - 1].tolist())
        return tuple(seen.nonzero().flatten().tolist())


def play_clips(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, clips: Sequence[int], settings: PlaySettings, *, seed: int
) -> Played:
    """Play one episode of each of the `clips`, as many as there are environments, to be drawn."""
    noise = Noise.seeded(seed, policy.device)
    rollout = play(envs, policy, np.asarray(clips, np.int64), settings, noise=noise, seed=seed)
    return Played(model=settings.model, rollout=rollout, source=envs.source)


def save_examples(run: RunFolder, measured: Evaluation) -> None:
    """Draw the first two test videos that a run gets right, and the first two that it gets wrong, as glimpses.png."""
    config, correct = run.record().config, np.asarray(measured.correct)
    sources = open_splits(config)
    videos = np.concatenate([np.flatnonzero(correct)[:2], np.flatnonzero(~correct)[:2]])
    clips = middle_clips(sources["test"])[videos].tolist()
    envs = make_envs(config, sources["test"], len(clips), train=False)
    policy = run.best_policy(config, sources["train"])
    played = play_clips(envs, policy, clips, greedy_play(config), seed=VALIDATION_SEED)
    write_file(run.path / "glimpses.png", png(film_strip(played)))


def film_strip(played: Played, *, columns: int = 8) -> Figure:
    """Draw episodes, one row each: at most `columns` frames, evenly spread, the first and the last among them."""
    episodes = range(len(played.windows))
    labels = [f"{_shortened(played.clip_id(one))}\ntruth: {_shortened(played.truth_names(one))}" for one in episodes]
    return _strip([(played, episode) for episode in episodes], labels, columns)


def comparison_strip(models: Sequence[Played], episode: int, *, columns: int = 8) -> Figure:
    """Draw the same frames of the same clip as several models saw them, one row each."""
    figure = _strip([(played, episode) for played in models], [played.model.name for played in models], columns)
    title = f"{models[0].clip_id(episode)}, truth: {models[0].truth_names(episode)}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def _strip(episodes: Sequence[tuple[Played, int]], labels: Sequence[str], columns: int) -> Figure:
    frames = episodes[0][0].windows.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)).tolist()
    figure = Figure(figsize=(1.5 * len(shown) + 3.4, 2.0 * len(episodes) + 0.5), layout="constrained")
    axes = figure.subplots(len(episodes), len(shown) + 1, squeeze=False, width_ratios=[1.0] * len(shown) + [1.6])
    for row, (played, episode), label in zip(axes, episodes, labels, strict=True):
        row[0].set_ylabel(label, fontsize=7, parse_math=False)
        for axis, frame in zip(row[:-1], shown, strict=True):
            drawn = played.frame(episode, frame)
            axis.imshow(drawn.picture(played.source.grid_size))
            axis.set(xticks=[], yticks=[])
            said = f"{MARKS[drawn.is_right]} {_shortened(drawn.prediction, 18)} {drawn.probability:.2f}".strip()
            title = f"{frame + 1}: {drawn.seconds:.2f} s\n{said}"
            axis.set_title(title, fontsize=7, color=colour_of(drawn.is_right, unknown="black"), parse_math=False)
        _draw_scores(row[-1], played.scores(episode), played.truth(episode), played.source.class_names)
    figure.supxlabel(LEGEND, fontsize=7)
    return figure


def _draw_scores(axis: Axes, scores: NDArray[np.float32], truth: list[int], names: Sequence[str]) -> None:
    """Draw the scores of the best classes and of the true ones: green if true, red if not, blue if that is unknown."""
    best = np.argsort(-scores)[:SHOWN_CLASSES].tolist()
    shown = best + [label for label in truth if label not in best]
    is_true = [label in truth if truth else None for label in shown]
    axis.barh(range(len(shown)), scores[shown], color=[colour_of(one, unknown="tab:blue") for one in is_true])
    labels = [f"{MARKS[one]} {_shortened(names[label], 18)}".strip() for one, label in zip(is_true, shown, strict=True)]
    axis.set_yticks(range(len(shown)), labels, fontsize=7, parse_math=False)
    axis.set_xlim(0, 1)
    axis.set_xlabel("score", fontsize=6)
    axis.tick_params(axis="x", labelsize=6)
    axis.invert_yaxis()


def colour_of(is_right: bool | None, *, unknown: str) -> str:
    """Return the colour of a prediction: green if it is right, red if it is wrong."""
    return unknown if is_right is None else "tab:green" if is_right else "tab:red"


def _shortened(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
