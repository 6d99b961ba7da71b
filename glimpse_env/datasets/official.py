"""HMDB-51 and UCF-101: a folder per class, and lists of the videos of each official split."""

from __future__ import annotations

import difflib
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
    """Describe HMDB-51, or a data set with its layout, such as J-HMDB.

    Args:
        videos: folder with a folder of videos per class.
        splits: folder of the official `<class>_test_split<fold>.txt`.
        strict: raise at the first bad line or missing video, instead of skipping it.
        classes: keep only these classes, whose clips stay in the same parts; by default all.
        allow_missing: skip missing videos even if strict.

    Returns:
        The clips that at least one fold uses, with all folds. `carve_validation` takes the validation part of each fold
        from its train part.

    Raises:
        DatasetError: there are no split files, one is not text, a class is unknown, or no video is left. If strict,
            also if a line cannot be read, names a path outside its class folder or a video named before, the folds of a
            class differ, or a video is missing.

    Source: Kuehne et al., "HMDB: a large video database for human motion recognition", ICCV 2011.
    """
    problems = Problems(strict=strict)
    tags = read_hmdb_splits(splits, problems)
    num_folds = len(next(iter(next(iter(tags.values())).values())))
    parts: list[dict[str, Split]] = [
        {
            f"{name}/{video}": "train" if own[fold] == 1 else "test"
            for name in tags
            for video, own in tags[name].items()
            if own[fold]
        }
        for fold in range(num_folds)
    ]
    lists = _Lists("hmdb51", f"the split files in {splits}", tuple(tags), parts)
    return _describe(lists, videos, problems, classes, allow_missing)


def ucf101(
    videos: Path, splits: Path, *, strict: bool = False, classes: Collection[str] = (), allow_missing: bool = False
) -> VideoDataset:
    """Describe UCF-101.

    Args:
        videos: folder with a folder of videos per class.
        splits: folder of `classInd.txt` (a number and a class on each line) and, for each fold, `trainlist01.txt` (a
            video and its class's number) and `testlist01.txt` (a video).
        strict: raise at the first bad line or missing video, instead of skipping it.
        classes: keep only these classes, whose clips stay in the same parts; by default all.
        allow_missing: skip missing videos even if strict.

    Returns:
        All clips, with all folds. `carve_validation` takes the validation part of each fold from its train part, whole
        groups of clips of one source video.

    Raises:
        DatasetError: a list is missing, empty or not text, a line of `classInd.txt` cannot be read, or no video is
            left. If strict, also if a list names an unknown class, a path outside its class folder or a video in both
            parts, or a video is missing.

    Source: Soomro et al., "UCF101: a dataset of 101 human actions classes from videos in the wild", 2012.
    """
    problems = Problems(strict=strict)
    class_names = _read_ucf_classes(splits / "classInd.txt")
    folds = sorted(int(path.stem.removeprefix("trainlist")) for path in splits.glob("trainlist[0-9][0-9].txt"))
    if not folds or folds != list(range(1, len(folds) + 1)):
        raise DatasetError(f"no lists of folds 1, 2, ... in {splits}: they are named as in trainlist01.txt")
    parts = [_read_ucf_fold(splits, fold, class_names, problems) for fold in folds]
    lists = _Lists("ucf101", f"the lists in {splits}", class_names, parts)
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
    class_names = _chosen(classes, lists)
    ids = {file: file.removesuffix(PurePosixPath(file).suffix) for fold in lists.folds for file in fold}
    if twice := {clip for clip, count in Counter(ids.values()).items() if count > 1}:
        problems.note(f"{lists.place} name several files called {spell(twice)}")
    labels = {
        clip: lists.class_names.index(PurePosixPath(clip).parent.name) for clip in ids.values() if clip not in twice
    }
    paths = {
        clip: videos / file
        for file, clip in ids.items()
        if clip in labels and lists.class_names[labels[clip]] in class_names
    }
    if not paths:
        raise DatasetError(f"{lists.place} use no videos")
    missing = {clip for clip, path in paths.items() if not path.is_file()}
    if missing:
        count = f"{len(missing)} video{'s' * (len(missing) > 1)}"
        files = spell(str(paths[clip].relative_to(videos)) for clip in missing)
        error = DatasetError(f"{count} named by {lists.place} not found under {videos}: {files}")
        if len(missing) == len(paths):
            raise error
        problems.note(error, allowed=allow_missing)
    parts = []
    for fold in lists.folds:
        own = {ids[file]: part for file, part in fold.items() if ids[file] in labels}
        # Missing videos and other classes count too, so that they do not move clips between the parts.
        train = {clip: (labels[clip], group_of_clip(clip)) for clip, part in own.items() if part == "train"}
        parts.append(own | dict.fromkeys(carve_validation(train), "validation"))
    clips = tuple(
        VideoClip(
            clip_id=clip,
            path=paths[clip],
            label=class_names.index(lists.class_names[labels[clip]]),
            splits=tuple(part.get(clip) for part in parts),
        )
        for clip in sorted(paths.keys() - missing)
    )
    return VideoDataset(
        name=lists.dataset,
        class_names=class_names,
        num_folds=len(parts),
        clips=clips,
        missing=tuple(sorted(missing)),
        skipped=tuple(problems.notes),
    )


