"""The batched episode engine: N episodes advance together, and all rules of an episode are here.

Both environments are thin shells over it. An observation depends on the engine's state alone, so it can be written
again at any time (`observe`), into an array of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse_env.rules import EpisodeRules, claimed_segments, classes_at, cut_segments, predicted_segments, runs_of
from glimpse_env.sources.protocol import Array, ClipSource, Index, Segment, refuse_masked

_GLANCES_AT_ONCE = 16  # first cubes read together, for sources that run a network


class Outcome(NamedTuple):
    """Counts of n finished episodes; every field is (n,)."""

    true_positives: Index
    false_positives: Index
    glimpses: Index
    frames_observed: Index
    is_correct: NDArray[np.bool_]


class EpisodeEngine:
    """N episodes over one clip source.

    Attributes (all of the N episodes, read-only to callers):
        clip: (N,) int64, the clip played; -1 before the first `begin`.
        frame: (N,) int64, the last frame that was observed, 1..T; 0 before the first `begin`.
        done: (N,) bool, True after the last prediction.
        cells: (N, m) int64, the cells seen in the current frame, -1 for a slot that saw nothing (a repeated cell, or
            fewer looks than K*K if glimpses are unlimited); meaningless in frame 1, which no look has chosen from.
        predictions: (N, T) int64, the classes predicted so far; -1 for frames not reached yet. A prediction stands for
            the frames that are jumped over, too.
        window: (N, T) int64, the index within the source's frames of the clip of each frame of the episode.
        label: (N,) int64 for a trimmed source (-1: unknown), otherwise (N, C) bool.
    """

    def __init__(self, source: ClipSource, rules: EpisodeRules, num_envs: int) -> None:
        rules.check_source(source)
        classes, frames, slots = len(source.class_names), rules.frames, rules.most_looks(source)
        self.source, self.rules, self.num_envs = source, rules, num_envs
        self.observation_space, self.action_space = rules.observation_space(source), rules.action_space(source)
        # One array for many numbers, which is quick to copy.
        numbers, flags = np.zeros((9, num_envs), np.int64), np.zeros((2, num_envs), np.bool_)
        self.clip, self.frame, self._looks, self.done = numbers[0], numbers[1], numbers[2], flags[0]
        self._steps, self._predicted = numbers[3], numbers[4]  # predictions made, and the frame of the last one
        self._outcome = Outcome(numbers[5], numbers[6], numbers[7], numbers[8], flags[1])
        self.clip[:] = -1
        self.cells = np.full((num_envs, slots), -1, np.int64)
        self.predictions = np.full((num_envs, frames), -1, np.int64)
        self.label = np.full(num_envs, -1, np.int64) if source.trimmed else np.zeros((num_envs, classes), np.bool_)
        self.window = np.zeros((num_envs, frames), np.int64)
        self._frame_labels = np.zeros((num_envs, frames, classes), np.bool_)
        self._truths, self._clip_ids = np.full((2, num_envs), None, object)
        self._changed_by_steps: list[Array] = [numbers, flags, self.cells, self.predictions]
        self._changed_by_begins = [self.label, self.window, self._frame_labels, self._truths, self._clip_ids]
        self._everyone = np.arange(num_envs)
        cells = np.arange(source.grid_size**2)
        self._centres = (np.stack(np.divmod(cells, source.grid_size), 1) + 0.5) / source.grid_size  # (K*K, 2)
        self._earlier = np.tri(slots, k=-1, dtype=np.bool_)
        self._jumps = np.array([min(jump, frames) for jump in rules.jumps or (1,)], np.int64)  # T is past the end
        self._frames = np.arange(1, frames + 1)
        # Reused by all steps, so that a step allocates nothing of a cube's size but its result.
        self._slices = np.empty((num_envs * slots, source.depth), rules.dtype)
        at_once = min(num_envs, _GLANCES_AT_ONCE)
        self._cubes = np.empty((at_once, source.grid_size, source.grid_size, source.depth), np.float32)

    def check_clip(self, clip: int) -> None:
        """Raise IndexError if there is no such clip."""
        if not 0 <= clip < self.source.num_clips:
            raise IndexError(f"clip {clip} does not exist: this split has clips 0 to {self.source.num_clips - 1}")

    def begin(self, env: int, clip: int, generator: np.random.Generator) -> None:
        """Start an episode of `clip` in `env`; `generator` places the window if `jitter` is on."""
        source, frames = self.source, self.rules.frames
        self.check_clip(clip)
        times, segments = source.frame_times(clip), source.segments(clip)
        slack = max(0, len(times) - frames)
        offset = int(generator.integers(slack + 1)) if self.rules.jitter and slack else slack // 2
        self.window[env] = np.minimum(np.arange(offset, offset + frames), len(times) - 1)
        times, frame_seconds = times[self.window[env]], 1 / source.frames_per_second
        labels = [segment.label for segment in segments]
        if source.trimmed:
            self.label[env] = labels[0] if labels else -1
            truths = [Segment(-np.inf, np.inf, label) for label in labels]
        else:
            self.label[env] = np.isin(np.arange(len(source.class_names)), labels)
            truths = list(segments)
        self._truths[env] = cut_segments(truths, times, frame_seconds=frame_seconds)
        self._frame_labels[env] = classes_at(times, segments, len(source.class_names))
        self.clip[env], self.frame[env], self.done[env] = clip, 1, False
        self._looks[env] = self._steps[env] = self._predicted[env] = 0
        self._clip_ids[env] = source.clip_id(clip)
        self.predictions[env] = -1
        for counts in self._outcome:
            counts[env] = 0

    def check_actions(self, actions: Any, envs: NDArray[np.bool_]) -> Index:
        """Return `actions`, (N, parts of an action), as int64 after checking the rows of `envs`."""
        refuse_masked(actions=actions)
        actions, counts = np.asarray(actions), self.action_space.nvec
        shape = (self.num_envs, len(counts))
        if actions.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, got {actions.dtype}")
        if actions.shape != shape:
            jump = "" if self.rules.jumps is None else "the jump, "
            raise ValueError(
                f"actions must have shape {shape} (where to look, {jump}then the class), got {actions.shape}"
            )
        bad = ((actions < 0) | (actions >= counts)) & envs[:, None]
        if bad.any():
            env, part = np.argwhere(bad)[0]
            name = f"cell {part}" if part < self.cells.shape[1] else "class" if part == len(counts) - 1 else "jump"
            raise ValueError(
                f"{name} of the action of environment {env} must be 0 to {counts[part] - 1}, got {actions[env, part]}"
            )
        return np.asarray(actions, np.int64)

    def advance(self, actions: Index, envs: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Play one checked action in each of `envs` and return the (N,) rewards, 0 before the end of an episode."""
        (rows,) = envs.nonzero()
        frames = self.frame[rows]
        if self.rules.jumps is None:
            following = frames + 1
            self.predictions[rows, frames - 1] = actions[rows, -1]
        else:
            following = frames + self._jumps[actions[rows, -2]]
            stands = (frames[:, None] <= self._frames) & (self._frames < following[:, None])  # (n, T)
            self.predictions[rows] = np.where(stands, actions[rows, -1:], self.predictions[rows])
        self._predicted[rows] = frames
        self._steps[rows] += 1
        ended = following > self.rules.frames
        going, ending = (rows[~ended], rows[ended]) if ended.any() else (rows, rows[:0])
        self.cells[going] = cells = self._chosen(actions[going, : self.cells.shape[1]])
        self._looks[going] += (cells >= 0).sum(1)
        self.frame[going] = following[~ended]
        rewards = np.zeros(self.num_envs)
        if len(ending):
            self.done[ending] = True
            outcome = self.outcome(ending)
            for counts, values in zip(self._outcome, outcome, strict=True):
                counts[ending] = values
            rewards[ending] = self.rules.reward(*outcome[:4])
        return rewards

    def outcome(self, envs: Index) -> Outcome:
        """Judge the (n,) `envs`, whose episodes are over; ties between most frequent predictions go to the lowest."""
        classes = np.arange(len(self.source.class_names))
        chosen = self.predictions[envs, :, None] == classes  # (n, T, C); abstentions choose nothing
        votes = chosen.sum(1)
        truth = self.label[envs, None] == classes if self.label.ndim == 1 else self.label[envs]
        is_correct = truth[np.arange(len(envs)), votes.argmax(1)] & (votes.max(1) > 0)
        true, false = self._judge(envs)
        return Outcome(true.sum(1), false.sum(1), self._looks[envs], self._steps[envs], is_correct)

    def info(self) -> dict[str, Array]:
        """Return the infos of the current step as new arrays of N rows; counts are 0 and False until the end."""
        frame = np.where(self.done, self.rules.frames, self.frame)
        infos = {"clip": self.clip.copy(), "frame": frame, "label": self.label.copy()}
        infos |= {"frame_labels": self.frame_labels()}
        if self.rules.info_strings:
            infos["clip_id"] = self._clip_ids.copy()
        return infos | {name: counts.copy() for name, counts in zip(Outcome._fields, self._outcome, strict=True)}

    def steps(self) -> Index:
        """Return (N,), the predictions made so far in each episode."""
        steps: Index = self._steps.copy()
        return steps

    def may_end(self) -> NDArray[np.bool_]:
        """Return (N,), True for episodes that some action ends."""
        may_end: NDArray[np.bool_] = self.frame + self._jumps[-1] > self.rules.frames
        return may_end

    def truth(self) -> NDArray[np.bool_]:
        """Return (N, T, C), the classes true at each frame."""
        return self._frame_labels.copy()

    def frame_labels(self) -> NDArray[np.bool_]:
        """Return (N, C), the classes true at the frame just predicted; all False before the first prediction."""
        labels: NDArray[np.bool_] = self._frame_labels[self._everyone, np.maximum(self._predicted, 1) - 1]
        labels[self._predicted == 0] = False
        return labels

    def earned(self) -> NDArray[np.float64]:
        """Return (N,) eq. 7 over the predictions of each episode so far, without costs."""
        true, false = self._judge(self._everyone)
        return self.rules.reward(true.sum(1), false.sum(1))

    def shares(self) -> NDArray[np.float64]:
        """Return (N, T), the part of each prediction in `earned`.

        With segment matching, the part of a run of equal predictions stands at its last frame.
        """
        return self.rules.reward(*self._judge(self._everyone))

    def seen(self, env: int) -> NDArray[np.bool_]:
        """Return (K, K) bool: the cells of the current frame that have been seen; in frame 1 all, or none."""
        size = self.source.grid_size
        if self.frame[env] == 1:
            return np.full((size, size), self.rules.first_glance == "whole")
        return np.isin(np.arange(size**2), self.cells[env]).reshape(size, size)

    def source_frame(self, env: int) -> int:
        """Return the index, within the source's frames of the clip, of the frame that `env` is at."""
        return int(self.window[env, self.frame[env] - 1])

    @contextmanager
    def undone_on_error(self, generators: Sequence[np.random.Generator] = ()) -> Iterator[None]:
        """Restore the episodes and `generators` if the block fails; episodes that it begins draw from `generators`."""
        state = self._changed_by_steps + (self._changed_by_begins if generators else [])
        before = [array.copy() for array in state]
        states = [(generator, generator.bit_generator.state) for generator in generators]
        try:
            yield
        except BaseException:
            for array, values in zip(state, before, strict=True):
                array[...] = values
            for generator, own in states:
                generator.bit_generator.state = own
            raise

    def blank(self) -> Array:
        """Return a new array of zeros for `observe`, (N, *observation shape)."""
        return np.zeros((self.num_envs, *self.observation_space.shape), self.rules.dtype)

    def observe(self, out: Array) -> None:
        """Write every episode's observation into `out`, (N, *observation shape).

        `out` is either `blank`, or the array of an earlier `observe` that `erase` has cleared before the state changed.
        """
        whole, partly, blind = self._views()
        if self.rules.observation == "blind":
            return
        if self.rules.observation == "glimpsed":
            self._write_cubes(whole, out)
            envs, _, cells, slices = self._read_looks(partly)
            self._rows(out)[envs, cells] = slices
        elif self.rules.observation == "cube":
            self._write_cubes(np.sort(np.concatenate([whole, partly])), out)
            out[blind] = 0
        else:
            self._write_first_glances(whole, out)
            if len(partly):
                self._write_slices(partly, out)
            if len(blind):
                out[blind] = 0

    def erase(self, out: Array) -> None:
        """Prepare the array of the last `observe` for the next one; only the slices that it wrote are touched."""
        if self.rules.observation == "glimpsed":
            whole, partly, _ = self._views()
            out[whole] = 0
            envs, _, cells = self._looks_of(partly)
            self._rows(out)[envs, cells] = 0

    def _chosen(self, looks: Index) -> Index:
        # The (n, m) cells that checked actions choose, -1 for a slot that chooses none.
        if self.rules.glimpses is None:
            cells = np.arange(looks.shape[1])
            ascending = np.sort(np.where(looks == 1, cells, len(cells)), axis=1)
            return np.where(ascending < len(cells), ascending, -1)
        same = looks[:, :, None] == looks[:, None, :]  # (n, m, m)
        return np.where((same & self._earlier).any(2), -1, looks)

    def _judge(self, envs: Index) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        # The true and the false positives among the predictions of (n,) `envs`, (n, T) each. A segment counts once, at
        # its last frame.
        predictions, classes = self.predictions[envs], len(self.source.class_names)
        said = (predictions >= 0) & (predictions < classes)
        if self.rules.matching == "frame":
            frames = np.arange(self.rules.frames)
            true = said & self._frame_labels[envs[:, None], frames, np.where(said, predictions, 0)]
            return true, said & ~true
        true, ends = np.zeros_like(said), np.zeros_like(said)
        for row, env in enumerate(envs.tolist()):
            predicted = predicted_segments(
                predictions[row],
                self.source.frame_times(int(self.clip[env]))[self.window[env]],
                frame_seconds=1 / self.source.frames_per_second,
                num_classes=classes,
            )
            claimed = claimed_segments(predicted, self._truths[env], overlap_threshold=self.rules.overlap_threshold)
            _, lasts = runs_of(predictions[row])
            lasts = lasts[said[row, lasts]]
            ends[row, lasts], true[row, lasts[sorted(claimed)]] = True, True
        return true, ends & ~true

    def _views(self) -> tuple[Index, Index, Index]:
        # The episodes that see a whole frame, chosen cells of it, or nothing.
        sighted = (self.frame > 0) & ~self.done
        first = self.frame == 1
        if self.rules.first_glance == "none":
            sighted &= ~first
        return (sighted & first).nonzero()[0], (sighted & ~first).nonzero()[0], (~sighted).nonzero()[0]

    def _rows(self, out: Array) -> Array:
        return out.reshape(self.num_envs, self.source.grid_size**2, self.source.depth)

    def _places(self, envs: Index) -> tuple[Index, Index]:
        return self.clip[envs], self.window[envs, self.frame[envs] - 1]

    def _write_cubes(self, envs: Index, out: Array) -> None:
        if len(envs) == self.num_envs:
            self.source.read_cubes(*self._places(envs), out)
        else:
            # Row by row: a contiguous row is read in place; a fancy-indexed block would be copied twice.
            for env in envs:
                self.source.read_cubes(*self._places(np.array([env])), out[env : env + 1])

    def _looks_of(self, envs: Index) -> tuple[Index, Index, Index]:
        # The environment, the slot and the cell of each of the L looks of `envs` at their current frames.
        cells = self.cells[envs]
        row, slot = (cells >= 0).nonzero()
        return envs[row], slot, cells[row, slot]

    def _read_looks(self, envs: Index) -> tuple[Index, Index, Index, Array]:
        # `_looks_of` with the slices looked at, (L, D), in memory that the next call overwrites.
        looking, slot, cells = self._looks_of(envs)
        slices = self._slices[: len(looking)]
        self.source.read_slices(*self._places(looking), cells, slices)
        return looking, slot, cells, slices

    def _write_slices(self, envs: Index, out: Array) -> None:
        depth = self.source.depth
        looking, slot, cells, slices = self._read_looks(envs)
        if len(looking) < out.shape[1] * len(envs):
            row, idle = (self.cells[envs] < 0).nonzero()
            out[envs[row], idle] = 0
        out[looking, slot, :depth] = slices
        out[looking, slot, depth:] = self._centres[cells]

    def _write_first_glances(self, envs: Index, out: Array) -> None:
        depth = self.source.depth
        for begin in range(0, len(envs), len(self._cubes)):
            part = envs[begin : begin + len(self._cubes)]
            cubes = self._cubes[: len(part)]
            self.source.read_cubes(*self._places(part), cubes)
            for env, cube in zip(part, cubes, strict=True):
                if self.rules.glimpses is None:
                    out[env, :, :depth] = cube.reshape(-1, depth)
                    out[env, :, depth:] = self._centres
                else:
                    # In float64: a float32 mean can be rounded above every number in it, and so out of the space.
                    out[env, :, :depth] = cube.mean((0, 1), np.float64)
                    out[env, :, depth:] = 0.5
