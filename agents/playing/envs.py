"""Putting a run together: the splits of a source, the environments and the network of each arm."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glimpse_env import ClipSource, SlidingWindows, VideoGlimpseVectorEnv, open_source
from glimpse_env.store import StoreSplit

from ..learning.config import Config
from ..learning.policy import GlimpsePolicy, InputShape
from ..parallel.ranks import WHOLE, Share, local_rank
from .features import fits
from .rollout import SEES_EVERYTHING, SOFT, Looking, Manner

Sources = dict[str, ClipSource]


def open_splits(config: Config) -> Sources:
    """Open the three splits of the configured source: their clips, or the windows that slide over them."""
    windows = {"window_seconds": config.window_seconds, "stride_seconds": config.stride_seconds}
    return {
        split: open_source(config.source, split=split, fold=config.fold, **windows)
        for split in ("train", "validation", "test")
    }


def videos_of(source: ClipSource) -> ClipSource:
    """Return the source that windows slide over, or the source itself where they do not."""
    return source.source if isinstance(source, SlidingWindows) else source


def check_device(device: str, share: Share = WHOLE) -> None:
    """Raise ValueError where the device asked for is not there, or is one for several ranks."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that torch knows: use --device cpu, cuda or cuda:1") from error
    if share.ranks > 1 and wanted.index is not None:
        raise ValueError(f"{share.ranks} processes need a device each, got {device!r}: use --device {wanted.type}")
    found = torch.cuda.device_count()
    if wanted.type == "cuda" and (local_rank() if wanted.index is None else wanted.index) >= found:
        raise ValueError(f"device {device!r} was asked for, but there are {found} CUDA devices here: use --device cpu")


def check_playable(config: Config, source: ClipSource) -> None:
    """Raise ValueError where an arm of the configuration cannot be played on the source, before any work is done."""
    make_envs(config, source, 1, train=True)
    if (config.frames or source.num_frames) < 2:
        raise ValueError(
            "an agent needs clips of at least 2 frames, one to choose in and one to look at: set --frames, "
            "or a longer --window-seconds"
        )
    if "oracle" in config.controls and source.actor(0) is None:
        raise ValueError(
            "control 'oracle' needs a source that knows where the actor is, and this one does not: leave it out, or "
            "extract with --actor-coverage"
        )


def describe_source(config: Config, source: ClipSource) -> dict[str, Any]:
    """Return what a run keeps of its source, for playing other videos later; `extraction` is None without a store."""
    names = ("backbone", "weights_sha256", "resize_rule", "max_frames", "batch_size", "precision", "crop")
    videos = videos_of(source)
    manifest = videos.store.manifest if isinstance(videos, StoreSplit) else None
    return {
        "grid_size": source.grid_size,
        "depth": source.depth,
        "frames": config.frames or source.num_frames,
        "class_names": list(source.class_names),
        "frames_per_second": source.frames_per_second,
        "extraction": manifest and {name: getattr(manifest, name) for name in names},
    }


def make_envs(
    config: Config, source: ClipSource, num_envs: int, *, train: bool, looking: Looking = "learned"
) -> VideoGlimpseVectorEnv:
    """Make environments that show the slices that are chosen, or nothing where all features fit on the run's GPU;
    rollouts read what else an arm sees.
    """
    envs = gym.make_vec(
        "VideoGlimpse-v0",
        num_envs=num_envs,
        source=source,
        glimpses=None if looking == "unlimited" else config.glimpses,
        observation="blind" if fits(source, torch.device(config.device)) else "slices",
        frames=config.frames,
        eta=config.eta,
        look_cost=0.0 if looking in (*SEES_EVERYTHING, "soft_top") else config.look_cost,
        abstain=config.abstain,
        jitter=config.jitter and train,
        autoreset_mode="Disabled",
    )
    assert isinstance(envs, VideoGlimpseVectorEnv)
    return envs


def greedy_manner(config: Config, looking: Looking = "learned") -> Manner:
    """Return how an arm plays when it is measured."""
    return Manner(looking=looking, in_view=config.observation, greedy=True)


def make_policy(config: Config, source: ClipSource, looking: Looking) -> GlimpsePolicy:
    """Build an arm's network with weights drawn from the run's seed; "mean" and "max" pool the slices themselves, and
    soft attention begins from their mean. The learned policy alone draws in sequence. Values, where they are the
    baseline, are one of the choice of cells and, with drawn classes, one of the class.
    """
    config = config.for_arm(looking)
    network = config.policy if looking == "learned" else dataclasses.replace(config.policy, glimpse_order="joint")
    if looking in ("mean", "max"):
        network = dataclasses.replace(network, encoder="sum")
    elif looking in SOFT:
        network = dataclasses.replace(network, start="mean")
    learns_values = config.baseline == "value" and looking not in (*SOFT, "gumbel")
    shape = InputShape(
        grid_size=source.grid_size,
        depth=source.depth,
        outputs=len(source.class_names) + config.abstains(source),
        frames=config.frames or source.num_frames,
        values=(1 + config.draws_classes) * learns_values,
    )
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator only
        torch.manual_seed(config.seed)
        return GlimpsePolicy(network, shape)


def sample_slices(source: ClipSource, cubes: int = 256) -> Tensor:
    """Read all slices of the middle frames of up to `cubes` clips spread over the source: (n, D) float32."""
    clips = np.unique(np.linspace(0, source.num_clips - 1, cubes).astype(np.int64))
    frames = np.array([len(source.frame_times(clip)) // 2 for clip in clips])
    size = source.grid_size
    out = np.empty((len(clips), size, size, source.depth), np.float32)
    source.read_cubes(clips, frames, out)
    return torch.from_numpy(out).flatten(0, 2)
