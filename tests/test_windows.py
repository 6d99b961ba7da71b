"""Windows that slide over videos: their starts, frames and labels, worked out by hand."""

import dataclasses
import pickle

import gymnasium as gym
import numpy as np
import pytest
from clip_toys import UnevenSource, counted
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from glimpse_env import (
    ArraySource,
    ClipSource,
    Segment,
    SlidingWindows,
    UntrimmedSyntheticSource,
    VideoGlimpseEnv,
    open_source,
)


def index(*numbers):
    return np.array(numbers, np.int64)


def one_video(length, *, frames_per_second=10.0, truths=None):
    """Return a source of one video of class 0, or of the segments given."""
    return UnevenSource(
        features=counted(1, length), labels=index(0), class_names=("run", "jump", "wave"),
        frames_per_second=frames_per_second, lengths=(length,), truths=None if truths is None else (truths,),
    )  # fmt: skip


@pytest.fixture
def windows(uneven):
    """Windows of four frames, every three, over videos of nine, two and four: at 0, 3 and 5 of the first."""
    return SlidingWindows(source=uneven, window_seconds=0.4, stride_seconds=0.3)


@pytest.fixture
def acted():
    """A video of eight frames, four a second, in windows of two: [-1/8, 3/8], [3/8, 7/8], [7/8, 11/8], [11/8, 15/8].

    Run ends where the second window begins, wave lies across the second and the third, jump takes no time at all in the
    third, and the fourth is background.
    """
    truths = (Segment(0.0, 0.375, 0), Segment(0.8, 1.0, 2), Segment(1.0, 1.0, 1))
    return SlidingWindows(
        source=one_video(8, frames_per_second=4.0, truths=truths), window_seconds=0.5, stride_seconds=0.5
    )


# ---- starts of windows


@pytest.mark.parametrize(
    ("length", "window_seconds", "stride_seconds", "first_frames"),
    [
        (8, 0.4, 0.2, [0, 2, 4]),
        (9, 0.4, 0.2, [0, 2, 4, 5]),  # 6 would reach beyond the end, so the last one ends with the video
        (9, 0.4, None, [0, 2, 4, 5]),
        (5, 0.4, 0.2, [0, 1]),
        (8, 0.4, 0.4, [0, 4]),
        (9, 0.4, 0.4, [0, 4, 5]),
        (4, 0.4, 0.2, [0]),
        (1, 0.4, 0.2, [0]),
        (3, 0.1, None, [0, 1, 2]),  # half of one frame is one
        (6, 0.3, 0.04, [0, 1, 2, 3]),
        (9, 0.36, 0.34, [0, 3, 5]),  # the nearest numbers of frames are 4 and 3
        (9, 0.06, 0.06, list(range(9))),
    ],
)
def test_windows_begin_every_stride_and_the_last_ends_with_the_video(
    length, window_seconds, stride_seconds, first_frames
):
    windows = SlidingWindows(source=one_video(length), window_seconds=window_seconds, stride_seconds=stride_seconds)
    assert windows.first_frames.tolist() == first_frames
    assert windows.videos.tolist() == [0] * len(first_frames)
    assert windows.num_clips == len(first_frames)


def test_every_frame_is_in_a_window():
    for length in range(1, 14):
        for frames in range(1, 6):
            for stride in range(1, frames + 1):
                source = one_video(length)
                windows = SlidingWindows(source=source, window_seconds=frames / 10, stride_seconds=stride / 10)
                assert (windows.num_frames, windows.stride_frames) == (frames, stride)
                seen = [windows.frame_times(window) for window in range(windows.num_clips)]
                np.testing.assert_array_equal(np.unique(np.concatenate(seen)), source.frame_times(0))
                assert all(len(times) == min(frames, length) for times in seen)


def test_windows_are_numbered_video_by_video(windows):
    assert windows.videos.tolist() == [0, 0, 0, 1, 2]
    assert windows.first_frames.tolist() == [0, 3, 5, 0, 0]
    assert (windows.videos.dtype, windows.first_frames.dtype) == (np.int64, np.int64)


