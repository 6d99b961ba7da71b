"""Anyone's own videos: a folder per class."""

from __future__ import annotations

from pathlib import Path

from glimpse_env.datasets.description import (
    VIDEO_SUFFIXES,
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    files_under,
    spell,
)
from glimpse_env.sources.splits import source_group, split_groups

_CLUTTER = frozenset(["Thumbs.db", "desktop.ini"])  # of file managers, as are names that begin with a dot


def folder(videos: Path, *, strict: bool = False) -> VideoDataset:
    """Describe anyone's own videos: a folder per class, named after it.

    Args:
        videos: holds the class folders. A clip has one of `VIDEO_SUFFIXES`; other files are left out and noted, hidden
            ones without a note.
        strict: raise if a folder cannot be opened, instead of leaving it out.

    Returns:
        One fold: 15 % of each class's videos test, as many validate, the rest train, chosen by the sha256 of their
        names as in `split_groups`; videos named as HMDB-51's stay together with those cut from the same film.

    Raises:
        DatasetError: there is no such folder, or no video in it.
    """
    if not videos.is_dir():
        raise DatasetError(f"no folder of videos at {videos}: it should hold a folder per class")
    problems = Problems(strict=strict)
    places = {path.relative_to(videos).parts: path for path in sorted(files_under(videos, problems))}
    shown = {parts: path for parts, path in places.items() if not any(part.startswith(".") for part in parts)}
    files = {
        "/".join(parts): path
        for parts, path in shown.items()
        if len(parts) == 2 and path.suffix.lower() in VIDEO_SUFFIXES
    }
    others = sorted("/".join(parts) for parts in shown if "/".join(parts) not in files and parts[-1] not in _CLUTTER)
    if others:
        problems.notes.append(
            f"{len(others)} files in {videos} are left out, since they are not <class>/<name> with the suffix of a "
            f"video: {spell(others)}"
        )
    if not files:
        raise DatasetError(f"no videos in {videos}: it should hold a folder per class, with files such as walk/a.mp4")
    class_names = tuple(sorted({path.parent.name for path in files.values()}))
    labels = {clip: class_names.index(path.parent.name) for clip, path in files.items()}
    groups = {clip: source_group(path.stem, class_name=path.parent.name) for clip, path in files.items()}
    parts = split_groups({clip: (labels[clip], groups[clip]) for clip in files})
    clips = tuple(
        VideoClip(clip_id=clip, path=files[clip], label=labels[clip], splits=(parts[clip],)) for clip in sorted(files)
    )
    return VideoDataset(name="folder", class_names=class_names, num_folds=1, clips=clips, skipped=tuple(problems.notes))
