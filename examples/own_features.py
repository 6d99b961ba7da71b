"""Play episodes on your own features: wrap the arrays in an ArraySource and pass it to the environment.

    python examples/own_features.py

The features here are noise. One bright cell per clip shows the class. An agent that looks at the brightest cell in view
is compared with one that looks at random cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from glimpse_env import ArraySource

FRAMES, DEPTH, CLASSES = 8, 4, 4


def make_source(rng: np.random.Generator, *, clips: int = 64, grid: int = 7) -> ArraySource:
    """Make clips with one bright cell that stays in its place; its brightest channel is the clip's class."""
    features = rng.random((clips, FRAMES, grid, grid, DEPTH), np.float32)
    labels = rng.integers(0, CLASSES, clips)
    rows, columns = rng.integers(0, grid, (2, clips))
    features[np.arange(clips), :, rows, columns, labels] += 2
    return ArraySource(features=features, labels=labels, class_names=("red", "green", "blue", "white"))


def play(source: ArraySource, *, follow: bool, rng: np.random.Generator) -> float:
    """Return the share of clips whose most frequent prediction is right."""
    envs = gym.make_vec(
        "VideoGlimpse-v0", num_envs=source.num_clips, source=source, glimpses=1, autoreset_mode="Disabled"
    )
    cubes, _ = envs.reset(options={"clip": np.arange(source.num_clips)})
    infos = {}
    for _ in range(FRAMES):
        slices = cubes.reshape(source.num_clips, source.grid_size**2, DEPTH)
        brightest = slices.max(2).argmax(1)
        predictions = slices[np.arange(source.num_clips), brightest].argmax(1)
        cells = brightest if follow else rng.integers(0, source.grid_size**2, source.num_clips)
        cubes, _, _, _, infos = envs.step(np.stack([cells, predictions], 1))
    return float(infos["is_correct"].mean())


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play episodes on features that are held in arrays.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the features and of the random looks.")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    rng = np.random.default_rng(parse_arguments().seed)
    source = make_source(rng)
    print(f"accuracy when following the brightest cell: {play(source, follow=True, rng=rng):.2f}")
    print(f"accuracy when looking at random cells:      {play(source, follow=False, rng=rng):.2f}")
