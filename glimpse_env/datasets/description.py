"""What a data set's description says: which files to decode, and what is true of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from glimpse_env.sources.protocol import Segment
from glimpse_env.sources.splits import Split, source_group

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"]
)  # compared in lower case
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
    """

    name: str
    class_names: tuple[str, ...]
    num_folds: int
    clips: tuple[VideoClip, ...]
    trimmed: bool = True
    missing: tuple[str, ...] = ()


class DatasetError(ValueError):
    """The files that describe a data set are missing, empty or contradict each other."""


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
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text in UTF-8 ({error})") from error
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def require_files(paths: Iterable[Path], *, named_by: str, under: Path) -> None:
    """Raise DatasetError where files are missing, with their count and the first of them."""
    missing = sorted(str(path.relative_to(under)) for path in paths if not path.is_file())
    if missing:
        count = f"{len(missing)} video{'s' * (len(missing) > 1)}"
        raise DatasetError(f"{count} named by {named_by} not found under {under}: {spell(missing)}")


def spell(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest
