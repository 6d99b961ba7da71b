"""Draw the first frames of an episode as the environment renders them: the picture in the README.

    python examples/draw_episode.py examples/episode.png

Two of the five looks follow the actor, as the source knows where it is; the others wander.
"""

import sys

import gymnasium as gym
import numpy as np
from PIL import Image

import glimpse_env  # noqa: F401 - registers VideoGlimpse-v0

FRAMES, CLIP = 5, 2

if __name__ == "__main__":
    env = gym.make("VideoGlimpse-v0", render_mode="rgb_array", split="validation")
    source = env.unwrapped.source
    actor = source.actor(CLIP).reshape(source.num_frames, -1).argmax(1)
    rng = np.random.default_rng(1)
    env.reset(options={"clip": CLIP})
    pictures = [env.render()]
    for frame in range(1, FRAMES):
        cells = [actor[frame], actor[frame - 1], *rng.integers(0, source.grid_size**2, 3)]
        env.step(np.array([*cells, CLIP % len(source.class_names) if frame > 1 else 0]))
        pictures.append(env.render())
    Image.fromarray(np.concatenate(pictures, axis=1)).quantize(64).save(sys.argv[1], optimize=True)
