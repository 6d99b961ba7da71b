"""An extraction, from its settings to a finished store, and the estimate of a dry run."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from glimpse_env.datasets import VideoClip, VideoDataset
from glimpse_env.extract.description import write_description
from glimpse_env.extract.settings import Settings
from glimpse_env.extract.shards import ShardExtractor, Work, check_grid, load_network, make_decoders, open_coverage
from glimpse_env.sources.splits import SPLITS
from glimpse_env.store.manifest import Manifest
from glimpse_env.store.writer import (
    StoreWriter,
    locked,
    missing_shards,
    raising_store_error,
    require_same,
    write_report,
)
from glimpse_env.terminal import shows_bars
from glimpse_env.video.backbones import Backbone, DeviceError, parse_device, software
from glimpse_env.video.decode import THUMBNAIL_SIZE, DecodedClip, Stopwatch, VideoError
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.features import embed
from glimpse_env.video.readers import decoder_versions

_SAMPLED = 8  # videos that a dry run tries
_SHOWN = 10  # notes that are printed
_SECONDS_BETWEEN_LINES = 30.0  # without a terminal
_LINE = "{n_fmt}/{total_fmt} clips, {rate_fmt}, {remaining} left"


def extract(settings: Settings) -> Path:
    """Extract a data set into a feature store, or resume where an earlier run stopped.

    Returns:
        The store's folder.

    Raises:
        DatasetError: the data set is empty or its files contradict each other.
        WeightsError: the weights do not fit.
        BackboneError: there is no such network or layer.
        DeviceError: the requested processors do not exist.
        StoreError: the folder holds something else or a store with other settings, no video could be read, or another
            process is writing it.
    """
    if settings.engine == "ray":
        if importlib.util.find_spec("ray") is None:
            raise DeviceError('--engine ray needs Ray: pip install "videoglimpse[ray]"')
        settings = settings.absolute()
    dataset = settings.dataset()
    coverage = open_coverage(settings.actor_coverage, dataset.clips)
    with make_decoders(settings) as decoders:
        if settings.engine == "local":
            decoders.start()  # while the network is being loaded
        # This machine hands out the work, and need not have the workers' GPU.
        backbone = load_network(settings, device="cpu" if settings.engine == "ray" else None)
        manifest = describe(settings, dataset, backbone)
        if coverage is not None:
            check_grid(coverage, [clip.clip_id for clip in dataset.clips[:_SAMPLED]], backbone)
        if settings.dry_run:
            _estimate(settings, dataset, manifest, backbone, decoders)
        else:
            with locked(settings.out):
                _extract(settings, dataset, manifest, backbone, decoders)
    return settings.out


def describe(settings: Settings, dataset: VideoDataset, backbone: Backbone) -> Manifest:
    """Return the manifest of a new store."""
    return Manifest(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_folds=dataset.num_folds,
        clips_sha256=dataset.clips_sha256,
        trimmed=dataset.trimmed,
        backbone=backbone.name,
        layer=backbone.layer,
        weights_sha256=backbone.weights_sha256,
        precision=backbone.precision,
        crop=settings.crop,
        resize_rule=str(backbone.rule),
        decoder=decoder_versions(settings.decoder),
        software=software(backbone.name, compiled=settings.compile),
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
    _print_dataset(settings, dataset)
    writer = StoreWriter(settings.out, manifest, dataset.clips)
    if settings.retry_failed:
        writer.drop_failed_shards()
    work = Work()
    with work.stopwatch.measure("total"):
        if missing := writer.missing_shards():
            work.add(_fill(settings, writer, missing, backbone, decoders))
        failures = writer.finish()
    rate, times = work.frames / work.stopwatch.seconds["total"], work.stopwatch.seconds
    run = {"clips": work.clips, "frames": work.frames, "bytes": work.num_bytes, "frames_per_second": rate}
    with raising_store_error(settings.out, kept="its features are complete"):
        write_description(settings, writer.manifest, failures)
        write_report(
            settings.out,
            failures=failures,
            missing=dataset.missing,
            skipped=dataset.skipped,
            run={**run, "seconds": times},
        )
    for clip, reason in failures.items():
        print(f"not read: {clip}: {reason}")
    seconds = ", ".join(f"{activity} {value:.1f} s" for activity, value in times.items())
    print(f"{settings.out}: {len(dataset.clips) - len(failures)} of {len(dataset.clips)} clips")
    print(
        f"this run: {work.clips} clips, {work.frames} frames, {work.num_bytes / 1e6:.1f} MB, "
        f"{rate:.1f} frames a second ({seconds})"
    )


def _fill(
    settings: Settings, writer: StoreWriter, shards: Sequence[int], backbone: Backbone, decoders: Decoders
) -> Work:
    total = len(writer.clips)
    done = total - sum(len(writer.share(shard)) for shard in shards)
    shown, started = done, time.perf_counter()
    printed = started
    with tqdm(total=total, initial=done, unit="clip", disable=not shows_bars()) as bar:

        def report(clip: VideoClip, error: VideoError | None) -> None:
            nonlocal shown, printed
            if error is not None:
                bar.write(f"skipped: {error}")
            bar.update()
            shown, now = shown + 1, time.perf_counter()
            if bar.disable and now - printed >= _SECONDS_BETWEEN_LINES:
                printed = now
                print(tqdm.format_meter(shown, total, now - started, unit="clip", bar_format=_LINE, initial=done))

        if settings.engine == "local":
            return ShardExtractor(settings, writer, backbone, decoders).fill(shards, report)
        from glimpse_env.extract.ray_engine import fill_on_ray

        return fill_on_ray(settings, writer, shards, report)


def _estimate(
    settings: Settings, dataset: VideoDataset, manifest: Manifest, backbone: Backbone, decoders: Decoders
) -> None:
    """Print the clips, size and time of an extraction, estimated from a few videos spread over the data set.

    Raises:
        StoreError: `settings.out` holds something else, or a store with other settings.
    """
    require_same(settings.out, manifest)
    left = len(missing_shards(settings.out, manifest))
    clips = dataset.clips
    _print_dataset(settings, dataset)
    if left < manifest.num_shards:
        print(f"{manifest.num_shards - left} of {manifest.num_shards} shards exist already")
    places = np.unique(np.linspace(0, len(clips) - 1, _SAMPLED).astype(int)).tolist()
    lengths, seconds = _try([clips[place].path for place in places], settings, backbone, decoders)
    print(f"tried {len(places)} videos; {len(places) - len(lengths)} cannot be read")
    if lengths:
        frames = len(clips) * sum(lengths) / len(places)
        a_frame = backbone.grid_size**2 * (2 * backbone.depth + manifest.has_coverage) + 3 * THUMBNAIL_SIZE**2
        minutes = left / manifest.num_shards * frames / sum(lengths) * seconds / 60
        # The speed of Ray's workers cannot be measured here.
        time = f"{minutes:,.0f} minutes to go" if settings.engine == "local" else "time depends on Ray's workers"
        print(f"about {frames:,.0f} frames, {frames * a_frame / 1e9:.2f} GB, {time}")


def _print_dataset(settings: Settings, dataset: VideoDataset) -> None:
    clips, classes = len(dataset.clips), len(dataset.class_names)
    print(f"{dataset.name}: {clips} clips of {classes} classes into {settings.out}; {dataset.split_rule}")
    for fold in range(dataset.num_folds):
        counts = Counter(clip.splits[fold] for clip in dataset.clips)
        print(f"fold {fold + 1}: " + ", ".join(f"{counts[part]} {part}" for part in SPLITS))
    for note in dataset.skipped[:_SHOWN]:
        print(f"left out: {note}")
    if len(dataset.skipped) > _SHOWN:
        print(f"left out: {len(dataset.skipped) - _SHOWN} more, listed in report.json")
    if dataset.missing:
        print(f"{len(dataset.missing)} annotated videos are not in {settings.videos}; report.json lists them")


def _try(paths: list[Path], settings: Settings, backbone: Backbone, decoders: Decoders) -> tuple[list[int], float]:
    """Return the number of frames of each readable video, and the seconds for all without warming up."""
    stopwatch = Stopwatch()
    decoded = decoders.decode([paths[0], *paths], backbone.rule)
    first = next(decoded)
    if isinstance(first, DecodedClip):
        embed([(paths[0], first)], backbone, batch_size=settings.batch_size, crop=settings.crop, stopwatch=Stopwatch())
    with stopwatch.measure("total"):
        clips = zip(paths, decoded, strict=True)
        results = embed(clips, backbone, batch_size=settings.batch_size, crop=settings.crop, stopwatch=stopwatch)
    lengths = [len(result.features) for result in results if not isinstance(result, VideoError)]
    spent = stopwatch.seconds
    # A few videos were decoded before the clock ran; in the long run the slower of the two sides decides.
    decoding = (spent.get("decode", 0) + spent.get("resize", 0)) / settings.num_decoders
    return lengths, max(spent["total"], decoding)
