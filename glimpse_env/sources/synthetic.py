"""Embedded sources: small rendered videos in which the order of one marked actor's poses is the action.

They need NumPy alone. A clip depends on its split and index, never on the order of reading.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources import sprites
from glimpse_env.sources.protocol import ClipBank, Segment, describe, gather_rows
from glimpse_env.sources.splits import SPLITS
from glimpse_env.sources.sprites import DEPTH, SEED, Script

CLASS_NAMES = ("AABC", "ABBC", "CBAA", "CBBA", "DDBC", "DBBC", "CBDD", "CBBD")

_NUM_DISTRACTORS = 8
_POSE_ORDERS = np.array([["ABCD".index(pose) for pose in name] for name in CLASS_NAMES])
_IDLE = 4
_SEGMENT_FRAMES = (10, 15)
_BANKS: WeakValueDictionary[tuple[type[SyntheticSource], str], ClipBank] = WeakValueDictionary()


class SyntheticSource:
    """Clips of one bright amber actor among dull distractors; the order of the actor's poses is the class.

    A clip has 16 frames of 112 x 112 pixels, on a grid of 7 x 7 cells. The actor fills one cell, moves to a
    neighbouring one about every fourth frame, and goes through four poses of about four frames each. The class's name
    spells them: A is arms up, B lying, C legs apart, D standing. Eight distractors move alike, over grey clutter and
    noise: each of the other seven classes has a distractor that acts it out, and the eighth acts a random class.

    So every clip shows the same poses at the same times, and only colour marks those of the actor. No frame shows the
    class, nor does the mean, maximum or sum of squares over the cells of all frames: logistic regression stays at
    chance. A rule that follows the actor knows the class. Classes come in pairs that share their poses and pairs that
    share their timing, so each look at the actor rules some out.

    Features are 32 fixed contrasts of a cell's pixels, rectified and held as float16. Clips are made when they are
    first read, and shared by all sources of one kind and split in the process.

    Args:
        split: "train", "validation" or "test"; no clip is in two of them.

    Raises:
        ValueError: there is no such split.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    num_frames: int = 16
    frames_per_second: float = 8.0
    grid_size: int = sprites.GRID_SIZE
    depth: int = DEPTH
    max_feature: float = sprites.MAX_FEATURE
    trimmed: bool = True

    _clips_per_split: tuple[int, ...] = (4000, 400, 1000)
    _name: str = "synthetic"
    _seed: int = SEED

    def __init__(self, split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f"the {self._name} source has no split {split!r}: choose one of {', '.join(SPLITS)}")
        self.split = split
        self.num_clips = self._clips_per_split[SPLITS.index(split)]
        bank = ClipBank(self.num_clips, self.grid_size**2 * DEPTH, np.float16)
        self._bank = _BANKS.setdefault((type(self), split), bank)

    __repr__ = describe

    def __reduce__(self) -> tuple[type[SyntheticSource], tuple[str]]:
        return type(self), (self.split,)  # clips are made again, which is cheaper than carrying them

    def clip_id(self, clip: int) -> str:
        return f"{self._name}-{self.split}-{clip:04d}"

    def segments(self, clip: int) -> tuple[Segment, ...]:
        return (Segment(0.0, self.num_frames / self.frames_per_second, self._label(clip)),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(self.num_frames) / self.frames_per_second

    def read_cubes(self, clips: NDArray[np.int64], frames: NDArray[np.int64], out: NDArray[Any]) -> None:
        self._make_missing(clips)
        gather_rows(self._bank.rows, self._bank.firsts[clips] + frames, out)

    def read_slices(
        self, clips: NDArray[np.int64], frames: NDArray[np.int64], cells: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        self._make_missing(clips)
        rows = (self._bank.firsts[clips] + frames) * self.grid_size**2 + cells
        gather_rows(self._bank.rows.reshape(-1, DEPTH), rows, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8]:
        size, side = self.grid_size, sprites.CELL_PIXELS
        cells: NDArray[np.uint8] = self._pixels(clip)[frame].reshape(size, size, side, side, 3)
        return cells.swapaxes(1, 2).reshape(size * side, size * side, 3)

    def actor(self, clip: int) -> NDArray[np.bool_]:
        script, frames = self._script(self._generator(clip), clip), np.arange(self.num_frames)
        where = np.zeros((self.num_frames, self.grid_size, self.grid_size), np.bool_)
        where[frames, script.rows[:, -1], script.columns[:, -1]] = True
        return where

    def _label(self, clip: int) -> int:
        return clip % len(self.class_names)

    def _generator(self, clip: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, SPLITS.index(self.split), clip]))

    def _script(self, rng: np.random.Generator, clip: int) -> Script:
        # Each class is acted out, so all figures together do the same for every label. A ninth figure of a random class
        # hides which class is acted out by the actor alone.
        label, classes = self._label(clip), np.arange(len(CLASS_NAMES))
        others = np.append(np.delete(classes, label), rng.integers(0, len(classes)))
        orders = _POSE_ORDERS[np.append(others, label)]  # (N, poses)
        count, number = orders.shape
        changes = np.arange(1, number) * self.num_frames // number + rng.integers(-1, 2, (count, number - 1))
        frames = np.arange(self.num_frames)[:, None, None]
        return sprites.write_script(rng, orders[np.arange(count), (frames >= changes).sum(2)])

    def _pixels(self, clip: int) -> NDArray[np.uint8]:
        rng = self._generator(clip)
        return sprites.render(rng, self._script(rng, clip), grid_size=self.grid_size)

    def _make_missing(self, clips: NDArray[np.int64]) -> None:
        missing = clips[self._bank.firsts[clips] < 0]
        for clip in np.unique(missing).tolist() if missing.size else ():
            features = sprites.embed(self._pixels(clip)).reshape(self.num_frames, -1)
            self._bank.add(clip, self.num_frames)[...] = features