def test_it_is_a_clip_source_like_its_own(windows, uneven):
    assert isinstance(windows, ClipSource)
    assert (windows.num_clips, windows.num_frames, windows.trimmed) == (5, 4, True)
    for name in ("class_names", "frames_per_second", "grid_size", "depth", "max_feature"):
        assert getattr(windows, name) == getattr(uneven, name)


def test_names_tell_the_video_and_the_second(windows):
    names = [windows.clip_id(window) for window in range(5)]
    assert names == [
        "clip000000@0.00", "clip000000@0.30", "clip000000@0.50", "clip000001@0.00", "clip000002@0.00",
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [0.5, 8.0, 30.0, 99.9, 100.0, 240.0, 1000.0])
def test_names_are_unique_at_any_rate(rate):
    source = one_video(300, frames_per_second=rate)
    windows = SlidingWindows(source=source, window_seconds=1 / rate, stride_seconds=1 / rate)
    assert len({windows.clip_id(window) for window in range(300)}) == windows.num_clips == 300


# ---- frames and features: slice k of frame n of video i is (v, v + 1) with v = 1 + 162 i + 18 n + 2 k


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cubes_and_slices_are_the_sources(windows, dtype):
    cubes, slices = np.empty((2, 3, 3, 2), dtype), np.empty((3, 2), dtype)
    windows.read_cubes(index(2, 3), index(1, 0), cubes)
    np.testing.assert_array_equal(cubes[0], np.arange(109, 127).reshape(3, 3, 2))  # 1 + 18 * (5 + 1)
    np.testing.assert_array_equal(cubes[1], np.arange(163, 181).reshape(3, 3, 2))  # 1 + 162
    windows.read_slices(index(1, 3, 4), index(2, 1, 3), index(4, 0, 8), slices)
    # 1 + 18 * (3 + 2) + 2 * 4 = 99; 1 + 162 + 18 = 181; 1 + 324 + 18 * 3 + 2 * 8 = 395
    np.testing.assert_array_equal(slices, [[99, 100], [181, 182], [395, 396]])


def test_times_are_the_videos(windows):
    np.testing.assert_allclose(windows.frame_times(1), [0.3, 0.4, 0.5, 0.6])
    np.testing.assert_allclose(windows.frame_times(3), [0.0, 0.1])


def test_pictures_and_actors_are_the_frames_own():
    images = np.arange(2 * 5 * 4 * 4 * 3).reshape(2, 5, 4, 4, 3).astype(np.uint8)
    actors = np.random.default_rng(1).integers(0, 2, (2, 5, 3, 3)) == 1
    source = ArraySource(
        features=counted(2, 5), labels=index(0, 0), class_names=("run",), frames_per_second=10.0, images=images,
        actors=actors,
    )  # fmt: skip
    windows = SlidingWindows(source=source, window_seconds=0.3, stride_seconds=0.3)
    assert windows.first_frames.tolist() == [0, 2, 0, 2]
    np.testing.assert_array_equal(windows.image(3, 1), images[1, 3])
    np.testing.assert_array_equal(windows.actor(3), actors[1, 2:5])
    unknown = SlidingWindows(source=dataclasses.replace(source, images=None, actors=None), window_seconds=0.3)
    assert unknown.image(3, 1) is unknown.actor(3) is None


def test_copies_are_the_same_windows():
    windows = SlidingWindows(source=UntrimmedSyntheticSource("validation"), window_seconds=2.0)
    copy = pickle.loads(pickle.dumps(windows))  # noqa: S301 - our own bytes
    assert copy.source.split == "validation"
    assert (copy.window_seconds, copy.num_frames, copy.stride_frames) == (2.0, 16, 8)
    np.testing.assert_array_equal(copy.videos, windows.videos)
    one, other = np.empty((2, 1, 7, 7, 32), np.float32)
    windows.read_cubes(index(7), index(3), one)
    copy.read_cubes(index(7), index(3), other)
    np.testing.assert_array_equal(one, other)
    assert one.any()


