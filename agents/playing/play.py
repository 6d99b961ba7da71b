"""Played episodes of any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.episodes import Rollout
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from .rollout import PlaySettings, collect_rollout
from .soft import play_softly


@torch.no_grad()
def play(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    settings: PlaySettings,
    *,
    noise: Noise,
    seed: int | Sequence[int] | None = None,
) -> Rollout:
    """Play one episode of each of the (N,) `clips` with a network that is not being trained."""
    played = play_softly if settings.model.is_soft else collect_rollout
    return played(envs, policy, clips, settings, noise=noise, seed=seed)
