"""Extraction by Ray's workers, on this machine or on a cluster whose machines share a file system.

Each worker fills and writes whole shards. A worker that dies is restarted, if need be on another machine, and begins
its shard again; an existing shard is whole, so nothing half written counts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.util import ActorPool

from glimpse_env.datasets import VideoClip
from glimpse_env.extract.settings import Settings
from glimpse_env.extract.shards import Report, ShardExtractor, Work, load_network, make_decoders
from glimpse_env.store.manifest import StoreError
from glimpse_env.store.writer import StoreWriter
from glimpse_env.video.backbones import DeviceError, software
from glimpse_env.video.decode import VideoError
from glimpse_env.video.readers import decoder_versions

_RETRIES = 20  # of a shard


def fill_on_ray(settings: Settings, writer: StoreWriter, shards: Sequence[int], report: Report) -> Work:
    """Fill shards of a store with Ray's workers, as `ShardExtractor.fill` does in this process.

    `$RAY_ADDRESS` names the cluster; without it Ray is started on this machine for the time of the work. Paths must be
    absolute, and lead to the same files everywhere.

    Raises:
        DeviceError: Ray cannot be started, or has no room for the workers.
        StoreError: a worker has other versions than this process.
    """
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=False)
    except Exception as error:  # of several types
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"Ray cannot be started ({reason}): run the same command again, or use --engine local"
        ) from error
    try:
        return _fill(settings, writer, shards, report)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise StoreError(
            f"a worker died {_RETRIES} times ({str(error).splitlines()[0]}): its finished shards are kept; run the "
            "same command again"
        ) from error
    finally:
        ray.shutdown()


def _fill(settings: Settings, writer: StoreWriter, shards: Sequence[int], report: Report) -> Work:
    gpus = int(settings.device.startswith("cuda"))
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if gpus:  # the cores for each GPU on the machine with the fewest
        shares = [int(machine.get("CPU", 0) // machine["GPU"]) for machine in machines if machine.get("GPU", 0) >= 1]
        settings = replace(settings, threads=max(1, min([settings.threads, *shares])))
    worker_type = ray.remote(_Worker).options(
        num_cpus=settings.threads, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES
    )
    count = min(_count_workers(settings, gpus, machines), len(shards))
    pool = ActorPool([worker_type.remote() for _ in range(count)])
    shared = ray.put(settings), ray.put(writer)
    work = Work()
    filled: Iterator[Any] = pool.map_unordered(lambda worker, shard: worker.fill.remote(*shared, shard), list(shards))
    for shard, done, reasons in filled:
        work.add(done)
        for clip in writer.share(shard):
            reason = reasons.get(clip.clip_id)
            report(clip, reason and VideoError(clip.path, reason))
    return work


def _count_workers(settings: Settings, gpus: int, machines: Sequence[Mapping[str, float]]) -> int:
    fit = 0
    for machine in machines:
        room = int(machine.get("CPU", 0) // settings.threads)
        fit += min(room, int(machine.get("GPU", 0))) if gpus else room
    wanted = settings.workers or fit
    if not 1 <= wanted <= fit:
        each = f"{settings.threads} cores{' and a GPU' * gpus}"
        raise DeviceError(
            f"Ray has room for {fit} workers of {each}, not for {max(1, wanted)}: choose fewer --workers or --threads"
        )
    return wanted


class _Worker:
    """A process of Ray's that fills shards."""

    def __init__(self) -> None:
        self._extractor: ShardExtractor | None = None

    def fill(self, settings: Settings, writer: StoreWriter, shard: int) -> tuple[int, Work, dict[str, str]]:
        """Fill a shard, and return its number, the work and why each unreadable clip was left out."""
        if self._extractor is None:  # not in the constructor, whose errors Ray reports as a dead worker
            here = software(settings.backbone, compiled=settings.compile), decoder_versions(settings.decoder)
            begun = writer.manifest.software, writer.manifest.decoder
            if here != begun:
                raise StoreError(
                    f"the worker on {socket.gethostname()} has {here}, and the store was begun with {begun}: install "
                    "the same versions everywhere"
                )
            # The decoders end with the worker.
            self._extractor = ShardExtractor(settings, writer, load_network(settings), make_decoders(settings))
        reasons: dict[str, str] = {}

        def report(clip: VideoClip, error: VideoError | None) -> None:
            if error is not None:
                reasons[clip.clip_id] = error.reason

        return shard, self._extractor.fill([shard], report), reasons
