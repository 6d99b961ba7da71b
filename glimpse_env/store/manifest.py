"""The manifest of a feature store: its fields, and how it is written, read and checked."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import LARGEST_GRID

FORMAT = "videoglimpse feature store"
FORMAT_VERSION = 2
SPLIT_CODES: dict[str | None, int] = {None: 0, "train": 1, "validation": 2, "test": 3}
LARGEST_HALF = 65504.0
_MOST = 10**9
_DEFAULTS = {"precision": "float32", "crop": None, "layer": None, "min_feature": 0.0}
Bank = Literal["features", "thumbnails", "coverage"]


class StoreError(ValueError):
    """A feature store is unfinished, damaged, altered, or newer than this code; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a store and how it was made: `manifest.json` without format, sizes and checksums.

    In a merged store `dataset`, `decoder`, `software` and `device` join the texts of all parts with "; ",
    `clips_per_shard`, `max_frames` and `max_feature` are the largest of the parts, `min_feature` is the smallest,
    `num_shards` is the sum, `class_names` are joined, and `clips_sha256` is of theirs, joined.
    """

    dataset: str
    class_names: tuple[str, ...]
    num_folds: int  # official splits
    clips_sha256: str  # of the clips, labels and splits that the extraction was asked for
    trimmed: bool  # every clip is one segment of one class
    backbone: str  # name of the network
    weights_sha256: str
    resize_rule: str  # how frames became the network's input
    decoder: str  # choice of decoder and versions of the libraries it may use; record.json has each clip's
    software: str  # versions of everything else that decides the last bits
    device: str  # kind of processor that ran the network
    threads: int  # of the network on the CPU; 0 on a GPU, and if the parts of a merged store differ
    batch_size: int  # padded size of the network's batches; 0 if the parts of a merged store differ
    frames_per_second: float
    num_frames: int  # T, frames of an episode
    max_frames: int  # most frames stored of a clip
    grid_size: int  # K
    depth: int  # D
    dtype: str  # of the features
    has_coverage: bool  # whether the actor's place is known
    clips_per_shard: int
    num_shards: int
    precision: str = "float32"  # of the network's convolutions
    crop: int | None = None  # side in pixels of the crop around a cell, except in first frames; None: no crops
    layer: str | None = None  # layer of the network whose output was kept; None: the last
    min_feature: float = 0.0  # the smallest feature
    max_feature: float = 0.0  # the largest feature
    complete: bool = False  # whether the extraction has finished

    def row(self, bank: Bank) -> tuple[tuple[int, ...], str]:
        """Return the shape and dtype of a frame's row in an array."""
        grid = (self.grid_size, self.grid_size)
        return {
            "features": ((*grid, self.depth), self.dtype),
            "thumbnails": ((112, 112, 3), "uint8"),
            "coverage": (grid, "uint8"),
        }[bank]

    @property
    def banks(self) -> tuple[Bank, ...]:
        """Return the arrays that every shard has."""
        return ("features", "thumbnails", "coverage") if self.has_coverage else ("features", "thumbnails")

    @property
    def shard_files(self) -> tuple[str, ...]:
        """Return the names of the files that every shard has."""
        return ("record.json", *(f"{bank}.npy" for bank in self.banks))

    def file_names(self) -> frozenset[str]:
        """Return the names of all files of a complete store except manifest and report."""
        shards = {f"{shard_folder(shard)}/{name}" for shard in range(self.num_shards) for name in self.shard_files}
        return frozenset(shards | {"index.npz"})


def clip_checksum(features: NDArray[np.float16]) -> int:
    """Return the CRC-32 of a clip's features."""
    return zlib.crc32(np.ascontiguousarray(features).data)


def shard_folder(shard: int) -> str:
    """Return the folder of a shard within its store."""
    return f"shards/{shard:05d}"


