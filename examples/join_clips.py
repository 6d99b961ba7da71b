"""Make untrimmed videos of trimmed ones: join clips of HMDB-51 or J-HMDB, with stretches without any class between.

    python examples/join_clips.py --videos jhmdb/videos --splits jhmdb/splits --out joined
    python -m glimpse_env.extract activitynet --videos joined/videos --annotations joined/annotations.json \
        --weights FILE --fps 5 --frames 40 --out stores/joined

Every clip of the classes that are kept is used once, in a video of two to four clips of its own part (train, validation
or test; no source video of the first two is in both). Before, between and after them runs footage of the classes that
are left out, of the same part; it may come again in another video. A video is named by what it is made of: who goes on
after an interruption, or joins otherwise into the same folder, never takes one video for another. The seed decides the
annotations and what every frame shows; the encoder may still round a frame differently from one time to the next.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import tyro
from tqdm import tqdm

from glimpse_env.datasets import VideoClip, VideoDataset, hmdb51
from glimpse_env.files import write_atomically
from glimpse_env.sources.splits import SPLITS, Split

FRAMES_PER_SECOND = 30
WIDTH, HEIGHT = 320, 240
FEWEST, MOST = 2, 4  # clips of a video


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Join trimmed clips into untrimmed videos, annotated as ActivityNet's are."""

    videos: Path
    """A folder per class with the clips, 30 frames a second."""
    splits: Path
    """The official <class>_test_split<fold>.txt."""
    out: Path
    """Folder for videos/v_<id>.mp4 and annotations.json; what is there already is kept."""
    background: tuple[str, ...] = ("stand", "sit", "walk")
    """Classes that are no classes here: their footage fills what lies between the others'."""
    gap_seconds: tuple[float, float] = (0.5, 2.0)
    """Shortest and longest stretch before, between and after the clips."""
    fold: int = 1
    """Which official split."""
    limit: int | None = None
    """Join only so many videos of each part."""
    seed: int = 1
    """Of what is joined with what, and of the lengths between."""

    def __post_init__(self) -> None:
        shortest, longest = self.gap_seconds
        if not 1 / FRAMES_PER_SECOND <= shortest <= longest:
            raise ValueError(f"gap_seconds must be rising, and a frame (1/30) at least, got {self.gap_seconds}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Frames 0..`frames`-1 of a clip; `label` is None where they are background."""

    clip: VideoClip
    frames: int
    label: str | None


@dataclass(frozen=True, kw_only=True)
class JoinedVideo:
    """One video to write: its pieces in order, and the part that all of them come from."""

    part: Split
    pieces: tuple[Piece, ...]

    @property
    def made_of(self) -> list[list[str | int]]:
        """Each piece's clip and how many frames of it."""
        return [[piece.clip.clip_id, piece.frames] for piece in self.pieces]

    @property
    def video_id(self) -> str:
        """Eleven characters, as ActivityNet's ids have, that stand for what the video is made of."""
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
    """Draw how many of the clips that are left the next video takes, so that the last one is not left alone."""
    count = min(int(rng.integers(FEWEST, MOST + 1)), left)
    if left - count == 1:
        return count - 1 if count > FEWEST else count + 1
    return count


def _background(footage: list[VideoClip], arguments: Arguments, rng: np.random.Generator) -> list[Piece]:
    """Draw a stretch without a class: clips of the background one after the other, the last one cut."""
    shortest, longest = (round(seconds * FRAMES_PER_SECOND) for seconds in arguments.gap_seconds)
    left, pieces = int(rng.integers(shortest, longest + 1)), []
    while left:
        clip = footage[int(rng.integers(len(footage)))]
        pieces.append(Piece(clip=clip, frames=min(count_frames(clip.path), left), label=None))
        left -= pieces[-1].frames
    return pieces


@functools.cache
def count_frames(path: Path) -> int:
    """Return how many frames a clip has, by decoding it.

    Raises:
        ValueError: there are none, or not 30 a second.
    """
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
            count = sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read ({error}): mend or remove it, with its line in the splits") from error
    if rate != FRAMES_PER_SECOND or not count:
        raise ValueError(f"{path} has {count} frames at {rate} a second: clips must have {FRAMES_PER_SECOND} a second")
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
    """Yield the frames of a piece, resized where they have another size."""
    with av.open(str(piece.clip.path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == piece.frames:
                return
            resized = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv420p")
            resized.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses its own key frames
            yield resized


def describe(videos: list[JoinedVideo]) -> dict[str, Any]:
    """Return the annotations of the videos, laid out as ActivityNet's."""
    names = sorted({piece.label for video in videos for piece in video.pieces if piece.label is not None})
    root = {"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}
    nodes = [
        {"nodeId": number, "nodeName": name, "parentId": 0, "parentName": "Root"}
        for number, name in enumerate(names, start=1)
    ]
    database = {video.video_id: video.annotation() for video in videos}
    return {"version": "VERSION 1.3", "taxonomy": [root, *nodes], "database": database}


def main(arguments: Arguments) -> None:
    """Write the videos that are not there yet, and then what is true of them."""
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
    for video in tqdm(videos, desc="joining", unit="video"):
        path = arguments.out / "videos" / f"v_{video.video_id}.mp4"
        if not path.exists():
            write_atomically(path, functools.partial(encode, video))
    content = json.dumps(describe(videos), indent=1)
    write_atomically(arguments.out / "annotations.json", content.encode())
    print(f"wrote {len(videos)} videos and {arguments.out}/annotations.json")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except ValueError as error:
        sys.exit(f"error: {error}")
