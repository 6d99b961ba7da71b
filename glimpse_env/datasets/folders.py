"""Your own videos: a folder per class, split by folders, by a CSV file or by name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from glimpse_env.datasets.description import (
    CARVED,
    VIDEO_SUFFIXES,
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    files_under,
    group_of_clip,
    spell,
)
from glimpse_env.sources.splits import VALIDATION_SHARE, Split, carve_validation, split_groups

_CLUTTER = frozenset(["Thumbs.db", "desktop.ini"])  # of file managers, as are names that begin with a dot
_PARTS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def folder(videos: Path, *, splits: Path | None = None, strict: bool = False) -> VideoDataset:
    """Describe your own videos: a folder per class, named after it.

    Args:
        videos: folder of the class folders, or of folders `train`, `val` (or `validation`) and `test` of class folders.
            Files without one of `VIDEO_SUFFIXES` are left out and noted, hidden ones without a note.
        splits: CSV file with rows of a video, `<class>/<name>`, and its part: train, val (or validation) or test.
        strict: raise if a folder cannot be opened, a row is wrong or a video missing, instead of leaving it out.

    Returns:
        One fold. If `train` has no `test` next to it, `val` is the test part, as is usual for Kinetics. If there is no
        validation part, `carve_validation` takes it from train. Without folders of parts and without a CSV file,
        `split_groups` splits by the sha256 of the names. Videos with names like HMDB-51's or UCF-101's stay together
        with others of the same film.

    Raises:
        DatasetError: there is no such folder, no video in it, no train part, or the CSV file cannot be read.
    """
    if not videos.is_dir():
        raise DatasetError(f"no folder of videos at {videos}: it should hold a folder per class")
    problems = Problems(strict=strict)
    files, is_split = _videos_by_id(videos, problems, may_be_split=splits is None)
    missing: list[str] = []
    official: dict[str, Split] = {}
    if splits is not None:
        official, missing = _named_by(splits, files, videos, problems)
        files = {clip: path for clip, path in files.items() if clip in official}
        if not files:
            raise DatasetError(f"none of the videos named by {splits} is in {videos}")
    elif is_split:
        official = {clip: _PARTS[clip.split("/")[0]] for clip in files}
    class_names = tuple(sorted({path.parent.name for path in files.values()}))
    labels = {clip: class_names.index(path.parent.name) for clip, path in files.items()}
    keys = {clip: (labels[clip], group_of_clip(clip)) for clip in files}
    if official:
        parts, rule = _complete({clip: official[clip] for clip in files}, keys, splits or videos)
    else:
        parts = split_groups(keys)
        rule = f"split by name: test and validation are {VALIDATION_SHARE:.0%} each of the source videos of each class"
    clips = tuple(
        VideoClip(clip_id=clip, path=files[clip], label=labels[clip], splits=(parts[clip],)) for clip in sorted(files)
    )
    return VideoDataset(
        name="folder",
        class_names=class_names,
        num_folds=1,
        clips=clips,
        missing=tuple(missing),
        skipped=tuple(problems.notes),
        split_rule=rule,
    )


def _videos_by_id(videos: Path, problems: Problems, *, may_be_split: bool) -> tuple[dict[str, Path], bool]:
    """Return the videos in class folders by clip id, and whether these lie in folders of parts."""
    found, others = _find(videos, problems)
    tops = {depth: {clip.split("/")[0] for clip in found if clip.count("/") == depth} for depth in (1, 2)}
    is_split = may_be_split and "train" in tops[2] and tops[1] <= _PARTS.keys()
    files = {
        clip: path
        for clip, path in found.items()
        if (clip.count("/") == 2 and clip.split("/")[0] in _PARTS if is_split else clip.count("/") == 1)
    }
    others += found.keys() - files.keys()
    if others:
        problems.notes.append(
            f"{len(others)} files in {videos} are left out, since they are not {'<part>/' * is_split}<class>/<name> "
            f"with the suffix of a video: {spell(others)}"
        )
    if not files:
        raise DatasetError(
            f"no videos in {videos}: it should hold a folder per class, with files such as walk/a.mp4, or folders "
            "train, val and test of such folders"
        )
    return files, is_split


def _named_by(
    splits: Path, files: Mapping[str, Path], videos: Path, problems: Problems
) -> tuple[dict[str, Split], list[str]]:
    """Return the part of each clip that a CSV file names, and those of its clips that are not there."""
    official = _read_splits(splits, files, problems)
    missing = sorted(official.keys() - files.keys())
    if missing:
        problems.note(f"{len(missing)} videos named by {splits} not found under {videos}: {spell(missing)}")
    if unnamed := files.keys() - official.keys():
        problems.notes.append(
            f"{len(unnamed)} videos in {videos} are left out, since {splits} lacks them: {spell(unnamed)}"
        )
    return official, missing


def _find(videos: Path, problems: Problems) -> tuple[dict[str, Path], list[str]]:
    """Return the videos by their path within the folder, and the other files."""
    files, others = {}, []
    for path in files_under(videos, problems):
        parts = path.relative_to(videos).parts
        if any(part.startswith(".") for part in parts) or parts[-1] in _CLUTTER:
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES:
            files["/".join(parts)] = path
        else:
            others.append("/".join(parts))
    return files, others


def _complete(
    parts: dict[str, Split], keys: Mapping[str, tuple[int, str]], place: Path
) -> tuple[dict[str, Split], str]:
    """Add the parts that are missing, and return a sentence about them."""
    there, rule = set(parts.values()), f"split by {place}"
    if "train" not in there:
        raise DatasetError(f"{place} puts no video into train: it should name train, val and test")
    if "test" not in there:
        parts = {clip: "test" if part == "validation" else part for clip, part in parts.items()}
        rule += "; val is test, since there is no test"
    if there != {"train", "validation", "test"}:
        train = {clip: keys[clip] for clip, part in parts.items() if part == "train"}
        parts |= dict.fromkeys(carve_validation(train), "validation")
        rule += f"; {CARVED}"
    return parts, rule


def _read_splits(path: Path, files: Mapping[str, Path], problems: Problems) -> dict[str, Split]:
    if not path.is_file():
        raise DatasetError(f"no CSV file of splits at {path}: its rows are such as walk/a.mp4,train")
    parts: dict[str, Split] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(f"{path}, line {number}", row) for number, row in enumerate(csv.reader(file), start=1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    for number, (place, row) in enumerate(rows):
        cells = [cell.strip() for cell in row]
        if len(cells) == 2 and cells[0] not in files:
            cells[0] = cells[0].replace("\\", "/").removeprefix("./")
        cells[1:] = [cell.lower() for cell in cells[1:]]
        if not any(cells) or (not number and cells[:2] == ["video", "split"]):
            continue
        if len(cells) != 2 or cells[1] not in _PARTS or not cells[0]:
            problems.note(f"{place}: expected a video and train, val or test, got {','.join(row)!r}")
        elif parts.get(cells[0], _PARTS[cells[1]]) != _PARTS[cells[1]]:
            problems.note(f"{place}: {cells[0]!r} is in another part before")
        else:
            parts[cells[0]] = _PARTS[cells[1]]
    if not parts:
        raise DatasetError(f"{path} names no videos: its rows are such as walk/a.mp4,train")
    return parts
