"""VideoGlimpse: glimpse-based visual attention in video as a Gymnasium environment.

Importing this package registers `VideoGlimpse-v0`, `VideoGlimpseEasy-v0` and `VideoGlimpseUntrimmed-v0`;
`gym.make("glimpse_env:VideoGlimpse-v0")` imports it.
"""

from typing import Any

import gymnasium

from glimpse_env.catalogue import open_source
from glimpse_env.engine import EpisodeEngine
from glimpse_env.env import EpisodeArguments, VideoGlimpseEnv
from glimpse_env.rules import EpisodeRules
from glimpse_env.sources.protocol import ArraySource, ClipSource, Segment
from glimpse_env.sources.synthetic import EasySyntheticSource, SyntheticSource, UntrimmedSyntheticSource
from glimpse_env.sources.wall import WallSource
from glimpse_env.sources.windows import SlidingWindows
from glimpse_env.store import FeatureStore
from glimpse_env.vector_env import VideoGlimpseVectorEnv

__all__ = [
    "ArraySource", "ClipSource", "EasySyntheticSource", "EpisodeArguments", "EpisodeEngine", "EpisodeRules",
    "FeatureStore", "Segment", "SlidingWindows", "SyntheticSource", "UntrimmedSyntheticSource", "VideoGlimpseEnv",
    "VideoGlimpseVectorEnv", "WallSource", "open_source",
]  # fmt: skip

__version__ = "0.1.0"
VARIANTS: dict[str, dict[str, Any]] = {
    "VideoGlimpse-v0": {},
    "VideoGlimpseEasy-v0": {"source": "synthetic-easy", "glimpses": 1},
    "VideoGlimpseUntrimmed-v0": {"source": "synthetic-untrimmed"},
}
for _id, _arguments in VARIANTS.items():
    gymnasium.register(
        id=_id,
        entry_point="glimpse_env.env:VideoGlimpseEnv",
        vector_entry_point="glimpse_env.vector_env:VideoGlimpseVectorEnv",
        kwargs=_arguments,
    )
