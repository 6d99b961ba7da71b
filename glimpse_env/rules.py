"""The rules of an episode: what the agent may look at, what it sees, and what it is paid (eq. 7 of the paper)."""

from __future__ import annotations

import math
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


@dataclass(frozen=True, kw_only=True)
class EpisodeRules:
    """Rules of an episode, as set by `gym.make`; `check_source` compares them with the source.

    Attributes:
        frames: T, the frames of an episode.
        glimpses: m, the cells looked at in every frame after the first; None lets the agent choose any set of them.
        observation: "glimpsed" shows the cube with unseen slices zeroed, "cube" the whole cube, "slices" the chosen
            slices with their places, "blind" nothing: a single zero.
        first_glance: "whole" shows the first frame whole, "none" zeros, so that the agent has to search.
        dtype: of the observations.
        eta: weight of the true positives against the false positives in the reward, in [0, 1].
        positive_reward: R+, above 0.
        negative_reward: R-, below 0.
        matching: "frame" compares every frame's prediction with the classes true at its time, "segment" runs of equal
            predictions with the true segments.
        overlap_threshold: the temporal IoU that a predicted segment must exceed to be true, in [0, 1).
        abstain: adds class index C, "no prediction", which counts as neither true nor false.
        look_cost: what every look takes off the reward at the end, at least 0.
        jitter: a clip longer than T frames gives a random window of them instead of the centred one.

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

    def __post_init__(self) -> None:
        for name, choices in (
            ("observation", Observation),
            ("first_glance", FirstGlance),
            ("dtype", FeatureType),
            ("matching", Matching),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        for name in ("abstain", "jitter"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("eta", "positive_reward", "negative_reward", "overlap_threshold", "look_cost"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), Real):
                raise TypeError(f"{name} must be a number, got {getattr(self, name)!r}")
        for name, value in (("frames", self.frames), ("glimpses", 1 if self.glimpses is None else self.glimpses)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if not 0 < self.positive_reward < math.inf:
            raise ValueError(f"positive_reward (R+) must be positive and finite, got {self.positive_reward}")
        if not -math.inf < self.negative_reward < 0:
            raise ValueError(f"negative_reward (R-) must be negative and finite, got {self.negative_reward}")
        if not 0 <= self.overlap_threshold < 1:
            raise ValueError(f"overlap_threshold must lie in [0, 1), got {self.overlap_threshold}")
        if not 0 <= self.look_cost < math.inf:
            raise ValueError(f"look_cost must be finite and not negative, got {self.look_cost}")

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
                f"{self.frames}: its slices are of crops, and only a clip's first frame was seen whole, so that "
                "episodes begin there; for another T extract with other --frames"
            )
        if source.num_clips == 0:
            raise ValueError("the source has no clips in this split: choose another split or extract some videos")

    def most_looks(self, source: ClipSource) -> int:
        """Return how many cells of one frame can be looked at: m, or K*K if glimpses are unlimited."""
        return source.grid_size**2 if self.glimpses is None else self.glimpses

    def action_space(self, source: ClipSource) -> spaces.MultiDiscrete:
        """Return m cells and the class, `MultiDiscrete([K*K] * m + [C])`, or whether to look at each cell, and the
        class, `MultiDiscrete([2] * (K*K) + [C])`; with `abstain` there is one class more.
        """
        classes = len(source.class_names) + self.abstain
        choices = 2 if self.glimpses is None else source.grid_size**2
        return spaces.MultiDiscrete([choices] * self.most_looks(source) + [classes])

    def observation_shape(self, source: ClipSource) -> tuple[int, ...]:
        """Return (K, K, D), (m, D + 2) for "slices" (m is K*K if glimpses are unlimited), or (1,) for "blind"."""
        size, depth = source.grid_size, source.depth
        if self.observation == "blind":
            return (1,)
        return (self.most_looks(source), depth + 2) if self.observation == "slices" else (size, size, depth)

    def observation_space(self, source: ClipSource) -> spaces.Box:
        """Return a box bounded by the source's recorded maximum (and by 1, if places are part of it)."""
        high = max(source.max_feature, 1.0) if self.observation == "slices" else source.max_feature
        return spaces.Box(0.0, high, self.observation_shape(source), np.dtype(self.dtype).type)

    def reward(
        self, true_positives: NDArray[Any], false_positives: NDArray[Any], glimpses: NDArray[Any] | int = 0
    ) -> NDArray[np.float64]:
        """Return r_T = eta * N+ * R+ + (1 - eta) * N- * R- (eq. 7), less `look_cost` for each of the `glimpses`, for
        counts of any shape.
        """
        gained = self.eta * self.positive_reward * true_positives
        lost = (1 - self.eta) * self.negative_reward * false_positives
        return np.asarray(gained + lost - self.look_cost * glimpses, np.float64)
