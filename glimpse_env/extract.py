"""Videos in, a feature store out: decode at a fixed rate, run GoogLeNet, keep the cubes.

    python -m glimpse_env.extract hmdb51 --videos DIR --splits DIR --weights FILE --out STORE
    python -m glimpse_env.extract folder --videos DIR --weights FILE --out STORE

Decoding runs ahead on its own threads while the network works. Batches cross the borders between clips, and those of
one shard never mix with another's, so that a run that was killed and went on computes what an unbroken one would.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from glimpse_env.backbones import Backbone, BackboneName, WeightsError, load_backbone
from glimpse_env.datasets import DatasetError, VideoClip, VideoDataset, folder, hmdb51
from glimpse_env.decode import (
    FRAME_SIZE,
    RESIZE_RULE,
    DecodedClip,
    VideoError,
    decode_clip,
    decoder_versions,
)
from glimpse_env.manifest import Manifest, StoreError
from glimpse_env.store_writer import ClipArrays, StoreWriter

_SHARD_FRAMES = 1024  # about 100 MB of features, and what a killed run computes again at most
_CLIPS_AHEAD = 12  # decoded clips that may wait for the network


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every data set's extraction is told."""

    videos: Path
    """folder of videos, with a folder per class"""
    out: Path
    """folder of the store to write, or to go on with"""
    backbone: BackboneName = "bvlc_googlenet"
    """network whose last activations are kept"""
    weights: Path | None = None
    """its weights: .safetensors, for googlenet also torchvision's .pth"""
    frames: int = 30
    """frames of an episode"""
    fps: float = 30.0
    """frames sampled per second of video"""
    max_frames: int | None = None
    """most frames to keep of a clip, its middle ones; more than --frames lets training jitter (default: --frames)"""
    actor_coverage: Path | None = None
    """.npz with, for each `<class>/<name>`, uint8 (frames, 7, 7): how much of each cell the actor covers, 255 = all"""
    batch_size: int = 16
    """frames per network call"""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>"""
    threads: int = field(default_factory=torch.get_num_threads)
    """of the network on the CPU"""
    decode_threads: int = 1
    """clips decoded at the same time"""

    def __post_init__(self) -> None:
        for name in ("frames", "fps", "batch_size", "threads", "decode_threads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_frames is not None and self.max_frames < self.frames:
            raise ValueError(f"max_frames must be at least frames ({self.frames}), got {self.max_frames}")

    @property
    def frames_kept(self) -> int:
        return self.max_frames or self.frames

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return folder(self.videos)


@dataclass(frozen=True, kw_only=True)
class HMDB51(Settings):
    """HMDB-51, or J-HMDB, with its official splits."""

    splits: Path
    """folder of `<class>_test_split<fold>.txt`"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return hmdb51(self.videos, self.splits)


