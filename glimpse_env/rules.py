"""The rules of an episode: what the agent may look at, what it sees, and its reward (eq. 7 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from glimpse_env.sources.protocol import ClipSource, crop_of

Observation = Literal["glimpsed", "cube", "slices", "blind"]
Matching = Literal["frame", "segment"]
FeatureType = Literal["float32", "float16"]
FirstGlance = Literal["whole", "none"]

_MOST_FRAMES = 10**6
_CHOICES: dict[str, Any] = {
    "observation": Observation, "first_glance": FirstGlance, "dtype": FeatureType, "matching": Matching
}  # fmt: skip
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "eta": ("eta must lie in [0, 1]", lambda value: 0 <= value <= 1),
    "positive_reward": ("positive_reward (R+) must be positive and finite", lambda value: 0 < value < math.inf),
    "negative_reward": ("negative_reward (R-) must be negative and finite", lambda value: -math.inf < value < 0),
    "overlap_threshold": ("overlap_threshold must lie in [0, 1)", lambda value: 0 <= value < 1),
    "look_cost": ("look_cost must be finite and not negative", lambda value: 0 <= value < math.inf),
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

    def check_source(self, source: ClipSource) -> None:
        """Raise ValueError if these rules cannot be played on `source`."""
        cells = source.grid_size**2
        if self.glimpses is not None and not 1 <= self.glimpses <= cells:
            raise ValueError(
                f"glimpses must be 1 to {cells}, the cells of a {source.grid_size} x {source.grid_size} "
                f"cube, or None for any number of them, got {self.glimpses}"
            )
        if crop_of(source) is not None and self.frames < source.num_frames:
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
        """Return `MultiDiscrete([K*K] * m + [C])`, or `MultiDiscrete([2] * (K*K) + [C])` if glimpses are unlimited;
        `abstain` adds one class.
        """
        classes = len(source.class_names) + self.abstain
        choices = 2 if self.glimpses is None else source.grid_size**2
        return spaces.MultiDiscrete([choices] * self.most_looks(source) + [classes])

    def observation_space(self, source: ClipSource) -> spaces.Box:
        """Return a box of (K, K, D), (m, D + 2) for "slices" or (1,) for "blind", bounded by the largest activation."""
        size, depth, high = source.grid_size, source.depth, source.max_feature
        shape: tuple[int, ...] = (size, size, depth)
        if self.observation == "blind":
            shape = (1,)
        elif self.observation == "slices":
            shape, high = (self.most_looks(source), depth + 2), max(high, 1.0)  # places lie below 1
        return spaces.Box(0.0, high, shape, np.dtype(self.dtype).type)

    def reward(
        self, true_positives: NDArray[Any], false_positives: NDArray[Any], glimpses: NDArray[Any] | int = 0
    ) -> NDArray[np.float64]:
        """Return r_T = eta * N+ * R+ + (1 - eta) * N- * R- (eq. 7), less `look_cost` per glimpse, for counts of any
        shape.
        """
        gained = self.eta * self.positive_reward * true_positives
        lost = (1 - self.eta) * self.negative_reward * false_positives
        return np.asarray(gained + lost - self.look_cost * glimpses, np.float64)
