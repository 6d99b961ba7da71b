"""Episodes in any manner, as they are measured and drawn: what all ways to play have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.policy import GlimpsePolicy
from .rollout import SOFT, Looking, Manner, Rollout, collect_rollout
from .soft import play_softly


class Policy(Protocol):
    """A way to look and to say: episodes of given clips in, what was attended to and said out."""

    def __call__(
        self,
        envs: VideoGlimpseVectorEnv,
        policy: GlimpsePolicy,
        clips: NDArray[np.int64],
        manner: Manner,
        *,
        generator: torch.Generator,
        seed: int | None = None,
    ) -> Rollout:
        """Play one episode of each of the (N,) `clips`, with a network that is not being trained."""


def policy_of(looking: Looking) -> Policy:
    """Return how a manner of looking is played once it is trained."""
    return torch.no_grad()(play_softly) if looking in SOFT else collect_rollout
