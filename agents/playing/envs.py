"""Sources, environments and networks made from a configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glimpse_env import ClipSource, SlidingWindows, VideoGlimpseVectorEnv, WallSource, open_source
from glimpse_env.catalogue import EMBEDDED, resolve_source
from glimpse_env.files import file_sha256
from glimpse_env.store import StoreSplit
from glimpse_env.video.lazy import LazySource

from ..learning.config import Config
from ..learning.episodes import InputShape
from ..learning.models import MODELS, OWN, is_own
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import WHOLE, Share
from ..parallel.ranks import local_rank
from .features import fits, videos_of
from .players import PlaySettings

Sources = dict[str, ClipSource]
SPLITS = ("train", "validation", "test")
EXTRACTION = (
    "backbone", "layer", "weights_sha256", "resize_rule", "max_frames", "batch_size", "precision", "crop",
)  # fmt: skip
"""Fields of a store's manifest that turn videos into features."""


def absolute_source(name: str) -> str:
    """Return a source's name with an absolute path, so that it means the same from every working directory."""
    return name if name.startswith(OWN) else resolve_source(name, Path())


def name_of(source: ClipSource, name: str) -> str:
    """Return the name that a run records for a source object: the given one, unless that names another source."""
    kind = EMBEDDED.get(name)
    is_other = isinstance(kind, type) and not isinstance(videos_of(source), kind)
    return f"{OWN}clips" if is_other else name


def open_splits(config: Config) -> Sources:
    """Open the three splits of the configured source: their clips, or the windows that slide over them."""
    task = config.task
    return in_windows(config, {split: open_source(task.source, split=split, fold=task.fold) for split in SPLITS})


def in_windows(config: Config, sources: Sources) -> Sources:
    """Return the configured windows over some sources, or the sources if they are these windows already.

    Raises:
        ValueError: a source has windows of another length.
    """
    length, stride = config.task.window_seconds, config.task.advanced.stride_seconds
    shown: Sources = {}
    for split, clips in sources.items():
        if not isinstance(clips, SlidingWindows):
            clips = open_source(clips, window_seconds=length, stride_seconds=stride)
        elif length is not None and clips.window_seconds != length:
            raise ValueError(
                f"the {split} source has windows of {clips.window_seconds:g} s, and window_seconds is {length:g}: give "
                "both the same length, or leave window_seconds out"
            )
        shown[split] = clips
    return shown


