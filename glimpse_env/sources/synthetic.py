"""Synthetic sources: small rendered videos in which the order of one marked actor's poses is the action.

They need NumPy alone. A clip depends on its split and index, never on the order of reading. All numbers are integers,
exact also as floats, so videos are the same on every platform.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from glimpse_env.sources.protocol import Array, ClipBank, Index, Segment, describe, gather_rows
from glimpse_env.sources.splits import SPLITS, check_split

GRID_SIZE = 7
CELL_PIXELS = 16
DEPTH = 32
MAX_FEATURE = 8.0
SEED = 2017

_CONTRAST_SCALE = np.float32(2**-12)  # clutter alone seldom reaches 1, from which a feature is positive
_NOISE_BITS = 4  # colours stay below 256 - 16, so that adding noise never overflows a byte

# Each character is two by two pixels of a body. All poses cover 84 pixels and all colours add up to 420, so that no
# statistic over cells of one channel shows which pose is the actor's.
POSES = (
    ("##...##", "##...##", "##...##", ".##.##.", "..###..", "...#...", "...#..."),  # A: arms up
    (".......", ".......", "#######", "#######", "#######", ".......", "......."),  # B: lying
    ("...#...", "...#...", "..###..", ".##.##.", "##...##", "##...##", "##...##"),  # C: legs apart
    ("..###..", "..###..", "..###..", "..###..", "..###..", "..###..", "..###.."),  # D: standing
    (".......", ".......", "...#...", ".#####.", ".#####.", ".#####.", ".#####."),  # E: ducked, the pose of the idle
)
_ACTOR_COLOUR = np.array((210, 158, 52), np.uint8)
_DISTRACTOR_COLOURS = np.array([(130, 140, 150), (110, 150, 160), (130, 120, 170), (115, 165, 140)], np.uint8)

_STEPS = np.zeros((16, 2), np.int64)  # a quarter of all frames begin with a move, so a cell is kept for four on average
_STEPS[:4] = (-1, 0), (1, 0), (0, -1), (0, 1)

CLASS_NAMES = ("AABC", "ABBC", "CBAA", "CBBA", "DDBC", "DBBC", "CBDD", "CBBD")

_NUM_DISTRACTORS = 8
_POSE_ORDERS = np.array([["ABCD".index(pose) for pose in name] for name in CLASS_NAMES])
_IDLE = 4
_SEGMENT_FRAMES = (10, 15)
_BANKS: WeakValueDictionary[str, ClipBank] = WeakValueDictionary()


def _draw_sprites() -> NDArray[np.bool_]:
    # (poses, 3, 3, P * P * 3): the pixels of each pose, shifted by -1, 0 or 1 pixels down and right
    bodies = np.array([[[mark == "#" for mark in row] for row in pose] for pose in POSES]).repeat(2, 1).repeat(2, 2)
    centred = np.pad(bodies, ((0, 0), (1, 1), (1, 1)))
    shifted = [[np.roll(centred, (down, right), (1, 2)) for right in (-1, 0, 1)] for down in (-1, 0, 1)]
    return np.array(shifted).transpose(2, 0, 1, 3, 4).reshape(len(POSES), 3, 3, -1).repeat(3, axis=3)


def _draw_projection() -> NDArray[np.float32]:
    # (P * P * 3, D) whole weights that sum to zero in each column: contrasts of shape, then of hue
    hues = 4 * np.array(list(permutations((1, 0, -1)))).T  # (3, 6), over the whole cell
    rng = np.random.Generator(np.random.PCG64(SEED))
    shapes = rng.integers(-2, 3, (16, DEPTH - hues.shape[1]))
    shapes -= rng.permuted(shapes, axis=0)
    shapes = shapes.reshape(4, 4, 1, -1).repeat(4, 0).repeat(4, 1).repeat(3, 2)  # (P, P, 3, D - 6), in grey
    weights = np.concatenate((shapes, np.broadcast_to(hues, (CELL_PIXELS, CELL_PIXELS, *hues.shape))), axis=3)
    return weights.reshape(-1, DEPTH).astype(np.float32, copy=False)


_SPRITES = _draw_sprites()
_PROJECTION = _draw_projection()


class Script(NamedTuple):
    """Poses, places and colours of N figures in a clip, the actor last."""

    poses: Index  # (T, N), indices into POSES
    places: Index  # (2, T, N), rows and columns of cells
    shifts: Index  # (2, T, N), 0..2 for -1..1 pixels down and right
    colours: NDArray[np.uint8]  # (N, 3)


def _stay(rng: np.random.Generator, poses: Index, *, grid_size: int) -> Script:
    # Figures that strike (T, N) `poses`, each in a cell of its own.
    cells = np.stack(np.divmod(rng.permutation(grid_size**2)[: poses.shape[1]], grid_size))
    return _dress(rng, poses, np.broadcast_to(cells[:, None], (2, *poses.shape)))


def _walk(rng: np.random.Generator, poses: Index) -> Script:
    # Figures that strike (T, N) `poses` on walks that are mirrored at the borders.
    frames, count = poses.shape
    cells = np.empty((frames, count, 2), np.int64)
    cells[0] = rng.integers(0, GRID_SIZE, (count, 2))
    cells[1:] = _STEPS[rng.integers(0, len(_STEPS), (frames - 1, count))]
    period = 2 * (GRID_SIZE - 1)
    cells = cells.cumsum(0) % period
    return _dress(rng, poses, np.minimum(cells, period - cells).transpose(2, 0, 1))


def _dress(rng: np.random.Generator, poses: Index, places: Index) -> Script:
    shifts = rng.integers(0, 3, (2, *poses.shape))
    colours = _DISTRACTOR_COLOURS[rng.integers(0, len(_DISTRACTOR_COLOURS), poses.shape[1])]
    colours[-1] = _ACTOR_COLOUR
    return Script(poses, places, shifts, colours)


def _render(rng: np.random.Generator, script: Script, grid_size: int) -> NDArray[np.uint8]:
    # (T, K, K, P * P * 3) RGB, cell by cell; the actor hides figures that share its cell
    frames = len(script.poses)
    blocks = rng.integers(50, 85, (grid_size, grid_size, 4, 4, 1), np.uint8)
    clutter = blocks.repeat(4, 2).repeat(4, 3).repeat(3, 4).reshape(grid_size, grid_size, -1)
    colours = np.tile(script.colours, CELL_PIXELS**2)  # (N, P * P * 3)
    drawn = np.where(_SPRITES[(script.poses, *script.shifts)], colours, clutter[tuple(script.places)])
    cells = clutter[None].repeat(frames, 0)
    cells[(np.arange(frames)[:, None], *script.places)] = drawn  # the last one drawn remains
    pairs = np.frombuffer(rng.bytes(cells.size // 2), np.uint8)
    cells += np.concatenate((pairs & 2**_NOISE_BITS - 1, pairs >> _NOISE_BITS)).reshape(cells.shape)
    return cells


def _embed(cells: NDArray[np.uint8]) -> NDArray[np.float16]:
    # (..., D) features of (..., P * P * 3) pixels: rectified contrasts, zero for a plain cell
    contrasts: NDArray[np.float32] = cells.astype(np.float32) @ _PROJECTION
    features: NDArray[np.float32] = np.clip(contrasts * _CONTRAST_SCALE - 1, 0, MAX_FEATURE)
    return features.astype(np.float16)


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
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    num_frames, grid_size, depth, max_feature = 16, GRID_SIZE, DEPTH, MAX_FEATURE
    frames_per_second, trimmed = 8.0, True
    _clips_per_split, _name, _seed = (4000, 400, 1000), "synthetic", SEED

    def __init__(self, split: str = "train") -> None:
        check_split(split, place=f"the {self._name} source")
        self.split = split
        self.num_clips = self._clips_per_split[SPLITS.index(split)]
        self._bank = _BANKS.setdefault(
            self._name + split, ClipBank(self.num_clips, self.grid_size**2 * DEPTH, np.float16)
        )

    __repr__ = describe

    def __reduce__(self) -> tuple[type[SyntheticSource], tuple[str]]:
        return type(self), (self.split,)  # clips are made again, which is cheaper than carrying them

    def clip_id(self, clip: int) -> str:
        return f"{self._name}-{self.split}-{clip:04d}"

    def segments(self, clip: int) -> tuple[Segment, ...]:
        return (Segment(0.0, self.num_frames / self.frames_per_second, self._label(clip)),)

    def frame_times(self, clip: int) -> NDArray[np.float64]:
        return np.arange(self.num_frames) / self.frames_per_second

    def read_cubes(self, clips: Index, frames: Index, out: Array) -> None:
        self._make_missing(clips)
        gather_rows(self._bank.rows, self._bank.firsts[clips] + frames, out)

    def read_slices(self, clips: Index, frames: Index, cells: Index, out: Array) -> None:
        self._make_missing(clips)
        rows = (self._bank.firsts[clips] + frames) * self.grid_size**2 + cells
        gather_rows(self._bank.rows.reshape(-1, DEPTH), rows, out)

    def image(self, clip: int, frame: int) -> NDArray[np.uint8]:
        size, side = self.grid_size, CELL_PIXELS
        cells: NDArray[np.uint8] = self._pixels(clip)[frame].reshape(size, size, side, side, 3)
        return cells.swapaxes(1, 2).reshape(size * side, size * side, 3)

    def actor(self, clip: int) -> NDArray[np.bool_]:
        script, frames = self._script(self._generator(clip), clip), np.arange(self.num_frames)
        where = np.zeros((self.num_frames, self.grid_size, self.grid_size), np.bool_)
        where[(frames, *script.places[..., -1])] = True
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
        return _walk(rng, orders[np.arange(count), (frames >= changes).sum(2)])

    def _pixels(self, clip: int) -> NDArray[np.uint8]:
        rng = self._generator(clip)
        return _render(rng, self._script(rng, clip), self.grid_size)

    def _make_missing(self, clips: Index) -> None:
        missing = clips[self._bank.firsts[clips] < 0]
        for clip in np.unique(missing).tolist() if missing.size else ():
            features = _embed(self._pixels(clip)).reshape(self.num_frames, -1)
            self._bank.add(clip, self.num_frames)[...] = features


class UntrimmedSyntheticSource(SyntheticSource):
    """Longer clips in which the actor acts two or three times, in one or two classes, and ducks in between.

    A clip has 48 frames at 8 a second. An action takes 10 to 14 frames and goes through the poses of its class as in
    `SyntheticSource`. Before, between and after actions there is at least one frame of background, in which no class is
    true. Distractors act and duck in the same way, each at times of its own.
    """

    num_frames, trimmed = 48, False
    _clips_per_split, _name, _seed = (2000, 200, 400), "synthetic-untrimmed", SEED + 1

    def segments(self, clip: int) -> tuple[Segment, ...]:
        timeline, rate = self._timeline(self._generator(clip), self._label(clip)), self.frames_per_second
        return tuple(Segment((first - 0.5) / rate, (end - 0.5) / rate, label) for first, end, label in timeline)

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
        return _walk(rng, poses)


class EasySyntheticSource(SyntheticSource):
    """A first task: find the marked actor in the first frame, look at it afterwards, and name its pose.

    A clip has 4 frames on a grid of 3 x 3 cells. An amber actor and three dull distractors each keep to one cell. In
    the first frame all four duck. From the second frame they strike the poses A, B, C and D, one each, and the actor's
    is the class. The first frame shows where to look, but no pose; the poses of all cells together are the same for
    every class.

    It is meant for `glimpses=1`, as in `VideoGlimpseEasy-v0`. Random looks then find the actor in 1 - (8/9)^3 = 0.30 of
    the clips, and a look at a distractor rules out its pose: an agent that looks at random is right in at most 0.55.
    There are 20,000 training clips: of 2,000, agents that remember the first frame learned the labels by heart.
    """

    class_names: tuple[str, ...] = ("A", "B", "C", "D")
    num_frames, grid_size = 4, 3
    _clips_per_split, _name, _seed = (20_000, 200, 400), "synthetic-easy", SEED + 2

    def _script(self, rng: np.random.Generator, clip: int) -> Script:
        label = self._label(clip)
        poses = np.tile(np.append(np.delete(np.arange(4), label), label), (self.num_frames, 1))  # the actor last
        poses[0] = _IDLE
        return _stay(rng, poses, grid_size=self.grid_size)
