"""A refused or failed call changes nothing: the episodes, the generators and the next results stay as they were."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from clip_toys import assert_same, counted
from gymnasium.vector import AutoresetMode

from glimpse_env import ArraySource, VideoGlimpseEnv, VideoGlimpseVectorEnv

CALLS = [
    (observation, name)
    for observation in ("glimpsed", "cube", "slices")
    for name in ("read_cubes", "read_slices", "segments")
    if (observation, name) != ("cube", "read_slices")  # cubes are read whole
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Failing(ArraySource):
    """A source whose next call of each method in `broken` fails, as a disk or a decoder does at any moment."""

    broken: set = field(default_factory=set)

    def _call(self, name):
        if name in self.broken:
            self.broken.remove(name)
            raise OSError(f"{name} failed")

    def read_cubes(self, clips, frames, out):
        out[:1] = 7  # part of it was written
        self._call("read_cubes")
        super().read_cubes(clips, frames, out)

    def read_slices(self, clips, frames, cells, out):
        out[:1] = 7
        self._call("read_slices")
        super().read_slices(clips, frames, cells, out)

    def segments(self, clip):
        self._call("segments")
        return super().segments(clip)


def failing():
    return Failing(
        features=counted(5, 4), labels=np.array([2, 0, 1, 1, -1]), class_names=("run", "jump", "wave"),
        frames_per_second=10.0,
    )  # fmt: skip


def tried(source, name, call):
    """Call with a source that fails at `name`, then again if it did; return the last result and whether it failed."""
    source.broken.add(name)
    try:
        result = call()
    except OSError:
        return call(), True
    source.broken.clear()
    return result, False


@pytest.mark.parametrize(("observation", "name"), CALLS)
def test_a_step_that_failed_can_be_tried_again(observation, name):
    source = failing()
    arguments = {"observation": observation, "glimpses": 2, "jitter": True, "frames": 3}
    ours, theirs = VideoGlimpseEnv(source=source, **arguments), VideoGlimpseEnv(source=failing(), **arguments)
    ours.reset(seed=3), theirs.reset(seed=3)
    rng, failures = np.random.default_rng(1), 0
    for episode in range(4):
        for _ in range(3):
            action = np.append(rng.integers(0, 9, 2), rng.integers(0, 3))
            result, failed = tried(source, name, lambda action=action: ours.step(action))
            failures += failed
            assert_same(result, theirs.step(action))
        if episode < 3:
            result, failed = tried(source, name, ours.reset)  # draws the same clip and window again
            failures += failed
            assert_same(result, theirs.reset())
    assert failures > 2


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("autoreset", list(AutoresetMode))
@pytest.mark.parametrize(("observation", "name"), CALLS)
def test_a_step_of_many_that_failed_can_be_tried_again(observation, name, autoreset, copy):
    source = failing()
    arguments = {"observation": observation, "glimpses": 2, "jitter": True, "frames": 3, "autoreset_mode": autoreset}
    ours = VideoGlimpseVectorEnv(3, source=source, copy=copy, **arguments)
    theirs = VideoGlimpseVectorEnv(3, source=failing(), **arguments)
    for envs in (ours, theirs):
        envs.reset(seed=3)
        envs.step(np.zeros((3, 3), int))
        envs.reset(options={"reset_mask": np.array([False, True, False])})  # no longer in step with each other
    rng, failures = np.random.default_rng(1), 0
    for _ in range(14):
        if autoreset == AutoresetMode.DISABLED and ours.engine.done.any():
            options = {"reset_mask": ours.engine.done.copy()}
            result, failed = tried(source, name, lambda options=options: ours.reset(options=options))
            failures += failed
            assert_same(result, theirs.reset(options=options))
        actions = np.hstack([rng.integers(0, 9, (3, 2)), rng.integers(0, 3, (3, 1))])
        result, failed = tried(source, name, lambda actions=actions: ours.step(actions))
        failures += failed
        assert_same(result, theirs.step(actions))
    assert failures > 2


@pytest.mark.parametrize("action", [[9, 0, 0], [0, 0, 3], [0, 0], [0.5, 0, 0]])
def test_a_refused_action_changes_nothing(toy, action):
    ours, theirs = (VideoGlimpseEnv(source=toy, glimpses=2) for _ in range(2))
    ours.reset(seed=3), theirs.reset(seed=3)
    with pytest.raises((ValueError, TypeError)):
        ours.step(np.array(action))
    for _ in range(4):
        assert_same(ours.step(np.array([1, 2, 0])), theirs.step(np.array([1, 2, 0])))
    assert_same(ours.reset(), theirs.reset())


def test_a_refused_reset_of_many_changes_nothing(toy):
    ours, theirs = (VideoGlimpseVectorEnv(2, source=toy, glimpses=2) for _ in range(2))
    ours.reset(seed=3), theirs.reset(seed=3)
    for options in ({"clip": 9}, {"clip": np.array([0, -1])}, {"reset_mask": np.ones(3, bool)}, {"other": 1}):
        with pytest.raises((ValueError, IndexError)):
            ours.reset(seed=8, options=options)
    for _ in range(6):
        assert_same(ours.step(np.array([[1, 2, 0]] * 2)), theirs.step(np.array([[1, 2, 0]] * 2)))
