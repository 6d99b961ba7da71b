"""Seconds and memory of a policy that plays clips, and of the network that makes their features."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from glimpse_env import VideoGlimpseVectorEnv
from glimpse_env.video.backbones import Backbone

from ..learning.config import Config
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from ..playing.envs import greedy_play, make_envs, open_splits
from ..playing.players import PlaySettings
from ..playing.rollout import play
from ..playing.videos import Extraction
from ..runs.folder import find_run
from .clocks import clocks, now
from .macs import metered_methods

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time to play a clip as part of a batch: in all, and inside the policy."""

    seconds: float
    network_seconds: float


def time_playing(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, settings: PlaySettings, *, repetitions: int, seed: int = 0
) -> Latency:
    """Play the first N clips of the split of N environments, once without a clock, and return medians per clip."""
    device = policy.device

    def whole() -> float:
        start = now(device)
        noise = Noise.seeded(seed, device)
        play(envs, policy, np.arange(envs.num_envs), settings, noise=noise, seed=seed)
        return now(device) - start

    def inside() -> float:
        meter = clocks(device)
        with meter.on([("step", policy, "step"), *metered_methods(policy)]):
            whole()
        return sum(meter.spent.values())

    whole()
    seconds, network = (statistics.median(time() for _ in range(repetitions)) for time in (whole, inside))
    return Latency(seconds=seconds / envs.num_envs, network_seconds=network / envs.num_envs)


def time_frames(backbone: Backbone, *, frames: int, repetitions: int) -> float:
    """Return the median seconds per frame in batches of `frames`, after one batch without a clock."""
    pictures = torch.zeros(frames, backbone.rule.size, backbone.rule.size, 3, dtype=torch.uint8)
    seconds = []
    for _ in range(repetitions + 1):
        start = now(backbone.device)
        backbone.cubes(pictures)
        seconds.append(now(backbone.device) - start)
    return statistics.median(seconds[1:]) / frames


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of a module's function, called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory_of_playing(config: Config, run: Path, batch: int) -> int | None:
    """Return the bytes to load a run's policy and to play the first clips of the test split as one batch.

    Opening the source is not counted; pages of a store that are read into memory are.
    """
    source = open_splits(config)["test"]
    with growth(torch.device(config.training.device)) as grown:
        policy = find_run(run).best_policy(config, source)
        envs = make_envs(config, source, batch, train=False)
        play(envs, policy, np.arange(batch), greedy_play(config), noise=Noise.seeded(0, policy.device), seed=0)
        return grown()


def memory_of_frames(extraction: Extraction, weights: Path | None, device: str) -> int | None:
    """Return the bytes to load the network of an extraction and to run it on a batch of frames."""
    with growth(torch.device(device)) as grown:
        backbone, side = extraction.load_backbone(weights, device), extraction.rule.size
        backbone.cubes(torch.zeros(extraction.frames_at_once, side, side, 3, dtype=torch.uint8))
        return grown()


@contextmanager
def growth(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the peak growth, in bytes, of the memory in use since the block began.

    The memory is that allocated on a GPU, or else resident memory; None if the system does not report it (not Linux).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the memory that is resident now; see proc(5)
    except OSError:
        yield lambda: None
        return
    before = _peak_resident()
    yield lambda: _peak_resident() - before


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
