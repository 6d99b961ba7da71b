"""Which frames are sampled, and that both decoders give the same pictures of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from extraction_inputs import turn_video, write_video

from glimpse_env.video import decode
from glimpse_env.video.decode import VideoError, decode_clip, decoders_for, nearest_frames, resize, sample_times
from glimpse_env.video.stopwatch import Stopwatch

WHOLE = {"frames_per_second": 30, "max_frames": 99}
DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="VIDEOGLIMPSE_DATA does not point at the real data")


def pyav_only(path, **settings):
    return decode_clip(path, decoder="pyav", **settings)


@pytest.mark.parametrize(
    ("frames", "rate", "per_second", "max_frames", "numbers"),
    [
        (6, 30, 30, 9, [0, 1, 2, 3, 4, 5]),
        (6, 30, 15, 9, [0, 2, 4]),
        (7, 30, 15, 9, [0, 2, 4, 6]),
        (7, 30, 15, 2, [2, 4]),  # centred, one more is cut at the end
        (4, 10, 20, 9, [0, 0, 1, 1, 2, 2, 3]),  # ties go to the earlier frame
        (40, 29.97, 30, 99, list(range(40))),
        (1, 30, 30, 9, [0]),
    ],
)
def test_samples_lie_at_a_fixed_rate_in_the_middle_of_the_clip(frames, rate, per_second, max_frames, numbers):
    timestamps = np.arange(frames) / rate
    times = sample_times(timestamps, frames_per_second=per_second, max_frames=max_frames)
    np.testing.assert_allclose(np.diff(times), 1 / per_second)
    assert nearest_frames(timestamps, times).tolist() == numbers


def test_uneven_timestamps_give_the_nearest_frame():
    timestamps = np.array([0.0, 0.02, 0.30, 0.31, 0.50])
    times = sample_times(timestamps, frames_per_second=10, max_frames=10)
    np.testing.assert_allclose(times, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert nearest_frames(timestamps, times).tolist() == [0, 1, 2, 2, 3, 4]


def test_resize_scales_each_side_and_keeps_flat_colour():
    flat = np.full((1, 30, 50, 3), (10, 200, 90), np.uint8)
    assert (resize(flat, 224) == flat[0, 0, 0]).all()
    halves = np.zeros((1, 448, 448, 3), np.uint8)
    halves[:, :, 224:] = 255
    small = resize(halves, 224)
    assert small[0, :, :111].max() == 0
    assert small[0, :, 113:].min() == 255


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.avi", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("a.ts", "libx264"),
        ("a.mpg", "mpeg1video"),
    ],
)
@pytest.mark.parametrize(("per_second", "max_frames"), [(30, 40), (7, 40), (15, 5)])
def test_both_decoders_give_the_same_frames(tmp_path, name, codec, per_second, max_frames):
    write_video(tmp_path / name, frames=40, codec=codec)
    settings = {"frames_per_second": per_second, "max_frames": max_frames}
    chosen, reference = decode_clip(tmp_path / name, **settings), pyav_only(tmp_path / name, **settings)
    np.testing.assert_array_equal(chosen.numbers, reference.numbers)
    np.testing.assert_array_equal(chosen.times, reference.times)
    np.testing.assert_array_equal(chosen.frames, reference.frames)
    # The ground brightens frame by frame from 30 to 230.
    brightness = np.median(chosen.thumbnails, axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, 30 + 200 * chosen.numbers // 40, atol=4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_out_upright(tmp_path, degrees):
    write_video(tmp_path / "a.mp4", frames=6)
    upright = decode_clip(tmp_path / "a.mp4", **WHOLE)
    turn_video(tmp_path / "a.mp4", degrees)
    for decoder in ("decord", "pyav") if decode._has_decord() else ("pyav",):
        turned = decode_clip(tmp_path / "a.mp4", **WHOLE, decoder=decoder)
        # Scaled to a square before or after the turn: what differs is rounding.
        expected = np.rot90(upright.frames, -degrees // 90, axes=(1, 2)).astype(int)
        assert np.abs(turned.frames - expected).mean() < 1


class Large:
    """Pictures of 27 MB."""

    timestamps = np.arange(5.0)

    def __init__(self):
        self.asked = []

    def read(self, numbers):
        self.asked.append(numbers)
        return np.full((len(numbers), 3000, 3000, 3), 7, np.uint8)


def test_large_pictures_are_held_a_few_at_a_time():
    reader = Large()
    frames, thumbnails = decode._read_resized(reader, [0, 1, 2, 3, 4], Stopwatch())
    assert reader.asked == [[0], [1, 2], [3, 4]]
    assert frames.shape == (5, 224, 224, 3)
    assert (thumbnails == 7).all()


def test_a_variable_frame_rate_is_sampled_by_timestamps(tmp_path):
    timestamps = np.cumsum(np.random.default_rng(0).integers(10, 60, 40))
    write_video(tmp_path / "a.mp4", frames=40, timestamps=(timestamps + 900).tolist())
    clip = decode_clip(tmp_path / "a.mp4", frames_per_second=10, max_frames=100)
    seconds = (timestamps - timestamps[0]) / 600
    nearest = np.abs(seconds[:, None] - clip.times).argmin(axis=0)
    np.testing.assert_array_equal(clip.numbers, nearest)
    np.testing.assert_array_equal(
        clip.frames, pyav_only(tmp_path / "a.mp4", frames_per_second=10, max_frames=100).frames
    )


def test_decord_is_left_out_where_it_is_not_installed_or_goes_astray(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", frames=3)
    write_video(tmp_path / "a.ts", frames=3)
    assert decoders_for(tmp_path / "a.ts") == ("pyav",)
    if decode._has_decord():
        assert decoders_for(tmp_path / "a.mp4") == ("decord", "pyav")
        assert decode.decoder_versions().startswith("decord 0.")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert decoders_for(tmp_path / "a.mp4") == ("pyav",)
    assert decode.decoder_versions().startswith("av ")


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("content", ["nothing", "text", "half"])
def test_files_that_cannot_be_decoded_raise_one_error(tmp_path, decoder, content):
    if decoder == "decord":
        pytest.importorskip("decord")
    path = tmp_path / "a.mp4"
    write_video(path, frames=40)
    whole = path.read_bytes()
    path.write_bytes({"nothing": b"", "text": b"hello" * 99, "half": whole[: len(whole) // 2]}[content])
    with pytest.raises(VideoError, match=r"a\.mp4: \w+: ") as caught:
        decode_clip(path, frames_per_second=30, max_frames=30, decoder=decoder)
    assert str(tmp_path) not in caught.value.reason


@pytest.mark.parametrize("name", ["one.mkv", "one.mpg", "one.ts", "one.webm"])
def test_a_single_frame_is_decoded_from_what_decord_cannot_open(tmp_path, name):
    codec = {"one.mpg": "mpeg1video", "one.webm": "libvpx-vp9"}.get(name, "libx264")
    write_video(tmp_path / name, frames=1, codec=codec)
    assert decode_clip(tmp_path / name, frames_per_second=30, max_frames=30).times.tolist() == [0.0]


def test_a_file_that_knows_neither_times_nor_a_rate(tmp_path):
    write_video(tmp_path / "a.avi", frames=3, codec="mpeg4")
    with pytest.raises(ValueError, match="the file says neither when its frames show nor how many a second"):
        decode._usable_timestamps(tmp_path / "a.avi", np.arange(3.0), 0.0)


def test_a_missing_file(tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        decode_clip(tmp_path / "none.mp4", frames_per_second=30, max_frames=30)


@needs_data
@pytest.mark.parametrize("index", range(0, 928, 100))
def test_real_clips_decode_alike(index):
    path = sorted((DATA / "jhmdb" / "videos").glob("*/*.avi"))[index]
    settings = {"frames_per_second": 15, "max_frames": 20}
    np.testing.assert_array_equal(decode_clip(path, **settings).frames, pyav_only(path, **settings).frames)
