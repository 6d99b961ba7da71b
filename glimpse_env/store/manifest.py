"""The manifest of a feature store: what it says, how it is written and checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

FORMAT = "videoglimpse feature store"
FORMAT_VERSION = 1
SPLIT_CODES: dict[str | None, int] = {None: 0, "train": 1, "validation": 2, "test": 3}
Bank = Literal["features", "thumbnails", "coverage"]


class StoreError(ValueError):
    """A feature store is unfinished, damaged, altered, or newer than this code; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds and how it was made; `manifest.json` without format, sizes and checksums.

    In a merged store `dataset`, `decoder`, `software` and `device` name all that its parts had, joined with "; ",
    `clips_per_shard` and the maxima are the largest of theirs, and `clips_sha256` is of theirs, one after the other.

    Attributes:
        dataset: name of the data set.
        class_names: the C classes.
        num_folds: how many official splits there are.
        clips_sha256: of the list of clips, labels and splits that the extraction was asked for.
        trimmed: every clip is one segment of one class.
        backbone: name of the network.
        weights_sha256: of its weights file.
        precision: of the network's convolutions.
        crop: pixels along the side of the crop that the network saw of a cell in every frame but a clip's first, which
            it saw whole; None where it saw all frames whole.
        resize_rule: how frames became its input.
        decoder: the choice of decoder and the libraries it may use, with their versions; record.json has each clip's.
        software: versions of what else decides the last bits.
        device: kind of processor that the network ran on.
        threads: of the network on the CPU; 0 on a GPU, and where the parts of a merged store differ.
        batch_size: to which the network's batches were padded; 0 where the parts of a merged store differ.
        frames_per_second: of the samples.
        num_frames: T, frames of an episode.
        max_frames: the most frames stored of a clip.
        grid_size: K.
        depth: D.
        dtype: of the features.
        has_coverage: whether it is known where the actor is.
        clips_per_shard: videos whose frames share a shard.
        num_shards: how many shards there are.
        max_feature: the largest feature.
        complete: whether the extraction has finished.
    """

    dataset: str
    class_names: tuple[str, ...]
    num_folds: int
    clips_sha256: str
    trimmed: bool
    backbone: str
    weights_sha256: str
    resize_rule: str
    decoder: str
    software: str
    device: str
    threads: int
    batch_size: int
    frames_per_second: float
    num_frames: int
    max_frames: int
    grid_size: int
    depth: int
    dtype: str
    has_coverage: bool
    clips_per_shard: int
    num_shards: int
    precision: str = "float32"
    crop: int | None = None
    max_feature: float = 0.0
    complete: bool = False

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
        """Return the names of all files that a complete store has beside manifest and report."""
        shards = {f"{shard_folder(shard)}/{name}" for shard in range(self.num_shards) for name in self.shard_files}
        return frozenset(shards | {"index.npz"})


def shard_folder(shard: int) -> str:
    """Return the folder of a shard within its store."""
    return f"shards/{shard:05d}"


def manifest_text(manifest: Manifest, files: dict[str, dict[str, Any]]) -> str:
    """Return `manifest.json` for a manifest and the `bytes` and `sha256` of each of the store's files."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest), "files": files}
    return json.dumps({**content, "sha256": _content_sha256(content)}, indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> tuple[Manifest, dict[str, dict[str, Any]]]:
    """Read and check the manifest of the store at `path`; complete or not.

    Returns:
        The manifest, and for each of the store's files its `bytes` and `sha256`.

    Raises:
        FileNotFoundError: there is no store at `path`.
        StoreError: the manifest is damaged, altered or of a newer format.
    """
    file = path / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(f"no feature store at {path}: write one with python -m glimpse_env.extract")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise StoreError(f"{file} is of format {content['format']!r}, not a {FORMAT}")
        if content["format_version"] > FORMAT_VERSION:
            raise StoreError(
                f"{file} is of format version {content['format_version']}, newer than the {FORMAT_VERSION} that this "
                "version of VideoGlimpse reads: update it"
            )
        if content.pop("sha256") != _content_sha256(content):
            raise StoreError(f"{file} was altered: its content does not have the sha256 that it states")
        content = {"precision": "float32", "crop": None} | content  # stores of the first days do not say them
        known = {key: content[key] for key in (entry.name for entry in fields(Manifest))}
        files = {name: {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for name, f in content["files"].items()}
        return Manifest(**{**known, "class_names": tuple(known["class_names"])}), files
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{file} is damaged ({type(error).__name__}: {error}): extract the store again") from error


def _content_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
