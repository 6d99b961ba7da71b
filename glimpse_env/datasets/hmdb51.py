"""HMDB-51, and what is laid out like it, such as J-HMDB: class folders and `<class>_test_split<fold>.txt`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from glimpse_env.datasets.description import (
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    find_missing,
    plain_name,
    read_lines,
    spell,
)
from glimpse_env.sources.splits import Split, carve_validation, source_group


def hmdb51(videos: Path, splits: Path, *, strict: bool = False) -> VideoDataset:
    """Describe HMDB-51, or anything laid out like it, such as J-HMDB.

    Args:
        videos: holds a folder per class with the videos.
        splits: holds the official `<class>_test_split<fold>.txt`.
        strict: raise at the first bad line or missing video, instead of skipping it.

    Returns:
        The clips that at least one fold uses, all folds kept. Of each fold's train part `carve_validation` holds out
        the validation part.

    Raises:
        DatasetError: there are no split files, one is not text, or no video is left. If strict, also if a line cannot
            be read, names a path outside its class folder or a video named before, the folds of a class differ, or a
            video is missing.

    Source: Kuehne et al., "HMDB: a large video database for human motion recognition", ICCV 2011.
    """
    problems = Problems(strict=strict)
    tags = read_hmdb_splits(splits, problems)
    class_names = tuple(tags)
    num_folds = len(next(iter(next(iter(tags.values())).values())))
    named = [
        (f"{name}/{PurePosixPath(video).stem}", (label, video, folds))
        for label, name in enumerate(class_names)
        for video, folds in tags[name].items()
        if any(folds)
    ]
    if twice := sorted(clip for clip, count in Counter(clip for clip, _ in named).items() if count > 1):
        problems.note(f"the split files in {splits} name several files called {spell(twice)}")
    used = {clip: entry for clip, entry in named if clip not in twice}
    if not used:
        raise DatasetError(f"the split files in {splits} use no videos: every one is tagged 0")
    paths = {clip: videos / class_names[label] / video for clip, (label, video, _) in used.items()}
    missing = find_missing(paths, problems, named_by=f"the split files in {splits}", under=videos)
    parts = [_hmdb_fold(used, class_names, fold) for fold in range(num_folds)]
    clips = tuple(
        VideoClip(clip_id=clip, path=paths[clip], label=used[clip][0], splits=tuple(part.get(clip) for part in parts))
        for clip in sorted(used.keys() - missing)
    )
    return VideoDataset(
        name="hmdb51",
        class_names=class_names,
        num_folds=num_folds,
        clips=clips,
        missing=tuple(sorted(missing)),
        skipped=tuple(problems.notes),
    )


def read_hmdb_splits(splits: Path, problems: Problems | None = None) -> dict[str, dict[str, tuple[int, ...]]]:
    """Read all official split files of a folder.

    Args:
        splits: holds `<class>_test_split<fold>.txt` with lines of a file name and a tag: 1 train, 2 test, 0 unused.
        problems: takes a note of each bad line, whose video is skipped; without it the first one raises.

    Returns:
        For each class, in alphabetical order, each video's tag in every fold.

    Raises:
        DatasetError: as `hmdb51` says.
    """
    problems = problems or Problems(strict=True)
    files: dict[str, dict[int, Path]] = {}
    for path in sorted(splits.glob("*_test_split*.txt")):
        match = re.fullmatch(r"(.+)_test_split(\d+)\.txt", path.name)
        if match is not None and not match[1].startswith("._"):  # macOS keeps its own notes in these
            files.setdefault(plain_name(match[1], str(path)), {})[int(match[2])] = path
    if not files:
        raise DatasetError(f"no split files in {splits}: they are named as in walk_test_split1.txt")
    folds = sorted(set().union(*files.values()))
    if folds != list(range(1, len(folds) + 1)):
        found = ", ".join(map(str, folds))
        raise DatasetError(
            f"the split files in {splits} are of folds {found}: they should be of 1, 2, ... without gaps"
        )
    if incomplete := sorted(name for name, own in files.items() if sorted(own) != folds):
        raise DatasetError(
            f"the split files in {splits} should be of folds 1, 2, ... for every class: see {incomplete}"
        )
    return {
        name: _merge_folds([_read_hmdb_tags(own[fold], problems) for fold in folds], name, problems)
        for name, own in files.items()
    }


def _read_hmdb_tags(path: Path, problems: Problems) -> dict[str, int]:
    tags: dict[str, int] = {}
    for place, line in read_lines(path):
        words = line.rsplit(maxsplit=1)
        try:
            if len(words) < 2 or words[1] not in ("0", "1", "2"):
                raise DatasetError(f"{place}: expected a file name and 0, 1 or 2, got {line!r}")
            name, tag = plain_name(words[0], place), int(words[1])
            if name in tags:
                tag = tag if tag == tags[name] else 0  # which of the two is right nobody knows
                problems.note(f"{place}: {name!r} is named before")
            tags[name] = tag
        except DatasetError as error:
            problems.note(error)
    return tags


def _merge_folds(folds: list[dict[str, int]], class_name: str, problems: Problems) -> dict[str, tuple[int, ...]]:
    """Return the tags of the videos that all folds name."""
    for fold, tags in enumerate(folds, start=1):
        if tags.keys() != folds[0].keys():
            differing = sorted(tags.keys() ^ folds[0].keys())
            problems.note(f"split files of {class_name!r}: folds 1 and {fold} differ in {spell(differing)}")
    common = [name for name in folds[0] if all(name in tags for tags in folds)]
    if not common:
        raise DatasetError(f"the split files of {class_name!r} name no videos")
    return {name: tuple(tags[name] for tags in folds) for name in common}


def _hmdb_fold(
    used: Mapping[str, tuple[int, str, tuple[int, ...]]], class_names: tuple[str, ...], fold: int
) -> dict[str, Split]:
    train = {
        clip: (label, source_group(PurePosixPath(video).stem, class_name=class_names[label]))
        for clip, (label, video, tags) in used.items()
        if tags[fold] == 1
    }
    parts: dict[str, Split] = {clip: "test" for clip, (_, _, tags) in used.items() if tags[fold] == 2}
    validation = carve_validation(train)
    return parts | {clip: "validation" if clip in validation else "train" for clip in train}