# ---- labels


def test_a_window_of_a_trimmed_video_is_one_segment_of_its_class(windows, uneven):
    ((start, end, label),) = windows.segments(1)
    assert (start, end, label) == (pytest.approx(0.25), pytest.approx(0.65), 0)
    assert windows.segments(3)[0].label == 1
    unknown = dataclasses.replace(uneven, labels=index(-1, -1, -1))
    assert SlidingWindows(source=unknown, window_seconds=0.4).segments(0) == ()


def test_a_window_of_an_untrimmed_video_has_the_segments_it_overlaps_uncut(acted):
    run, wave, jump = acted.source.truths[0]
    assert [acted.segments(window) for window in range(4)] == [(run,), (wave,), (wave, jump), ()]


@pytest.mark.parametrize("end", range(1, 40))
def test_borders_that_agree_but_for_rounding_do_not_overlap(end):
    """A segment of whole frames is true in the windows of these frames, whatever their seconds round to."""
    source = one_video(41, frames_per_second=30.0, truths=(Segment((end - 1.5) / 30, (end - 0.5) / 30, 1),))
    windows = SlidingWindows(source=source, window_seconds=1 / 30)
    assert [window for window in range(41) if windows.segments(window)] == [end - 1]


def test_labels_and_frame_labels_of_an_episode(acted):
    env = VideoGlimpseEnv(source=acted, glimpses=1)
    seen = []
    for window in range(4):
        label = np.flatnonzero(env.reset(options={"clip": window})[1]["label"]).tolist()
        frames = [np.flatnonzero(env.step(np.array([0, 3]))[4]["frame_labels"]).tolist() for _ in range(2)]
        seen.append((label, frames))
    # Frames at 0, 0.25 | 0.5, 0.75 | 1.0, 1.25 | 1.5, 1.75: wave reaches into the second window between its frames.
    assert seen == [([0], [[0], [0]]), ([2], [[], []]), ([1, 2], [[1, 2], []]), ([], [[], []])]


def test_a_short_video_repeats_its_last_frame(windows):
    env = VideoGlimpseEnv(source=windows, glimpses=1, observation="cube")
    first, info = env.reset(options={"clip": 3})
    seen = [first[0, 0, 0]] + [env.step(np.array([0, 1]))[0][0, 0, 0] for _ in range(3)]
    assert (seen, info["clip_id"]) == ([163, 181, 181, 181], "clip000001@0.00")


@pytest.mark.parametrize("observation", ["glimpsed", "cube", "slices"])
@pytest.mark.parametrize(
    ("matching", "predictions", "false_positives"),
    [("frame", [3, 3], 0), ("frame", [3, 0], 1), ("frame", [1, 1], 2), ("segment", [3, 3], 0), ("segment", [1, 1], 1)],
)
def test_in_background_alone_all_but_abstaining_is_wrong(acted, observation, matching, predictions, false_positives):
    env = VideoGlimpseEnv(source=acted, glimpses=1, observation=observation, matching=matching)
    _, info = env.reset(options={"clip": 3})
    assert info["label"].tolist() == [False, False, False]
    for prediction in predictions:
        _, reward, terminated, _, info = env.step(np.array([0, prediction]))
    assert (terminated, reward, info["true_positives"], info["is_correct"]) == (True, -0.5 * false_positives, 0, False)
    assert info["false_positives"] == false_positives


# ---- as an environment


@pytest.mark.parametrize("observation", ["glimpsed", "cube", "slices"])
def test_passes_gymnasiums_check(observation):
    env = gym.make(
        "VideoGlimpse-v0", source="synthetic-untrimmed", split="validation", window_seconds=1.0,
        observation=observation, render_mode="rgb_array",
    )  # fmt: skip
    check_env(env.unwrapped)


