"""Estimates of an extraction: clips, size and time, from a few videos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from glimpse_env.datasets import VideoDataset
from glimpse_env.extract.settings import Settings
from glimpse_env.sources.splits import SPLITS
from glimpse_env.store.manifest import Manifest
from glimpse_env.store.writer import missing_shards, require_same
from glimpse_env.video.backbones import Backbone
from glimpse_env.video.decode import THUMBNAIL_SIZE, DecodedClip, VideoError
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.features import embed
from glimpse_env.video.stopwatch import Stopwatch

_SAMPLED = 8  # videos that are tried
_SHOWN = 10  # notes that are printed


def estimate(
    settings: Settings, dataset: VideoDataset, manifest: Manifest, backbone: Backbone, decoders: Decoders
) -> None:
    """Print what an extraction would do, judged by a few videos spread over the data set.

    Raises:
        StoreError: `settings.out` holds something else, or a store with other settings.
    """
    require_same(settings.out, manifest)
    left = len(missing_shards(settings.out, manifest))
    clips = dataset.clips
    print(f"{dataset.name}: {len(clips)} clips of {len(dataset.class_names)} classes into {settings.out}")
    for fold in range(dataset.num_folds):
        counts = Counter(clip.splits[fold] for clip in clips)
        print(f"fold {fold + 1}: " + ", ".join(f"{counts[part]} {part}" for part in SPLITS))
    report_left_out(settings, dataset)
    if left < manifest.num_shards:
        print(f"{manifest.num_shards - left} of {manifest.num_shards} shards are there already")
    places = np.unique(np.linspace(0, len(clips) - 1, _SAMPLED).astype(int)).tolist()
    lengths, seconds = _try([clips[place].path for place in places], settings, backbone, decoders)
    print(f"tried {len(places)} videos, of which {len(places) - len(lengths)} cannot be read")
    if lengths:
        frames = len(clips) * sum(lengths) / len(places)
        a_frame = backbone.grid_size**2 * (2 * backbone.depth + manifest.has_coverage) + 3 * THUMBNAIL_SIZE**2
        minutes = left / manifest.num_shards * frames / sum(lengths) * seconds / 60
        # What Ray's workers take is not to be learned here.
        time = f"{minutes:,.0f} minutes to go" if settings.engine == "local" else "time depends on Ray's workers"
        print(f"about {frames:,.0f} frames, {frames * a_frame / 1e9:.2f} GB, {time}")


def report_left_out(settings: Settings, dataset: VideoDataset) -> None:
    """Print which videos of a data set are left out, and why; the store's report lists all of them."""
    for note in dataset.skipped[:_SHOWN]:
        print(f"left out: {note}")
    if len(dataset.skipped) > _SHOWN:
        print(f"left out: {len(dataset.skipped) - _SHOWN} more, which report.json lists")
    if dataset.missing:
        print(f"{len(dataset.missing)} annotated videos are not in {settings.videos}; report.json lists them")


def _try(paths: list[Path], settings: Settings, backbone: Backbone, decoders: Decoders) -> tuple[list[int], float]:
    """Return the number of frames of each video that can be read, and the seconds they took once all was warm."""
    stopwatch = Stopwatch()
    decoded = decoders.decode([paths[0], *paths])
    first = next(decoded)
    if isinstance(first, DecodedClip):
        embed([(paths[0], first)], backbone, batch_size=settings.batch_size, crop=settings.crop, stopwatch=Stopwatch())
    with stopwatch.measure("total"):
        clips = zip(paths, decoded, strict=True)
        results = embed(clips, backbone, batch_size=settings.batch_size, crop=settings.crop, stopwatch=stopwatch)
    lengths = [len(result.features) for result in results if not isinstance(result, VideoError)]
    spent = stopwatch.seconds
    # A few videos were decoded before the clock ran: in the long run the slower of the two sides decides.
    decoding = (spent.get("decode", 0) + spent.get("resize", 0)) / settings.num_decoders
    return lengths, max(spent["total"], decoding)
