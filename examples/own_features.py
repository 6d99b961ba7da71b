"""Play episodes on features of your own: wrap the arrays in an ArraySource and hand it to the environment.

    python examples/own_features.py

Here the features are noise with one bright cell per clip that tells the class. An agent that looks at the brightest
cell of what it can see is compared with one that looks anywhere.
"""

import gymnasium as gym
import numpy as np

from glimpse_env import ArraySource

FRAMES, DEPTH, CLASSES = 8, 4, 4


def make_source(rng: np.random.Generator, *, clips: int = 64, grid: int = 7) -> ArraySource:
    """Make clips in which a cell that stays where it is shines in the channel of the clip's class."""
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


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    source = make_source(rng)
    print(f"following the brightest cell: {play(source, follow=True, rng=rng):.2f}")
    print(f"looking anywhere:             {play(source, follow=False, rng=rng):.2f}")
