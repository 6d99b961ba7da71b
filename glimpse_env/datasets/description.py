"""Descriptions of data sets: the files to decode, their labels and splits."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from glimpse_env.sources.protocol import Segment
from glimpse_env.sources.splits import VALIDATION_SHARE, Split, source_group

# fmt: off
VIDEO_SUFFIXES = frozenset([  # compared in lower case
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts",
    ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
])
# fmt: on
CARVED = f"validation is {VALIDATION_SHARE:.0%} of the source videos of each class of train"
_UCF_GROUP = re.compile(r"(.+_g\d+)_c\d+")  # clips of one group were cut from one video


def group_of_clip(clip_id: str) -> str:
    """Return the source video of a clip called <class>/<name>, with or without the suffix of a video.

    HMDB-51's and UCF-101's names contain it, and different classes may share it. Any other clip is its own source
    video, `<class>/<name>`.
    """
    path = PurePosixPath(clip_id)
    name = path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
    ucf = _UCF_GROUP.fullmatch(name)
    group = ucf[1] if ucf else source_group(name, class_name=path.parent.name)
    return f"{path.parent.name}/{name}".lstrip("/") if group == name else group


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """One labelled video file."""

    clip_id: str  # unique in the data set, `<class>/<name>`
    path: Path
    label: int  # index into the class names; -1 in an untrimmed data set
    splits: tuple[Split | None, ...]  # the part it belongs to in each fold, None if the fold leaves it out
    segments: tuple[Segment, ...] = ()  # ground truth of an untrimmed video, in seconds from its beginning


@dataclass(frozen=True, kw_only=True)
class VideoDataset:
    """The clips of a data set, in a fixed order, with every fold of its official splits."""

    name: str
    class_names: tuple[str, ...]
    num_folds: int
    clips: tuple[VideoClip, ...]  # with a file, and in a part of at least one fold
    trimmed: bool = True  # every clip is one segment of one class
    missing: tuple[str, ...] = ()  # ids of annotated clips without a file
    skipped: tuple[str, ...] = ()  # a sentence for each bad line, folder and file that was left out
    split_rule: str = f"official splits; {CARVED}"  # origin of the splits

    @property
    def clips_sha256(self) -> str:
        """Fingerprint of the clips, their labels and their splits."""
        clips = json.dumps([(clip.clip_id, clip.label, clip.splits, *clip.segments) for clip in self.clips])
        return hashlib.sha256(clips.encode()).hexdigest()


class DatasetError(ValueError):
    """The files that describe a data set are missing, empty or contradict each other."""


class Problems:
    """Notes about single videos that are left out; if strict, the first one is raised."""

    def __init__(self, *, strict: bool) -> None:
        self.notes: list[str] = []
        self._strict = strict

    def note(self, problem: str | Exception, *, allowed: bool = False) -> None:
        """Note a problem, or raise it as a DatasetError if strict, unless this kind is allowed."""
        if self._strict and not allowed:
            raise problem if isinstance(problem, DatasetError) else DatasetError(str(problem))
        self.notes.append(str(problem))


def plain_name(name: str, place: str) -> str:
    """Refuse names that are empty or could reach out of the folder they are looked up in, on any system."""
    if name in ("", ".", "..") or any(character in name for character in "/\\\0") or PureWindowsPath(name).drive:
        raise DatasetError(f"{place}: {name!r} is not a plain file name and could lie outside its class folder")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise DatasetError(f"{place}: {name!r} cannot be the name of a file ({error.reason})") from error
    return name


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a list that are not blank, each with its place."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text in UTF-8 ({error})") from error
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def files_under(folder: Path, problems: Problems) -> Iterator[Path]:
    """Yield all files below a folder; every folder once, even if links lead in a circle."""

    def left_out(error: OSError) -> None:
        problems.note(f"the videos in {error.filename} are left out: it cannot be opened ({error.strerror})")

    seen = set()
    for place, folders, names in os.walk(folder, onerror=left_out, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield from (Path(place, name) for name in names)


def spell(names: Iterable[str], *, most: int = 10) -> str:
    """Return the first names in alphabetical order, and how many more there are."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest
