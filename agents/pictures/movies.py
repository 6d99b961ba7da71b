"""Moving pictures of played episodes, as GIF or MP4."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .strips import DARK, LIGHT, SIDE, DrawnFrame, Played

FORMATS = (".png", ".gif", ".mp4")
GAP = 4
LINE = 18
RIGHT, WRONG = (120, 220, 120), (250, 120, 110)
READABLE_RATE = 8.0  # frames per second


def check_format(path: Path) -> None:
    """Raise a ModuleNotFoundError if a file is to be an MP4 and PyAV is missing."""
    if path.suffix == ".mp4" and not has_mp4():
        raise ModuleNotFoundError('MP4 needs PyAV: pip install "videoglimpse[video]"', name="av")


def has_mp4() -> bool:
    """Whether MP4 can be written."""
    return find_spec("av") is not None


def animation(models: Sequence[Played], episode: int) -> list[NDArray[np.uint8]]:
    """Draw all frames of a clip as several models saw it, side by side, and return (height, width, 3) pictures."""
    first, frames = models[0], models[0].windows.shape[1]
    pictures = []
    for frame in range(frames):
        canvas = Image.new("RGB", (len(models) * (SIDE + GAP) + GAP, 2 * LINE + SIDE + 2 * LINE + GAP), DARK)
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
        drawn = [played.frame(episode, frame) for played in models]
        title = f"frame {frame + 1} of {frames}, {drawn[0].seconds:.2f} s   truth: {first.truth_names(episode)}"
        pen.text((GAP, 1), title, LIGHT, font=font)
        pen.text((GAP, LINE + 1), first.clip_id(episode), LIGHT, font=font)
        for place, played in enumerate(models):
            left = GAP + place * (SIDE + GAP)
            canvas.paste(drawn[place].picture(played.source.grid_size), (left, 2 * LINE))
            # A caption is drawn on a ground of its own, so that a long class name ends with its panel.
            canvas.paste(_caption(played.model.name, drawn[place]), (left, 2 * LINE + SIDE))
        pictures.append(np.asarray(canvas))
    return pictures


def readable_rate(frames_per_second: float) -> float:
    """Return the frames per second at which a clip is shown: its own rate, unless that is too fast to read."""
    return min(frames_per_second, READABLE_RATE)


def encode_gif(pictures: Sequence[NDArray[np.uint8]], frames_per_second: float) -> bytes:
    """Return an endless GIF; it counts time in hundredths of a second, so the rate is rounded."""
    # One palette for all frames: smaller files, and no flicker. The octree keeps rare colours, such as captions.
    palette = Image.fromarray(np.concatenate(pictures)).quantize(256, Image.Quantize.FASTOCTREE)
    frames = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    duration = 10 * max(2, round(100 / frames_per_second))  # ms; browsers slow down faster ones
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


def encode_mp4(pictures: Sequence[NDArray[np.uint8]], frames_per_second: float) -> bytes:
    """Return an MP4 of H.264."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _caption(name: str, drawn: DrawnFrame) -> Image.Image:
    caption = Image.new("RGB", (SIDE, 2 * LINE), DARK)
    pen, font = ImageDraw.Draw(caption), ImageFont.load_default(size=13)
    pen.text((0, 1), name, LIGHT, font=font)
    colour = LIGHT if drawn.is_right is None else RIGHT if drawn.is_right else WRONG
    mark = "" if drawn.is_right is None else "right: " if drawn.is_right else "wrong: "
    pen.text((0, LINE + 1), f"{mark}{drawn.probability:.2f} {drawn.prediction}", colour, font=font)
    return caption