def check_device(device: str, share: Share = WHOLE) -> None:
    """Raise a ValueError if a device does not exist, or if not every rank can have its own."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: use --device cpu, cuda or cuda:1") from error
    if share.ranks > 1 and wanted.index is not None:
        raise ValueError(f"{share.ranks} processes need a device each, got {device!r}: use --device {wanted.type}")
    found = torch.cuda.device_count()
    if wanted.type == "cuda" and (local_rank() if wanted.index is None else wanted.index) >= found:
        raise ValueError(f"device {device!r} does not exist: this machine has {found} CUDA devices; use --device cpu")


def ready_config(config: Config, sources: Sources, share: Share = WHOLE) -> Config:
    """Return a configuration as its run records it, after checking that it can be trained on its sources.

    Raises:
        ValueError: an argument does not fit the machine, the number of ranks or the source.
    """
    check_device(config.training.device, share)
    share.of(config.training.clips)
    config = config.with_settings({"source": absolute_source(config.task.source)}).for_source(sources["train"])
    check_playable(config, sources["train"])
    return config


def check_ours(config: Config) -> None:
    """Raise a ValueError if the configured model is an agent that was trained elsewhere."""
    if is_own(config.model):
        raise ValueError(f"{config.model!r} was trained elsewhere, and cannot be trained or played here")


def check_playable(config: Config, source: ClipSource) -> None:
    """Raise a ValueError if the configured model cannot be played on a source."""
    check_ours(config)
    make_envs(config, source, 1, train=True)
    if config.matches_segments and not source.trimmed and not config.abstains(source):
        raise ValueError(
            "matching='segment' on untrimmed clips needs abstain=True, got False: every frame of background would lie "
            "in a predicted segment; leave --abstain out, or set --matching frame"
        )
    if (config.task.frames or source.num_frames) < 2:
        raise ValueError(
            "an agent needs clips of at least 2 frames, one to choose in and one to look at: set --frames, "
            "or a longer --window-seconds"
        )
    if isinstance(source, SlidingWindows) and source.num_frames > source.longest_video:
        raise ValueError(
            f"a window of {source.num_frames} frames is longer than the longest video, of {source.longest_video}: "
            "set a shorter --window-seconds, or leave it out"
        )
    if MODELS[config.model].needs_actor and source.actor(0) is None:
        raise ValueError(
            f"model {config.model!r} needs a source that knows where the actor is, and {config.task.source} does not: "
            "leave the model out, or extract with --actor-coverage"
        )


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """Facts about a run's source that config.json keeps; `extraction` is None if no network made its features."""

    grid_size: int
    depth: int
    frames: int
    class_names: tuple[str, ...]
    frames_per_second: float
    identity: str | None  # sha256 of the store's manifest, or of the settings of a lazy source or of a wall
    extraction: dict[str, Any] | None  # settings that turned videos into features, for playing other videos
    trimmed: bool = True  # records of earlier versions do not say it

    @classmethod
    def of(cls, config: Config, source: ClipSource) -> SourceRecord:
        """Describe a source."""
        videos = videos_of(source)
        extraction = videos.extraction if isinstance(videos, LazySource) else None
        if isinstance(videos, StoreSplit):
            manifest, weights = videos.store.manifest, _weights_of(videos.store.path)
            extraction = {name: getattr(manifest, name) for name in EXTRACTION} | {"weights": weights}
        return cls(
            grid_size=source.grid_size,
            depth=source.depth,
            frames=config.task.frames or source.num_frames,
            class_names=tuple(source.class_names),
            frames_per_second=source.frames_per_second,
            identity=_identity_of(videos, config.task.fold),
            extraction=extraction,
            trimmed=source.trimmed,
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SourceRecord:
        """Rebuild a record from a run's config.json."""
        return cls(**(fields | {"class_names": tuple(fields["class_names"])}))

    def check_same_kind(self, other: SourceRecord, name: str) -> None:
        """Raise a ValueError if another source, called `name`, has other features, frames or classes."""
        pairs = [
            (field, getattr(self, field), getattr(other, field))
            for field in ("grid_size", "depth", "frames", "class_names", "trimmed", "frames_per_second")
        ]
        if self.extraction is not None and other.extraction is not None:
            networks = ("backbone", "layer", "weights_sha256", "resize_rule", "crop")
            pairs += [(field, self.extraction.get(field), other.extraction.get(field)) for field in networks]
        for field, ours, theirs in pairs:
            if ours != theirs:
                raise ValueError(
                    f"{name} has {field} {theirs}, but the run was trained with {ours}: use features of the same kind"
                )

    def check_unchanged(self, other: SourceRecord, name: str, run: Path) -> None:
        """Raise a ValueError if the source called `name` is not, or no longer, the one that a run was trained on."""
        self.check_same_kind(other, name)
        if self.identity != other.identity:
            raise ValueError(
                f"{name} is not the source that {run} was trained on, or has changed: "
                "restore it, name it with --source, or train a new run"
            )


def _identity_of(source: ClipSource, fold: int) -> str | None:
    """Return a fingerprint of a store, a lazy source or a wall, the same for all splits; None of other sources.

    It is the same for all folds, too. Only a wall that names a fold other than the run's `fold` has one of its own.
    """
    if isinstance(source, StoreSplit):
        return file_sha256(source.store.path / "manifest.json")
    if isinstance(source, LazySource):
        return source.fingerprint
    if not isinstance(source, WallSource):
        return None
    shown = source.source
    facts = (type(shown).__name__, shown.class_names, shown.num_frames, shown.frames_per_second, shown.depth)
    settings = (source.grid_size, source.events, source.num_frames, source.trimmed, source.seed, source.class_names)
    sizes, own_fold = sorted(source.walls_by_split.items()), getattr(shown, "fold", fold)
    of_wall = (*settings, sizes, 1 + own_fold - fold, *facts, _identity_of(shown, fold))
    return hashlib.sha256(repr(of_wall).encode()).hexdigest()


def _weights_of(store: Path) -> str | None:
    """Return the path of the weights that made a store's features, as it was then; None if it is unknown."""
    try:
        weights: str | None = json.loads((store / "lazy.json").read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return weights


def make_envs(config: Config, source: ClipSource, num_envs: int, *, train: bool) -> VideoGlimpseVectorEnv:
    """Make environments that show the chosen slices, or nothing if all features fit on the run's GPU.

    Rollouts read what else a model sees.
    """
    model, task, rules, advanced = MODELS[config.model], config.task, config.task.advanced, config.training.advanced
    envs = gym.make_vec(
        "VideoGlimpse-v0",
        num_envs=num_envs,
        source=source,
        glimpses=None if model.sees == "set" else task.glimpses,
        # With jumps, episodes are at different frames, and see what their environment shows.
        observation="blind" if rules.jumps is None and fits(source, torch.device(config.training.device)) else "slices",
        jumps=rules.jumps,
        frame_cost=rules.frame_cost,
        first_glance=rules.first_glance,
        frames=task.frames,
        matching=task.matching,
        eta=task.eta,
        look_cost=0.0 if model.reads_all else advanced.look_cost,
        abstain=task.abstain,
        jitter=advanced.jitter and train,
        autoreset_mode="Disabled",
    )
    assert isinstance(envs, VideoGlimpseVectorEnv)
    return envs


def greedy_play(config: Config) -> PlaySettings:
    """Return how a model plays when it is measured."""
    return PlaySettings(model=MODELS[config.model], in_view=config.policy.observation, greedy=True)


def make_policy(config: Config, source: ClipSource) -> GlimpsePolicy:
    """Build a model's network, with weights drawn from the run's seed; a ValueError if it was trained elsewhere."""
    check_ours(config)
    model, network = MODELS[config.model], config.policy
    if config.model != "reinforce":  # no other model draws in sequence
        network = dataclasses.replace(network, advanced=dataclasses.replace(network.advanced, glimpse_order="joint"))
    if not model.encodes_slices:
        plain = dataclasses.replace(network.advanced, scorer="grid", slice_weights="uniform")
        network = dataclasses.replace(network, encoder="sum", advanced=plain)
    # One value for the choice of cells and, with sampled classes, one for the class.
    learns_values = config.training.advanced.baseline == "value" and model.learns in (None, "reinforce")
    shape = InputShape(
        grid_size=source.grid_size,
        depth=source.depth,
        outputs=len(source.class_names) + config.abstains(source),
        frames=config.task.frames or source.num_frames,
        values=(1 + config.samples_classes) * learns_values,
        starts_from_mean=model.is_soft,
        first_set_size=config.task.glimpses if model.sees == "set" else 0,
        jumps=len(config.task.advanced.jumps or ()) if config.learns_jumps else 0,
        trimmed=source.trimmed,
    )
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator only
        torch.manual_seed(config.training.seed)
        return GlimpsePolicy(network, shape)


def sample_slices(source: ClipSource, cubes: int = 256, *, place: float = 0.5) -> Tensor:
    """Read all slices of one frame of up to `cubes` clips spread over the source: (n, D) float32.

    The frame is the one at a `place` in [0, 1) of the clip; by default in its middle.

    A wall gives those of the clips that it shows, each once: most of its cameras show background, and scaled by it
    events are too large.
    """
    if isinstance(wall := videos_of(source), WallSource):
        shown = wall.source
        return sample_slices(shown, cubes, place=place).reshape(-1, shown.grid_size**2, shown.depth).mean(1)
    clips = np.unique(np.linspace(0, source.num_clips - 1, cubes).astype(np.int64))
    frames = np.array([int(place * len(source.frame_times(clip))) for clip in clips])
    size = source.grid_size
    out = np.empty((len(clips), size, size, source.depth), np.float32)
    source.read_cubes(clips, frames, out)
    return torch.from_numpy(out).flatten(0, 2)
