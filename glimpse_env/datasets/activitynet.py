"""ActivityNet v1.3: untrimmed videos named by their ids, and one JSON file of annotations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse_env.datasets.description import (
    VIDEO_SUFFIXES,
    DatasetError,
    Problems,
    VideoClip,
    VideoDataset,
    files_under,
    plain_name,
    spell,
)
from glimpse_env.sources.protocol import Segment
from glimpse_env.sources.splits import carve_validation

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The entry of one video in ActivityNet's file."""

    subset: str  # "training", "validation" or "testing"
    segments: tuple[tuple[float, float, str], ...]  # starts, ends and class names; some have no length or end too late
    held_out: bool = False  # a video of the training part that belongs to the validation part


def activitynet(videos: Path, annotations: Path, *, strict: bool = False) -> VideoDataset:
    """Describe the videos of ActivityNet (Heilbron et al., CVPR 2015) that are present.

    Args:
        videos: folder of `v_<id>` or `<id>` with any video suffix, at any depth, also behind links to folders.
        annotations: the official JSON file.
        strict: raise at the first bad entry, instead of skipping its video.

    Returns:
        One fold. Its test part is the official validation part, since the testing part has no labels. Its validation
        part is the videos of the training part with `"held_out": true`, which ActivityNet's own file never has; without
        them `carve_validation` chooses it, a video counting for the first of its classes. `missing` lists the videos
        without a file.

    Raises:
        DatasetError: the file cannot be read, an id is no plain name, two files have the same id, or no annotated video
            is present.
    """
    problems = Problems(strict=strict)
    class_names, database = read_activitynet(annotations, problems)
    labelled = {video: note for video, note in database.items() if note.subset != "testing" and note.segments}
    found = _find_videos(videos, set(labelled), problems)
    if not found:
        raise DatasetError(
            f"none of the {len(labelled)} videos of {annotations} is in {videos}: v_<id>.mp4 and the like"
        )
    segments = {
        video: tuple(Segment(start, end, class_names.index(name)) for start, end, name in note.segments)
        for video, note in labelled.items()
    }
    # Missing videos count too, so that they do not move others between the parts.
    train = {video for video, note in labelled.items() if note.subset == "training"}
    validation = {video for video in train if labelled[video].held_out} or carve_validation(
        {video: (min(segment.label for segment in segments[video]), video) for video in train}
    )
    clips = tuple(
        VideoClip(
            clip_id=video,
            path=found[video],
            label=-1,
            splits=("test" if video not in train else "validation" if video in validation else "train",),
            segments=segments[video],
        )
        for video in sorted(found)
    )
    return VideoDataset(
        name="activitynet",
        class_names=class_names,
        num_folds=1,
        clips=clips,
        trimmed=False,
        missing=tuple(sorted(labelled.keys() - found.keys())),
        skipped=tuple(problems.notes),
    )


def read_activitynet(
    annotations: Path, problems: Problems | None = None
) -> tuple[tuple[str, ...], dict[str, Annotation]]:
    """Return the class names in alphabetical order, and the annotation of every video by its id.

    Args:
        annotations: path of the official JSON file.
        problems: notes each bad entry; without it the first one raises.

    Raises:
        DatasetError: the file is missing, no JSON, or of another form than ActivityNet's file.
    """
    if not annotations.is_file():
        raise DatasetError(f"no annotations at {annotations}: they are ActivityNet's activity_net.v1-3.min.json")
    try:
        database = json.loads(annotations.read_text(encoding="utf-8-sig"))["database"]
        notes = {}
        for video, entry in database.items():
            try:
                notes[plain_name(video, str(annotations))] = _note(video, entry)
            except (DatasetError, *_MALFORMED) as error:
                if problems is None:
                    raise
                problems.note(f"{annotations}: the entry of {video!r} is skipped ({type(error).__name__}: {error})")
    except DatasetError:
        raise
    except _MALFORMED as error:
        raise DatasetError(
            f"{annotations} is not as ActivityNet's annotations are ({type(error).__name__}: {error})"
        ) from error
    class_names = sorted({name for note in notes.values() for _, _, name in note.segments})
    if not class_names:
        raise DatasetError(f"{annotations} labels no video")
    return tuple(class_names), notes


def _note(video: str, entry: dict[str, Any]) -> Annotation:
    subset = entry["subset"]
    if subset not in ("training", "validation", "testing"):
        raise ValueError(f"video {video!r} is in the unknown subset {subset!r}")
    segments = []
    for annotation in entry.get("annotations", []):
        if not isinstance(annotation["segment"], list):
            raise ValueError(f"video {video!r} has the segment {annotation['segment']!r}, which is no list")
        start, end = map(float, annotation["segment"])
        if not 0 <= start <= end < math.inf:
            raise ValueError(f"video {video!r} has a segment from {start} to {end} seconds")
        label = annotation["label"]
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"video {video!r} has the label {label!r}, which names no class")
        segments.append((start, end, label.strip()))
    held_out = entry.get("held_out", False)
    if held_out not in (False, True) or (held_out and subset != "training"):
        raise ValueError(
            f"video {video!r} of the {subset} part has held_out {held_out!r}: training videos may say true"
        )
    return Annotation(subset=subset, segments=tuple(segments), held_out=held_out)


def _find_videos(videos: Path, wanted: set[str], problems: Problems) -> dict[str, Path]:
    """Return the file of each wanted id that has one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(files_under(videos, problems)):
        name = path.stem if path.stem in wanted else path.stem.removeprefix("v_")
        if name in wanted and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            found.setdefault(name, []).append(path)
    if twice := sorted(name for name, paths in found.items() if len(paths) > 1):
        raise DatasetError(f"{len(twice)} videos have several files under {videos}: {spell(twice)}")
    return {name: path for name, (path,) in found.items()}
