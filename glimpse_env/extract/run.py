"""An extraction from its settings to a finished store."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from glimpse_env.datasets import VideoClip, VideoDataset
from glimpse_env.extract.description import write_description
from glimpse_env.extract.dry_run import estimate, report_left_out
from glimpse_env.extract.settings import Settings
from glimpse_env.extract.shards import ShardExtractor, Work, load_network, make_decoders, open_coverage
from glimpse_env.store.manifest import Manifest, StoreError
from glimpse_env.store.writer import StoreWriter, write_report
from glimpse_env.video.backbones import Backbone, DeviceError
from glimpse_env.video.decode import RESIZE_RULE, VideoError
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.process import parse_device, software
from glimpse_env.video.readers import decoder_versions


def extract(settings: Settings) -> Path:
    """Extract a data set into a feature store, or resume where an earlier run stopped.

    Two runs never write the same store: a lock beside it, which ends with its process, keeps the second one out.

    Returns:
        The store's folder.

    Raises:
        DatasetError: the data set is empty or its files contradict each other.
        WeightsError: the weights do not fit.
        DeviceError: the processors asked for are not there.
        StoreError: the folder holds something else or a store with other settings, no video could be read, or another
            run is writing it.
    """
    if settings.engine == "ray":
        _require_ray()
        settings = settings.absolute()
    dataset = settings.dataset()
    open_coverage(settings.actor_coverage, dataset.clips)
    with make_decoders(settings) as decoders:
        if settings.engine == "local":
            decoders.start()  # while the network is being loaded
        # The machine that hands work out to Ray's need not have their GPU.
        backbone = load_network(settings, device="cpu" if settings.engine == "ray" else None)
        manifest = describe(settings, dataset, backbone)
        if settings.dry_run:
            estimate(settings, dataset, manifest, backbone, decoders)
        else:
            with _locked(settings.out):
                _extract(settings, dataset, manifest, backbone, decoders)
    return settings.out


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    place = out.resolve()  # by whichever name it is called, a store has one lock
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"{out} is being written by another extraction: wait for it, or choose another --out"
        ) from None
    except (NotImplementedError, OSError) as error:
        raise StoreError(
            f"{out} cannot be locked ({error}): choose an --out on another file system, such as a local disk"
        ) from error
    try:
        yield
    finally:
        lock.release()


def describe(settings: Settings, dataset: VideoDataset, backbone: Backbone) -> Manifest:
    """Return the manifest of the store that the settings ask for."""
    clips = json.dumps([(clip.clip_id, clip.label, clip.splits, *clip.segments) for clip in dataset.clips])
    return Manifest(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_folds=dataset.num_folds,
        clips_sha256=hashlib.sha256(clips.encode()).hexdigest(),
        trimmed=dataset.trimmed,
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        precision=backbone.precision,
        crop=settings.crop,
        resize_rule=RESIZE_RULE,
        decoder=decoder_versions(settings.decoder),
        software=software(compiled=settings.compile),
        device=parse_device(settings.device).type,
        threads=settings.threads if backbone.device.type == settings.device == "cpu" else 0,
        batch_size=settings.batch_size,
        frames_per_second=settings.fps,
        num_frames=settings.frames,
        max_frames=settings.frames_kept,
        grid_size=backbone.grid_size,
        depth=backbone.depth,
        dtype="float16",
        has_coverage=settings.actor_coverage is not None,
        clips_per_shard=settings.clips_per_shard,
        num_shards=-(-len(dataset.clips) // settings.clips_per_shard),
    )


def _extract(
    settings: Settings, dataset: VideoDataset, manifest: Manifest, backbone: Backbone, decoders: Decoders
) -> None:
    report_left_out(settings, dataset)
    writer = StoreWriter(settings.out, manifest, dataset.clips)
    if settings.retry_failed:
        writer.drop_failed_shards()
    missing = writer.missing_shards()
    work = Work()
    with work.stopwatch.measure("total"):
        if missing:
            work.add(_fill(settings, writer, missing, backbone, decoders))
        failures = writer.finish()
    write_description(settings, writer.manifest, failures)
    write_report(
        settings.out, failures=failures, missing=dataset.missing, skipped=dataset.skipped, run=work.as_report()
    )
    _tell(settings.out, len(dataset.clips), work, failures)


def _fill(
    settings: Settings, writer: StoreWriter, shards: Sequence[int], backbone: Backbone, decoders: Decoders
) -> Work:
    total = len(writer.clips)
    done = total - sum(len(writer.share(shard)) for shard in shards)
    with tqdm(total=total, initial=done, unit="clip") as bar:

        def told(clip: VideoClip, error: VideoError | None) -> None:
            if error is not None:
                bar.write(f"skipped: {error}")
            bar.update()

        if settings.engine == "local":
            return ShardExtractor(settings, writer, backbone, decoders).fill(shards, told)
        from glimpse_env.extract.ray_engine import fill_on_ray

        return fill_on_ray(settings, writer, shards, told)


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise DeviceError('--engine ray needs Ray: pip install "videoglimpse[ray]"')


def _tell(out: Path, clips: int, work: Work, failures: Mapping[str, str]) -> None:
    for clip, reason in failures.items():
        print(f"not read: {clip}: {reason}")
    seconds = ", ".join(f"{activity} {value:.1f} s" for activity, value in work.stopwatch.seconds.items())
    print(f"{out}: {clips - len(failures)} of {clips} clips")
    print(
        f"this run: {work.clips} clips, {work.frames} frames, {work.num_bytes / 1e6:.1f} MB, "
        f"{work.frames_per_second:.1f} frames a second ({seconds})"
    )
