"""Merging of complete stores, such as parts of one data set that were extracted on several machines."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.datasets.description import spell
from glimpse_env.files import sync_folder, write_synced
from glimpse_env.store.manifest import Manifest, StoreError, manifest_text, read_manifest, shard_folder
from glimpse_env.store.reader import CLIP_ENTRIES, SEGMENT_ENTRIES, FeatureStore
from glimpse_env.store.writer import file_facts, locked, raising_store_error, write_report

_JOINED = ("dataset", "decoder", "software", "device")
_ZERO_IF_DIFFERENT = ("threads", "batch_size")
_EXTREME = {"max_frames": max, "clips_per_shard": max, "min_feature": min, "max_feature": max}
_OF_EACH_PART = ("clips_sha256", "class_names", "num_shards")


def merge_stores(out: Path, parts: Sequence[Path]) -> Path:
    """Join complete stores into a new one, which reads as if it had been extracted in one go.

    Shards are linked if the file system can, so nothing is copied and the parts may be deleted; otherwise they are
    copied. Classes are joined by name. Every clip keeps the splits of its part. Parts with drawn instead of official
    splits must not share films, or a film may be in both train and test.

    Args:
        out: folder of the new store; it may be empty, or hold the same merge already. The store grows in
            `.<name>.<number>.partial` next to it.
        parts: folders of the stores, two or more.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: a part does not exist.
        StoreError: there is one part only, `out` holds something or another process writes it, a part is unfinished or
            damaged, features of the parts do not mean the same, two parts hold the same clip, or the disk is full.
    """
    if len(parts) < 2:
        raise StoreError(f"merging takes two stores or more, got {len(parts)}")
    stores = [FeatureStore.open(part) for part in parts]
    manifest, files = _joined_manifest(stores), _joined_files(stores)
    if _is_merged(out, manifest, files):
        return out
    _require_free(out)
    counts = Counter(clip for store in stores for clip in store.index["clip_ids"].tolist())
    if twice := [clip for clip, count in counts.items() if count > 1]:
        raise StoreError(f"{len(twice)} of the clips are in several of the stores: {spell(twice)}")
    failures, missing = _joined_reports(stores)
    place = out.resolve()
    partial = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
    with locked(out), raising_store_error(out, partial, kept="the parts are untouched"):
        _require_free(out)
        for leftover in place.parent.glob(f".{glob.escape(place.name)}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        _gather_shards(partial, stores)
        index = _joined_index(manifest, stores)
        write_synced(partial / "index.npz", lambda file: np.savez(file, **index))  # type: ignore[arg-type]
        files["index.npz"] = file_facts(partial / "index.npz")
        write_report(
            partial,
            failures={clip: reason for clip, reason in failures.items() if clip not in counts},
            missing=sorted(missing - counts.keys()),
        )
        write_synced(partial / "manifest.json", manifest_text(manifest, files).encode())
        sync_folder(partial)
        if place.exists():
            place.rmdir()  # the empty folder, which not every system lets a rename replace
        partial.rename(place)
        sync_folder(place.parent)
    return out


def _is_merged(out: Path, manifest: Manifest, files: Mapping[str, Any]) -> bool:
    """Return whether the same merge has been finished, perhaps by a process that could not say so."""
    if not (out / "manifest.json").is_file():
        return False
    merged, merged_files = read_manifest(out)
    return merged == manifest and files.items() <= merged_files.items()


def _require_free(out: Path) -> None:
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError(f"{out} exists and is no empty folder: choose another")


def _joined_manifest(stores: Sequence[FeatureStore]) -> Manifest:
    every = [asdict(store.manifest) for store in stores]
    free = {*_JOINED, *_ZERO_IF_DIFFERENT, *_EXTREME, *_OF_EACH_PART}
    for store, values in zip(stores, every, strict=True):
        for name in values.keys() - free:
            if values[name] != every[0][name]:
                raise StoreError(
                    f"{stores[0].path} and {store.path} do not go together: {name} is {every[0][name]!r} in the first "
                    f"and {values[name]!r} in the second"
                )
    columns = {name: [values[name] for values in every] for name in free}
    # A part may be a merged store: its texts are split, so that each is named once.
    changes: dict[str, Any] = {name: "; ".join(dict.fromkeys("; ".join(columns[name]).split("; "))) for name in _JOINED}
    changes |= {name: columns[name][0] if len(set(columns[name])) == 1 else 0 for name in _ZERO_IF_DIFFERENT}
    changes |= {name: extreme(columns[name]) for name, extreme in _EXTREME.items()}
    classes = columns["class_names"]
    return replace(
        stores[0].manifest,
        **changes,
        clips_sha256=hashlib.sha256("".join(columns["clips_sha256"]).encode()).hexdigest(),
        class_names=classes[0] if len(set(classes)) == 1 else tuple(sorted(set().union(*classes))),
        num_shards=sum(columns["num_shards"]),
    )


def _joined_index(manifest: Manifest, stores: Sequence[FeatureStore]) -> dict[str, NDArray[Any]]:
    parts = []
    shards = clips = 0  # of the parts before
    for store in stores:
        part = dict(store.index)
        # Label -1 (unknown) takes the last entry, which is -1 again.
        renumbered = np.array([*map(manifest.class_names.index, store.manifest.class_names), -1], np.int64)
        part["labels"] = renumbered[part["labels"]]
        part["shards"] = part["shards"] + shards
        if "crc32" not in part:  # format 1
            part["crc32"] = np.array([store.checksum(clip) for clip in range(len(part["clip_ids"]))], np.uint32)
        if not manifest.trimmed:
            part["segment_labels"] = renumbered[part["segment_labels"]]
            part["segment_clips"] = part["segment_clips"] + clips
        parts.append(part)
        shards += store.manifest.num_shards
        clips += len(part["clip_ids"])
    index = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    order = np.argsort(index["clip_ids"], kind="stable")
    index |= {name: index[name][..., order] for name in CLIP_ENTRIES}  # splits are (folds, clips)
    if not manifest.trimmed:
        places = np.argsort(order)  # (clips,) where each went
        index["segment_clips"] = places[index["segment_clips"]]
        by_clip = np.argsort(index["segment_clips"], kind="stable")
        index |= {name: index[name][by_clip] for name in SEGMENT_ENTRIES}
    return index


def _joined_shards(stores: Sequence[FeatureStore]) -> Iterator[tuple[FeatureStore, str, str]]:
    """Yield every shard's store, and its folder there and in the merged store."""
    shards = ((store, shard) for store in stores for shard in range(store.manifest.num_shards))
    for number, (store, shard) in enumerate(shards):
        yield store, shard_folder(shard), shard_folder(number)