def _chosen(classes: Collection[str], lists: _Lists) -> tuple[str, ...]:
    """Return the chosen classes in the order of the data set."""
    for name in classes:
        if name not in lists.class_names:
            close = difflib.get_close_matches(name, lists.class_names, n=3, cutoff=0.5)
            raise DatasetError(f"no class {name!r} in {lists.place}: choose from {spell(close or lists.class_names)}")
    return tuple(name for name in lists.class_names if not classes or name in classes)


def read_hmdb_splits(splits: Path, problems: Problems | None = None) -> dict[str, dict[str, tuple[int, ...]]]:
    """Read all official split files of a folder.

    Args:
        splits: folder of `<class>_test_split<fold>.txt`; a line is a file name and a tag: 1 train, 2 test, 0 unused.
        problems: notes each bad line, whose video is skipped; without it the first bad line raises.

    Returns:
        For each class, in alphabetical order, each video's tag in every fold.

    Raises:
        DatasetError: as in `hmdb51`.
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
        found = ", ".join(map(str, folds))
        raise DatasetError(
            f"the split files in {splits} are of folds {found}: they should be of 1, 2, ... without gaps"
        )
    if incomplete := sorted(name for name, own in files.items() if sorted(own) != folds):
        raise DatasetError(
            f"the split files in {splits} should be of folds 1, 2, ... for every class: see {incomplete}"
        )
    return {
        name: _join_hmdb_folds([_read_hmdb_tags(own[fold], problems) for fold in folds], name, problems)
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
                tag = tag if tag == tags[name] else 0  # either could be right
                problems.note(f"{place}: {name!r} is named before")
            tags[name] = tag
        except DatasetError as error:
            problems.note(error)
    return tags


def _join_hmdb_folds(folds: list[dict[str, int]], class_name: str, problems: Problems) -> dict[str, tuple[int, ...]]:
    """Return the tags of the videos that all folds name."""
    for fold, tags in enumerate(folds, start=1):
        if differing := tags.keys() ^ folds[0].keys():
            problems.note(f"split files of {class_name!r}: folds 1 and {fold} differ in {spell(differing)}")
    common = [name for name in folds[0] if all(name in tags for tags in folds)]
    if not common:
        raise DatasetError(f"the split files of {class_name!r} name no videos")
    return {name: tuple(tags[name] for tags in folds) for name in common}


def _read_ucf_classes(path: Path) -> tuple[str, ...]:
    classes: dict[int, str] = {}
    for place, line in _read_ucf_lines(path):
        number, _, name = line.replace("\t", " ").partition(" ")
        if not number.isdecimal() or not name:
            raise DatasetError(f"{place}: expected a number and a class, got {line!r}")
        if int(number) in classes:
            raise DatasetError(f"{place}: class {number} is named before, as {classes[int(number)]!r}")
        classes[int(number)] = plain_name(name.strip(), place)
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise DatasetError(f"{path}: the classes should be numbered 1, 2, ...")
    return tuple(classes[number] for number in sorted(classes))


def _read_ucf_fold(splits: Path, fold: int, class_names: tuple[str, ...], problems: Problems) -> dict[str, Split]:
    train, test = (
        _read_ucf_list(splits / f"{part}list{fold:02d}.txt", class_names, problems) for part in ("train", "test")
    )
    both = train & test
    if both:
        problems.note(f"{splits}, fold {fold}: {spell(both)} {'are' if len(both) > 1 else 'is'} in both lists")
    parts: dict[str, Split] = dict.fromkeys(train - both, "train")
    return parts | dict.fromkeys(test - both, "test")


def _read_ucf_list(path: Path, class_names: tuple[str, ...], problems: Problems) -> set[str]:
    """Return the `<class>/<video>` of a list."""
    files = set()
    for place, line in _read_ucf_lines(path):
        name, _, number = re.fullmatch(r"(.*?)(\s+(\d+))?", line).groups()  # type: ignore[union-attr]
        class_name, slash, video = name.partition("/")
        try:
            if not slash or class_name not in class_names:
                raise DatasetError(f"{place}: expected a video in the folder of a known class, got {line!r}")
            if number and int(number) != class_names.index(class_name) + 1:
                raise DatasetError(f"{place}: {class_name} is not class {number} of classInd.txt")
            plain_name(video, place)
        except DatasetError as error:
            problems.note(error)
            continue
        files.add(name)
    return files


def _read_ucf_lines(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DatasetError(f"no list at {path}: UCF-101's split archive has it")
    lines = read_lines(path)
    if not lines:
        raise DatasetError(f"{path} is empty")
    return lines
