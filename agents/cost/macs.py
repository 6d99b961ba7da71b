"""MACs (multiply-accumulates) per clip, counted by PyTorch while a policy plays, for each module of the policy.

A MAC is a multiplication with its addition, which torch.utils.flop_counter counts as 2 FLOPs. Matrix products and
convolutions are counted; work on single elements (activations, softmax, pooling, distances) is not. The fused
layers of oneDNN are switched off during the count, because the counter cannot see into them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from glimpse_env import ClipSource, VideoGlimpseVectorEnv, WallSource
from glimpse_env.video.backbones import Backbone

from ..learning.config import Config
from ..learning.episodes import Rollout
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from ..playing.envs import SourceRecord, greedy_play, make_envs
from ..playing.features import videos_of
from ..playing.players import PlaySettings
from ..playing.rollout import play
from ..playing.videos import Extraction
from ..runs.files import read_json
from .clocks import Meter

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
    ("jump_head", "forward"): "choosing",
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
    slices_at_first: float
    """Of these, the slices of the first frame: all, or none."""

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


def macs_per_clip(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    settings: PlaySettings,
    *,
    clips: int | None = None,
    seed: int = 0,
) -> Macs:
    """Play the first clips of the split of N environments, N at a time, and return the mean MACs of a clip.

    Args:
        envs: N must be 1 with jumps, because clips end at different steps and the network runs until the last end.
        policy, settings: network, and how it is played.
        clips: number of clips, a multiple of N; N by default.
        seed: of all random draws.

    Raises:
        ValueError: there are fewer clips, their number is no multiple of N, or several environments jump.
    """
    count = envs.num_envs if clips is None else clips
    if count > envs.num_clips:
        raise ValueError(
            f"clips ({count}, by default num_envs) must not exceed the number of clips of the split "
            f"({envs.num_clips}): repeated clips would be counted once"
        )
    if count % envs.num_envs:
        raise ValueError(f"clips must be a multiple of the {envs.num_envs} environments, got {count}")
    if envs.engine.rules.jumps is not None and envs.num_envs > 1:
        raise ValueError(f"with jumps, clips end at different steps: num_envs must be 1, got {envs.num_envs}")

    def played() -> list[Rollout]:
        noise = Noise.seeded(seed, policy.device)
        batches = np.arange(count).reshape(-1, envs.num_envs)
        return [play(envs, policy, batch, settings, noise=noise, seed=seed) for batch in batches]

    played()  # a source that computes features on demand now has them, and does not add to the count
    with counting() as total:
        meter = Meter(total)
        with meter.on(metered_methods(policy)):
            rollouts = played()
        assert sum(meter.spent.values()) == total(), "the policy computes outside of PARTS"
    means = {part: meter.spent.get(part, 0.0) / count for part in PARTS.values() if part != "values"}
    seen = torch.cat([rollout.attention for rollout in rollouts]) > 0  # (clips, T, K*K)
    attended = float(seen.sum()) / count
    chooses_from_all = settings.in_view == "cube" and settings.model.learns is not None
    reads_all = chooses_from_all or settings.model.reads_all
    return Macs(
        **means,
        slices_attended=attended,
        slices_read=seen.numel() / count if reads_all else attended,
        slices_at_first=float(seen[0, 0].numel() if reads_all else seen[0, 0].sum()),
    )


def macs_of_policy(config: Config, source: ClipSource, policy: GlimpsePolicy, *, clips: int, seed: int = 0) -> Macs:
    """Return the mean MACs of the first clips of a split, played as they are when a model is measured."""
    envs = make_envs(config, source, 1 if config.task.advanced.jumps else clips, train=False)
    return macs_per_clip(envs, policy.eval(), greedy_play(config), clips=clips, seed=seed)


class ClipMacs(NamedTuple):
    """MACs for one clip."""

    policy: float
    network: float | None  # that makes the features; None if there is none, or its weights cannot be found


def read_costs(path: Path) -> dict[str, ClipMacs]:
    """Return the MACs that a comparison left in a file, by the name of a row; none if there is no such file."""
    content = read_json(path) if path.exists() else {}
    return {name: ClipMacs(one["policy"], one["network"]) for name, one in content.items()}


def filmed_by(source: ClipSource) -> ClipSource:
    """Return the source whose frames the network sees: that of the cameras of a wall, or the videos themselves."""
    videos = videos_of(source)
    return videos.source if isinstance(videos, WallSource) else videos


def network_of(config: Config, source: ClipSource) -> Backbone | None:
    """Return the network that made a source's features; None if no network did.

    Raises:
        ValueError: its weights cannot be found, or it cannot be loaded.
    """
    shown = filmed_by(source)
    if (loaded := getattr(shown, "backbone", None)) is not None:  # of features that are computed on demand
        return cast(Backbone, loaded)
    record = SourceRecord.of(config, shown)
    return None if record.extraction is None else Extraction.of_run(config, record).load_backbone(None, "cpu")


def network_macs(macs: Macs, source: ClipSource, backbone: Backbone, *, frames: float) -> float:
    """Return the MACs of the network for one clip of `frames` observed frames.

    It runs once on each whole frame. On a wall it runs once for each slice that is read. With crops it runs on the
    first frame, if the agent sees it, and then on one crop for each slice that is read.
    """
    videos, side = videos_of(source), getattr(source, "crop", None)
    if isinstance(videos, WallSource):
        return macs.slices_read * macs_per_frame(backbone)
    if side is None:
        return frames * macs_per_frame(backbone)
    crops = (macs.slices_read - macs.slices_at_first) * macs_per_frame(backbone, side)
    return crops + (macs.slices_at_first > 0) * macs_per_frame(backbone)


def macs_per_frame(backbone: Backbone, side: int | None = None) -> float:
    """Return the MACs of a backbone on one whole frame, or on a crop of `side` pixels."""
    side = side or backbone.rule.size
    with counting() as total:
        backbone.cubes(torch.zeros(1, side, side, 3, dtype=torch.uint8))
        return total()
