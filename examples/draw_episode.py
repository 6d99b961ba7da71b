"""Draw the first frames of an episode as the environment renders them: the picture in the README.

    pip install -e ".[render]"
    python examples/draw_episode.py examples/episode.png

Two of the five looks follow the actor, because the source knows its place. The others are random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from common import installed_by
from numpy.typing import NDArray

import glimpse_env  # noqa: F401 - registers VideoGlimpse-v0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw the first frames of an episode side by side.")
    parser.add_argument("out", type=Path, help="Picture file to write, such as episode.png.")
    parser.add_argument("--frames", type=int, default=5, help="Number of frames to draw.")
    parser.add_argument("--clip", type=int, default=2, help="Number of the clip in the validation split.")
    return parser.parse_args(arguments)


def draw(frames: int, clip: int) -> NDArray[np.uint8]:
    """Play an episode and return its rendered frames side by side, (height, width, 3)."""
    env = gym.make("VideoGlimpse-v0", render_mode="rgb_array", split="validation")
    source = env.unwrapped.source
    if not 1 <= frames <= source.num_frames:
        raise ValueError(f"--frames must lie in 1..{source.num_frames}, got {frames}")
    rng = np.random.default_rng(1)
    env.reset(options={"clip": clip})
    actor = source.actor(clip).reshape(source.num_frames, -1).argmax(1)
    pictures = [env.render()]
    for frame in range(1, frames):
        cells = [actor[frame], actor[frame - 1], *rng.integers(0, source.grid_size**2, 3)]
        env.step(np.array([*cells, clip % len(source.class_names) if frame > 1 else 0]))
        pictures.append(env.render())
    return np.concatenate(pictures, axis=1)


def main(out: Path, frames: int, clip: int) -> None:
    with installed_by('pip install -e ".[render]"'):
        from PIL import Image
    try:
        Image.fromarray(draw(frames, clip)).quantize(64).save(out, optimize=True)
    except (ValueError, IndexError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(**vars(parse_arguments()))
