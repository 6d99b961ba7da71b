"""Descriptions of data sets: the files to decode, their labels and splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from glimpse_env.sources.protocol import Segment
from glimpse_env.sources.splits import Split, source_group

# fmt: off
VIDEO_SUFFIXES = frozenset([  # compared in lower case
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts",
    ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
])
# fmt: on
UCF_GROUP = re.compile(r"(.+_g\d+)_c\d+")  # clips of one group were cut from one video
_LISTED = 10  # names that an error spells out before it only counts


def group_of_clip(clip_id: str) -> str:
    """Return the source video of a clip that is called <class>/<name>, with a video's ending or without.

    HMDB-51's and UCF-101's names tell it; any other clip is a source video of its own.
    """
    path = PurePosixPath(clip_id)
    name = path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
    ucf = UCF_GROUP.fullmatch(name)
    return ucf[1] if ucf else source_group(name, class_name=path.parent.name)


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """One labelled video file.

    Attributes:
        clip_id: unique in the data set, `<class>/<name>`.
        path: the file.
        label: index into the data set's class names; -1 in an untrimmed data set, whose truth is in `segments`.
        splits: the part it belongs to in each fold, None where that fold leaves it out.
        segments: what is true of an untrimmed video, in seconds from its beginning.
    """

    clip_id: str
    path: Path
    label: int
    splits: tuple[Split | None, ...]
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """The clips of a data set, in a fixed order, with every fold of its official splits.

    Attributes:
        name: of the data set.
        class_names: the C classes.
        num_folds: how many official splits there are.
        clips: those that at least one fold uses, and that are there.
        trimmed: every clip is one segment of one class.
        missing: clips that are annotated and not there, by id.
        skipped: a sentence for each bad line, folder and file that was left out.
    """

    name: str
    class_names: tuple[str, ...]
    num_folds: int
    clips: tuple[VideoClip, ...]
    trimmed: bool = True
    missing: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class DatasetError(ValueError):
    """The files that describe a data set are missing, empty or contradict each other."""


class Problems:
    """Notes about single videos that are left out, or, if strict, the error that the first of them raises.

    Attributes:
        notes: a sentence for each.
    """

    def __init__(self, *, strict: bool) -> None:
        self.notes: list[str] = []
        self._strict = strict

    def note(self, problem: str | Exception) -> None:
        """Note a problem.

        Raises:
            DatasetError: problems are not allowed.
        """
        if self._strict:
            raise problem if isinstance(problem, DatasetError) else DatasetError(str(problem))
        self.notes.append(str(problem))


def plain_name(name: str, place: str) -> str:
    """Refuse names that are empty or could reach out of the folder they are looked up in, on any system."""
    if name in ("", ".", "..") or any(character in name for character in "/\\\0") or PureWindowsPath(name).drive:
        raise DatasetError(f"{place}: {name!r} is not a plain file name and could lie outside its class folder")
    return name


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a list that say something, each with its place.

    Raises:
        DatasetError: it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # with a byte order mark or without
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text in UTF-8 ({error})") from error
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def find_missing(paths: Mapping[str, Path], problems: Problems, *, named_by: str, under: Path) -> set[str]:
    """Return the ids whose files are missing, after a note with their count and the first of them.

    Raises:
        DatasetError: all are missing, or one is and problems are not allowed.
    """
    missing = {clip for clip, path in paths.items() if not path.is_file()}
    if missing:
        names = sorted(str(paths[clip].relative_to(under)) for clip in missing)
        count = f"{len(names)} video{'s' * (len(names) > 1)}"
        error = DatasetError(f"{count} named by {named_by} not found under {under}: {spell(names)}")
        if len(missing) == len(paths):
            raise error
        problems.note(error)
    return missing


def files_under(folder: Path, problems: Problems) -> Iterator[Path]:
    """Yield all files below a folder; every folder once, even if links lead in a circle.

    Raises:
        DatasetError: a folder cannot be opened, and problems are not allowed.
    """
    seen = set()

    def left_out(error: OSError) -> None:
        problems.note(f"the videos in {error.filename} are left out: it cannot be opened ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=left_out, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in names)


def spell(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest
