"""Anyone's own videos: a folder per class."""

from __future__ import annotations

from pathlib import Path

from glimpse_env.datasets.description import VIDEO_SUFFIXES, DatasetError, VideoClip, VideoDataset
from glimpse_env.sources.splits import source_group, split_groups


def folder(videos: Path) -> VideoDataset:
    """Describe anyone's own videos: a folder per class, named after it.

    Args:
        videos: holds the class folders. What is hidden, or lacks one of `VIDEO_SUFFIXES`, is no clip.

    Returns:
        One fold: 15 % of each class's videos test, as many validate, the rest train, chosen by the sha256 of their
        names as in `split_groups`; videos named as HMDB-51's stay together with those cut from the same film.

    Raises:
        DatasetError: there is no such folder, or no video in it.
    """
    if not videos.is_dir():
        raise DatasetError(f"no folder of videos at {videos}: it should hold a folder per class")
    files = {
        f"{path.parent.name}/{path.name}": path
        for path in sorted(videos.glob("*/*"))
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.parent.name[0] != "."
    }
    if not files:
        raise DatasetError(f"no videos in {videos}: it should hold a folder per class, with files such as walk/a.mp4")
    class_names = tuple(sorted({path.parent.name for path in files.values()}))
    labels = {clip: class_names.index(path.parent.name) for clip, path in files.items()}
    groups = {clip: source_group(path.stem, class_name=path.parent.name) for clip, path in files.items()}
    parts = split_groups({clip: (labels[clip], groups[clip]) for clip in files})
    clips = tuple(
        VideoClip(clip_id=clip, path=files[clip], label=labels[clip], splits=(parts[clip],)) for clip in sorted(files)
    )
    return VideoDataset(name="folder", class_names=class_names, num_folds=1, clips=clips)