def test_a_spec_with_windows_goes_through_json_and_back():
    chosen = {"source": "synthetic-untrimmed", "split": "test", "window_seconds": 2.0, "stride_seconds": 1.5}
    first = gym.make("VideoGlimpse-v0", **chosen)
    second = gym.make(EnvSpec.from_json(first.spec.to_json()))
    assert second.spec.kwargs == chosen
    for env in (first.unwrapped, second.unwrapped):
        # 48 frames, 8 a second: windows of 16 at 0, 12, 24 and 32 of each of 400 videos
        assert (env.engine.rules.frames, env.num_clips) == (16, 1600)
        assert env.source.first_frames[:4].tolist() == [0, 12, 24, 32]
    (before, info), (after, other) = first.reset(seed=3), second.reset(seed=3)
    np.testing.assert_array_equal(before, after)
    assert info["clip_id"] == other["clip_id"]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_windows_are_drawn_as_clips(make):
    env = make("VideoGlimpse-v0", source="synthetic-untrimmed", window_seconds=2.0).unwrapped
    assert env.num_clips == 10000  # 2000 videos, windows at 0, 8, 16, 24 and 32
    _, info = env.reset(options={"clip": 9})
    assert np.ravel(info["clip_id"])[0] == "synthetic-untrimmed-train-0001@4.00"


def test_windows_of_a_source_are_opened(uneven):
    windows = open_source(uneven, window_seconds=0.4, stride_seconds=0.1)
    assert isinstance(windows, SlidingWindows)
    assert windows.source is uneven
    assert windows.stride_frames == 1
    assert open_source(uneven) is uneven


# ---- refused arguments


@pytest.mark.parametrize(
    ("seconds", "error", "message"),
    [
        ({"window_seconds": 0.04}, ValueError, "window_seconds .* at least one frame, of 0.1 seconds here, got 0.04"),
        ({"window_seconds": 0.0}, ValueError, "window_seconds must be finite and at least one frame, .* got 0.0"),
        ({"window_seconds": -1.0}, ValueError, "window_seconds must be finite and at least one frame, .* got -1.0"),
        ({"window_seconds": float("nan")}, ValueError, "window_seconds must be finite and at least .* got nan"),
        ({"window_seconds": float("inf")}, ValueError, "window_seconds must be finite and at least .* got inf"),
        ({"window_seconds": "1"}, TypeError, "window_seconds must be a number, got '1'"),
        ({"window_seconds": True}, TypeError, "window_seconds must be a number, got True"),
        ({"stride_seconds": 0.0}, ValueError, r"stride_seconds must be positive and at most .* \(0.4\), .* got 0.0"),
        ({"stride_seconds": -0.1}, ValueError, "stride_seconds must be positive and at most window_seconds"),
        ({"stride_seconds": 0.5}, ValueError, "or frames between windows would never be seen, got 0.5"),
        ({"stride_seconds": float("nan")}, ValueError, "stride_seconds must be positive .* got nan"),
        ({"stride_seconds": "1"}, TypeError, "stride_seconds must be a number, got '1'"),
        ({"stride_seconds": False}, TypeError, "stride_seconds must be a number, got False"),
    ],
)
def test_seconds_out_of_range(uneven, seconds, error, message):
    with pytest.raises(error, match=message):
        SlidingWindows(source=uneven, **({"window_seconds": 0.4} | seconds))


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 8, "window_seconds": 1.0}, r"frames \(8\) and window_seconds \(1.0\) both set T: give one of them"),
        ({"stride_seconds": 1.0}, r"stride_seconds \(1.0\) needs window_seconds: set it too"),
        ({"window_seconds": 0.01}, "window_seconds must be finite and at least one frame, of 0.125 seconds here"),
    ],
)
def test_arguments_that_do_not_fit_together(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make("VideoGlimpse-v0", **arguments)


def test_no_videos_make_no_windows(toy):
    empty = dataclasses.replace(toy, features=toy.features[:0], labels=toy.labels[:0], clip_ids=())
    assert SlidingWindows(source=empty, window_seconds=0.4).num_clips == 0
    with pytest.raises(ValueError, match="the source has no clips in this split"):
        VideoGlimpseEnv(source=empty, window_seconds=0.4)
