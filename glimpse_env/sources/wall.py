"""Walls of cameras: K x K cameras, each showing a clip of another source; one look is one camera's frame.

A wall is composed when it is read, from numbers drawn when it is opened; nothing is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import (
    LARGEST_GRID,
    Array,
    ClipBank,
    ClipSource,
    Index,
    Segment,
    describe,
    feature_range,
    gather_rows,
)
from glimpse_env.sources.splits import SPLITS, check_split

DEFAULT_WALLS = {"train": 4000, "validation": 400}  # of the test split: one per event
_EVENT_LENGTHS = 5  # default length of an untrimmed wall, in events
_CUBES_AT_ONCE = 16
_MOST_CAMERAS = 10**8  # of all walls together, with 8 bytes each
_PICTURE_SIDE = 800  # pixels, at most, unless the cameras' own pictures are larger
_ORDER, _COUNTS, _CAMERAS, _BACKGROUND, _OFFSETS, _STARTS = range(6)  # each is drawn from a stream of its own


class WallSource:
    """Walls of K x K cameras over the clips of one split.

    Slice (i, j) of frame n is the mean over the cells of the frame that camera (i, j) shows: one run of the network.
    Means are computed when they are first read, and kept: 4 * D bytes per frame of `source` that was looked at.

    The classes are those of `source` that are not `background`. On a trimmed wall one camera shows an event, a clip of
    such a class from its first frame on; its class is the label. The other cameras show background clips, each from a
    random frame on. All cameras loop. An untrimmed wall has 1 to `events` events, each on a camera of its own, at a
    random time and as long as its clip (at most `source.num_frames`); before and after, that camera shows background.
    A wall depends on the seed, the split and its number alone. Events are taken in turn from a shuffled order.

    Args:
        source: clips of one split, each of one class.
        background: names of the classes that are no events.
        grid: K, cameras along each side, 2 to 32.
        trimmed: whether an event lasts the whole clip.
        events: the most events of a wall: 1 if trimmed, otherwise 2 by default.
        frames: T; by default that of `source` if trimmed, five times that otherwise.
        walls: number of walls, or the numbers by split; by default 4000 for training, 400 for validation, and one per
            test event.
        seed: of all that is drawn.
        split: the split that `source` is: "train", "validation" or "test".

    Raises:
        ValueError: an argument is out of range, or the split has no event or no background.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        background: Sequence[str],
        grid: int = 5,
        trimmed: bool = True,
        events: int | None = None,
        frames: int | None = None,
        walls: int | Mapping[str, int] | None = None,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        walls = dict(walls) if isinstance(walls, Mapping) else walls
        self._copy = partial(
            WallSource, background=background, grid=grid, trimmed=trimmed, events=events, frames=frames, walls=walls,
            seed=seed, split=split,
        )  # fmt: skip
        _check_clips(source)
        check_split(split, place="a wall")
        if not isinstance(trimmed, bool):
            raise ValueError(f"trimmed must be True or False, got {trimmed!r}")
        self.grid_size = _integer("grid", grid, 2, LARGEST_GRID, f"the cameras along each side, 2 to {LARGEST_GRID}")
        cameras = self.grid_size**2
        self.events = _integer(
            "events", (1 if trimmed else 2) if events is None else events, 1, 1 if trimmed else cameras,
            "1 on a trimmed wall" if trimmed else f"1 to {cameras}, one camera for each",
        )  # fmt: skip
        longest = source.num_frames
        default = longest if trimmed else _EVENT_LENGTHS * longest
        self.num_frames = _integer(
            "frames", default if frames is None else frames, 1 if trimmed else longest + 1, None,
            "at least 1" if trimmed else f"at least {longest + 1}, more than the {longest} of the longest event",
        )  # fmt: skip
        _integer("seed", seed, 0, None, "at least 0")

        is_background = _is_background(source, background)
        self.class_names = tuple(name for name, out in zip(source.class_names, is_background, strict=True) if not out)
        labels = np.array([next(iter(source.segments(clip)), (0, 0, -1))[2] for clip in range(source.num_clips)])
        is_known, is_idle = labels >= 0, is_background[labels]
        event_clips, idle_clips = np.flatnonzero(is_known & ~is_idle), np.flatnonzero(is_known & is_idle)
        for kind, clips, names in (
            ("event", event_clips, self.class_names), ("background clip", idle_clips, background)
        ):  # fmt: skip
            if not len(clips):
                raise ValueError(f"no {kind} in split {split!r}: it has no clip of {', '.join(names)}")
        self.walls_by_split = _walls_by_split(walls, split, cameras)
        self.num_clips = self.walls_by_split.get(split, DEFAULT_WALLS.get(split, len(event_clips)))

        self.source, self.split, self.trimmed, self.seed = source, split, trimmed, int(seed)
        self.depth, self.frames_per_second = source.depth, source.frames_per_second
        self.min_feature, self.max_feature = feature_range(source)
        self.computes_features = getattr(source, "computes_features", False)
        self._cameras = _SHARED.setdefault(id(source), _Cameras(source))
        self._labels = (np.cumsum(~is_background) - 1)[labels]  # of event clips, among the classes of the wall
        self._draw(event_clips, idle_clips)

    __repr__ = describe

    def _draw(self, event_clips: Index, idle_clips: Index) -> None:
        shape = (self.num_clips, self.grid_size**2)
        counts = self._rng(_COUNTS).integers(1, self.events + 1, self.num_clips)
        turns = (counts.cumsum() - counts)[:, None] + np.arange(self.events)
        self._event_clips = self._rng(_ORDER).permutation(event_clips)[turns % len(event_clips)]  # (walls, events)
        cameras = self._rng(_CAMERAS).random(shape, np.float32).argsort(1, kind="stable")
        self._event_cameras = cameras[:, : self.events].copy()  # without the rest in memory
        self._event_cameras[np.arange(self.events) >= counts[:, None]] = -1  # events that this wall does not have
        self._event_starts = self._rng(_STARTS).random(turns.shape)  # as a share of where an event may start
        self._idle = idle_clips[self._rng(_BACKGROUND).integers(len(idle_clips), size=shape)].astype(np.int32)
        self._offsets = self._rng(_OFFSETS).random(shape, np.float32)  # as a share of the background clip

    def __reduce__(self) -> tuple[Any, ...]:
        return self._copy, (self.source,)

    def clip_id(self, clip: int) -> str:
        """Return the wall's number and the id of its first event, which names the film that it was cut from."""
        return f"wall{clip:05d}/{self.source.clip_id(int(self._event_clips[clip, 0]))}"

    def segments(self, clip: int) -> tuple[Segment, ...]:
        """Return one segment for each event; of an untrimmed wall over videos, this decodes the events' clips."""
        rate = self.frames_per_second
        return tuple(sorted(Segment((a - 0.5) / rate, (b - 0.5) / rate, label) for a, b, label, _ in self._acts(clip)))

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(self.num_frames) / self.frames_per_second

    def read_cubes(self, clips: Index, frames: Index, out: Array) -> None:
        cells = self.grid_size**2
        places = self._shown(clips.repeat(cells), frames.repeat(cells), np.tile(np.arange(cells), len(clips)))
        self._cameras.read(*places, out)

    def read_slices(self, clips: Index, frames: Index, cells: Index, out: Array) -> None:
        self._cameras.read(*self._shown(clips, frames, cells), out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8] | None:
        """Return the pictures of all cameras in a grid, or None if `source` has none; over videos, this decodes all."""
        size = self.grid_size
        looks = np.full((2, size**2), [[clip], [frame]])
        pictures = []
        for shown, at in np.stack(self._shown(looks[0], looks[1], np.arange(size**2)), 1).tolist():
            picture = self.source.image(shown, at)
            if picture is None:
                return None
            every = max(1, picture.shape[0] * size // _PICTURE_SIDE)
            height, width = (side // every for side in picture.shape[:2])
            blocks = picture[: height * every, : width * every].reshape(height, every, width, every, 3)
            pictures.append(blocks.mean((1, 3)).astype(np.uint8))
        rows = [np.concatenate(pictures[first : first + size], axis=1) for first in range(0, size**2, size)]
        return np.concatenate(rows)

    def actor(self, clip: int) -> NDArray[np.bool_]:
        """Return (T, K, K): the event's camera while the event lasts."""
        actor = np.zeros((self.num_frames, self.grid_size**2), np.bool_)
        for first, end, _, camera in self._acts(clip):
            actor[first:end, camera] = True
        return actor.reshape(-1, self.grid_size, self.grid_size)

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(self.split), stream]))

    def _acts(self, clip: int) -> list[tuple[int, int, int, int]]:
        # The events of a wall: first frame, frame after the last, class and camera.
        acts = []
        for event in np.flatnonzero(self._event_cameras[clip] >= 0).tolist():
            (first,), (length,) = self._spans(np.array([clip]), event)
            label = int(self._labels[self._event_clips[clip, event]])
            acts.append((int(first), int(first + length), label, int(self._event_cameras[clip, event])))
        return acts

    def _spans(self, walls: Index, event: int) -> tuple[Index, Index]:
        # The first frame of an event on each of the (n,) walls, and the number of its frames.
        if self.trimmed:
            return np.zeros_like(walls), np.full_like(walls, self.num_frames)
        lengths = self._cameras.lengths(self._event_clips[walls, event])
        lengths = np.minimum(lengths, self.source.num_frames)
        starts = self._event_starts[walls, event] * (self.num_frames - lengths + 1)
        return starts.astype(np.int64), lengths

    def _shown(self, walls: Index, frames: Index, cells: Index) -> tuple[Index, Index]:
        # The clip that each camera shows and the frame of it, for (n,) looks.
        clips = self._idle[walls, cells].astype(np.int64)
        since = np.full(len(clips), -1)  # frames since the event began; -1 if background is shown
        for event in range(self.events):
            (looks,) = (self._event_cameras[walls, event] == cells).nonzero()
            starts, lengths = self._spans(walls[looks], event)
            passed = frames[looks] - starts
            lasting = (passed >= 0) & (passed < lengths)
            clips[looks[lasting]] = self._event_clips[walls[looks[lasting]], event]
            since[looks[lasting]] = passed[lasting]
        lengths = self._cameras.lengths(clips)
        idle = (self._offsets[walls, cells] * lengths).astype(np.int64) + frames
        return clips, np.where(since >= 0, since, idle) % lengths