class UntrimmedSyntheticSource(SyntheticSource):
    """Longer clips in which the actor acts two or three times, in one or two classes, and ducks in between.

    A clip has 48 frames at 8 a second. An action takes 10 to 14 frames and goes through the poses of its class as in
    `SyntheticSource`. Before, between and after actions there is at least one frame of background, in which no class is
    true. Distractors act and duck in the same way, each at times of its own.
    """

    num_frames: int = 48
    trimmed: bool = False

    _clips_per_split: tuple[int, ...] = (2000, 200, 400)
    _name: str = "synthetic-untrimmed"
    _seed: int = SEED + 1

    def segments(self, clip: int) -> tuple[Segment, ...]:
        return tuple(
            Segment((first - 0.5) / self.frames_per_second, (end - 0.5) / self.frames_per_second, label)
            for first, end, label in self._timeline(self._generator(clip), self._label(clip))
        )

    def _timeline(self, rng: np.random.Generator, label: int) -> list[tuple[int, int, int]]:
        # One figure's actions: (first frame, frame after the last, class). `label` is among the classes.
        count = int(rng.integers(2, 4))
        other = (label + int(rng.integers(1, len(CLASS_NAMES)))) % len(CLASS_NAMES)
        labels = np.where(rng.integers(0, 2, count) == 1, other, label)
        labels[rng.integers(count)] = label
        lengths = rng.integers(*_SEGMENT_FRAMES, count)
        spare = self.num_frames - int(lengths.sum()) - (count + 1)
        cuts = np.sort(rng.integers(0, spare + 1, count))
        firsts = cuts + np.arange(1, count + 1) + lengths.cumsum() - lengths
        return list(zip(firsts.tolist(), (firsts + lengths).tolist(), labels.tolist(), strict=True))

    def _script(self, rng: np.random.Generator, clip: int) -> Script:
        timelines = [self._timeline(rng, self._label(clip))]  # the actor's first: `segments` draws it alone
        timelines += [self._timeline(rng, int(rng.integers(len(CLASS_NAMES)))) for _ in range(_NUM_DISTRACTORS)]
        poses = np.full((self.num_frames, len(timelines)), _IDLE)
        for figure, timeline in enumerate(reversed(timelines)):
            for first, end, label in timeline:
                order = _POSE_ORDERS[label]
                changes = np.arange(1, len(order)) * (end - first) // len(order) + rng.integers(-1, 2, len(order) - 1)
                poses[first:end, figure] = order[(np.arange(end - first)[:, None] >= changes).sum(1)]
        return sprites.write_script(rng, poses)


class EasySyntheticSource(SyntheticSource):
    """A first task: find the marked actor in the first frame, look at it afterwards, and name its pose.

    A clip has 4 frames on a grid of 3 x 3 cells. An amber actor and three dull distractors each keep to one cell. In
    the first frame all four duck. From the second frame they strike the poses A, B, C and D, one each, and the actor's
    is the class. The first frame shows where to look, but no pose; the poses of all cells together are the same for
    every class.

    It is meant for `glimpses=1`, as in `VideoGlimpseEasy-v0`. Random looks then find the actor in 1 - (8/9)^3 = 0.30 of
    the clips, so an agent that looks at random is right in at most 0.30 + 0.70 / 4 = 0.47.
    """

    class_names: tuple[str, ...] = ("A", "B", "C", "D")
    num_frames: int = 4
    grid_size: int = 3

    _clips_per_split: tuple[int, ...] = (2000, 200, 400)
    _name: str = "synthetic-easy"
    _seed: int = SEED + 2

    def _script(self, rng: np.random.Generator, clip: int) -> Script:
        label = self._label(clip)
        poses = np.tile(np.append(np.delete(np.arange(4), label), label), (self.num_frames, 1))  # the actor last
        poses[0] = _IDLE
        return sprites.write_still_script(rng, poses, grid_size=self.grid_size)
