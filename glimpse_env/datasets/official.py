"""HMDB-51 and UCF-101: a folder per class, and lists of the videos of each official split."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glimpse_env.datasets.description import (
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    group_of_clip,
    plain_name,
    read_lines,
    spell,
)
from glimpse_env.sources.splits import Split, carve_validation


def hmdb51(
    videos: Path, splits: Path, *, strict: bool = False, classes: Collection[str] = (), allow_missing: bool = False
) -> VideoDataset:
    """Describe HMDB-51 (Kuehne et al., ICCV 2011), or a data set with its layout, such as J-HMDB.

    Args:
        videos: folder with a folder of videos per class.
        splits: folder of the official `<class>_test_split<fold>.txt`.
        strict: raise a DatasetError at the first bad line or missing video, instead of skipping it.
        classes: keep only these classes, whose clips stay in the same parts; by default all.
        allow_missing: skip missing videos even if strict.

    Returns:
        The clips that at least one fold uses, with all folds. `carve_validation` takes the validation part of each fold
        from its train part.

    Raises:
        DatasetError: there are no split files, one is not text, a class is unknown, or no video is left.
    """
    problems = Problems(strict=strict)
    tags = read_hmdb_splits(splits, problems)
    parts: tuple[Split | None, ...] = (None, "train", "test")
    num_folds = len(next(iter(next(iter(tags.values())).values())))
    folds = [
        {f"{name}/{video}": part for name in tags for video, own in tags[name].items() if (part := parts[own[fold]])}
        for fold in range(num_folds)
    ]
    lists = _Lists("hmdb51", f"the split files in {splits}", tuple(tags), folds)
    return _describe(lists, videos, problems, classes, allow_missing)


def ucf101(
    videos: Path, splits: Path, *, strict: bool = False, classes: Collection[str] = (), allow_missing: bool = False
) -> VideoDataset:
    """Describe UCF-101 (Soomro et al., 2012).

    Args:
        videos, strict, classes, allow_missing: as in `hmdb51`.
        splits: folder of `classInd.txt` (a number and a class on each line) and, for each fold, `trainlist01.txt` (a
            video and its class's number) and `testlist01.txt` (a video).

    Returns:
        All clips, with all folds. `carve_validation` takes the validation part of each fold from its train part.

    Raises:
        DatasetError: a list is missing, empty or not text, a line of `classInd.txt` cannot be read, a class is unknown,
            or no video is left.
    """
    problems = Problems(strict=strict)
    class_names = _read_ucf_classes(splits / "classInd.txt")
    numbers = sorted(int(path.stem.removeprefix("trainlist")) for path in splits.glob("trainlist[0-9][0-9].txt"))
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise DatasetError(f"no lists of folds 1, 2, ... in {splits}: they are named as in trainlist01.txt")
    folds = [_read_ucf_fold(splits, number, class_names, problems) for number in numbers]
    lists = _Lists("ucf101", f"the lists in {splits}", class_names, folds)
    return _describe(lists, videos, problems, classes, allow_missing)


class _Lists(NamedTuple):
    """Official lists: for each fold the part, train or test, of each `<class>/<file>`."""

    dataset: str
    place: str
    class_names: tuple[str, ...]
    folds: Sequence[Mapping[str, Split]]


def _describe(
    lists: _Lists, videos: Path, problems: Problems, classes: Collection[str], allow_missing: bool
) -> VideoDataset:
    for name in classes:
        if name not in lists.class_names:
            close = difflib.get_close_matches(name, lists.class_names, n=3, cutoff=0.5)
            raise DatasetError(f"no class {name!r} in {lists.place}: choose from {spell(close or lists.class_names)}")
    class_names = tuple(name for name in lists.class_names if not classes or name in classes)
    ids = {file: file.removesuffix(PurePosixPath(file).suffix) for fold in lists.folds for file in fold}
    if twice := {clip for clip, count in Counter(ids.values()).items() if count > 1}:
        problems.note(f"{lists.place} name several files called {spell(twice)}")
    files = {clip: file for file, clip in ids.items() if clip not in twice}
    classes_of = {clip: PurePosixPath(clip).parent.name for clip in files}
    paths = {clip: videos / file for clip, file in files.items() if classes_of[clip] in class_names}
    if not paths:
        raise DatasetError(f"{lists.place} use no videos")
    missing = {clip for clip, path in paths.items() if not os.path.isfile(path)}  # False for names that are too long
    if missing:
        count = f"{len(missing)} video{'s' * (len(missing) > 1)}"
        names = spell(files[clip] for clip in missing)
        error = DatasetError(f"{count} named by {lists.place} not found under {videos}: {names}")
        if len(missing) == len(paths):
            raise error
        problems.note(error, allowed=allow_missing)
    parts = []
    for fold in lists.folds:
        own = {ids[file]: part for file, part in fold.items() if ids[file] in files}
        # Missing videos and other classes count too, so that they do not move clips between the parts.
        train = {
            clip: (lists.class_names.index(classes_of[clip]), group_of_clip(clip))
            for clip, part in own.items()
            if part == "train"
        }
        parts.append(own | dict.fromkeys(carve_validation(train), "validation"))
    clips = (
        VideoClip(
            clip_id=clip,
            path=paths[clip],
            label=class_names.index(classes_of[clip]),
            splits=tuple(part.get(clip) for part in parts),
        )
        for clip in sorted(paths.keys() - missing)
    )
    return VideoDataset(
        name=lists.dataset,
        class_names=class_names,
        num_folds=len(parts),
        clips=tuple(clips),
        missing=tuple(sorted(missing)),
        skipped=tuple(problems.notes),
    )


def read_hmdb_splits(splits: Path, problems: Problems | None = None) -> dict[str, dict[str, tuple[int, ...]]]:
    """Read the tags (1 train, 2 test, 0 unused) of each video in every fold, by class in alphabetical order.

    Args:
        splits: folder of `<class>_test_split<fold>.txt`; a line is a file name and a tag.
        problems: notes each bad line, whose video is skipped; without it the first bad line raises a DatasetError.
    """
    problems = problems or Problems(strict=True)
    files: dict[str, dict[int, Path]] = {}
    for path in sorted(splits.glob("*_test_split*.txt")):
        match = re.fullmatch(r"(.+)_test_split(\d+)\.txt", path.name)
        if match is not None and not match[1].startswith("._"):  # notes of macOS
            files.setdefault(plain_name(match[1], str(path)), {})[int(match[2])] = path
    if not files:
        raise DatasetError(f"no split files in {splits}: they are named as in walk_test_split1.txt")
    folds = sorted(set().union(*files.values()))
    if folds != list(range(1, len(folds) + 1)):
        raise DatasetError(
            f"the split files in {splits} are of folds {folds}: they should be of 1, 2, ... without gaps"
        )
    if incomplete := sorted(name for name, own in files.items() if sorted(own) != folds):
        raise DatasetError(f"the split files in {splits} lack a fold of the classes {', '.join(incomplete)}")
    joined = {}
    for name, own in files.items():
        tags = [_read_hmdb_tags(own[fold], problems) for fold in folds]
        for fold, of_fold in enumerate(tags, start=1):
            if differing := of_fold.keys() ^ tags[0].keys():
                problems.note(f"split files of {name!r}: folds 1 and {fold} differ in {spell(differing)}")
        common = [video for video in tags[0] if all(video in of_fold for of_fold in tags)]
        if not common:
            raise DatasetError(f"the split files of {name!r} in {splits} name no videos")
        joined[name] = {video: tuple(of_fold[video] for of_fold in tags) for video in common}
    return joined


def _read_hmdb_tags(path: Path, problems: Problems) -> dict[str, int]:
    tags: dict[str, int] = {}
    for place, line in read_lines(path):
        words = line.rsplit(maxsplit=1)
        try:
            if len(words) < 2 or words[1] not in ("0", "1", "2"):
                raise DatasetError(f"{place}: expected a file name and 0, 1 or 2, got {line!r}")
            name, tag = plain_name(words[0], place), int(words[1])
            if name in tags:
                tag = tag if tag == tags[name] else 0  # either could be right
                problems.note(f"{place}: {name!r} is named before")
            tags[name] = tag
        except DatasetError as error:
            problems.note(error)
    return tags


def _read_ucf_classes(path: Path) -> tuple[str, ...]:
    classes: dict[int, str] = {}
    for place, line in _read_ucf_lines(path):
        number, _, name = line.replace("\t", " ").partition(" ")
        if not re.fullmatch("[0-9]{1,9}", number) or not name:
            raise DatasetError(f"{place}: expected a number and a class, got {line!r}")
        if int(number) in classes:
            raise DatasetError(f"{place}: class {number} is named before, as {classes[int(number)]!r}")
        classes[int(number)] = plain_name(name.strip(), place)
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise DatasetError(f"{path}: the classes should be numbered 1, 2, ...")
    return tuple(classes[number] for number in sorted(classes))


def _read_ucf_fold(splits: Path, fold: int, class_names: tuple[str, ...], problems: Problems) -> dict[str, Split]:
    parts: tuple[Split, ...] = ("train", "test")
    files = {part: set[str]() for part in parts}
    for part, found in files.items():
        for place, line in _read_ucf_lines(splits / f"{part}list{fold:02d}.txt"):
            name, _, number = re.fullmatch(r"(.*?)(\s+([0-9]{1,9}))?", line).groups()  # type: ignore[union-attr]
            class_name, slash, video = name.partition("/")
            try:
                if not slash or class_name not in class_names:
                    raise DatasetError(f"{place}: expected a video in the folder of a known class, got {line!r}")
                if number and int(number) != class_names.index(class_name) + 1:
                    raise DatasetError(f"{place}: {class_name} is not class {number} of classInd.txt")
                plain_name(video, place)
                found.add(name)
            except DatasetError as error:
                problems.note(error)
    if both := files["train"] & files["test"]:
        problems.note(f"{splits}, fold {fold}: {spell(both)} {'are' if len(both) > 1 else 'is'} in both lists")
    return {name: part for part, found in files.items() for name in found - both}


def _read_ucf_lines(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DatasetError(f"no list at {path}: UCF-101's split archive has it")
    lines = read_lines(path)
    if not lines:
        raise DatasetError(f"{path} is empty")
    return lines