class _Cameras:
    """Frames of another source, each as the mean over its cells, kept once they were read."""

    def __init__(self, source: ClipSource) -> None:
        self.source = source
        self._bank = ClipBank(source.num_clips, source.depth, np.float32)
        self._lengths = np.zeros(source.num_clips, np.int64)
        size = source.grid_size
        self._cubes = np.empty((_CUBES_AT_ONCE, size, size, source.depth), np.float32)

    def lengths(self, clips: Index) -> Index:
        # The number of frames of each of the (n,) clips; videos that were not read yet are decoded.
        for clip in set(clips[self._lengths[clips] == 0].tolist()):
            self._lengths[clip] = length = len(self.source.frame_times(clip))
            self._bank.add(clip, length).fill(np.nan)  # not computed yet
        return self._lengths[clips]

    def read(self, clips: Index, frames: Index, out: Array) -> None:
        # Copies the mean slices of (n,) frames, of clips whose `lengths` were asked for, into `out`, n rows of D.
        bank = self._bank
        rows = bank.firsts[clips] + frames
        (missing,) = np.isnan(bank.rows[rows, 0]).nonzero()
        _, kept = np.unique(rows[missing], return_index=True)
        missing = missing[kept]
        for begin in range(0, len(missing), _CUBES_AT_ONCE):
            part = missing[begin : begin + _CUBES_AT_ONCE]
            cubes = self._cubes[: len(part)]
            self.source.read_cubes(clips[part], frames[part], cubes)
            # A mean can be rounded above every number in it, or below, and so out of the bounds of observations.
            bank.rows[rows[part]] = cubes.mean((1, 2)).clip(*np.array(feature_range(self.source), np.float32))
        gather_rows(bank.rows, rows, out)