def manifest_text(manifest: Manifest, files: dict[str, dict[str, Any]]) -> str:
    """Return `manifest.json` for a manifest and the `bytes` and `sha256` of each of the store's files."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest), "files": files}
    return json.dumps({**content, "sha256": _content_sha256(content)}, indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> tuple[Manifest, dict[str, dict[str, Any]]]:
    """Read and check the manifest of the store at `path`, and the `bytes` and `sha256` of each of its files.

    Raises:
        FileNotFoundError: there is no store at `path`.
        StoreError: the manifest is damaged, altered or of a newer format.
    """
    file = path / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(f"no feature store at {path}: write one with python -m glimpse_env.extract")
    with damage_as_store_error(file):
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise StoreError(f"{file} is of format {content['format']!r}, not a {FORMAT}")
        if content["format_version"] > FORMAT_VERSION:
            raise StoreError(
                f"{file} is of format version {content['format_version']}, newer than the {FORMAT_VERSION} that this "
                "version of VideoGlimpse reads: update it"
            )
        if content.pop("sha256") != _content_sha256(content):
            raise StoreError(f"{file} was altered: its content does not have the sha256 that it states")
        content = _DEFAULTS | content  # older stores lack them
        known = {key: content[key] for key in (entry.name for entry in fields(Manifest))}
        files = {name: {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for name, f in content["files"].items()}
        if not isinstance(known["class_names"], list):
            raise ValueError(f"class_names are {known['class_names']!r}, not a list")
        manifest = Manifest(**{**known, "class_names": tuple(known["class_names"])})
        if problem := next(_problems(manifest), None):
            raise ValueError(problem)
        return manifest, files


def read_record(file: Path) -> dict[str, Any]:
    """Read a shard's `record.json`; a StoreError if it is missing or damaged."""
    with damage_as_store_error(file):
        record: dict[str, Any] = json.loads(file.read_bytes())
        for clip in record["clips"]:
            texts = (clip["clip_id"], clip.get("decoder", ""))
            if not all(isinstance(text, str) for text in texts) or type(clip["num_frames"]) is not int:
                raise ValueError(f"clip {clip}")
            if clip["num_frames"] < 1 or not math.isfinite(clip["start"]) or not 0 <= clip.get("crc32", 0) < 2**32:
                raise ValueError(f"clip {clip}")
        if not all(isinstance(reason, str) for reason in record["failures"].values()):
            raise ValueError(f"failures {record['failures']}")
        extent = record.setdefault("min_feature", 0.0), record["max_feature"]
        if not -LARGEST_HALF <= extent[0] <= extent[1] <= LARGEST_HALF or not isinstance(record["files"], dict):
            raise ValueError(f"features from {extent[0]} to {extent[1]}, files {record['files']}")
        return record


@contextmanager
def damage_as_store_error(file: Path) -> Iterator[None]:
    """Turn every error of a block that reads a file of a store into a StoreError with the file's name."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # parsers of JSON, zip and .npy raise dozens of types
        if isinstance(error, OSError) and error.filename is not None:
            raise StoreError(f"{file} cannot be read ({error.strerror}): is its disk there?") from error
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{file} is damaged ({reason}): extract the store again") from error


def _problems(manifest: Manifest) -> Iterator[str]:
    for entry in fields(manifest):
        value, name = getattr(manifest, entry.name), entry.name
        kind = {"str": str, "int": int, "bool": bool}.get(str(entry.type))
        if kind and type(value) is not kind:
            yield f"{name} is {value!r}, not {kind.__name__}"
        least = 0 if name in ("threads", "batch_size") else 1
        if kind is int and not least <= value <= _MOST:
            yield f"{name} is {value}, not between {least} and {_MOST}"
    classes = manifest.class_names
    if not classes or not all(isinstance(name, str) and name for name in classes) or len(set(classes)) < len(classes):
        yield f"class_names are {classes!r}, not different names"
    if manifest.dtype != "float16":
        yield f"dtype is {manifest.dtype!r}, not 'float16'"
    if manifest.crop is not None and (type(manifest.crop) is not int or not 1 <= manifest.crop <= _MOST):
        yield f"crop is {manifest.crop!r}, not None or between 1 and {_MOST}"
    if not 0 < manifest.frames_per_second < math.inf:
        yield f"frames_per_second is {manifest.frames_per_second!r}, not positive and finite"
    extent = manifest.min_feature, manifest.max_feature
    if not -LARGEST_HALF <= extent[0] <= extent[1] <= LARGEST_HALF or (manifest.complete and not any(extent)):
        yield f"features are from {extent[0]!r} to {extent[1]!r}, not a range within {LARGEST_HALF} of 0"
    if manifest.grid_size > LARGEST_GRID:
        yield f"grid_size is {manifest.grid_size}, not between 1 and {LARGEST_GRID}"
    if manifest.layer is not None and type(manifest.layer) is not str:
        yield f"layer is {manifest.layer!r}, not None or a name"


def _content_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
