"""UCF-101: class folders, `classInd.txt`, `trainlist<fold>.txt` and `testlist<fold>.txt`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from glimpse_env.datasets.description import (
    UCF_GROUP,
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    find_missing,
    plain_name,
    read_lines,
    spell,
)
from glimpse_env.sources.splits import Split, carve_validation


def ucf101(videos: Path, splits: Path, *, strict: bool = False) -> VideoDataset:
    """Describe UCF-101.

    Args:
        videos: holds a folder per class with the videos.
        splits: holds `classInd.txt` (a number and a class on each line) and, for each fold, `trainlist01.txt` (a video
            and its class's number) and `testlist01.txt` (a video).
        strict: raise at the first bad line or missing video, instead of skipping it.

    Returns:
        All clips and folds. Of each fold's train part `carve_validation` holds out the validation part, whole groups of
        clips of one source video.

    Raises:
        DatasetError: a list is missing, empty or not text, a line of `classInd.txt` cannot be read, or no video is
            left. If strict, also if a list names an unknown class, a path outside its class folder or a video in both
            parts, or a video is missing.

    Source: Soomro et al., "UCF101: a dataset of 101 human actions classes from videos in the wild", 2012.
    """
    problems = Problems(strict=strict)
    class_names = _read_classes(splits / "classInd.txt")
    folds = sorted(int(path.stem.removeprefix("trainlist")) for path in splits.glob("trainlist[0-9][0-9].txt"))
    if not folds or folds != list(range(1, len(folds) + 1)):
        raise DatasetError(f"no lists of folds 1, 2, ... in {splits}: they are named as in trainlist01.txt")
    parts = [_read_fold(splits, fold, class_names, problems) for fold in folds]
    named = sorted(set().union(*parts))
    stems = Counter(clip.removesuffix(PurePosixPath(clip).suffix) for clip in named)
    if twice := sorted(stem for stem, count in stems.items() if count > 1):
        problems.note(f"the lists in {splits} name several files called {spell(twice)}")
        named = [clip for clip in named if clip.removesuffix(PurePosixPath(clip).suffix) not in twice]
    if not named:
        raise DatasetError(f"the lists in {splits} name no videos")
    paths = {clip: videos / clip for clip in named}
    missing = find_missing(paths, problems, named_by=f"the lists in {splits}", under=videos)
    clips = tuple(
        VideoClip(
            clip_id=clip.removesuffix(PurePosixPath(clip).suffix),
            path=paths[clip],
            label=class_names.index(PurePosixPath(clip).parent.name),
            splits=tuple(part.get(clip) for part in parts),
        )
        for clip in sorted(paths.keys() - missing, key=lambda clip: clip.removesuffix(PurePosixPath(clip).suffix))
    )
    return VideoDataset(
        name="ucf101",
        class_names=class_names,
        num_folds=len(folds),
        clips=clips,
        missing=tuple(sorted(missing)),
        skipped=tuple(problems.notes),
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    classes: dict[int, str] = {}
    for place, line in _lines(path):
        number, _, name = line.replace("\t", " ").partition(" ")
        if not number.isdecimal() or not name:
            raise DatasetError(f"{place}: expected a number and a class, got {line!r}")
        if int(number) in classes:
            raise DatasetError(f"{place}: class {number} is named before, as {classes[int(number)]!r}")
        classes[int(number)] = plain_name(name.strip(), place)
    if sorted(classes) != list(range(1, len(classes) + 1)):
        raise DatasetError(f"{path}: the classes should be numbered 1, 2, ...")
    return tuple(classes[number] for number in sorted(classes))


def _read_fold(splits: Path, fold: int, class_names: tuple[str, ...], problems: Problems) -> dict[str, Split]:
    """Return the part of every `<class>/<video>` that a fold names."""
    train, test = (
        _read_list(splits / f"{part}list{fold:02d}.txt", class_names, problems) for part in ("train", "test")
    )
    if both := sorted(train.keys() & test.keys()):
        problems.note(f"{splits}, fold {fold}: {spell(both)} {'are' if len(both) > 1 else 'is'} in both lists")
        train, test = ({clip: part[clip] for clip in part if clip not in both} for part in (train, test))
    validation = carve_validation(train)
    parts: dict[str, Split] = dict.fromkeys(test, "test")
    return parts | {clip: "validation" if clip in validation else "train" for clip in train}


def _read_list(path: Path, class_names: tuple[str, ...], problems: Problems) -> dict[str, tuple[int, str]]:
    """Return for each `<class>/<video>` of a list its label and its source group."""
    clips = {}
    for place, line in _lines(path):
        name, _, number = re.fullmatch(r"(.*?)(\s+(\d+))?", line).groups()  # type: ignore[union-attr]
        class_name, slash, video = name.partition("/")
        try:
            if not slash or class_name not in class_names:
                raise DatasetError(f"{place}: expected a video in the folder of a known class, got {line!r}")
            if number and int(number) != class_names.index(class_name) + 1:
                raise DatasetError(f"{place}: {class_name} is not class {number} of classInd.txt")
            stem = PurePosixPath(plain_name(video, place)).stem
        except DatasetError as error:
            problems.note(error)
            continue
        group = UCF_GROUP.fullmatch(stem)
        clips[name] = (class_names.index(class_name), group[1] if group else stem)
    return clips


def _lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a list that say something, each with its place."""
    if not path.is_file():
        raise DatasetError(f"no list at {path}: UCF-101's split archive has it")
    lines = read_lines(path)
    if not lines:
        raise DatasetError(f"{path} is empty")
    return lines
