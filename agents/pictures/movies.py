"""One clip, all its frames, as several arms saw it side by side: moving pictures as GIF or MP4."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .brightness import cell_box, shaded
from .strips import Played, Seen, arm_name, truth_of

SIDE = 196  # pixels of a panel: a multiple of 7 and 14 cells
GAP = 4
LINE = 18
GROUND, PLAIN, RIGHT, WRONG, GOLD = (20, 20, 24), (235, 235, 235), (120, 220, 120), (250, 120, 110), (255, 210, 60)
READABLE_RATE = 8.0  # frames a second


def animation(arms: Sequence[Played], episode: int) -> list[NDArray[np.uint8]]:
    """Draw all frames of a clip.

    Args:
        arms: what each has played, of the same clips.
        episode: which of their episodes.

    Returns:
        T pictures (height, width, 3) RGB, of even height and width.
    """
    frames = arms[0].rollout.predictions.shape[1]
    pictures = []
    for frame in range(frames):
        canvas = Image.new("RGB", (len(arms) * (SIDE + GAP) + GAP, 2 * LINE + SIDE + 2 * LINE + GAP), GROUND)
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
        pen.text((GAP, 1), f"frame {frame + 1} of {frames}   truth: {truth_of(arms[0], episode)}", PLAIN, font=font)
        pen.text((GAP, LINE + 1), arms[0].clip_id(episode), PLAIN, font=font)
        for place, played in enumerate(arms):
            left = GAP + place * (SIDE + GAP)
            seen = played.seen(episode, frame)
            canvas.paste(_panel(seen, played.source.grid_size), (left, 2 * LINE))
            # A panel's caption is drawn on its own ground, so that a long class name ends with its panel.
            canvas.paste(_caption(played, seen), (left, 2 * LINE + SIDE))
        pictures.append(np.asarray(canvas))
    return pictures


def readable_rate(frames_per_second: float) -> float:
    """Return the frames a second at which a clip is shown: its own, slowed down where it is too fast to read."""
    return min(frames_per_second, READABLE_RATE)


def encode_gif(pictures: Sequence[NDArray[np.uint8]], frames_per_second: float) -> bytes:
    """Return an endless GIF; it counts time in hundredths of a second, so the rate is rounded."""
    # One palette for all frames: smaller files, and no flicker. The octree keeps rare colours, those of the captions.
    palette = Image.fromarray(np.concatenate(pictures)).quantize(256, Image.Quantize.FASTOCTREE)
    frames = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    duration = 10 * max(2, round(100 / frames_per_second))  # ms; browsers slow down what is faster
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


def encode_mp4(pictures: Sequence[NDArray[np.uint8]], frames_per_second: float) -> bytes:
    """Return an MP4 of H.264.

    Raises:
        ModuleNotFoundError: PyAV is missing.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('MP4 needs PyAV: pip install "videoglimpse[video]"', name="av") from error
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _panel(seen: Seen, grid_size: int) -> Image.Image:
    image = seen.image if seen.brightness is None else shaded(seen.image, seen.brightness)
    panel = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(size=9)
    for rank, cell in enumerate(seen.cells, 1):
        left, top, right, bottom = cell_box(cell, grid_size, SIDE, SIDE)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=GOLD)
        pen.text((left + 3, top + 1), str(rank), GOLD, font=font, stroke_width=1, stroke_fill=GROUND)
    return panel


def _caption(played: Played, seen: Seen) -> Image.Image:
    caption = Image.new("RGB", (SIDE, 2 * LINE), GROUND)
    pen, font = ImageDraw.Draw(caption), ImageFont.load_default(size=13)
    weight = "" if seen.largest_weight is None else f"   largest weight {seen.largest_weight:.3f}"
    pen.text((0, 1), arm_name(played.looking) + weight, PLAIN, font=font)
    colour = PLAIN if seen.is_right is None else RIGHT if seen.is_right else WRONG
    pen.text((0, LINE + 1), f"{seen.probability:.2f} {seen.prediction}", colour, font=font)
    return caption
