"""Writing a feature store, shard by shard, so that a killed process loses one shard at most.

A shard holds a fixed share of the clips, decided before the first frame is decoded. It is written in a folder next to
its place, forced to the disk and renamed, so a folder with its final name is whole.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from glimpse_env.datasets import VideoClip
from glimpse_env.datasets.description import spell
from glimpse_env.files import file_sha256, sync_folder, write_atomically, write_synced
from glimpse_env.store.manifest import (
    SPLIT_CODES,
    Bank,
    Manifest,
    StoreError,
    clip_checksum,
    damage_as_store_error,
    manifest_text,
    read_manifest,
    read_record,
    shard_folder,
)

_NO_CONTENT = ("manifest.json.*.partial", ".DS_Store", "Thumbs.db", "desktop.ini")  # the latter of file managers
_INFINITY, _SIGN = 0x7C00, 0x8000  # bits of float16


@dataclass(frozen=True, kw_only=True)
class ClipArrays:
    """One clip of a store."""

    clip_id: str
    start: float  # seconds of its first frame
    features: NDArray[np.float16]  # (n, K, K, D)
    thumbnails: NDArray[np.uint8]  # (n, 112, 112, 3) RGB
    coverage: NDArray[np.uint8] | None = None  # (n, K, K), None in a store without it
    decoder: str = ""  # library that decoded it, "" if no video was decoded

    @property
    def num_bytes(self) -> int:
        arrays = (self.features, self.thumbnails, self.coverage)
        return sum(array.nbytes for array in arrays if array is not None)


class StoreWriter:
    """Begins a store, or resumes one, and finishes it.

    Args:
        path: the store's folder; made if it is missing.
        manifest: manifest of the new store.
        clips: all clips asked for; shard k takes the k-th `manifest.clips_per_shard` of them.

    Raises:
        StoreError: the folder holds something else, a store that was begun with other settings, or cannot be written.
    """

    def __init__(self, path: Path, manifest: Manifest, clips: Sequence[VideoClip]) -> None:
        self.path, self.manifest, self.clips = path, manifest, clips
        begun = require_same(path, manifest)
        if begun is None:
            self._write_manifest(kept="nothing is lost")
        elif begun.complete:
            self.manifest = begun  # with the range of the features
        with raising_store_error(path):
            (path / "shards").mkdir(exist_ok=True)
            for leftover in (path / "shards").glob("*.partial"):
                shutil.rmtree(leftover)

    def missing_shards(self) -> list[int]:
        """Return the numbers of the shards that are still to be written."""
        return missing_shards(self.path, self.manifest)

    def drop_failed_shards(self) -> None:
        """Remove the shards in which a video could not be read, so that they are written again."""
        folders = [self.path / shard_folder(shard) for shard in range(self.manifest.num_shards)]
        failed = [folder for folder in folders if folder.is_dir() and read_record(folder / "record.json")["failures"]]
        if not failed:
            return
        self.manifest = replace(self.manifest, min_feature=0.0, max_feature=0.0, complete=False)
        self._write_manifest()
        (self.path / "index.npz").unlink(missing_ok=True)
        for folder in failed:
            # Renamed first: a half removed folder must not look whole.
            shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.partial")))

    def _write_manifest(self, files: dict[str, Any] | None = None, *, kept: str = "finished shards are kept") -> None:
        with raising_store_error(self.path, kept=kept):
            write_atomically(self.path / "manifest.json", manifest_text(self.manifest, files or {}).encode())

    def share(self, shard: int) -> Sequence[VideoClip]:
        """Return the clips asked for whose frames a shard holds."""
        size = self.manifest.clips_per_shard
        return self.clips[shard * size : (shard + 1) * size]

    def write_shard(self, shard: int, clips: Sequence[ClipArrays], failures: Mapping[str, str]) -> None:
        """Write one shard of readable clips, in order, all of it or nothing; `failures` are the reasons of the others.

        Raises:
            StoreError: a feature is infinite or no number, or the disk is full.
        """
        extents = [_extent(clip) for clip in clips] or [(0.0, 0.0)]
        final = self.path / shard_folder(shard)
        # Another worker, which was taken for dead, may be writing the same shard.
        partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
        with raising_store_error(self.path, partial):
            partial.mkdir()
            for bank in self.manifest.banks:
                write_synced(partial / f"{bank}.npy", self._saves(clips, bank))
            record = {
                "clips": [
                    {
                        "clip_id": clip.clip_id,
                        "start": clip.start,
                        "num_frames": len(clip.features),
                        "decoder": clip.decoder,
                        "crc32": clip_checksum(clip.features),
                    }
                    for clip in clips
                ],
                "failures": dict(failures),
                "min_feature": min(smallest for smallest, _ in extents),
                "max_feature": max(largest for _, largest in extents),
                "files": {f"{bank}.npy": file_facts(partial / f"{bank}.npy") for bank in self.manifest.banks},
            }
            write_synced(partial / "record.json", _json(record))
            sync_folder(partial)
            try:
                partial.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
                shutil.rmtree(partial, ignore_errors=True)
            sync_folder(final.parent)

    def finish(self) -> dict[str, str]:
        """Write index and manifest once every shard is there, and return why each unreadable clip was left out.

        Raises:
            StoreError: no clip could be read at all, a record is damaged, or the disk is full.
        """
        assert not self.missing_shards()
        folders = [shard_folder(shard) for shard in range(self.manifest.num_shards)]
        records = [read_record(self.path / folder / "record.json") for folder in folders]
        failures = {clip: reason for record in records for clip, reason in record["failures"].items()}
        if not any(record["clips"] for record in records):
            first = next(iter(failures.values()))
            raise StoreError(
                f"none of the {len(failures)} videos could be read, so {self.path} is empty: {first}; once that is "
                "fixed, add --retry-failed"
            )
        if self.manifest.complete:
            return failures
        index = self._index(records)
        with raising_store_error(self.path):
            write_atomically(self.path / "index.npz", lambda file: np.savez(file, **index))  # type: ignore[arg-type]
            files = {"index.npz": file_facts(self.path / "index.npz")}
            for folder, record in zip(folders, records, strict=True):
                files[f"{folder}/record.json"] = file_facts(self.path / folder / "record.json")
                files |= {f"{folder}/{name}": facts for name, facts in record["files"].items()}
        smallest = min(record["min_feature"] for record in records if record["clips"])
        largest = max(record["max_feature"] for record in records if record["clips"])
        if smallest == largest == 0:
            raise StoreError(f"all features of {self.path} are 0: give the weights of a trained network")
        self.manifest = replace(self.manifest, min_feature=smallest, max_feature=largest, complete=True)
        self._write_manifest(files)
        return failures

    def _saves(self, clips: Sequence[ClipArrays], bank: Bank) -> Callable[[IO[bytes]], object]:
        """Return a function that writes the clips' rows as one `.npy` file, without joining them in memory."""
        row, dtype = self.manifest.row(bank)

        def save(file: IO[bytes]) -> None:
            arrays: list[NDArray[Any]] = [getattr(clip, bank) for clip in clips]
            shape = (sum(map(len, arrays)), *row)
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for array in arrays:
                assert array.shape[1:] == row
                assert array.dtype == dtype
                file.write(np.ascontiguousarray(array).data)

        return save

    def _index(self, records: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        entries = [(shard, entry) for shard, record in enumerate(records) for entry in record["clips"]]
        asked = {clip.clip_id: clip for clip in self.clips}
        if unknown := {entry["clip_id"] for _, entry in entries} - asked.keys():
            raise StoreError(f"{self.path} has shards of other clips ({spell(unknown)}): extract it to another folder")
        clips = [asked[entry["clip_id"]] for _, entry in entries]
        shards = np.array([shard for shard, _ in entries], np.int64)
        lengths = np.array([entry["num_frames"] for _, entry in entries], np.int64)
        before = np.cumsum(lengths) - lengths  # rows before each clip, all shards counted
        truth: dict[str, NDArray[Any]] = {}
        if not self.manifest.trimmed:
            segments = [(number, *segment) for number, clip in enumerate(clips) for segment in clip.segments]
            numbers, begins, ends, labels = zip(*segments, strict=True) if segments else ((), (), (), ())
            truth = {
                "segment_clips": np.array(numbers, np.int64),
                "segment_starts": np.array(begins, np.float64),
                "segment_ends": np.array(ends, np.float64),
                "segment_labels": np.array(labels, np.int64),
            }
        firsts = before - before[np.searchsorted(shards, shards)]
        checksums = [self._checksum(*entry, first) for entry, first in zip(entries, firsts.tolist(), strict=True)]
        return truth | {
            "clip_ids": np.array([clip.clip_id for clip in clips]),
            "labels": np.array([clip.label for clip in clips], np.int64),
            "shards": shards,
            "first_rows": firsts,
            "num_frames": lengths,
            "starts": np.array([entry["start"] for _, entry in entries], np.float64),
            "crc32": np.array(checksums, np.uint32),
            "splits": np.array([[SPLIT_CODES[part] for part in clip.splits] for clip in clips], np.uint8).T.copy(),
        }

    def _checksum(self, shard: int, entry: Mapping[str, Any], first: int) -> int:
        if "crc32" in entry:
            return int(entry["crc32"])
        file = self.path / shard_folder(shard) / "features.npy"  # of a store that was begun in format 1
        with damage_as_store_error(file):
            return clip_checksum(np.load(file, mmap_mode="r")[first : first + entry["num_frames"]])


def write_report(
    path: Path,
    *,
    failures: Mapping[str, str],
    missing: Sequence[str] = (),
    skipped: Sequence[str] = (),
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write the store's `report.json`, and keep the earlier runs that it lists; a run that read nothing is left out."""
    file = path / "report.json"
    try:
        runs = list(json.loads(file.read_bytes())["runs"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # a report is no part of the store
        runs = []
    if run and run["frames"]:
        runs.append(dict(run))
    content = {"failures": dict(failures), "missing": list(missing), "skipped": list(skipped), "runs": runs}
    write_changed(file, _json(content))


def write_changed(file: Path, content: bytes) -> None:
    """Write a file unless it has this content already, so that a finished store may be read-only."""
    if not file.is_file() or file.read_bytes() != content:
        write_atomically(file, content)


def missing_shards(path: Path, manifest: Manifest) -> list[int]:
    """Return the numbers of the shards that are still to be written to the store at `path`."""
    return [shard for shard in range(manifest.num_shards) if not (path / shard_folder(shard)).is_dir()]


def require_same(path: Path, manifest: Manifest) -> Manifest | None:
    """Return the manifest of the store that was begun at `path`, if any; a StoreError if it is another store."""
    if not (path / "manifest.json").exists():
        names = [entry.name for entry in path.iterdir()] if path.exists() else []
        if not all(any(fnmatch(name, pattern) for pattern in _NO_CONTENT) for name in names):
            raise StoreError(f"{path} is neither empty nor a feature store: choose another folder")
        return None
    begun, _ = read_manifest(path)
    old, new = asdict(begun), asdict(manifest)
    differing = sorted(key for key in old.keys() - {"complete", "min_feature", "max_feature"} if old[key] != new[key])
    if not differing:
        return begun
    remedy = "choose another --out or delete it"
    if differing == ["threads"]:
        remedy = f"give --threads {old['threads']}, or choose another --out"
    elif set(differing) <= {"clips_sha256", "num_shards", "class_names"}:
        remedy = "the videos or their lists have changed; extract the new ones to another --out and merge the stores"
    changes = ", ".join(f"{key} {old[key]!r} there and {new[key]!r} now" for key in differing[:4])
    raise StoreError(f"{path} was begun with other settings ({changes}): {remedy}")


@contextmanager
def raising_store_error(
    path: Path, partial: Path | None = None, *, kept: str = "finished shards are kept"
) -> Iterator[None]:
    """Turn a failure to write the store at `path` into a StoreError; after any failure remove the folder `partial`."""
    try:
        yield
    except BaseException as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise StoreError(
                f"{path} could not be written ({error}): {kept}. If its disk is full, free space; then run the same "
                "command again"
            ) from error
        raise


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of the store at `out`, which ends with its process; a StoreError if another process holds it."""
    place = out.resolve()  # a store has one lock, whatever path leads to it
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{out} is being written by another process: wait for it, or choose another folder") from None
    except (NotImplementedError, OSError) as error:
        raise StoreError(
            f"{out} cannot be locked ({error}): choose a folder on another file system, such as a local disk"
        ) from error
    try:
        yield
    finally:
        lock.release()


def file_facts(file: Path) -> dict[str, Any]:
    """Return the manifest's entry of a file."""
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _extent(clip: ClipArrays) -> tuple[float, float]:
    # The smallest and the largest feature. From 0 up and from -0.0 down the bits of float16 are in order, those of
    # negative numbers after the others, and they are many times faster to compare.
    bits = clip.features.view(np.uint16)
    first, last, last_positive = bits.min(), bits.max(), bits.view(np.int16).max()
    if last >= _SIGN + _INFINITY or last_positive >= _INFINITY:
        raise StoreError(f"features of {clip.clip_id!r} are too large for float16, or no numbers")
    smallest = last if last >= _SIGN else first
    largest = first if first >= _SIGN else last_positive
    return float(smallest.view(np.float16)) + 0.0, float(largest.view(np.float16)) + 0.0  # -0.0 + 0.0 is 0.0
