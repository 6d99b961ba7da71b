"""Reading a feature store: NumPy only, lazily, shared by processes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.files import file_sha256
from glimpse_env.sources.protocol import Segment, widen
from glimpse_env.sources.splits import SPLITS
from glimpse_env.store.manifest import SPLIT_CODES, Bank, Manifest, StoreError, read_manifest, shard_folder
from glimpse_env.store.mapping import MappedRows, most_maps

COVERED = 255 / 10  # a cell is the actor's when more than a tenth of it is covered


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """An open store. Arrays are mapped when first read, so opening costs nothing for large stores.

    Attributes:
        path: its folder.
        manifest: what it holds.
        files: `bytes` and `sha256` of each of its files.
        index: the arrays of `index.npz`.
    """

    path: Path
    manifest: Manifest
    files: dict[str, dict[str, Any]] = field(repr=False)
    index: dict[str, NDArray[Any]] = field(repr=False)
    _banks: dict[tuple[Bank, int], MappedRows] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store after checking its manifest and the sizes of its files, but not what is in them.

        Raises:
            FileNotFoundError: there is no store at `path`.
            StoreError: it is unfinished, a file is missing or has the wrong size, or its format is newer.
        """
        path = Path(path)
        manifest, files = read_manifest(path)
        if not manifest.complete:
            raise StoreError(f"{path} is unfinished: run the command that began it again to resume")
        if files.keys() != manifest.file_names():
            raise StoreError(f"{path / 'manifest.json'} lists other files than a store of this format has")
        for name in sorted(files):
            _check_size(path / name, files[name]["bytes"])
        return cls(path, manifest, files, _read_index(path / "index.npz", manifest))

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.open, (self.path,)

    def split(self, split: str, *, fold: int = 1) -> StoreSplit:
        """Return the clips of one split as a clip source.

        Raises:
            ValueError: there is no such split or fold, or it has no clips.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {self.path} has {', '.join(SPLITS)}")
        if not (isinstance(fold, (int, np.integer)) and 1 <= fold <= self.manifest.num_folds):
            folds = ", ".join(str(number) for number in range(1, self.manifest.num_folds + 1))
            raise ValueError(f"unknown fold {fold!r}: {self.path} has fold {folds}")
        members = np.flatnonzero(self.index["splits"][fold - 1] == SPLIT_CODES[split])
        if not len(members):
            raise ValueError(f"split {split!r} of fold {fold} has no clips in {self.path}")
        return StoreSplit(store=self, split=split, fold=int(fold), members=members)

    def bank(self, kind: Bank, shard: int) -> NDArray[Any]:
        """Return one array of a shard, mapped read-only.

        Raises:
            StoreError: the file is not the array that the manifest promises.
        """
        return self.mapped(kind, shard).rows

    def mapped(self, kind: Bank, shard: int) -> MappedRows:
        """Return one array of a shard as `bank` does, with the means to announce what will be read of it."""
        bank = self._banks.get((kind, shard))
        if bank is None:
            while len(self._banks) >= most_maps():  # the oldest closes when nobody reads it any more
                self._banks.pop(next(iter(self._banks)))
            bank = self._banks[kind, shard] = self._map(kind, self.path / shard_folder(shard) / f"{kind}.npy")
        return bank

    def _map(self, kind: Bank, file: Path) -> MappedRows:
        shape, dtype = self.manifest.row(kind)
        try:
            bank = MappedRows(file)
        except ValueError as error:
            raise StoreError(f"{file} is damaged ({error}): extract the store again") from error
        rows = bank.rows
        if rows.shape[1:] != shape or rows.dtype != dtype:
            raise StoreError(f"{file} holds {rows.dtype} {rows.shape}, expected {dtype} rows of {shape}")
        return bank

    def decoders(self) -> list[str]:
        """Return which library decoded each clip, in the order of the shards; "unknown" if no record says it."""
        folders = [self.path / shard_folder(shard) for shard in range(self.manifest.num_shards)]
        records = [json.loads((folder / "record.json").read_bytes()) for folder in folders]
        return [clip.get("decoder") or "unknown" for record in records for clip in record["clips"]]

    def verify(self) -> Iterator[str]:
        """Read every file and compare its checksum, yielding the names of those that are right.

        Raises:
            StoreError: at the first file that was altered.
        """
        for name in sorted(self.files):
            self.verify_file(name)
            yield name

    def verify_file(self, name: str) -> None:
        """Read one file and compare its checksum.

        Raises:
            StoreError: it was altered.
        """
        if file_sha256(self.path / name) != self.files[name]["sha256"]:
            raise StoreError(f"{self.path / name} was altered: its sha256 is not the manifest's; extract it again")


def _check_size(file: Path, expected: int) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise StoreError(f"{file} is missing: extract the store again") from None
    if size != expected:
        raise StoreError(f"{file} has {size} bytes instead of {expected}: it was cut or altered; extract it again")


CLIP_ENTRIES = ("clip_ids", "labels", "shards", "first_rows", "num_frames", "starts", "splits")
SEGMENT_ENTRIES = ("segment_clips", "segment_starts", "segment_ends", "segment_labels")


def _read_index(file: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    names = CLIP_ENTRIES + (() if manifest.trimmed else SEGMENT_ENTRIES)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = {name: arrays[name] for name in names}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{file} is damaged ({error}): extract the store again") from error
    shapes = {name: array.shape for name, array in index.items()}
    count = len(index["clip_ids"])
    expected = {name: (manifest.num_folds, count) if name == "splits" else (count,) for name in CLIP_ENTRIES}
    if not manifest.trimmed:
        expected |= dict.fromkeys(SEGMENT_ENTRIES, (index["segment_clips"].size,))
    if shapes != expected:
        raise StoreError(f"{file} is damaged (shapes {shapes}): extract the store again")
    _require_numbers(file, index, "shards", range(manifest.num_shards))
    for name in ("labels", "segment_labels"):
        if name in index:
            _require_numbers(file, index, name, range(-1, len(manifest.class_names)))
    return index


def _require_numbers(file: Path, index: dict[str, NDArray[Any]], name: str, allowed: range) -> None:
    """Refuse an index whose numbers name shards or classes that the store does not have."""
    numbers = index[name]
    if numbers.dtype != np.int64 or (numbers.size and (numbers.min() not in allowed or numbers.max() not in allowed)):
        limits = f"int64 from {allowed.start} to {allowed.stop - 1}"
        raise StoreError(f"{file} is damaged ({name} are not {limits}): extract the store again")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreSplit:
    """One split of a store as a `ClipSource`.

    Attributes:
        store: the open store.
        split: name of the split.
        fold: which of the official splits, from 1.
        members: (clips,) where each clip stands in the store's index.
    """

    store: FeatureStore = field(repr=False)
    split: str
    fold: int
    members: NDArray[np.int64] = field(repr=False)
    _shards: NDArray[np.int64] = field(init=False, repr=False)
    _first_rows: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shards", self.store.index["shards"][self.members])
        object.__setattr__(self, "_first_rows", self.store.index["first_rows"][self.members])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.store.path, self.split, self.fold)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.store.manifest.class_names

    @property
    def num_clips(self) -> int:
        return len(self.members)

    @property
    def num_frames(self) -> int:
        return self.store.manifest.num_frames

    @property
    def frames_per_second(self) -> float:
        return self.store.manifest.frames_per_second

    @property
    def grid_size(self) -> int:
        return self.store.manifest.grid_size

    @property
    def depth(self) -> int:
        return self.store.manifest.depth

    @property
    def max_feature(self) -> float:
        return self.store.manifest.max_feature

    @property
    def trimmed(self) -> bool:
        return self.store.manifest.trimmed

    @property
    def crop(self) -> int | None:
        return self.store.manifest.crop

    def clip_id(self, clip: int) -> str:
        return str(self._entry("clip_ids", clip))

    def segments(self, clip: int) -> tuple[Segment, ...]:
        if not self.trimmed:
            return self._annotated(int(self.members[clip]))
        times = self.frame_times(clip)
        half = 0.5 / self.frames_per_second
        return (Segment(float(times[0] - half), float(times[-1] + half), int(self._entry("labels", clip))),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        offsets = np.arange(int(self._entry("num_frames", clip))) / self.frames_per_second
        times: NDArray[np.float64] = float(self._entry("starts", clip)) + offsets
        return times

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        rows = self._first_rows[clips] + frames
        for shard, chosen in _by_shard(self._shards[clips]):
            bank = self.store.mapped("features", shard)
            wanted = rows[chosen].tolist()
            bank.announce(wanted)
            # A cube is so long that one by one is fastest, and needs no buffer.
            for row, position in zip(wanted, chosen.tolist(), strict=True):
                _copy(bank.rows[row], out[position])

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        rows = (self._first_rows[clips] + frames) * self.grid_size**2 + cells
        slices = np.empty(out.shape, self.store.manifest.dtype)
        for shard, chosen in _by_shard(self._shards[clips]):
            bank = self.store.mapped("features", shard)
            wanted = rows[chosen]
            bank.announce(wanted.tolist(), parts_per_row=self.grid_size**2)
            slices[chosen] = bank.rows.reshape(-1, self.depth)[wanted]  # (rows, K, K, D) -> (rows * K * K, D)
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
        return np.asarray(self.store.bank("coverage", int(self._shards[clip]))[rows] > COVERED)

    def _annotated(self, member: int) -> tuple[Segment, ...]:
        index = self.store.index
        first, end = np.searchsorted(index["segment_clips"], (member, member + 1))
        columns = (index[name][first:end].tolist() for name in SEGMENT_ENTRIES[1:])
        return tuple(Segment(*segment) for segment in zip(*columns, strict=True))

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


def _reopen(path: Path, split: str, fold: int) -> StoreSplit:
    return FeatureStore.open(path).split(split, fold=fold)
