"""Seconds and memory of inference: a policy that plays clips, and the network that makes their features."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from glimpse_env import VideoGlimpseVectorEnv
from glimpse_env.video.backbones import Backbone, Precision, load_backbone

from ..learning.config import Config
from ..learning.policy import GlimpsePolicy
from ..playing.envs import greedy_manner, make_envs, open_splits
from ..playing.play import policy_of
from ..playing.rollout import Looking, Manner
from ..runs.results import best_policy
from .clocks import Clocks, now
from .macs import PARTS, PICTURE

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What playing a clip takes among others of its batch.

    Attributes:
        seconds: per clip, environment and reading of features included.
        network_seconds: of them, inside the policy's methods.
    """

    seconds: float
    network_seconds: float


def time_playing(
    envs: VideoGlimpseVectorEnv, policy: GlimpsePolicy, manner: Manner, *, repetitions: int, seed: int = 0
) -> Latency:
    """Play the first N clips of the split of N environments, after once for nothing: medians per clip."""
    device = policy.place.device

    def played() -> float:
        begun = now(device)
        generator = torch.Generator(device).manual_seed(seed)
        policy_of(manner.looking)(envs, policy, np.arange(envs.num_envs), manner, generator=generator, seed=seed)
        return now(device) - begun

    def inside() -> float:
        clocks = Clocks(device)
        with ExitStack() as stack:
            for name in ("step", *PARTS):
                stack.enter_context(clocks.on("", policy, name))
            played()
        return clocks.seconds[""]

    played()
    whole = statistics.median(played() for _ in range(repetitions))
    network = statistics.median(inside() for _ in range(repetitions))
    return Latency(seconds=whole / envs.num_envs, network_seconds=network / envs.num_envs)


def time_frames(backbone: Backbone, *, frames: int, repetitions: int) -> float:
    """Return the median seconds per frame of batches of so many, after one for nothing."""
    pictures = torch.zeros(frames, PICTURE, PICTURE, 3, dtype=torch.uint8)
    seconds = []
    for _ in range(repetitions + 1):
        begun = now(backbone.device)
        backbone.cubes(pictures)
        seconds.append(now(backbone.device) - begun)
    return statistics.median(seconds[1:]) / frames


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Return what a function of a module returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory_of_playing(config: Config, run: Path, looking: Looking, batch: int) -> int | None:
    """Return the bytes that it takes to load an arm and play the first clips of the test split, one batch of them.

    What it takes to open the source is not counted; mapped pages of a store that were read are.
    """
    source = open_splits(config)["test"]
    with growth(torch.device(config.device)) as grown:
        policy = best_policy(config, run, source, looking)
        envs = make_envs(config, source, batch, train=False, looking=looking)
        generator = torch.Generator(config.device).manual_seed(0)
        manner = greedy_manner(config, looking)
        policy_of(looking)(envs, policy, np.arange(batch), manner, generator=generator, seed=0)
        return grown()


def memory_of_frames(name: str, weights: Path | None, device: str, precision: Precision, frames: int) -> int | None:
    """Return the bytes that it takes to load a backbone and run it on a batch of so many frames."""
    with growth(torch.device(device)) as grown:
        backbone = load_backbone(name, weights=weights, device=device, precision=precision)
        backbone.cubes(torch.zeros(frames, PICTURE, PICTURE, 3, dtype=torch.uint8))
        return grown()


@contextmanager
def growth(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns by how many bytes memory in use has grown at most since the block began.

    That is resident memory, or what is allocated on a GPU. None where the system is not Linux or does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        begun = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - begun
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now; see proc(5)
    except OSError:
        yield lambda: None
        return
    before = _peak_resident()
    yield lambda: _peak_resident() - before


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