class Folder(Settings):
    """Your own videos, split by name into train, validation and test."""


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What the network makes of one video.

    Attributes:
        path: the video.
        times: (n,) float64 seconds.
        numbers: (n,) int64, which frames of the file they are.
        thumbnails: (n, 112, 112, 3) uint8 RGB.
        features: (n, K, K, D) float16.
    """

    path: Path
    times: NDArray[np.float64]
    numbers: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float16]


@dataclass
class Stopwatch:
    """Seconds spent, by activity."""

    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, activity: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - begun


def extract_videos(
    paths: Sequence[Path],
    backbone: Backbone,
    *,
    frames_per_second: float,
    max_frames: int,
    batch_size: int = 16,
) -> list[VideoFeatures | VideoError]:
    """Extract features of any video files, in memory.

    Args:
        paths: the files.
        backbone: a loaded network.
        frames_per_second: the rate of the samples.
        max_frames: a longer video keeps its centred window of so many samples.
        batch_size: frames per network call.

    Returns:
        For each file, in order, its features, or the error that says why it cannot be read.
    """
    decoded = decode_ahead(paths, frames_per_second=frames_per_second, max_frames=max_frames, threads=1)
    return embed(zip(paths, decoded, strict=True), backbone, batch_size=batch_size, stopwatch=Stopwatch())


def decode_ahead(
    paths: Iterable[Path], *, frames_per_second: float, max_frames: int, threads: int
) -> Iterator[DecodedClip | VideoError]:
    """Decode files in order on threads of their own, a few clips before they are asked for."""

    def decode(path: Path) -> DecodedClip | VideoError:
        try:
            return decode_clip(path, frames_per_second=frames_per_second, max_frames=max_frames)
        except VideoError as error:
            return error

    remaining = iter(paths)
    # One thread for resizing leaves the processor to the network.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            waiting = deque(pool.submit(decode, path) for path in itertools.islice(remaining, _CLIPS_AHEAD))
            while waiting:
                outcome = waiting.popleft().result()
                waiting.extend(pool.submit(decode, path) for path in itertools.islice(remaining, 1))
                yield outcome
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def embed(
    clips: Iterable[tuple[Path, DecodedClip | VideoError]],
    backbone: Backbone,
    *,
    batch_size: int,
    stopwatch: Stopwatch,
) -> list[VideoFeatures | VideoError]:
    """Run the network over decoded clips in batches of one fixed size, the last one padded with black."""
    batcher = _Batcher(backbone, batch_size, stopwatch)
    results: list[VideoFeatures | VideoError] = []
    for path, clip in clips:
        if isinstance(clip, VideoError):
            results.append(clip)
            continue
        cubes = np.empty((len(clip.frames), backbone.grid_size, backbone.grid_size, backbone.depth), np.float16)
        batcher.add(clip.frames, cubes)
        results.append(
            VideoFeatures(path=path, times=clip.times, numbers=clip.numbers, thumbnails=clip.thumbnails, features=cubes)
        )
    batcher.flush()
    return results


class _Batcher:
    """Gathers frames of many clips into full batches and gives the cubes back to the clips."""

    def __init__(self, backbone: Backbone, batch_size: int, stopwatch: Stopwatch) -> None:
        self._backbone = backbone
        self._stopwatch = stopwatch
        self._frames = np.zeros((batch_size, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._targets: list[NDArray[np.float16]] = []

    def add(self, frames: NDArray[np.uint8], cubes: NDArray[np.float16]) -> None:
        """Take (n, 224, 224, 3) frames, and fill (n, K, K, D) `cubes` by the next flush at the latest."""
        for frame, target in zip(frames, cubes, strict=True):
            self._frames[len(self._targets)] = frame
            self._targets.append(target)
            if len(self._targets) == len(self._frames):
                self.flush()

    def flush(self) -> None:
        """Run what is gathered."""
        if self._targets:
            self._frames[len(self._targets) :] = 0
            cubes = self._stopwatch.time("network", self._run)
            for target, cube in zip(self._targets, cubes, strict=False):
                target[...] = cube
            self._targets.clear()

    def _run(self) -> NDArray[np.float16]:
        cubes: NDArray[np.float16] = self._backbone.cubes(torch.from_numpy(self._frames)).half().cpu().numpy()
        return cubes


def extract(settings: Settings) -> Path:
    """Extract a data set into a feature store, or go on where an earlier run was stopped.

    Returns:
        The store's folder.

    Raises:
        DatasetError: the data set is empty or its files contradict each other.
        WeightsError: the weights do not fit.
        StoreError: the folder holds something else or a store with other settings, or no video could be read.
    """
    torch.set_num_threads(settings.threads)
    dataset = settings.dataset()
    coverage = _open_coverage(settings.actor_coverage, dataset.clips)
    backbone = load_backbone(settings.backbone, weights=settings.weights, device=settings.device)
    shares = _shares(dataset.clips, max(1, _SHARD_FRAMES // settings.frames_kept))
    manifest = _manifest(settings, dataset, backbone, num_shards=len(shares))
    writer = StoreWriter(settings.out, manifest, dataset.clips)
    stopwatch = Stopwatch()
    begun = time.perf_counter()
    frames = _extract_shards(settings, writer, shares, backbone, coverage, stopwatch)
    failures = writer.finish()
    stopwatch.seconds["total"] = time.perf_counter() - begun
    _report(settings.out, len(dataset.clips), frames, failures, stopwatch)
    return settings.out


def _shares(clips: Sequence[VideoClip], size: int) -> list[Sequence[VideoClip]]:
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def _extract_shards(
    settings: Settings,
    writer: StoreWriter,
    shares: Sequence[Sequence[VideoClip]],
    backbone: Backbone,
    coverage: Any,
    stopwatch: Stopwatch,
) -> int:
    """Fill the shards that are missing and return how many frames that took."""
    missing = writer.missing_shards()
    decoded = decode_ahead(
        (clip.path for shard in missing for clip in shares[shard]),
        frames_per_second=settings.fps,
        max_frames=settings.frames_kept,
        threads=settings.decode_threads,
    )
    total = sum(map(len, shares))
    frames = 0
    written: Future[None] | None = None
    with (
        tqdm(total=total, initial=total - sum(len(shares[s]) for s in missing), unit="clip") as bar,
        ThreadPoolExecutor(1) as disk,
    ):
        for shard in missing:
            clips = _watched(shares[shard], decoded, bar, stopwatch)
            results = embed(clips, backbone, batch_size=settings.batch_size, stopwatch=stopwatch)
            if written is not None:
                stopwatch.time("waiting for the disk", written.result)
            arrays, failures = _sorted_out(shares[shard], results, coverage)
            frames += sum(len(clip.features) for clip in arrays)
            written = disk.submit(writer.write_shard, shard, arrays, failures)
        if written is not None:
            stopwatch.time("waiting for the disk", written.result)
    return frames


def _watched(
    clips: Sequence[VideoClip], decoded: Iterator[DecodedClip | VideoError], bar: Any, stopwatch: Stopwatch
) -> Iterator[tuple[Path, DecodedClip | VideoError]]:
    for clip in clips:
        outcome = stopwatch.time("waiting for decoded frames", lambda: next(decoded))
        if isinstance(outcome, VideoError):
            bar.write(f"skipped: {outcome}")
        yield clip.path, outcome
        bar.update()


def _sorted_out(
    clips: Sequence[VideoClip], results: Sequence[VideoFeatures | VideoError], coverage: Any
) -> tuple[list[ClipArrays], dict[str, str]]:
    """Tell the clips that could be read from the reasons why others could not."""
    arrays, failures = [], {}
    for clip, result in zip(clips, results, strict=True):
        if isinstance(result, VideoError):
            failures[clip.clip_id] = result.reason
        else:
            arrays.append(
                ClipArrays(
                    clip_id=clip.clip_id,
                    start=float(result.times[0]),
                    features=result.features,
                    thumbnails=result.thumbnails,
                    coverage=None if coverage is None else coverage[clip.clip_id][result.numbers],
                )
            )
    return arrays, failures


def _open_coverage(path: Path | None, clips: Sequence[VideoClip]) -> Any:
    if path is None:
        return None
    coverage = np.load(path, allow_pickle=False)
    missing = sorted({clip.clip_id for clip in clips} - set(coverage.files))
    if missing:
        raise DatasetError(f"{path} has no coverage of {len(missing)} clips: {', '.join(missing[:10])}")
    return coverage


def _manifest(settings: Settings, dataset: VideoDataset, backbone: Backbone, *, num_shards: int) -> Manifest:
    clips = json.dumps([(clip.clip_id, clip.label, clip.splits) for clip in dataset.clips])
    return Manifest(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_folds=dataset.num_folds,
        clips_sha256=hashlib.sha256(clips.encode()).hexdigest(),
        trimmed=True,
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        resize_rule=RESIZE_RULE,
        decoder=decoder_versions(),
        software=f"torch {torch.__version__}",
        device=backbone.device.type,
        threads=settings.threads,
        batch_size=settings.batch_size,
        frames_per_second=settings.fps,
        num_frames=settings.frames,
        max_frames=settings.frames_kept,
        grid_size=backbone.grid_size,
        depth=backbone.depth,
        dtype="float16",
        has_coverage=settings.actor_coverage is not None,
        num_shards=num_shards,
    )


def _report(out: Path, clips: int, frames: int, failures: dict[str, str], stopwatch: Stopwatch) -> None:
    """Write `report.json` and tell the same on the screen."""
    rate = frames / stopwatch.seconds["total"]
    seconds = {activity: round(value, 2) for activity, value in stopwatch.seconds.items()}
    content = {"clips": clips, "failures": failures, "frames": frames, "frames_per_second": rate, "seconds": seconds}
    (out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(
        f"{out}: {clips - len(failures)} of {clips} clips; {frames} frames in this run, {rate:.1f} a second {seconds}"
    )
    for clip, reason in failures.items():
        print(f"not read: {clip}: {reason}")


def main() -> None:
    """Run the command line."""
    command = Annotated[HMDB51, tyro.conf.subcommand("hmdb51")] | Annotated[Folder, tyro.conf.subcommand("folder")]
    try:
        extract(tyro.cli(command, prog="python -m glimpse_env.extract", description=__doc__))
    except (DatasetError, WeightsError, StoreError, RuntimeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
