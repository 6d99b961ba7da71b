"""Multiply-adds (MACs) per clip, counted by PyTorch while a policy plays, for each module of the policy.

A MAC is a multiplication with its addition, which torch.utils.flop_counter counts as 2 FLOPs. Matrix products and
convolutions are counted; work on single elements (activations, softmax, pooling, normalisation) is not. The fused
layers of oneDNN are switched off during the count, because the counter cannot see into them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from glimpse_env import VideoGlimpseVectorEnv
from glimpse_env.video.backbones import Backbone

from ..learning.episodes import Rollout
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from ..playing.rollout import PlaySettings, play
from .clocks import Meter

PICTURE = 224  # pixels along the side of a backbone's input

PARTS = {  # by module and method of the policy; a method's count leaves out the metered methods that it calls
    ("location_head", "project"): "choosing",
    ("location_head", "forward"): "choosing",
    ("location_head", "draw_in_sequence"): "choosing",
    ("location_head", "attention"): "attending",
    ("encoder", "attend"): "attending",
    ("encoder", "forward"): "attending",
    ("memory", "step"): "recurrent",
    ("memory", "state_of_mean"): "recurrent",
    ("class_head", "forward"): "head",
    ("value_head", "forward"): "values",  # only training uses them
}


def metered_methods(policy: GlimpsePolicy) -> Iterator[tuple[str, Any, str]]:
    """Yield the arguments of `Meter.on` for the modules of a policy."""
    for (name, method), part in PARTS.items():
        if hasattr(module := getattr(policy, name), method):
            yield part, module, method


@dataclass(frozen=True, kw_only=True)
class Macs:
    """MACs of a policy for one clip whose features are known, and the slices that it uses."""

    choosing: float
    """Of the location head, with the projection of slices."""
    attending: float
    """Of the slice encoder: X' of eq. 3."""
    recurrent: float
    """Of the LSTM, and of its initial state."""
    head: float
    slices_attended: float
    """Slices with a weight in X', over the T frames."""
    slices_read: float
    """Slices needed to attend, and to choose."""

    @property
    def attention(self) -> float:
        """MACs to choose cells, and to make X' from them."""
        return self.choosing + self.attending

    @property
    def policy(self) -> float:
        """MACs of the whole policy."""
        return self.attention + self.recurrent + self.head


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Count inside the block; yields a function that returns the MACs so far."""
    with warnings.catch_warnings():
        # Switching oneDNN off also asks about other hardware.
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN", UserWarning)
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            yield lambda: counter.get_total_flops() / 2


def macs_per_clip(envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, settings: PlaySettings, *, seed: int = 0) -> Macs:
    """Play the first N clips of the split of N environments, and return the mean MACs of a clip.

    Raises:
        ValueError: there are more environments than clips.
    """
    if envs.num_envs > envs.num_clips:
        raise ValueError(
            f"num_envs ({envs.num_envs}) must not exceed the number of clips ({envs.num_clips}): repeated clips would "
            "be counted once"
        )

    def played() -> Rollout:
        noise = Noise.seeded(seed, policy.device)
        return play(envs, policy, np.arange(envs.num_envs), settings, noise=noise, seed=seed)

    played()  # a source that computes features on demand now has them, and does not add to the count
    with counting() as total:
        meter = Meter(total)
        with meter.on(metered_methods(policy)):
            rollout = played()
        assert sum(meter.spent.values()) == total(), "the policy computes outside of PARTS"
    means = {part: meter.spent.get(part, 0.0) / envs.num_envs for part in PARTS.values() if part != "values"}
    attended = float((rollout.attention > 0).sum()) / envs.num_envs
    chooses_from_all = settings.in_view == "cube" and settings.model.learns is not None
    reads_all = chooses_from_all or settings.model.reads_all
    return Macs(**means, slices_attended=attended, slices_read=rollout.attention[0].numel() if reads_all else attended)


def macs_per_frame(backbone: Backbone, side: int = PICTURE) -> float:
    """Return the MACs of a backbone on one whole frame, or on a crop of `side` pixels."""
    with counting() as total:
        backbone.cubes(torch.zeros(1, side, side, 3, dtype=torch.uint8))
        return total()
