"""Videos in, a feature store out: decode at a fixed rate, run GoogLeNet, keep the cubes.

    python -m glimpse_env.extract hmdb51 --videos DIR --splits DIR --weights FILE --out STORE
    python -m glimpse_env.extract ucf101 --videos DIR --splits DIR --weights FILE --out STORE
    python -m glimpse_env.extract activitynet --videos DIR --annotations FILE --weights FILE --out STORE
    python -m glimpse_env.extract folder --videos DIR --weights FILE --out STORE

A run that was killed goes on where it was with the same command, and gives the same store: what is lost is the share
of clips, a shard, that it was at. Videos that cannot be read are named, listed in the store's report.json and skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from glimpse_env.backbones import Backbone, BackboneName, DeviceError, WeightsError, load_backbone
from glimpse_env.datasets import DatasetError, VideoClip, VideoDataset, activitynet, folder, hmdb51, ucf101
from glimpse_env.decode import RESIZE_RULE, DecodedClip, VideoError, decoder_versions
from glimpse_env.features import Stopwatch, VideoFeatures, decode_ahead, embed
from glimpse_env.splits import SPLITS
from glimpse_env.store.manifest import Manifest, StoreError
from glimpse_env.store.writer import ClipArrays, StoreWriter, write_report


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
    """.npz with, under each clip's id, uint8 (frames, 7, 7): how much of each cell the actor covers, 255 = all; ids are
    `<class>/<name>`, of your own videos with the suffix"""
    batch_size: int = 16
    """frames per network call"""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>"""
    threads: int = field(default_factory=torch.get_num_threads)
    """of the network on the CPU"""
    decode_threads: int = 1
    """clips decoded at the same time"""
    shard_frames: int = 1024
    """frames that a shard of the store may hold: what a killed run computes again at most (100 MB for 1024)"""
    dry_run: bool = False
    """write nothing: say what extracting from the start would do, its size and time, judged by a few videos"""

    def __post_init__(self) -> None:
        for name in ("frames", "fps", "batch_size", "threads", "decode_threads", "shard_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_frames is not None and self.max_frames < self.frames:
            raise ValueError(f"max_frames must be at least frames ({self.frames}), got {self.max_frames}")

    @property
    def frames_kept(self) -> int:
        return self.max_frames or self.frames

    @property
    def clips_per_shard(self) -> int:
        return max(1, self.shard_frames // self.frames_kept)

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


@dataclass(frozen=True, kw_only=True)
class UCF101(Settings):
    """UCF-101 with its official splits."""

    splits: Path
    """folder of classInd.txt, trainlist<fold>.txt and testlist<fold>.txt"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return ucf101(self.videos, self.splits)


@dataclass(frozen=True, kw_only=True)
class ActivityNet(Settings):
    """ActivityNet v1.3, untrimmed, with as many of its videos as are there."""

    videos: Path
    """folder of videos, v_<id>.mp4 and the like, at any depth"""
    annotations: Path
    """the official JSON file"""
    fps: float = 2.0
    """frames sampled per second of video"""
    max_frames: int | None = 600
    """most frames to keep of a video, its middle ones; episodes are windows of --frames of them"""
    shard_frames: int = 4096
    """frames that a shard of the store may hold: what a killed run computes again at most (100 MB for 1024)"""

    def dataset(self) -> VideoDataset:
        """Describe the videos."""
        return activitynet(self.videos, self.annotations)


class Folder(Settings):
    """Your own videos, split by name into train, validation and test."""


def extract(settings: Settings) -> Path:
    """Extract a data set into a feature store, or go on where an earlier run was stopped.

    Two runs never write the same store: a lock beside it, which ends with its process, keeps the second one out.

    Returns:
        The store's folder.

    Raises:
        DatasetError: the data set is empty or its files contradict each other.
        WeightsError: the weights do not fit.
        StoreError: the folder holds something else or a store with other settings, no video could be read, or another
            run is writing it.
    """
    if settings.dry_run:
        _estimate(settings)
        return settings.out
    place = settings.out.resolve()  # by whichever name it is called, a store has one lock
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=0):
            return _extract(settings)
    except Timeout:
        raise StoreError(
            f"{settings.out} is being written by another extraction: wait for it, or choose another --out"
        ) from None


def _extract(settings: Settings) -> Path:
    torch.set_num_threads(settings.threads)
    dataset = settings.dataset()
    if dataset.missing:
        print(f"{len(dataset.missing)} annotated videos are not in {settings.videos}; the report lists them")
    coverage = _open_coverage(settings.actor_coverage, dataset.clips)
    backbone = load_backbone(settings.backbone, weights=settings.weights, device=settings.device)
    shares = _shares(dataset.clips, settings.clips_per_shard)
    manifest = _manifest(settings, dataset, backbone, num_shards=len(shares))
    writer = StoreWriter(settings.out, manifest, dataset.clips)
    stopwatch = Stopwatch()
    with stopwatch.measure("total"):
        frames = _extract_shards(settings, writer, shares, backbone, coverage, stopwatch)
        failures = writer.finish()
    write_report(settings.out, failures=failures, missing=dataset.missing, frames=frames, seconds=stopwatch.seconds)
    _tell(settings.out, len(dataset.clips), frames, failures, stopwatch)
    return settings.out


_SAMPLED = 8  # videos that a dry run tries


def _estimate(settings: Settings) -> None:
    """Print what an extraction would do, judged by a few videos spread over the data set."""
    torch.set_num_threads(settings.threads)
    dataset = settings.dataset()
    backbone = load_backbone(settings.backbone, weights=settings.weights, device=settings.device)
    clips = dataset.clips
    _open_coverage(settings.actor_coverage, clips)
    places = np.unique(np.linspace(0, len(clips) - 1, _SAMPLED).astype(int)).tolist()
    stopwatch = Stopwatch()
    with stopwatch.measure("total"):
        decoded = decode_ahead(
            (clips[place].path for place in places),
            frames_per_second=settings.fps,
            max_frames=settings.frames_kept,
            threads=settings.decode_threads,
        )
        pairs = ((clips[place].path, outcome) for place, outcome in zip(places, decoded, strict=True))
        results = embed(pairs, backbone, batch_size=settings.batch_size, stopwatch=stopwatch)
    read = [len(result.features) for result in results if not isinstance(result, VideoError)]
    print(f"{dataset.name}: {len(clips)} clips of {len(dataset.class_names)} classes into {settings.out}")
    for fold in range(dataset.num_folds):
        counts = Counter(clip.splits[fold] for clip in clips)
        print(f"fold {fold + 1}: " + ", ".join(f"{counts[part]} {part}" for part in SPLITS))
    if dataset.missing:
        print(f"{len(dataset.missing)} annotated videos are not in {settings.videos}")
    print(f"tried {len(places)} videos, of which {len(places) - len(read)} cannot be read")
    if read:
        frames = len(clips) * sum(read) / len(places)
        a_frame = backbone.grid_size**2 * (2 * backbone.depth + (settings.actor_coverage is not None)) + 3 * 112**2
        minutes = frames / sum(read) * stopwatch.seconds["total"] / 60
        print(f"about {frames:,.0f} frames, {frames * a_frame / 1e9:.2f} GB, {minutes:,.0f} minutes")


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
            _wait(written, stopwatch)
            arrays, failures = _sorted_out(shares[shard], results, coverage)
            frames += sum(len(clip.features) for clip in arrays)
            written = disk.submit(writer.write_shard, shard, arrays, failures)
        _wait(written, stopwatch)
    return frames


def _wait(written: Future[None] | None, stopwatch: Stopwatch) -> None:
    if written is not None:
        with stopwatch.measure("waiting for the disk"):
            written.result()


def _watched(
    clips: Sequence[VideoClip], decoded: Iterator[DecodedClip | VideoError], bar: Any, stopwatch: Stopwatch
) -> Iterator[tuple[Path, DecodedClip | VideoError]]:
    for clip in clips:
        with stopwatch.measure("waiting for decoded frames"):
            outcome = next(decoded)
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
        try:
            if isinstance(result, VideoError):
                raise result
            arrays.append(
                ClipArrays(
                    clip_id=clip.clip_id,
                    start=float(result.times[0]),
                    features=result.features,
                    thumbnails=result.thumbnails,
                    coverage=None if coverage is None else _coverage_of(clip, result, coverage),
                )
            )
        except VideoError as error:
            failures[clip.clip_id] = error.reason
    return arrays, failures


def _coverage_of(clip: VideoClip, result: VideoFeatures, coverage: Any) -> NDArray[np.uint8]:
    whole: NDArray[np.uint8] = coverage[clip.clip_id]
    grid, needed = result.features.shape[1:3], int(result.numbers[-1]) + 1
    if whole.dtype != np.uint8 or whole.shape[1:] != grid or len(whole) < needed:
        expected = f"({needed} or more, {grid[0]}, {grid[1]})"
        raise VideoError(clip.path, f"its actor coverage is {whole.dtype} {whole.shape}, not uint8 {expected}")
    return whole[result.numbers]


def _open_coverage(path: Path | None, clips: Sequence[VideoClip]) -> Any:
    if path is None:
        return None
    coverage = np.load(path, allow_pickle=False)
    missing = sorted({clip.clip_id for clip in clips} - set(coverage.files))
    if missing:
        raise DatasetError(f"{path} has no coverage of {len(missing)} clips: {', '.join(missing[:10])}")
    return coverage


def _manifest(settings: Settings, dataset: VideoDataset, backbone: Backbone, *, num_shards: int) -> Manifest:
    clips = json.dumps([(clip.clip_id, clip.label, clip.splits, *clip.segments) for clip in dataset.clips])
    return Manifest(
        dataset=dataset.name,
        class_names=dataset.class_names,
        num_folds=dataset.num_folds,
        clips_sha256=hashlib.sha256(clips.encode()).hexdigest(),
        trimmed=dataset.trimmed,
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
        clips_per_shard=settings.clips_per_shard,
        num_shards=num_shards,
    )


def _tell(out: Path, clips: int, frames: int, failures: Mapping[str, str], stopwatch: Stopwatch) -> None:
    for clip, reason in failures.items():
        print(f"not read: {clip}: {reason}")
    seconds = ", ".join(f"{value:.1f} s {activity}" for activity, value in stopwatch.seconds.items())
    rate = frames / stopwatch.seconds["total"]
    print(
        f"{out}: {clips - len(failures)} of {clips} clips. This run: {frames} frames, {rate:.1f} a second ({seconds})"
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line: a data set and its settings."""
    command = (
        Annotated[HMDB51, tyro.conf.subcommand("hmdb51")]
        | Annotated[UCF101, tyro.conf.subcommand("ucf101")]
        | Annotated[ActivityNet, tyro.conf.subcommand("activitynet")]
        | Annotated[Folder, tyro.conf.subcommand("folder")]
    )
    settings: Settings = tyro.cli(command, args=arguments, prog="python -m glimpse_env.extract", description=__doc__)
    return settings


def main() -> None:
    """Run the command line."""
    try:
        extract(parse_arguments())
    except (DatasetError, WeightsError, DeviceError, StoreError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
