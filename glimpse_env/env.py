"""`VideoGlimpse-v0`: an agent looks at parts of a video and names the action in it.

**An episode** is one labelled clip of T frames. A frame is a feature cube X_n of K x K cells, each cell a slice of D
activations. The agent sees X_1 whole. At frame n it answers with the cells of X_{n+1} to look at and the class that it
believes in now; the step returns X_{n+1} as seen through those looks. After the T-th prediction the episode terminates
(it is never truncated): the looks of that step are checked and ignored, and its observation is all zeros.

**An action** is one flat integer vector, the class last. With `glimpses=m` the m cells looked at come first, and the
same cell twice is one look. With `glimpses=None` a 0 or 1 for each of the K*K cells comes first, any number of ones.

**An observation** is a bounded Box: the cube with every slice that was not chosen zeroed ("glimpsed"), the whole cube
("cube"), the chosen slices with their places ("slices"), or nothing ("blind", for agents that hold the features
themselves). X_1 is shown whole, since no look has chosen from it yet; with `first_glance="none"` it is zeros.

**The reward** is 0 until the end, and then

    r_T = eta * N+ * R+ + (1 - eta) * N- * R-        (eq. 7 of Wang et al., ISCAS 2017)

less `look_cost` for each look and `frame_cost` for each observed frame after the first, both 0 by default.

With `matching="frame"` N+ counts the predictions that are true at their frame's time, and N- the others. With
`matching="segment"` runs of equal predictions are segments, and every true segment claims the one of its class that it
overlaps most, if their temporal IoU exceeds `overlap_threshold`; N+ counts the claimed ones, N- the others. A trimmed
clip is one segment; segments of an untrimmed one are cut off at the ends of the T frames played. `abstain` adds class
C, "no prediction", which counts as neither; it is the default of untrimmed sources, whose clips have background.

**Jumps** make time a part of the action. With `jumps=(1, 2, 4, 8)` an action has one more number, before the class: an
index into these jumps. If frame n's jump is j, the next observed frame is n + j, seen through the cells that the action
names. The prediction stands for all frames from n to n + j - 1, so N+ and N- still count all T frames. A jump past the
end ends the episode; its looks are checked and ignored. Frames that are jumped over are never read.

**Windows** are for videos longer than an episode: with `window_seconds` the clips are windows of that many seconds, one
every `stride_seconds` of each video, and T follows from the frame rate. A window has the labels of the segments that it
overlaps, none if it is background alone. Its `clip_id` is the video's name and the window's first second: "abc@12.50".

**`info`** holds the truth, for training and measuring; it is never an observation. Its keys are the same at every step,
and its values are NumPy's: `clip`, `clip_id` (a str, left out with `info_strings=False`), `frame` (of the
observation), `label` (multi-hot if clips are untrimmed), `frame_labels` (the classes true at the frame just predicted),
and the counts of the finished episode, 0 and False before its end: `true_positives`, `false_positives`, `glimpses`
(looks taken), `frames_observed` (predictions made) and `is_correct` (whether the class predicted for most frames is a
label of the clip). A rendered picture shows the truth too, so do not train on it.

    env = gym.make("VideoGlimpse-v0", glimpses=5, observation="glimpsed")
    observation, info = env.reset(seed=1)             # or options={"clip": 7}
    observation, reward, terminated, _, info = env.step(env.action_space.sample())

`gym.make_vec` gives the vector environment, which plays the same episodes for the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypedDict

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from typing_extensions import Unpack

from glimpse_env.catalogue import open_source
from glimpse_env.engine import EpisodeEngine
from glimpse_env.rendering import RENDER_MODES, check_render_mode, render_engine, render_metadata
from glimpse_env.rules import EpisodeRules, FeatureType, FirstGlance, Matching, Observation
from glimpse_env.sources.protocol import Array, ClipSource, Index

_ALONE = np.ones(1, np.bool_)


class EpisodeArguments(TypedDict, total=False):
    """The keyword arguments that both environments share; `VideoGlimpseEnv` explains them."""

    source: str | ClipSource
    split: str
    fold: int
    frames: int | None
    window_seconds: float | None
    stride_seconds: float | None
    glimpses: int | None
    observation: Observation
    first_glance: FirstGlance
    dtype: FeatureType
    eta: float
    positive_reward: float
    negative_reward: float
    matching: Matching
    overlap_threshold: float
    abstain: bool | None
    look_cost: float
    jumps: Sequence[int] | None
    frame_cost: float
    jitter: bool
    info_strings: bool


_SOURCE = {"source": "synthetic", "split": "train", "fold": 1, "window_seconds": None, "stride_seconds": None}


def build_engine(num_envs: int, episode: EpisodeArguments, *others: str) -> EpisodeEngine:
    """Open the source and return the engine that plays it, with the defaults that the source decides.

    Raises:
        TypeError: an argument is neither of `EpisodeArguments` nor one of the `others` that the environment takes.
    """
    known = [*EpisodeArguments.__annotations__, *others]
    for name in episode.keys() - set(known):
        close = get_close_matches(name, known, 1)
        hint = f": did you mean {close[0]!r}?" if close else "."
        # TorchRL and Gymnasium look for the first words, which are Python's.
        raise TypeError(f"got an unexpected keyword argument {name!r}{hint} The environment takes {', '.join(known)}")
    rules: dict[str, Any] = {name: value for name, value in episode.items() if name not in _SOURCE}
    opening: dict[str, Any] = _SOURCE | {name: value for name, value in episode.items() if name in _SOURCE}
    frames, window_seconds = rules.get("frames"), opening["window_seconds"]
    if frames is not None and window_seconds is not None:
        raise ValueError(f"frames ({frames}) and window_seconds ({window_seconds}) both set T: give one of them")
    clips = open_source(**opening)
    defaults = {"frames": clips.num_frames, "abstain": not clips.trimmed}
    rules |= {name: value for name, value in defaults.items() if rules.get(name) is None}
    return EpisodeEngine(clips, EpisodeRules(**rules), num_envs)


def check_options(options: dict[str, Any] | None, known: set[str]) -> dict[str, Any]:
    """Return the options of a reset; raise TypeError if they are no dict, and ValueError if one is not `known`."""
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise TypeError(f"options must be a dict or None, got {options!r}")
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"unknown reset options {unknown}: reset takes {sorted(known)}")
    return options


def info_of(values: Array, env: int) -> Any:
    """Return the info of one environment; a bool is an array without dimensions, which Gymnasium can batch."""
    return values[env, ...] if values.dtype == np.bool_ else values[env]


class VideoGlimpseEnv(gym.Env[Array, Index]):
    """One episode at a time; the module's docstring defines an episode.

    Args:
        source: "synthetic", "synthetic-easy", "synthetic-untrimmed", the path of a feature store, "lazy:PATH" (videos
            whose features are computed when they are looked at), "wall:FILE" (a wall of cameras), or a ClipSource,
            which is one split already. A spec is JSON if its source is a string: give `str(path)` of a `Path`.
        split: "train", "validation" or "test".
        fold: number of the data set's official split.
        frames: T; the source's own without it.
        window_seconds: plays windows of this length that slide over each video; replaces `frames`.
        stride_seconds: from the start of one window to that of the next; half of `window_seconds` by default.
        glimpses: m, the cells looked at in every frame after the first, 5 by default; None: any set of cells.
        observation: "glimpsed" (default) and "cube" are (K, K, D), "slices" is (m, D + 2), slices with their row and
            column in (0, 1) (K*K rows if glimpses are unlimited), and "blind" is (1,).
        first_glance: "whole" (default) shows all of the first frame; "none" shows zeros, so the agent has to search.
            Neither counts as looks.
        dtype: "float32" (default) or "float16".
        eta, positive_reward, negative_reward: of eq. 7; 0.5, 1 and -1 by default.
        matching: "frame" (default) or "segment".
        overlap_threshold: the temporal IoU that a segment must exceed to be true; 0.5 by default.
        abstain: adds class C; by default only if the source is untrimmed.
        look_cost: subtracted from the reward per look, 0 by default.
        jumps: ascending positive integers such as (1, 2, 4, 8), the jumps in time to choose from; None by default.
        frame_cost: subtracted from the reward per observed frame after the first, 0 by default.
        jitter: random instead of centred windows of clips longer than T.
        info_strings: False leaves `clip_id` out of infos, for libraries that read numbers alone.
        render_mode: "rgb_array" or None.

    Attributes:
        num_clips: number of clips in the split, or of windows that slide over them.
        class_names: the C classes; a class in an action or a label is an index into them.

    Source: sections II and III of the paper; design of the reward from Yeung et al. 2016.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 8}  # noqa: RUF012 - as in gymnasium.Env

    def __init__(self, *, render_mode: str | None = None, **episode: Unpack[EpisodeArguments]) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.engine = build_engine(1, episode, "render_mode")
        self.source = self.engine.source
        self.metadata = render_metadata(self.source)
        self.num_clips, self.class_names = self.source.num_clips, self.source.class_names
        self.observation_space: spaces.Box = self.engine.observation_space
        self.action_space: spaces.MultiDiscrete = self.engine.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode of `options["clip"]`, or of a clip drawn uniformly, and return its first observation."""
        chosen = check_options(options, {"clip"}).get("clip")
        if chosen is not None:  # before seeding: a refused reset changes nothing
            if isinstance(chosen, (bool, np.bool_)) or not isinstance(chosen, (int, np.integer)):
                raise TypeError(f"options['clip'] must be an integer, got {chosen!r} of type {type(chosen).__name__}")
            self.engine.check_clip(int(chosen))
        super().reset(seed=seed)
        with self.engine.undone_on_error([self.np_random]):
            clip = self.np_random.integers(self.num_clips) if chosen is None else chosen
            self.engine.begin(0, int(clip), self.np_random)
            return self._observe(), self._info()

    def step(self, action: Index) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play one action: the cells of the next frame to look at, the jump if there are `jumps`, and the class now.

        If the source fails, the episode stays where it was, and the step can be tried again.

        Raises:
            gymnasium.error.ResetNeeded: no episode is under way.
            TypeError, ValueError: the action is not in the action space.
        """
        if self.engine.frame[0] == 0 or self.engine.done[0]:
            raise ResetNeeded("no episode is under way: call reset() before step()")
        action = np.asanyarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(f"an action must have shape {self.action_space.shape}, got {action.shape}")
        actions = self.engine.check_actions(action[None], _ALONE)
        with self.engine.undone_on_error():
            reward = self.engine.advance(actions, _ALONE)
            return self._observe(), float(reward[0]), bool(self.engine.done[0]), False, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """Return (height, width, 3): the frame, seen cells bright and the rest dim, prediction and truth."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render mode: pass render_mode='rgb_array' to gym.make")
            return None
        return render_engine(self.engine, 0)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return a True per choice of each part of an action, for MaskablePPO; override it to forbid cells."""
        return np.ones(int(self.action_space.nvec.sum()), np.bool_)

    def _observe(self) -> Array:
        observations = self.engine.blank()
        self.engine.observe(observations)
        first: Array = observations[0]
        return first

    def _info(self) -> dict[str, Any]:
        return {key: info_of(values, 0) for key, values in self.engine.info().items()}
