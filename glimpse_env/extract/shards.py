"""Shards of a store, filled with the clips of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.datasets import DatasetError, VideoClip
from glimpse_env.extract.settings import Settings
from glimpse_env.store.writer import ClipArrays, StoreWriter
from glimpse_env.video.backbones import Backbone, load_backbone, prepare_process
from glimpse_env.video.decode import DecodedClip, Stopwatch, VideoError
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.features import VideoFeatures, embed

Report = Callable[[VideoClip, VideoError | None], object]  # called after each clip, with the error if it is unreadable


@dataclass
class Work:
    """Amount of work, and its times, summed over processes and threads that work at the same time."""

    clips: int = 0
    frames: int = 0
    num_bytes: int = 0
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def add(self, other: Work) -> None:
        """Add the work of a shard or of another worker."""
        self.clips += other.clips
        self.frames += other.frames
        self.num_bytes += other.num_bytes
        self.stopwatch.add(other.stopwatch.seconds)


class ShardExtractor:
    """Fills shards of a store, one after the other, in this process."""

    def __init__(self, settings: Settings, writer: StoreWriter, backbone: Backbone, decoders: Decoders) -> None:
        self._settings = settings
        self._writer = writer
        self._backbone = backbone
        self._decoders = decoders
        self._coverage = open_coverage(settings.actor_coverage, writer.clips)

    def fill(self, shards: Sequence[int], report: Report) -> Work:
        """Decode, embed and write the clips of some shards."""
        work = Work()
        shares = [self._writer.share(shard) for shard in shards]
        decoded = self._decoders.decode((clip.path for share in shares for clip in share), self._backbone.rule)
        written: Future[dict[str, float]] | None = None
        with ThreadPoolExecutor(1) as disk:
            for shard, share in zip(shards, shares, strict=True):
                results = embed(
                    _reported(share, decoded, report, work.stopwatch),
                    self._backbone,
                    batch_size=self._settings.batch_size,
                    crop=self._settings.crop,
                    stopwatch=work.stopwatch,
                )
                outcomes = [
                    _arrays_of(clip, result, self._coverage) for clip, result in zip(share, results, strict=True)
                ]
                failures = {
                    c.clip_id: reason for c, reason in zip(share, outcomes, strict=True) if isinstance(reason, str)
                }
                arrays = [outcome for outcome in outcomes if isinstance(outcome, ClipArrays)]
                _wait(written, work.stopwatch)
                written = disk.submit(self._write, shard, arrays, failures)
                frames = sum(len(clip.features) for clip in arrays)
                work.add(Work(len(arrays), frames, sum(clip.num_bytes for clip in arrays)))
            _wait(written, work.stopwatch)
        return work

    def _write(self, shard: int, arrays: Sequence[ClipArrays], failures: dict[str, str]) -> dict[str, float]:
        stopwatch = Stopwatch()
        with stopwatch.measure("write"):
            self._writer.write_shard(shard, arrays, failures)
        return stopwatch.seconds


def load_network(settings: Settings, *, device: str | None = None) -> Backbone:
    """Load the network of the settings, on their device or another, and prepare this process to run it."""
    prepare_process(threads=settings.threads)
    return load_backbone(
        settings.backbone,
        layer=settings.layer,
        weights=settings.weights,
        device=device or settings.device,
        precision=settings.precision,
        compiled=settings.compile,
    )


def make_decoders(settings: Settings) -> Decoders:
    """Return the decoders of the settings."""
    return Decoders(
        frames_per_second=settings.fps,
        max_frames=settings.frames_kept,
        decoder=settings.decoder,
        processes=settings.num_decoders,
        seconds_per_video=settings.seconds_per_video,
    )


def open_coverage(path: Path | None, clips: Sequence[VideoClip]) -> Any:
    """Open the file of the actors' places, if there is one.

    Raises:
        DatasetError: it cannot be read, or lacks some of the clips.
    """
    if path is None:
        return None
    try:
        coverage = np.load(path, allow_pickle=False)
    except Exception as error:  # parsers of zip and .npy raise a dozen types
        raise DatasetError(f"{path} cannot be read as .npz: {error}") from error
    if not isinstance(coverage, np.lib.npyio.NpzFile):
        raise DatasetError(f"{path} holds one array, not an .npz file of one for each clip")
    missing = sorted({clip.clip_id for clip in clips} - set(coverage.files))
    if missing:
        raise DatasetError(f"{path} has no coverage of {len(missing)} clips: {', '.join(missing[:10])}")
    return coverage


def check_grid(coverage: Any, clips: Sequence[str], backbone: Backbone) -> None:
    """Raise a DatasetError if the actor's place in all of some clips is on another grid than the network's cells."""
    size, grids = backbone.grid_size, set()
    for clip in clips:
        try:
            grids.add(coverage[clip].shape[1:])
        except Exception:  # of a dozen types; the clip will fail with it
            return
    if (size, size) not in grids:
        raise DatasetError(
            f"the actor coverage has grids of {', '.join(map(str, grids))}, and cubes of {backbone.name} have {size} x "
            f"{size} cells: give coverage of that grid, or leave it out"
        )


def _wait(written: Future[dict[str, float]] | None, stopwatch: Stopwatch) -> None:
    if written is not None:
        with stopwatch.measure("waiting for the disk"):
            stopwatch.add(written.result())


def _reported(
    clips: Sequence[VideoClip], decoded: Iterator[DecodedClip | VideoError], report: Report, stopwatch: Stopwatch
) -> Iterator[tuple[Path, DecodedClip | VideoError]]:
    for clip in clips:
        with stopwatch.measure("waiting for decoded frames"):
            outcome = next(decoded)
        yield clip.path, outcome
        report(clip, outcome if isinstance(outcome, VideoError) else None)


def _arrays_of(clip: VideoClip, result: VideoFeatures | VideoError, coverage: Any) -> ClipArrays | str:
    """Return the arrays of a clip, or the reason why it has none."""
    if isinstance(result, VideoError):
        return result.reason
    chosen = None
    if coverage is not None:
        try:
            whole: NDArray[np.uint8] = coverage[clip.clip_id]
        except Exception as error:
            return f"its actor coverage cannot be read ({type(error).__name__}: {error})"
        grid, needed = result.features.shape[1:3], int(result.numbers[-1]) + 1
        if whole.dtype != np.uint8 or whole.shape[1:] != grid or len(whole) < needed:
            expected = f"({needed} or more, {grid[0]}, {grid[1]})"
            return f"its actor coverage is {whole.dtype} {whole.shape}, not uint8 {expected}"
        chosen = whole[result.numbers]
    return ClipArrays(
        clip_id=clip.clip_id,
        start=float(result.times[0]),
        features=result.features,
        thumbnails=result.thumbnails,
        coverage=chosen,
        decoder=result.decoder,
    )
