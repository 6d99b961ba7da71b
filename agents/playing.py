"""Episodes in any manner, as they are measured and drawn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy import GlimpsePolicy
from agents.rollout import SOFT, Manner, Rollout, collect_rollout
from agents.soft import play_softly
from glimpse_env import VideoGlimpseVectorEnv


@torch.no_grad()
def play(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    manner: Manner,
    *,
    generator: torch.Generator,
    seed: int | None = None,
) -> Rollout:
    """Play one episode of each of the (N,) `clips` with a policy that is not being trained."""
    way = play_softly if manner.looking in SOFT else collect_rollout
    return way(envs, policy, clips, manner, generator=generator, seed=seed)
