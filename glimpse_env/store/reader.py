"""Reading a feature store: NumPy only, lazily, shared by processes."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from glimpse_env.files import file_sha256
from glimpse_env.sources.protocol import Segment, feature_range, widen
from glimpse_env.sources.splits import check_split
from glimpse_env.store.manifest import (
    SPLIT_CODES,
    Bank,
    Manifest,
    StoreError,
    clip_checksum,
    damage_as_store_error,
    read_manifest,
    read_record,
    shard_folder,
)

COVERED = 255 / 10  # a cell is the actor's when more than a tenth of it is covered
CLIP_ENTRIES = ("clip_ids", "labels", "shards", "first_rows", "num_frames", "starts", "splits", "crc32")
SEGMENT_ENTRIES = ("segment_clips", "segment_starts", "segment_ends", "segment_labels")
_ADVISES = hasattr(mmap, "MADV_RANDOM")  # Windows takes no advice
_REMEMBERED = 60.0  # seconds; older pages may have left memory again
Verify = Literal["open", "read"]


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """An open store. Arrays are mapped when first read, so opening costs nothing for large stores."""

    path: Path
    manifest: Manifest
    files: dict[str, dict[str, Any]] = field(repr=False)  # `bytes` and `sha256` of each file
    index: dict[str, NDArray[Any]] = field(repr=False)  # the arrays of `index.npz`
    verifies: Verify = "open"
    _banks: dict[tuple[Bank, int], MappedRows] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, verify: Verify = "open") -> FeatureStore:
        """Open a store after checking its manifest, its index and the sizes of its files, but not their content.

        With verify="read" the features of each clip are compared with their CRC-32 when its first one is read.

        Raises:
            FileNotFoundError: there is no store at `path`.
            StoreError: it is unfinished, damaged, a file is missing or has the wrong size, its format is newer, or it
                has no CRCs to compare with.
        """
        if verify not in get_args(Verify):
            raise ValueError(f"verify must be one of {get_args(Verify)}, got {verify!r}")
        path = Path(path).absolute()  # arrays are opened later, when the process may have changed its folder
        manifest, files = read_manifest(path)
        if not manifest.complete:
            raise StoreError(f"{path} is unfinished: run the command that began it again to resume")
        if len(files) != 1 + manifest.num_shards * len(manifest.shard_files) or files.keys() != manifest.file_names():
            raise StoreError(f"{path / 'manifest.json'} lists other files than a store of this format has")
        for name in sorted(files):
            file, expected = path / name, files[name]["bytes"]
            if not file.is_file():
                raise StoreError(f"{file} is missing: extract the store again")
            if (size := file.stat().st_size) != expected:
                raise StoreError(
                    f"{file} has {size} bytes instead of {expected}: it was cut or altered; extract it again"
                )
        store = cls(path, manifest, files, {}, verify)
        store._verify_file("index.npz")
        names = CLIP_ENTRIES + (() if manifest.trimmed else SEGMENT_ENTRIES)
        with damage_as_store_error(path / "index.npz"):
            with (path / "index.npz").open("rb") as archive, np.load(archive, allow_pickle=False) as arrays:
                # Format 1 has no CRCs.
                store.index.update({name: arrays[name] for name in names if name != "crc32" or name in arrays})
            if problem := next(_problems(store.index, manifest), None):
                raise ValueError(problem)
        if verify == "read" and "crc32" not in store.index:
            raise StoreError(
                f"{path} is of format 1, which has no CRCs of its clips: leave verify out, and read the whole store "
                f"once with python -m glimpse_env.store verify {quote(str(path))}"
            )
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FeatureStore.open, verify=self.verifies), (self.path,)

    def split(self, split: str, *, fold: int = 1) -> StoreSplit:
        """Return the clips of one split as a clip source.

        Raises:
            ValueError: there is no such split or fold, or it has no clips.
        """
        check_split(split, fold, num_folds=self.manifest.num_folds, place=self.path)
        members = np.flatnonzero(self.index["splits"][fold - 1] == SPLIT_CODES[split])
        if not len(members):
            raise ValueError(f"split {split!r} of fold {fold} has no clips in {self.path}")
        return StoreSplit(self, split, int(fold), members)

    def mapped(self, kind: Bank, shard: int) -> MappedRows:
        """Return one array of a shard, mapped read-only; a StoreError if manifest and index describe another."""
        if (kind, shard) in self._banks:
            return self._banks[kind, shard]
        while len(self._banks) >= _most_maps():  # the oldest closes when its last reader is done
            self._banks.pop(next(iter(self._banks)))
        file = self.path / shard_folder(shard) / f"{kind}.npy"
        row, dtype = self.manifest.row(kind)
        shape = (int(self.index["num_frames"][self.index["shards"] == shard].sum()), *row)
        with damage_as_store_error(file):
            bank = MappedRows(file)
        rows = bank.rows
        if rows.shape != shape or rows.dtype != dtype or not rows.flags.c_contiguous:
            raise StoreError(f"{file} holds {rows.dtype} {rows.shape}, expected {dtype} {shape}: extract it again")
        self._banks[kind, shard] = bank
        return bank

    def checksum(self, place: int) -> int:
        """Return the CRC-32 of the features of the clip at `place` of the index, as they are on the disk."""
        shard, first, count = (int(self.index[name][place]) for name in ("shards", "first_rows", "num_frames"))
        bank = self.mapped("features", shard)
        bank.announce(range(first, first + count))
        return clip_checksum(bank.rows[first : first + count])

    def decoders(self) -> list[str]:
        """Return the library that decoded each clip, in the order of the shards; "unknown" without a record of it."""
        folders = [self.path / shard_folder(shard) for shard in range(self.manifest.num_shards)]
        records = [read_record(folder / "record.json") for folder in folders]
        return [clip.get("decoder") or "unknown" for record in records for clip in record["clips"]]

    def verify(self) -> Iterator[str]:
        """Read every file and yield the names of correct ones; a StoreError at the first file that was altered."""
        for name in sorted(self.files):
            self._verify_file(name)
            yield name

    def _verify_file(self, name: str) -> None:
        with damage_as_store_error(self.path / name):
            digest = file_sha256(self.path / name)
        if digest != self.files[name]["sha256"]:
            raise StoreError(f"{self.path / name} was altered: its sha256 is not the manifest's; extract it again")


def _problems(index: dict[str, NDArray[Any]], manifest: Manifest) -> Iterator[str]:
    count, segments, huge = index["clip_ids"].size, index.get("segment_clips", np.empty(0)).size, np.finfo(float).max
    # name: shape, dtype, least, most
    table: dict[str, tuple[tuple[int, ...], str, float, float]] = {
        "labels": ((count,), "int64", -1, len(manifest.class_names) - 1),
        "shards": ((count,), "int64", 0, manifest.num_shards - 1),
        "first_rows": ((count,), "int64", 0, 2**62),
        "num_frames": ((count,), "int64", 1, manifest.max_frames),
        "starts": ((count,), "float64", -huge, huge),
        "splits": ((manifest.num_folds, count), "uint8", 0, max(SPLIT_CODES.values())),
        "crc32": ((count,), "uint32", 0, 2**32 - 1),
        "segment_clips": ((segments,), "int64", 0, count - 1),
        "segment_starts": ((segments,), "float64", -huge, huge),
        "segment_ends": ((segments,), "float64", -huge, huge),
        "segment_labels": ((segments,), "int64", -1, len(manifest.class_names) - 1),
    }
    for name, (shape, dtype, least, most) in table.items():
        values = index.get(name)
        if values is None:
            continue
        if values.shape != shape:
            yield f"{name} have shape {values.shape} instead of {shape}"
        # NaN is neither less nor more than a limit.
        elif values.dtype != dtype or not ((values >= least) & (values <= most)).all():
            yield f"{name} are not {dtype} from {least} to {most}"
    ids = index["clip_ids"]
    if ids.dtype.kind != "U" or ids.shape != (count,) or len(np.unique(ids)) < count:
        yield "clip_ids are not different names"
    order = np.lexsort((index["first_rows"], index["shards"]))
    shards, lengths = index["shards"][order], index["num_frames"][order]
    before = np.cumsum(lengths) - lengths
    if (index["first_rows"][order] != before - before[np.searchsorted(shards, shards)]).any():
        yield "first_rows do not follow each other in their shards"
    if segments:
        if (np.diff(index["segment_clips"]) < 0).any():
            yield "segment_clips are not in the order of the clips"
        if (index["segment_starts"] > index["segment_ends"]).any():
            yield "segment_starts lie after segment_ends"


class StoreSplit:
    """One split of a store as a `ClipSource`; `members` are the places of its clips in the store's index."""

    def __init__(self, store: FeatureStore, split: str, fold: int, members: NDArray[np.int64]) -> None:
        self.store, self.split, self.fold, self.members = store, split, fold, members
        manifest = store.manifest
        self.class_names, self.trimmed, self.crop = manifest.class_names, manifest.trimmed, manifest.crop
        self.num_clips, self.num_frames = len(members), manifest.num_frames
        self.min_feature, self.max_feature = manifest.min_feature, manifest.max_feature
        self.frames_per_second = manifest.frames_per_second
        self.grid_size, self.depth = manifest.grid_size, manifest.depth
        self._shards = store.index["shards"][members]
        self._first_rows = store.index["first_rows"][members]
        self._unverified = np.ones(len(members), np.bool_)
        self._low, self._high = feature_range(self)
        # From 0 up and from -0.0 down the bits of float16 are in order, those of negative numbers after the others.
        self._last_bits = np.float16(self._low or self._high).view(np.uint16)
        self._last_positive = np.float16(self._high).view(np.int16)

    def __reduce__(self) -> tuple[Any, ...]:
        return _split, (self.store, self.split, self.fold)

    def clip_id(self, clip: int) -> str:
        return str(self._entry("clip_ids", clip))

    def segments(self, clip: int) -> tuple[Segment, ...]:
        if not self.trimmed:
            index, member = self.store.index, int(self.members[clip])
            first, end = np.searchsorted(index["segment_clips"], (member, member + 1))
            columns = (index[name][first:end].tolist() for name in SEGMENT_ENTRIES[1:])
            return tuple(Segment(*segment) for segment in zip(*columns, strict=True))
        times = self.frame_times(clip)
        half = 0.5 / self.frames_per_second
        return (Segment(float(times[0] - half), float(times[-1] + half), int(self._entry("labels", clip))),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        offsets = np.arange(int(self._entry("num_frames", clip))) / self.frames_per_second
        times: NDArray[np.float64] = float(self._entry("starts", clip)) + offsets
        return times

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        self._verify(clips)
        rows = self._first_rows[clips] + frames
        for shard, chosen in _by_shard(self._shards[clips]):
            bank = self.store.mapped("features", shard)
            wanted = rows[chosen].tolist()
            bank.announce(wanted)
            # A cube is so long that one by one is fastest, and needs no buffer.
            for row, position in zip(wanted, chosen.tolist(), strict=True):
                cube = bank.rows[row]
                if not bank.checked[row]:
                    self._check(cube, shard)
                    bank.checked[row] = True
                _copy(cube, out[position])

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        self._verify(clips)
        rows = (self._first_rows[clips] + frames) * self.grid_size**2 + cells
        slices = np.empty(out.shape, self.store.manifest.dtype)
        for shard, chosen in _by_shard(self._shards[clips]):
            bank = self.store.mapped("features", shard)
            wanted = rows[chosen]
            bank.announce(wanted.tolist(), parts_per_row=self.grid_size**2)
            found = bank.rows.reshape(-1, self.depth)[wanted]  # (rows, K, K, D) -> (rows * K * K, D)
            self._check(found, shard)
            slices[chosen] = found
        _copy(slices, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        bank = self.store.mapped("thumbnails", int(self._shards[clip]))
        row = int(self._first_rows[clip]) + frame
        bank.announce([row])
        return np.array(bank.rows[row])

    def actor(self, clip: int) -> NDArray[np.bool_] | None:
        if not self.store.manifest.has_coverage:
            return None
        first = int(self._first_rows[clip])
        rows = slice(first, first + int(self._entry("num_frames", clip)))
        return np.asarray(self.store.mapped("coverage", int(self._shards[clip])).rows[rows] > COVERED)

    def _verify(self, clips: NDArray[np.int64]) -> None:
        if self.store.verifies != "read":
            return
        for clip in np.unique(clips[self._unverified[clips]]).tolist():
            member = int(self.members[clip])
            if self.store.checksum(member) != self.store.index["crc32"][member]:
                raise StoreError(
                    f"{self._file(int(self._shards[clip]))} is damaged: the features of {self.clip_id(clip)!r} do not "
                    "have the CRC-32 of the index; extract it again"
                )
            self._unverified[clip] = False

    def _check(self, features: NDArray[np.float16], shard: int) -> None:
        # Bits are many times faster to compare than numbers; NaN lies after infinity.
        if not features.size or (
            features.view(np.uint16).max() <= self._last_bits
            and (self._low == 0 or features.view(np.int16).max() <= self._last_positive)
        ):
            return
        if not ((features >= self._low) & (features <= self._high)).all():  # -0.0
            raise StoreError(
                f"{self._file(shard)} is damaged: a feature is not between {self._low:g} and {self._high}; extract it "
                "again"
            )

    def _file(self, shard: int) -> Path:
        return self.store.path / shard_folder(shard) / "features.npy"

    def _entry(self, name: str, clip: int) -> Any:
        return self.store.index[name][self.members[clip]]


def _copy(features: NDArray[Any], out: NDArray[Any]) -> None:
    if features.dtype == np.float16 and out.dtype == np.float32:
        widen(features, out)
    else:
        out[...] = features


def _by_shard(shards: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each shard and the positions that ask for it."""
    order = np.argsort(shards, kind="stable")
    borders = np.flatnonzero(np.diff(shards[order])) + 1
    for positions in np.split(order, borders):
        if len(positions):
            yield int(shards[positions[0]]), positions


def _split(store: FeatureStore, split: str, fold: int) -> StoreSplit:
    return store.split(split, fold=fold)


def _most_maps() -> int:
    # Each mapped file costs an open file, of which the system allows so many.
    if sys.platform == "win32":
        return 512
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if allowed == resource.RLIM_INFINITY else max(1, min(4096, allowed // 4))


class MappedRows:
    """A `.npy` file, mapped read-only; its first axis are the rows.

    Around a page that is read the kernel fetches more, on some disks megabytes: more for one slice than for a whole
    cube. So the map is declared random, which makes a slice cost its one or two pages. Rows are announced before they
    are read, so that their pages are not fetched one by one.
    """

    def __init__(self, file: Path) -> None:
        mapped = np.lib.format.open_memmap(file, mode="r")
        self.rows = np.asarray(mapped)  # the plain view indexes faster than the map itself
        self.checked = bytearray(len(mapped) if mapped.ndim else 0)  # rows whose features are known to be in range
        self._pages = cast(mmap.mmap, mapped.base)
        self._first_byte = mapped.offset % mmap.ALLOCATIONGRANULARITY  # of row 0 in the map, which begins at a page
        self._announced: dict[int, bytearray] = {}  # for rows in so many parts, a flag for each part
        self._forgets_at = 0.0
        if _ADVISES:
            self._pages.madvise(mmap.MADV_RANDOM)

    def announce(self, parts: Iterable[int], *, parts_per_row: int = 1) -> None:
        """Have parts of the rows fetched from the disk, all at once, before they are read.

        This takes microseconds even if they are in memory, a tenth and more of copying a cube, so no part is announced
        twice within a minute.

        Args:
            parts: numbers of the parts, counted over all rows.
            parts_per_row: number of equal parts of a row.
        """
        if not _ADVISES:
            return
        now = time.monotonic()
        if now >= self._forgets_at:
            self._announced, self._forgets_at = {}, now + _REMEMBERED
        announced = self._announced.get(parts_per_row)
        if announced is None:
            announced = self._announced[parts_per_row] = bytearray(len(self.rows) * parts_per_row)
        size = self.rows.strides[0] // parts_per_row
        for part in parts:
            if not announced[part]:
                announced[part] = True
                begin = self._first_byte + part * size
                page = begin - begin % mmap.PAGESIZE
                self._pages.madvise(mmap.MADV_WILLNEED, page, begin + size - page)