# All walls over one source share its frames. The value holds the source, whose id is not reused while it lives.
_SHARED: WeakValueDictionary[int, _Cameras] = WeakValueDictionary()


def _check_clips(source: ClipSource) -> None:
    if not source.trimmed:
        raise ValueError("a wall is made of trimmed clips, of one class each, and the clips of this source are not")
    if (crop := getattr(source, "crop", None)) is not None:
        raise ValueError(
            f"a wall needs frames that are seen whole, and this source is of crops of {crop} pixels: "
            "extract without --crop"
        )


def _walls_by_split(walls: int | dict[str, int] | None, split: str, cameras: int) -> dict[str, int]:
    by_split = walls if isinstance(walls, dict) else {} if walls is None else {split: walls}
    if unknown := sorted(by_split.keys() - set(SPLITS)):
        raise ValueError(f"walls must be numbers for {', '.join(SPLITS)}, got {unknown}")
    most = _MOST_CAMERAS // cameras
    return {
        name: _integer("walls", count, 1, most, f"1 to {most} for split {name!r}, of {cameras} cameras")
        for name, count in by_split.items()
    }


def _is_background(source: ClipSource, names: Sequence[str]) -> NDArray[np.bool_]:
    known = source.class_names
    is_list = isinstance(names, Collection) and not isinstance(names, (str, Mapping))
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ValueError(f"background must be a list of class names, got {names!r}")
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"background names {unknown} are no classes of this source: it has {', '.join(known)}")
    if not 0 < len(set(names)) < len(known):
        raise ValueError(
            f"background must name 1 to {len(known) - 1} of the {len(known)} classes, got {len(set(names))}"
        )
    return np.array([name in names for name in known])


def _integer(name: str, value: Any, low: int, high: int | None, allowed: str) -> int:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return int(value)
