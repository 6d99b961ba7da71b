"""The synthetic source: what a clip is, that it never changes, and that it keeps the protocol."""

import copy

import numpy as np
import pytest

from glimpse_env.sources import ClipSource
from glimpse_env.synthetic import CLASS_NAMES, SyntheticSource

SPLITS = ("train", "validation", "test")


def read_clip(source, clip, dtype=np.float16):
    """Return (T, K, K, D), all cubes of one clip."""
    frames = np.arange(source.num_frames)
    out = np.empty((source.num_frames, source.grid_size, source.grid_size, source.depth), dtype)
    source.read_cubes(np.full_like(frames, clip), frames, out)
    return out


def orange_cells(image):
    """Return (K, K), how many pixels of each cell have the halo's colour."""
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return ((red > 230) & (green < 140) & (blue < 40)).reshape(7, 16, 7, 16).sum((1, 3))


@pytest.mark.parametrize("split", SPLITS)
def test_keeps_the_protocol(split):
    source = SyntheticSource(split)
    assert isinstance(source, ClipSource)
    assert (source.num_frames, source.grid_size, len(source.class_names)) == (16, 7, 8)
    assert source.trimmed
    times = source.frame_times(3)
    (segment,) = source.segments(3)
    assert (times.dtype, times.shape) == (np.float64, (16,))
    np.testing.assert_allclose(np.diff(times), 1 / source.frames_per_second)
    assert segment == (0.0, 16 / source.frames_per_second, 3)
    assert source.clip_id(3) == f"synthetic-{split}-0003"


def test_unknown_split_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no split 'valid': choose one of train, validation, test"):
        SyntheticSource("valid")


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split):
    source = SyntheticSource(split)
    labels = [source.segments(clip)[0].label for clip in range(source.num_clips)]
    assert np.ptp(np.bincount(labels, minlength=8)) == 0


def test_a_clip_does_not_depend_on_the_order_of_reading():
    upward, downward = SyntheticSource("test"), SyntheticSource("test")
    cubes = [read_clip(upward, clip) for clip in range(6)]
    for clip in reversed(range(6)):
        np.testing.assert_array_equal(read_clip(downward, clip), cubes[clip])
        np.testing.assert_array_equal(downward.image(clip, 5), upward.image(clip, 5))
        np.testing.assert_array_equal(downward.actor(clip), upward.actor(clip))


def test_a_clip_is_the_same_everywhere():
    # Recorded once: a change of these numbers changes the data set, and every result measured on it.
    source = SyntheticSource("train")
    assert int(source.image(7, 9).astype(np.int64).sum()) == 3_494_621
    assert int((read_clip(source, 7).astype(np.float64) * 2**13).sum()) == 33_952_630


def test_splits_and_clips_differ():
    first = [read_clip(SyntheticSource(split), clip) for split in SPLITS for clip in (0, 8)]
    assert len({cubes.tobytes() for cubes in first}) == len(first)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_slices_are_the_cubes_cells(dtype):
    source = SyntheticSource("validation")
    rng = np.random.default_rng(1)
    clips, frames, cells = (rng.integers(0, high, 40) for high in (5, 16, 49))
    cubes, slices = np.empty((40, 7, 7, source.depth), dtype), np.empty((40, source.depth), dtype)
    source.read_slices(clips, frames, cells, slices)
    SyntheticSource("validation").read_cubes(clips, frames, cubes)
    np.testing.assert_array_equal(slices, cubes.reshape(40, 49, -1)[np.arange(40), cells])
    np.testing.assert_array_equal(cubes[0], read_clip(source, clips[0], dtype)[frames[0]])


def test_features_keep_their_bound():
    source = SyntheticSource("train")
    cubes = np.stack([read_clip(source, clip, np.float32) for clip in range(50)])
    assert np.isfinite(cubes).all()
    assert cubes.min() == 0
    assert 1 < cubes.max() <= source.max_feature


def test_out_of_range_clips_are_no_clips():
    source = SyntheticSource("test")
    with pytest.raises(IndexError):
        read_clip(source, source.num_clips)


@pytest.mark.parametrize("clip", [0, 11])
def test_the_halo_is_where_the_actor_is(clip):
    source = SyntheticSource("train")
    actor = source.actor(clip)
    assert (actor.dtype, actor.shape) == (np.bool_, (16, 7, 7))
    for frame in range(16):
        image = source.image(clip, frame)
        assert (image.dtype, image.shape) == (np.uint8, (112, 112, 3))
        np.testing.assert_array_equal(orange_cells(image) > 20, actor[frame])


def test_the_actor_walks_from_cell_to_neighbouring_cell():
    source = SyntheticSource("train")
    paths = np.array([np.argwhere(source.actor(clip))[:, 1:] for clip in range(60)])  # (clips, T, 2)
    steps = np.abs(np.diff(paths, axis=1)).sum(2)
    assert set(np.unique(steps)) == {0, 1}
    assert 0.2 < steps.mean() < 0.3


def test_the_label_spells_the_actors_poses():
    """Each pose's body is drawn alike for whoever takes it: its mean picture, aligned, tells it from the others."""
    source = SyntheticSource("train")
    middles = (1, 5, 9, 13)  # away from the changes, which come within a frame of 4, 8 and 12
    seen = {pose: np.zeros((16, 16)) for pose in "ABCD"}
    pictures = []
    for clip in range(64):
        rows, columns = np.argwhere(source.actor(clip))[:, 1:].T
        for pose, frame in zip(CLASS_NAMES[clip % 8], middles, strict=True):
            tiles = source.image(clip, frame).reshape(7, 16, 7, 16, 3)
            picture = (tiles[rows[frame], :, columns[frame], :, 2] > 110).astype(float)
            seen[pose] += picture / np.linalg.norm(picture)
            pictures.append((pose, picture))
    templates = {pose: total / np.linalg.norm(total) for pose, total in seen.items()}
    found = [max("ABCD", key=lambda name: (picture * templates[name]).sum()) for _, picture in pictures]
    assert np.mean([guess == pose for guess, (pose, _) in zip(found, pictures, strict=True)]) > 0.98


def test_a_copy_makes_its_clips_anew():
    source = SyntheticSource("validation")
    read_clip(source, 2)
    twin = copy.deepcopy(source)
    assert twin.split == "validation"
    np.testing.assert_array_equal(read_clip(twin, 2), read_clip(source, 2))
