"""Film strips like the paper's figure 2: what the policy looked at, frame by frame, and what it came to believe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from agents.evaluation import class_scores
from agents.playing import play
from agents.policy import GlimpsePolicy
from agents.rollout import SEES_EVERYTHING, GlimpseRollout, Manner, Rollout
from agents.runs import told_failures
from glimpse_env import VideoGlimpseVectorEnv
from glimpse_env.files import write_atomically

DIMMED = 0.35
SHOWN_CLASSES = 3


def save_film_strip(
    path: Path, envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, clips: Sequence[int], manner: Manner, *, seed: int
) -> Rollout:
    """Play one episode of each of the `clips`, as many as there are environments, and draw them into a PNG file.

    Returns:
        the episodes played.
    """
    generator = torch.Generator(policy.place.device).manual_seed(seed)
    rollout = play(envs, policy, np.asarray(clips, np.int64), manner, generator=generator, seed=seed)
    figure = film_strip(rollout, envs, sees_everything=manner.looking in SEES_EVERYTHING)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with told_failures(path):
        write_atomically(path, buffer.getvalue())
    return rollout


def film_strip(
    rollout: Rollout, envs: VideoGlimpseVectorEnv, *, columns: int = 8, sees_everything: bool = False
) -> Figure:
    """Draw the episodes that the environments have just played, one row each.

    Args:
        rollout: N episodes.
        envs: the N environments, as the rollout left them.
        columns: at most this many frames, evenly spread, the first and the last among them.
        sees_everything: draw no cells.
    """
    episodes, frames = rollout.predictions.shape
    shown = np.unique(np.linspace(0, frames - 1, min(columns, frames)).round().astype(int))
    figure = Figure(figsize=(1.5 * len(shown) + 3.4, 1.85 * episodes + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    widths = [1.0] * len(shown) + [1.6]
    axes = figure.subplots(episodes, len(shown) + 1, squeeze=False, width_ratios=widths)
    names = envs.class_names
    for episode in range(episodes):
        for axis, frame in zip(axes[episode, :-1], shown.tolist(), strict=True):
            cells = None if frame == 0 or sees_everything else _cells(rollout, episode, frame)
            _draw_frame(axis, _image(envs, episode, frame), envs.source.grid_size, cells)
            scores = rollout.class_logits[episode, frame, : len(names)].softmax(0)
            axis.set_title(f"{frame + 1}: {names[int(scores.argmax())]} {float(scores.max()):.2f}", fontsize=7)
        truth = np.flatnonzero(rollout.frame_labels[episode].any(0).cpu().numpy()).tolist()
        scores = class_scores(rollout.class_logits[[episode]], len(names))[0]
        _draw_scores(axes[episode, -1], scores.cpu().numpy(), truth, names)
        axes[episode, 0].set_ylabel(_shortened(envs.source.clip_id(int(rollout.clips[episode]))), fontsize=7)
    return figure


def _cells(rollout: Rollout, episode: int, frame: int) -> NDArray[np.int64]:
    """Return the cells that a frame was seen through, in the order in which they were chosen where there was one."""
    if isinstance(rollout, GlimpseRollout) and rollout.cells.dtype != torch.bool:
        return rollout.cells[episode, frame - 1].cpu().numpy()
    return np.flatnonzero((rollout.attention[episode, frame] > 0).cpu().numpy())


def _image(envs: VideoGlimpseVectorEnv, episode: int, frame: int) -> NDArray[np.uint8]:
    """Return the picture of a frame, or grey where the source keeps none."""
    clip, place = int(envs.engine.clip[episode]), int(envs.engine.window[episode, frame])
    image = envs.source.image(clip, place)
    return np.full((112, 112, 3), 128, np.uint8) if image is None else image


def _draw_frame(axis: Axes, image: NDArray[np.uint8], grid_size: int, cells: NDArray[np.int64] | None) -> None:
    height, width = image.shape[:2]
    brightness = np.full((height, width), 1.0 if cells is None else DIMMED)
    for rank, cell in enumerate([] if cells is None else cells.tolist()):
        row, column = divmod(cell, grid_size)
        top, left = row * height / grid_size, column * width / grid_size
        brightness[round(top) : round(top + height / grid_size), round(left) : round(left + width / grid_size)] = 1.0
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(corner, width / grid_size, height / grid_size, fill=False, ec="gold", lw=1.0))
        axis.text(left + 1, top + 1, str(rank + 1), color="gold", fontsize=5, va="top")
    axis.imshow((image * brightness[..., None]).astype(np.uint8))
    axis.set_xticks([])
    axis.set_yticks([])


def _draw_scores(axis: Axes, scores: NDArray[np.float32], truth: list[int], names: Sequence[str]) -> None:
    """Draw the best classes' scores and the truth's: green where true, red where not, blue where that is unknown."""
    best = np.argsort(-scores)[:SHOWN_CLASSES].tolist()
    shown = best + [label for label in truth if label not in best]
    colours = ["tab:green" if label in truth else "tab:red" if truth else "tab:blue" for label in shown]
    axis.barh(range(len(shown)), scores[shown], color=colours)
    axis.set_yticks(range(len(shown)), [_shortened(names[label], 18) for label in shown], fontsize=7)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=6)
    axis.invert_yaxis()


def _shortened(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