def _joined_files(stores: Sequence[FeatureStore]) -> dict[str, dict[str, Any]]:
    """Return sizes and checksums of the shards' files in the merged store."""
    return {
        f"{new}/{name}": store.files[f"{old}/{name}"]
        for store, old, new in _joined_shards(stores)
        for name in store.manifest.shard_files
    }


def _gather_shards(folder: Path, stores: Sequence[FeatureStore]) -> None:
    """Link or copy all shards under new numbers."""
    for store, old, new in _joined_shards(stores):
        (folder / new).mkdir(parents=True)
        for name in store.manifest.shard_files:
            _link_or_copy(store.path / old / name, folder / new / name)
        sync_folder(folder / new)
    sync_folder(folder / "shards")


def _link_or_copy(source: Path, place: Path) -> None:
    try:
        os.link(source.resolve(), place)
    except OSError:  # another disk, or a file system without links
        with source.open("rb") as opened:
            write_synced(place, lambda file: shutil.copyfileobj(opened, file))


def _joined_reports(stores: Sequence[FeatureStore]) -> tuple[dict[str, str], set[str]]:
    """Return the parts' failures and missing clips, some of which another part may hold."""
    failures: dict[str, str] = {}
    missing: set[str] = set()
    for store in stores:
        file = store.path / "report.json"
        if file.exists():
            try:
                report = json.loads(file.read_bytes())
                failures |= report["failures"]
                missing |= set(report["missing"])
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{file} is damaged ({error!r}): it is no part of the store, so delete it") from error
    return failures, missing
