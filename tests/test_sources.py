"""Clips in memory and the gathering of rows that every source shares."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse_env import ArraySource, ClipSource, Segment, SlidingWindows, SyntheticSource, WallSource, open_source
from glimpse_env.sources.protocol import gather_rows

FINITE_HALVES = np.concatenate([np.arange(0x7C00), np.arange(0x8000, 0xFC00)]).astype(np.uint16).view(np.float16)


def index(*numbers):
    return np.array(numbers, np.int64)


# ---- gathering


def test_every_finite_half_is_widened_exactly():
    bank = FINITE_HALVES.reshape(-1, 4)
    out = np.empty(bank.shape, np.float32)
    gather_rows(bank, np.arange(len(bank)), out)
    np.testing.assert_array_equal(out.view(np.uint32), bank.astype(np.float32).view(np.uint32))  # -0.0 too


@settings(max_examples=60)
@given(
    bank_dtype=st.sampled_from([np.float16, np.float32]),
    out_dtype=st.sampled_from([np.float16, np.float32]),
    rows=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    contiguous=st.booleans(),
    flat=st.booleans(),
)
def test_rows_are_gathered_into_any_array(bank_dtype, out_dtype, rows, contiguous, flat):
    bank = np.arange(7 * 6).reshape(7, 6).astype(bank_dtype) / 8  # exact in both
    held = np.full((2 * len(rows), 6), -1, out_dtype)
    part = held[: len(rows)] if contiguous else held[::2]
    gather_rows(bank, np.array(rows), part if flat else part.reshape(-1, 2, 3))
    np.testing.assert_array_equal(part, bank[rows])
    rest = held[len(rows) :] if contiguous else held[1::2]
    assert (rest == -1).all()


def test_rows_as_wide_as_a_cube_are_widened_alike():
    bank = (np.arange(3 * 2**13) % 1000).reshape(3, 2**13).astype(np.float16)
    out = np.full((2, 2**13), -1, np.float32)
    gather_rows(bank, np.array([2, 0]), out)
    np.testing.assert_array_equal(out, bank[[2, 0]])


@pytest.mark.parametrize("width", [3, 2**13])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gathering_nothing_changes_nothing(dtype, width):
    held = np.full((1, width), -1, np.float32)
    gather_rows(np.ones((2, width), dtype), index(), held[:0])
    assert (held == -1).all()


# ---- clips in memory: slice k of frame n of clip i is (v, v + 1) with v = 1 + 72 i + 18 n + 2 k


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cubes_and_slices(toy, dtype):
    cubes, slices = np.empty((2, 3, 3, 2), dtype), np.empty((3, 2), dtype)
    toy.read_cubes(index(1, 4), index(2, 0), cubes)
    np.testing.assert_array_equal(cubes[0], np.arange(109, 127).reshape(3, 3, 2))  # 1 + 72 + 36
    np.testing.assert_array_equal(cubes[1], np.arange(289, 307).reshape(3, 3, 2))  # 1 + 288
    toy.read_slices(index(1, 4, 0), index(2, 0, 3), index(8, 0, 4), slices)
    np.testing.assert_array_equal(slices, [[125, 126], [289, 290], [63, 64]])


def test_features_of_any_memory_layout_are_read_alike(toy):
    turned = np.asfortranarray(toy.features)
    source = ArraySource(features=turned, labels=toy.labels, class_names=toy.class_names)
    cube = np.empty((1, 3, 3, 2), np.float32)
    source.read_cubes(index(1), index(2), cube)
    np.testing.assert_array_equal(cube[0], np.arange(109, 127).reshape(3, 3, 2))


def test_keeps_the_protocol(toy):
    assert isinstance(toy, ClipSource)
    assert (toy.num_clips, toy.num_frames, toy.grid_size, toy.depth) == (5, 4, 3, 2)
    assert (toy.max_feature, toy.trimmed, toy.frames_per_second) == (360.0, True, 10.0)
    assert toy.segments(0) == (Segment(0.0, 0.4, 2),)
    assert toy.segments(4) == ()
    assert toy.clip_id(3) == "d"
    np.testing.assert_allclose(toy.frame_times(2), [0.0, 0.1, 0.2, 0.3])
    assert toy.image(0, 0) is None
    assert toy.actor(0) is None


def test_pictures_actors_and_numbered_names():
    images = np.arange(2 * 1 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 1, 4, 4, 3)
    actors = np.arange(2 * 1 * 2 * 2).reshape(2, 1, 2, 2) == 6
    source = ArraySource(
        features=np.ones((2, 1, 2, 2, 1), np.float16),
        labels=np.array([0, 0]),
        class_names=("run",),
        images=images,
        actors=actors,
    )
    np.testing.assert_array_equal(source.image(1, 0), images[1, 0])
    np.testing.assert_array_equal(source.actor(1), [[[False, False], [True, False]]])
    assert [source.clip_id(clip) for clip in (0, 1)] == ["clip000000", "clip000001"]


def test_a_source_is_opened_as_it_is(toy):
    assert open_source(toy, split="test", fold=3) is toy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((2, 1, 3, 2), np.float32)}, r"features must be \(clips, T, K, K, D\), got shape \(2, 1,"),
        ({"features": np.ones((2, 1, 3, 2, 1), np.float32)}, r"features must be \(clips, T, K, K, D\), got shape"),
        ({"features": np.ones((2, 1, 2, 2, 1))}, "features must be float16 or float32, got float64: convert"),
        ({"features": np.full((2, 1, 2, 2, 1), -np.inf, np.float32)}, "must be finite, got values from -inf to -inf"),
        ({"features": np.full((2, 1, 2, 2, 1), np.inf, np.float32)}, "must be finite, got values from inf to inf"),
        ({"features": np.full((2, 1, 2, 2, 1), np.nan, np.float16)}, "must be finite, got values from nan to nan"),
        ({"labels": np.array([0])}, r"labels must be \(2,\) integers, got int64 \(1,\)"),
        ({"labels": np.array([0.0, 1.0])}, r"labels must be \(2,\) integers, got float64 \(2,\)"),
        ({"labels": np.array([0, 2])}, r"labels must be -1 \(unknown\) or 0..1, got 0..2"),
        ({"labels": np.array([-2, 1])}, r"labels must be -1 \(unknown\) or 0..1, got -2..1"),
        ({"features": np.ones((2, 0, 2, 2, 1), np.float32)}, r"features must be .*, got shape \(2, 0, 2, 2, 1\)"),
        ({"features": np.ones((2, 1, 2, 2, 0), np.float32)}, r"features must be .*, got shape \(2, 1, 2, 2, 0\)"),
        ({"frames_per_second": 0.0}, "frames_per_second must be positive and finite, got 0.0"),
        ({"frames_per_second": float("nan")}, "frames_per_second must be positive and finite, got nan"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8)}, r"images must be uint8 \(2, 1, height, width, 3\), got uint8"),
        ({"images": np.zeros((2, 1, 4, 4, 3))}, r"images must be uint8 .*, got float64 \(2, 1, 4, 4, 3\)"),
        ({"actors": np.zeros((2, 1, 2, 2))}, r"actors must be bool \(2, 1, 2, 2\), got float64 \(2, 1, 2, 2\)"),
        *(
            (
                {name: np.ma.masked_array(array)},
                f"{name} must be a plain array, got a masked one: fill it first, with {name}",
            )
            for name, array in {
                "features": np.ones((2, 1, 2, 2, 1), np.float32),
                "labels": np.array([0, 1]),
                "images": np.zeros((2, 1, 4, 4, 3), np.uint8),
                "actors": np.zeros((2, 1, 2, 2), np.bool_),
            }.items()
        ),
        ({"clip_ids": ("a",)}, "2 clips need as many clip_ids, got 1"),
        (
            {"images": np.zeros((2, 2, 4, 4, 3), np.uint8)},
            r"images must be uint8 \(2, 1, height, width, 3\), got uint8 \(2, 2, 4,",
        ),
        ({"actors": np.zeros((2, 1, 3, 3), np.bool_)}, r"actors must be bool \(2, 1, 2, 2\), got bool \(2, 1, 3,"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    arguments = {
        "features": np.ones((2, 1, 2, 2, 1), np.float32),
        "labels": np.array([0, 1]),
        "class_names": ("run", "jump"),
    }
    ArraySource(**arguments)
    with pytest.raises(ValueError, match=message):
        ArraySource(**{**arguments, **change})


def test_features_are_copied_and_pickled_once():
    source = ArraySource(
        features=np.ones((10, 5, 4, 4, 25), np.float32), labels=np.zeros(10, int), class_names=("run",)
    )
    assert 80_000 < len(pickle.dumps(source)) < 82_000  # 10 * 5 * 16 * 25 numbers of four bytes
    twin = copy.deepcopy(source)
    arrays = [value for value in vars(twin).values() if isinstance(value, np.ndarray)]
    assert sorted(array.nbytes for array in arrays) == [80, 80_000]
    out = np.empty((1, 4, 4, 25), np.float32)
    twin.features[3, 2] = 7
    twin.read_cubes(index(3), index(2), out)
    assert (out == 7).all()  # the one array is the array that is read


def test_a_segment_of_unknown_class_is_never_true(uneven):
    import dataclasses

    from glimpse_env import VideoGlimpseEnv

    source = dataclasses.replace(uneven, truths=((Segment(0.0, 9.0, -1),), (), (Segment(0.0, 9.0, 0),)))
    env = VideoGlimpseEnv(source=source, glimpses=1, frames=2)
    _, info = env.reset(options={"clip": 0})
    assert not info["label"].any()
    for _ in range(2):
        *_, info = env.step(np.array([0, 1]))  # the last class, which -1 would index
        assert not info["frame_labels"].any()
    assert (info["true_positives"], info["false_positives"], info["is_correct"]) == (0, 2, False)


def test_sources_say_in_one_line_what_they_are(toy):
    assert repr(toy) == "<ArraySource: 5 clips of 3 classes, 4 frames of 3 x 3 x 2>"
    assert repr(SyntheticSource("test")) == "<SyntheticSource test: 1000 clips of 8 classes, 16 frames of 7 x 7 x 32>"
    windows = SlidingWindows(source=toy, window_seconds=0.2)
    assert repr(windows) == "<SlidingWindows: 15 clips of 3 classes, 2 frames of 3 x 3 x 2>"
    wall = WallSource(SyntheticSource("test"), background=("AABC",), grid=3, split="test")
    assert repr(wall) == "<WallSource test: 875 clips of 7 classes, 16 frames of 3 x 3 x 32>"
