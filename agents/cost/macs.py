"""Multiplications and additions per clip, counted by PyTorch while a policy plays, and attributed to its parts.

A MAC is a multiplication with its addition, half of what torch.utils.flop_counter calls 2 FLOPs. It counts matrix
products and convolutions; what is done element by element (activations, softmax, pooling, normalisation) it does not
see. oneDNN's fused layers, which it does not see into either, are off while it counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from glimpse_env import VideoGlimpseVectorEnv
from glimpse_env.video.backbones import Backbone

from ..learning.policy import GlimpsePolicy
from ..playing.play import policy_of
from ..playing.rollout import SEES_EVERYTHING, SOFT, Manner
from .clocks import Meter

PICTURE = 224  # pixels, the side of what the backbones take

# Where the policy's arithmetic is done, by method; each leaves out what is done in methods that it calls.
PARTS = {
    "project": "choosing",
    "cell_logits": "choosing",
    "attend": "attending",
    "encode": "attending",
    "advance": "recurrent",
    "state_of_mean": "recurrent",
    "class_logits": "head",
}


@dataclass(frozen=True, kw_only=True)
class Macs:
    """MACs of a policy over one clip, features given.

    Attributes:
        choosing: to project slices and score the cells: where to look.
        attending: to embed, weight and sum slices: X' of eq. 3.
        recurrent: of the LSTM, and of its initial state.
        head: of the class scores.
        slices_attended: that weigh something in X', over the T frames.
        slices_read: that had to be read for that, and to choose.
    """

    choosing: float
    attending: float
    recurrent: float
    head: float
    slices_attended: float
    slices_read: float

    @property
    def attention(self) -> float:
        """What decides where to look, and makes X' of it."""
        return self.choosing + self.attending

    @property
    def policy(self) -> float:
        """All that the arm needs once the features are there."""
        return self.attention + self.recurrent + self.head


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Count inside the block; yields a function that returns the MACs so far."""
    with warnings.catch_warnings():
        # Switching oneDNN off asks about other hardware, too.
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN", UserWarning)
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            yield lambda: counter.get_total_flops() / 2


def macs_per_clip(envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, seed: int = 0) -> Macs:
    """Play the first N clips of the split of N environments, and return the mean of what each took.

    Args:
        envs: at most as many as there are clips, since what clips share is done once.
        policy, manner: as an arm is measured.
        seed: of what the manner leaves to chance.
    """
    if envs.num_envs > envs.num_clips:
        raise ValueError(f"{envs.num_envs} environments for {envs.num_clips} clips: what is shared would be missed")

    def generator() -> torch.Generator:
        return torch.Generator(policy.place.device).manual_seed(seed)

    # Once before, so that a source which computes its features on demand has them, and is not counted.
    play = policy_of(manner.looking)
    play(envs, policy, np.arange(envs.num_envs), manner, generator=generator(), seed=seed)
    with counting() as total, ExitStack() as stack:
        meter = Meter(total)
        for name, part in PARTS.items():
            stack.enter_context(meter.on(part, policy, name))
        rollout = play(envs, policy, np.arange(envs.num_envs), manner, generator=generator(), seed=seed)
        played = total()
    assert sum(meter.spent.values()) == played, "the policy computes outside of PARTS"
    means = {part: meter.spent.get(part, 0.0) / envs.num_envs for part in PARTS.values()}
    attended = float((rollout.attention > 0).sum()) / envs.num_envs
    everything = float(rollout.attention[0].numel())
    return Macs(**means, slices_attended=attended, slices_read=everything if _reads_everything(manner) else attended)


def _reads_everything(manner: Manner) -> bool:
    all_in_view = manner.in_view == "cube" and manner.scores_cells
    return all_in_view or manner.looking in SEES_EVERYTHING or manner.looking in SOFT


def macs_per_frame(backbone: Backbone, side: int = PICTURE) -> float:
    """Return the MACs of a backbone on one whole frame, or on a crop of `side` pixels."""
    with counting() as total:
        backbone.cubes(torch.zeros(1, side, side, 3, dtype=torch.uint8))
        return total()
