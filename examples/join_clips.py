"""Join trimmed clips of HMDB-51 or J-HMDB into untrimmed videos, with background between them.

    pip install -e ".[video]"
    python examples/join_clips.py --videos jhmdb/videos --splits jhmdb/splits --out joined
    python -m glimpse_env.extract activitynet --videos joined/videos --annotations joined/annotations.json \
        --weights FILE --fps 5 --frames 40 --out stores/joined

Every clip of the kept classes is used once, in a video of two to four clips of one part (train, validation or test; no
source video is in both train and validation). Footage of the background classes of the same part runs before, between
and after them; it may appear in several videos. The name of a video is a hash of its pieces, so a second run with the
same folder never confuses two videos: the same command resumes, and other settings add videos. The seed decides the
annotations and the content of every frame. The encoder may still round a frame differently from run to run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from common import installed_by

from glimpse_env.datasets import VideoClip, VideoDataset, hmdb51
from glimpse_env.files import write_atomically
from glimpse_env.sources.splits import SPLITS, Split

with installed_by('pip install -e ".[video]"'):
    import av
    import tyro
    from tqdm.auto import tqdm

FRAMES_PER_SECOND = 30
WIDTH, HEIGHT = 320, 240
FEWEST, MOST = 2, 4  # clips of a video


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Join trimmed clips into untrimmed videos, with annotations in ActivityNet's format."""

    videos: Path
    """Folder of clips at 30 frames per second, with a folder per class."""
    splits: Path
    """Folder of the official <class>_test_split<fold>.txt files."""
    out: Path
    """Folder for videos/v_<id>.mp4 and annotations.json. Videos that exist are kept."""
    background: tuple[str, ...] = ("stand", "sit", "walk")
    """Classes whose footage is the background between the clips of other classes."""
    gap_seconds: tuple[float, float] = (0.5, 2.0)
    """Shortest and longest background before, between and after the clips."""
    fold: int = 1
    """Number of the official split."""
    limit: int | None = None
    """Largest number of videos in each part. By default all clips are joined."""
    seed: int = 1
    """Seed of the choice of clips and of the lengths of background."""

    def __post_init__(self) -> None:
        shortest, longest = self.gap_seconds
        if not 1 / FRAMES_PER_SECOND <= shortest <= longest:
            raise ValueError(f"gap_seconds must be rising, and at least one frame (1/30), got {self.gap_seconds}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Frames 0..`frames`-1 of a clip; `label` is None for background."""

    clip: VideoClip
    frames: int
    label: str | None


@dataclass(frozen=True, kw_only=True)
class JoinedVideo:
    """One video to write: its pieces in order, and their common part."""

    part: Split
    pieces: tuple[Piece, ...]

    @property
    def made_of(self) -> list[list[str | int]]:
        """The clip of each piece and the number of its frames."""
        return [[piece.clip.clip_id, piece.frames] for piece in self.pieces]

    @property
    def video_id(self) -> str:
        """A hash of the pieces in eleven characters, the length of ActivityNet's ids."""
        return hashlib.sha256(json.dumps(self.made_of).encode()).hexdigest()[:11]

    def annotation(self) -> dict[str, Any]:
        """Return its entry in ActivityNet's database; a segment begins and ends midway between two frames."""
        ends = np.cumsum([piece.frames for piece in self.pieces])
        segments = [
            {
                "segment": [(end - piece.frames - 0.5) / FRAMES_PER_SECOND, (end - 0.5) / FRAMES_PER_SECOND],
                "label": piece.label,
            }
            for piece, end in zip(self.pieces, ends.tolist(), strict=True)
            if piece.label is not None
        ]
        subset = "validation" if self.part == "test" else "training"  # ActivityNet's testing part is unlabelled
        return {
            "duration": int(ends[-1]) / FRAMES_PER_SECOND,
            "subset": subset,
            "resolution": f"{WIDTH}x{HEIGHT}",
            "url": "",
            "annotations": segments,
            "made_of": self.made_of,
        } | ({"held_out": True} if self.part == "validation" else {})


def plan_videos(dataset: VideoDataset, part: Split, arguments: Arguments) -> Iterator[JoinedVideo]:
    """Draw the videos of one part, so that each labelled clip is used once.

    Raises:
        ValueError: there is no footage of the background classes, or a clip cannot be read.
    """
    rng = np.random.default_rng([arguments.seed, SPLITS.index(part)])
    clips = [clip for clip in dataset.clips if clip.splits[arguments.fold - 1] == part]
    names = {clip.clip_id: dataset.class_names[clip.label] for clip in clips}
    footage = [clip for clip in clips if names[clip.clip_id] in arguments.background]
    labelled = [clip for clip in clips if names[clip.clip_id] not in arguments.background]
    if not footage:
        raise ValueError(f"the {part} part has no clips of {arguments.background}: name other --background classes")
    order = [labelled[place] for place in rng.permutation(len(labelled))]
    while order:
        count = _count_of_clips(len(order), rng)
        chosen, order = order[:count], order[count:]
        pieces = _background(footage, arguments, rng)
        for clip in chosen:
            pieces.append(Piece(clip=clip, frames=count_frames(clip.path), label=names[clip.clip_id]))
            pieces += _background(footage, arguments, rng)
        yield JoinedVideo(part=part, pieces=tuple(pieces))


def _count_of_clips(left: int, rng: np.random.Generator) -> int:
    """Draw how many of the remaining clips the next video takes, and never leave a single one."""
    count = min(int(rng.integers(FEWEST, MOST + 1)), left)
    if left - count == 1:
        return count - 1 if count > FEWEST else count + 1
    return count


def _background(footage: list[VideoClip], arguments: Arguments, rng: np.random.Generator) -> list[Piece]:
    """Draw background: clips of the background classes one after the other, the last one cut."""
    shortest, longest = (round(seconds * FRAMES_PER_SECOND) for seconds in arguments.gap_seconds)
    left, pieces = int(rng.integers(shortest, longest + 1)), []
    while left:
        clip = footage[int(rng.integers(len(footage)))]
        pieces.append(Piece(clip=clip, frames=min(count_frames(clip.path), left), label=None))
        left -= pieces[-1].frames
    return pieces


@functools.cache
def count_frames(path: Path) -> int:
    """Return the number of frames of a clip, by decoding it.

    Raises:
        ValueError: it has no frames, or not 30 per second.
    """
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
            count = sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair it, or remove it from videos and splits") from error
    if rate != FRAMES_PER_SECOND or not count:
        raise ValueError(f"{path} has {count} frames at {rate} per second: clips need {FRAMES_PER_SECOND} per second")
    return count


def encode(video: JoinedVideo, file: IO[bytes]) -> None:
    """Write a video as H.264 in MP4."""
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, frame in enumerate(frame for piece in video.pieces for frame in frames_of(piece)):
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def frames_of(piece: Piece) -> Iterator[av.VideoFrame]:
    """Yield the frames of a piece, resized if they have another size."""
    with av.open(str(piece.clip.path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == piece.frames:
                return
            resized = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv420p")
            resized.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses its own key frames
            yield resized


def describe(videos: list[JoinedVideo]) -> dict[str, Any]:
    """Return the annotations of the videos, in ActivityNet's format."""
    names = sorted({piece.label for video in videos for piece in video.pieces if piece.label is not None})
    root = {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}
    nodes = [
        {"nodeId": number, "nodeName": name, "parentId": 0, "parentName": "Root"}
        for number, name in enumerate(names, start=1)
    ]
    database = {video.video_id: video.annotation() for video in videos}
    return {"version": "VERSION 1.3", "taxonomy": [root, *nodes], "database": database}


def main(arguments: Arguments) -> None:
    """Write the videos that are missing, then the annotations."""
    dataset = hmdb51(arguments.videos, arguments.splits, strict=True)
    if not 1 <= arguments.fold <= dataset.num_folds:
        raise ValueError(f"fold must lie in 1..{dataset.num_folds}, got {arguments.fold}")
    if unknown := sorted(set(arguments.background) - set(dataset.class_names)):
        raise ValueError(f"no classes {unknown} in {arguments.splits}: there are {', '.join(dataset.class_names)}")
    videos: list[JoinedVideo] = []
    for part in SPLITS:
        for number, video in enumerate(plan_videos(dataset, part, arguments), start=1):
            videos.append(video)
            if number == arguments.limit:
                break
    for video in tqdm(videos, desc="joining", unit="video", disable=None):
        path = arguments.out / "videos" / f"v_{video.video_id}.mp4"
        if not path.exists():
            write_atomically(path, functools.partial(encode, video))
    content = json.dumps(describe(videos), indent=1)
    write_atomically(arguments.out / "annotations.json", content.encode())
    print(f"wrote {len(videos)} videos and {arguments.out}/annotations.json")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    return tyro.cli(Arguments, args=arguments, prog="python examples/join_clips.py")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except ValueError as error:
        sys.exit(f"error: {error}")
