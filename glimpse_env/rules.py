"""The rules of an episode: what the agent may look at, what it sees, and what it is paid (eq. 7 of the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from glimpse_env.sources import ClipSource, Segment

Observation = Literal["glimpsed", "cube", "slices"]
Matching = Literal["frame"]
FeatureType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class EpisodeRules:
    """What `gym.make` may set about an episode, checked against the source it will be played on.

    Attributes:
        frames: T, the frames of an episode.
        glimpses: m, the cells looked at in every frame after the first.
        observation: "glimpsed" shows the cube with unseen slices zeroed, "cube" the whole cube, "slices" the chosen
            slices with their places.
        dtype: of the observations.
        eta: weight of the true positives against the false positives in the reward, in [0, 1].
        positive_reward: R+, above 0.
        negative_reward: R-, below 0.
        matching: "frame" compares every frame's prediction with the classes true at its time.
        abstain: adds class index C, "no prediction", which counts as neither true nor false.
        jitter: a clip longer than T frames gives a random window of them instead of the centred one.

    Raises:
        TypeError, ValueError: a value lies outside its range; the message says which are allowed.
    """

    frames: int
    glimpses: int = 5
    observation: Observation = "glimpsed"
    dtype: FeatureType = "float32"
    eta: float = 0.5
    positive_reward: float = 1.0
    negative_reward: float = -1.0
    matching: Matching = "frame"
    abstain: bool = False
    jitter: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("observation", Observation), ("dtype", FeatureType), ("matching", Matching)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        for name in ("frames", "glimpses"):
            value = getattr(self, name)
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

    def check_source(self, source: ClipSource) -> None:
        """Raise ValueError where these rules cannot be played on `source`."""
        cells = source.grid_size**2
        if not 1 <= self.glimpses <= cells:
            raise ValueError(
                f"glimpses must be 1 to {cells}, the cells of a {source.grid_size} x {source.grid_size} "
                f"cube, got {self.glimpses}"
            )
        if source.num_clips == 0:
            raise ValueError("the source has no clips in this split: choose another split or extract some videos")

    def action_space(self, source: ClipSource) -> spaces.MultiDiscrete:
        """Return m cells and the class: `MultiDiscrete([K*K] * m + [C])`, one class more with `abstain`."""
        classes = len(source.class_names) + self.abstain
        return spaces.MultiDiscrete([source.grid_size**2] * self.glimpses + [classes])

    def observation_shape(self, source: ClipSource) -> tuple[int, ...]:
        """Return (K, K, D), or (m, D + 2) for "slices"."""
        size, depth = source.grid_size, source.depth
        return (self.glimpses, depth + 2) if self.observation == "slices" else (size, size, depth)

    def observation_space(self, source: ClipSource) -> spaces.Box:
        """Return a box bounded by the source's recorded maximum (and by 1, where places are part of it)."""
        high = max(source.max_feature, 1.0) if self.observation == "slices" else source.max_feature
        return spaces.Box(0.0, high, self.observation_shape(source), np.dtype(self.dtype).type)

    def reward(self, true_positives: NDArray[Any], false_positives: NDArray[Any]) -> NDArray[np.float64]:
        """Return r_T = eta * N+ * R+ + (1 - eta) * N- * R- (eq. 7) for counts of any shape."""
        gained = self.eta * self.positive_reward * true_positives
        lost = (1 - self.eta) * self.negative_reward * false_positives
        return np.asarray(gained + lost, np.float64)


def classes_at(times: NDArray[np.float64], segments: tuple[Segment, ...], num_classes: int) -> NDArray[np.bool_]:
    """Return (frames, C) bool: the classes whose segments contain each of the (frames,) `times` in seconds."""
    labels = np.zeros((len(times), num_classes), np.bool_)
    for start, end, label in segments:
        labels[(start <= times) & (times <= end), label] = True
    return labels
