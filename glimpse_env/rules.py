"""The rules of an episode: actions, observations, the reward (eq. 7), and the matching of predictions with the truth.

Segments are matched as in Yeung et al., CVPR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from glimpse_env.sources.protocol import LARGEST_GRID, Array, ClipSource, Index, Segment, feature_range

Observation = Literal["glimpsed", "cube", "slices", "blind"]
Matching = Literal["frame", "segment"]
FeatureType = Literal["float32", "float16"]
FirstGlance = Literal["whole", "none"]

_MOST_FRAMES = 10**6
_SLACK = 1e-9  # seconds: a frame on the border of a segment is in it, whatever its time is rounded to
_CHOICES: dict[str, Any] = {
    "observation": Observation, "first_glance": FirstGlance, "dtype": FeatureType, "matching": Matching
}  # fmt: skip
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "eta": ("eta must lie in [0, 1]", lambda value: 0 <= value <= 1),
    "positive_reward": ("positive_reward (R+) must be positive and finite", lambda value: 0 < value < math.inf),
    "negative_reward": ("negative_reward (R-) must be negative and finite", lambda value: -math.inf < value < 0),
    "overlap_threshold": ("overlap_threshold must lie in [0, 1)", lambda value: 0 <= value < 1),
    "look_cost": ("look_cost must be finite and not negative", lambda value: 0 <= value < math.inf),
    "frame_cost": ("frame_cost must be finite and not negative", lambda value: 0 <= value < math.inf),
}


@dataclass(frozen=True, kw_only=True)
class EpisodeRules:
    """Rules of an episode, as set by `gym.make`: `VideoGlimpseEnv` explains them.

    Raises:
        TypeError, ValueError: a value lies outside its range; the message says which are allowed.
    """

    frames: int
    glimpses: int | None = 5
    observation: Observation = "glimpsed"
    first_glance: FirstGlance = "whole"
    dtype: FeatureType = "float32"
    eta: float = 0.5
    positive_reward: float = 1.0
    negative_reward: float = -1.0
    matching: Matching = "frame"
    overlap_threshold: float = 0.5
    abstain: bool = False
    look_cost: float = 0.0
    jumps: tuple[int, ...] | None = None
    frame_cost: float = 0.0
    jitter: bool = False
    info_strings: bool = True

    def __post_init__(self) -> None:
        values = vars(self)
        for name, choices in _CHOICES.items():
            if values[name] not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {values[name]!r}")
        for name in ("abstain", "jitter", "info_strings"):
            if not isinstance(values[name], (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {values[name]!r}")
        for name in ("frames",) if self.glimpses is None else ("frames", "glimpses"):
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
        if not 1 <= self.frames <= _MOST_FRAMES:
            raise ValueError(f"frames must be at least 1 and at most {_MOST_FRAMES}, got {self.frames}")
        for name, (allowed, is_allowed) in _NUMBERS.items():
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not is_allowed(float(value)):
                raise ValueError(f"{allowed}, got {value}")
        if self.jumps is not None:
            object.__setattr__(self, "jumps", checked_jumps(self.jumps))

    def check_source(self, source: ClipSource) -> None:
        """Raise ValueError if these rules cannot be played on `source`."""
        cells = source.grid_size**2
        if not 1 <= source.grid_size <= LARGEST_GRID:
            raise ValueError(f"a cube has 1 to {LARGEST_GRID} cells along each side, got {source.grid_size}")
        if self.glimpses is not None and not 1 <= self.glimpses <= cells:
            raise ValueError(
                f"glimpses must be 1 to {cells}, the cells of a {source.grid_size} x {source.grid_size} "
                f"cube, or None for any number of cells, got {self.glimpses}"
            )
        if getattr(source, "crop", None) is not None and self.frames < source.num_frames:
            raise ValueError(
                f"frames must be the {source.num_frames} that this source holds of a clip (leave it out), got "
                f"{self.frames}: its slices are of crops, and only a clip's first frame was seen whole, so "
                "episodes begin there; for another T extract with other --frames"
            )
        if source.num_clips == 0:
            raise ValueError("the source has no clips in this split: choose another split or extract some videos")

    def most_looks(self, source: ClipSource) -> int:
        """Return the most cells of one frame that can be looked at: m, or K*K if glimpses are unlimited."""
        return source.grid_size**2 if self.glimpses is None else self.glimpses

    def action_space(self, source: ClipSource) -> spaces.MultiDiscrete:
        """Return `MultiDiscrete([K*K] * m + [C])`, or `MultiDiscrete([2] * (K*K) + [C])` if glimpses are unlimited.

        `jumps` add a part of J choices before the class, and `abstain` adds one class.
        """
        classes = len(source.class_names) + self.abstain
        choices = 2 if self.glimpses is None else source.grid_size**2
        jumps = [] if self.jumps is None else [len(self.jumps)]
        return spaces.MultiDiscrete([choices] * self.most_looks(source) + jumps + [classes])

    def observation_space(self, source: ClipSource) -> spaces.Box:
        """Return a box of (K, K, D), (m, D + 2) for "slices" or (1,) for "blind", within the range of features."""
        size, depth, (low, high) = source.grid_size, source.depth, feature_range(source)
        shape: tuple[int, ...] = (size, size, depth)
        if self.observation == "blind":
            shape = (1,)
        elif self.observation == "slices":
            shape, high = (self.most_looks(source), depth + 2), max(high, 1.0)  # places lie below 1
        return spaces.Box(low, high, shape, np.dtype(self.dtype).type)

    def reward(
        self,
        true_positives: Array,
        false_positives: Array,
        glimpses: Array | int = 0,
        frames_observed: Array | int = 1,
    ) -> NDArray[np.float64]:
        """Return r_T = eta * N+ * R+ + (1 - eta) * N- * R- (eq. 7) for counts of any shape.

        `look_cost` per glimpse and `frame_cost` per observed frame after the first are subtracted.
        """
        gained = self.eta * self.positive_reward * true_positives
        lost = (1 - self.eta) * self.negative_reward * false_positives
        costs = self.look_cost * glimpses + self.frame_cost * (frames_observed - 1)
        return np.asarray(gained + lost - costs, np.float64)


def checked_jumps(jumps: Any) -> tuple[int, ...]:
    """Return jumps as a tuple, since JSON makes lists; raise ValueError if they are not allowed."""
    listed = list(jumps) if isinstance(jumps, (tuple, list, np.ndarray)) else []
    are_integers = all(isinstance(jump, (int, np.integer)) and not isinstance(jump, bool) for jump in listed)
    if not listed or not are_integers or listed[0] < 1 or any(a >= b for a, b in pairwise(listed)):
        raise ValueError(
            "jumps must be ascending positive integers such as (1, 2, 4, 8), or None to observe every frame, "
            f"got {jumps!r}"
        )
    return tuple(map(int, listed))


def classes_at(times: NDArray[np.float64], segments: Iterable[Segment], num_classes: int) -> NDArray[np.bool_]:
    """Return (frames, C) bool: the classes whose segments contain each of the (frames,) `times` in seconds.

    A segment of label -1, whose class is unknown, makes no class true.
    """
    labels = np.zeros((len(times), num_classes), np.bool_)
    for start, end, label in segments:
        if label >= 0:
            labels[(start - _SLACK <= times) & (times <= end + _SLACK), label] = True
    return labels


def runs_of(predictions: Index) -> tuple[Index, Index]:
    """Return the first and the last frame of each run of equal (T,) predictions."""
    borders = np.flatnonzero(np.diff(predictions)) + 1
    return np.append(0, borders), np.append(borders, len(predictions)) - 1


def predicted_segments(
    predictions: Index, times: NDArray[np.float64], *, frame_seconds: float, num_classes: int
) -> list[Segment]:
    """Return the runs of equal predictions as segments, in order of time; runs of "no prediction" are none.

    Args:
        predictions: (T,) classes; C and above mean "no prediction", and -1 is none yet.
        times: (T,) seconds, ascending.
        frame_seconds: duration of a frame, half before its time and half after.
        num_classes: C.
    """
    half = frame_seconds / 2
    return [
        Segment(float(times[first] - half), float(times[last] + half), int(predictions[first]))
        for first, last in zip(*runs_of(predictions), strict=True)
        if 0 <= predictions[first] < num_classes
    ]


def cut_segments(
    segments: Iterable[Segment], times: NDArray[np.float64], *, frame_seconds: float
) -> tuple[Segment, ...]:
    """Return segments cut off at the ends of the (T,) frames at `times`.

    A segment outside the frames ends before it starts, and so overlaps nothing.
    """
    first, last = float(times[0] - frame_seconds / 2), float(times[-1] + frame_seconds / 2)
    return tuple(Segment(max(start, first), min(end, last), label) for start, end, label in segments)


def temporal_iou(first: Segment, second: Segment) -> float:
    """Return the time that two segments share over the time that either takes; 0 if neither takes any.

    It is rounded to nine decimals, so that half of a clip is 0.5 whatever the seconds of its frames.
    """
    shared = max(0.0, min(first.end, second.end) - max(first.start, second.start))
    either = (first.end - first.start) + (second.end - second.start) - shared
    return round(shared / either, 9) if either > 0 else 0.0


def claimed_segments(predicted: Sequence[Segment], truths: Iterable[Segment], *, overlap_threshold: float) -> set[int]:
    """Return the indices of the `predicted` segments that are true positives.

    Every truth, in order of (start, end, class), claims among the unclaimed predictions of its class the one with the
    highest temporal IoU, if that exceeds `overlap_threshold`; ties go to the earliest.
    """
    claimed: set[int] = set()
    for truth in sorted(truths):
        free = [index for index, one in enumerate(predicted) if index not in claimed and one.label == truth.label]
        best = max(free, key=lambda index: temporal_iou(predicted[index], truth), default=None)
        if best is not None and temporal_iou(predicted[best], truth) > round(overlap_threshold, 9):
            claimed.add(best)
    return claimed
