"""Pictures of an episode: the frame with seen cells bright and the rest dim, and a caption below."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from numpy.typing import NDArray

from glimpse_env.engine import EpisodeEngine
from glimpse_env.sources.protocol import Array, ClipSource

RENDER_MODES = ["rgb_array"]
SIDE = 336  # pixels: a multiple of 7 and 14 cells, and of the 112 of stored thumbnails
CAPTION_HEIGHT = 48
UNSEEN_BRIGHTNESS = 0.3
RIGHT, WRONG, PLAIN = (120, 220, 120), (250, 120, 110), (230, 230, 230)
ABSTAINED = "no prediction"


def render_metadata(source: ClipSource) -> dict[str, Any]:
    """Return the `metadata` of an environment: its render modes, and the source's frames per second."""
    rate = source.frames_per_second
    return {"render_modes": RENDER_MODES, "render_fps": int(rate) if float(rate).is_integer() else rate}


def check_render_mode(render_mode: str | None) -> None:
    """Raise if `render_mode` is unknown (ValueError) or Pillow is missing (DependencyNotInstalled)."""
    if render_mode is None:
        return
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, got {render_mode!r}")
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DependencyNotInstalled('rendering needs Pillow: pip install "videoglimpse[render]"') from error


def render_engine(engine: EpisodeEngine, env: int) -> NDArray[np.uint8]:
    """Return (SIDE + CAPTION_HEIGHT, SIDE, 3) uint8: the current picture of episode `env`.

    Raises:
        gymnasium.error.ResetNeeded: no episode has begun.
    """
    if engine.frame[env] == 0:
        raise ResetNeeded("there is nothing to render: call reset() before render()")
    clip, frame, names = int(engine.clip[env]), int(engine.frame[env]), engine.source.class_names
    image = engine.source.image(clip, engine.source_frame(env))
    predicted = int(engine.predictions[env, frame - 1 if engine.done[env] else max(frame - 2, 0)])
    label = engine.label[env]
    labels = np.flatnonzero(label).tolist() if engine.label.ndim == 2 else [int(label)] if label >= 0 else []
    is_judged = 0 <= predicted < len(names) and len(labels) > 0
    return draw(
        _energy(engine, env) if image is None else image,
        engine.seen(env),
        title=f"frame {frame} of {engine.rules.frames}   {engine.source.clip_id(clip)}",
        prediction="" if predicted < 0 else [*names, ABSTAINED][predicted],
        truth=", ".join(names[label] for label in labels),
        is_right=bool(engine.frame_labels()[env, predicted]) if is_judged else None,
    )


def draw(
    image: NDArray[np.uint8],
    seen: NDArray[np.bool_],
    *,
    title: str,
    prediction: str,
    truth: str,
    is_right: bool | None = None,
    unseen_brightness: float = UNSEEN_BRIGHTNESS,
) -> NDArray[np.uint8]:
    """Draw one frame.

    Args:
        image: (height, width, 3) RGB.
        seen: (K, K) bool, the cells to show bright.
        title, prediction, truth: the caption.
        is_right: draws the prediction green if True, red if False, plain if None.
        unseen_brightness: of the other cells, 0 to hide them.

    Returns:
        (SIDE + CAPTION_HEIGHT, SIDE, 3) RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    frame = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    bright = np.asarray(Image.fromarray(seen).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    frame = frame * np.where(bright, 1.0, unseen_brightness)[..., None]
    canvas = np.zeros((SIDE + CAPTION_HEIGHT, SIDE, 3), np.uint8)
    canvas[:SIDE] = frame
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    cell = SIDE / len(seen)
    if not seen.all():
        for row, column in np.argwhere(seen):
            box = (column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1)
            pen.rectangle(box, outline=(255, 210, 60), width=2)
    colour = PLAIN if is_right is None else RIGHT if is_right else WRONG
    for left, top, width, text, fill in (
        (6, 6, SIDE - 12, title, PLAIN),
        (6, 26, SIDE // 2 - 12, f"prediction: {prediction or '-'}", colour),
        (SIDE // 2, 26, SIDE // 2 - 6, f"truth: {truth or '?'}", PLAIN),
    ):
        shown = next(text[:end] for end in range(len(text), -1, -1) if font.getlength(text[:end]) <= width)
        pen.text((left, SIDE + top), shown, fill=fill, font=font)
    return np.asarray(picture)


def _energy(engine: EpisodeEngine, env: int) -> NDArray[np.uint8]:
    # The mean activation of the cells, the strongest white, for a frame without a picture.
    size = engine.source.grid_size
    cube = np.empty((1, size, size, engine.source.depth), np.float32)
    place: tuple[Array, Array] = engine.clip[[env]], np.array([engine.source_frame(env)])
    engine.source.read_cubes(*place, cube)
    energy = cube[0].mean(2)
    grey = (255 * energy / max(float(energy.max()), 1e-12)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
