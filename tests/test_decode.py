"""Samples of a clip, the choice of decoder, and pictures that are upright and of one size."""

import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from extraction_inputs import set_display_matrix, turn_video, write_video
from numbered_films import make_film, read_number
from PIL import Image

from glimpse_env.video.decode import (
    USUAL,
    ResizeRule,
    VideoError,
    decode_clip,
    nearest_frames,
    resize,
    sample_times,
)
from glimpse_env.video.readers import DecoderError, decoder_versions, require_decoder
from glimpse_env.video.timeline import as_stamps, shown_seconds

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
    assert (resize(flat, USUAL) == flat[0, 0, 0]).all()
    halves = np.zeros((1, 448, 448, 3), np.uint8)
    halves[:, :, 224:] = 255
    small = resize(halves, USUAL)
    assert small[0, :, :111].max() == 0
    assert small[0, :, 113:].min() == 255


@pytest.mark.parametrize("rule", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [48, 160])
def test_rules_resize_as_pillow_does(rule, size):
    picture = np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling[rule.upper()])).astype(int)
    resized = resize(picture[None], ResizeRule(size, rule))
    assert resized.shape == (1, size, size, 3)
    assert np.abs(resized[0] - expected).max() <= 1


@pytest.mark.parametrize("rule", [USUAL, ResizeRule(160, "bicubic")])
def test_a_rule_is_read_from_its_text(rule):
    assert ResizeRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text", ["crop-bilinear-224", "direct-bilinear-0224", "direct-bilinear-", "direct-lanczos-224"]
)
def test_an_unknown_rule(text):
    with pytest.raises(ValueError, match=f"this version has no resize rule '{text}': direct-bilinear-224 is one"):
        ResizeRule.parse(text)


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
    turned = decode_clip(tmp_path / "a.mp4", **WHOLE)
    # Scaled to a square before or after the turn: only rounding differs.
    expected = np.rot90(upright.frames, -degrees // 90, axes=(1, 2)).astype(int)
    assert np.abs(turned.frames - expected).mean() < 1


@pytest.mark.parametrize(
    ("matrix", "change"),
    [
        ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
        ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
        ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda frames: frames.swapaxes(1, 2)[:, ::-1, ::-1]),
    ],
    ids=["left to right", "upside down", "transposed", "across the other diagonal"],
)
def test_mirrored_videos_come_out_upright(tmp_path, matrix, change):
    path = make_film("h264.mp4", tmp_path)
    plain = decode_clip(path, **WHOLE)
    set_display_matrix(path, matrix)
    mirrored = decode_clip(path, **WHOLE)
    assert np.abs(mirrored.frames - change(plain.frames).astype(int)).mean() < 1


def test_pictures_that_change_their_size_are_scaled_one_by_one(tmp_path):
    for name, size in (("a.ts", (96, 64)), ("b.ts", (192, 128))):
        write_video(tmp_path / name, frames=20, size=size)
    (tmp_path / "ab.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    first, second = (decode_clip(tmp_path / name, **WHOLE) for name in ("a.ts", "b.ts"))
    joined = decode_clip(tmp_path / "ab.ts", **WHOLE)
    np.testing.assert_array_equal(joined.frames, np.concatenate([first.frames, second.frames]))


def test_streams_joined_end_to_end_play_one_after_the_other(tmp_path):
    path = make_film("h264.ts", tmp_path)
    path.write_bytes(2 * path.read_bytes())
    clip = decode_clip(path, frames_per_second=30, max_frames=999)
    assert [read_number(picture) for picture in clip.frames] == 2 * list(range(90))


def test_frames_at_equal_times_show_the_first_of_them(tmp_path):
    write_video(tmp_path / "a.mkv", frames=20, fps=2000)  # Matroska counts milliseconds
    assert decode_clip(tmp_path / "a.mkv", frames_per_second=1000, max_frames=99).numbers[:4].tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("name", ["a.mp4", "a.flv", "a.mkv", "a.avi"])
def test_metadata_that_is_not_unicode_is_ignored(tmp_path, name):
    with av.open(str(tmp_path / name), "w", metadata_encoding="shift-jis") as container:
        container.metadata["title"] = "映画"
        stream = container.add_stream("mpeg4" if name != "a.flv" else "flv", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode())
    assert b"\x89\x66\x89\xe6" in (tmp_path / name).read_bytes()
    assert len(decode_clip(tmp_path / name, **WHOLE).times) == 5


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


PLAIN = ["h264.mp4", "h264.mov", "h264.mkv", "vp8.webm", "vp9.webm", "vp9.mp4", "h264_fragments.mp4", "h264_bt709.mp4"]
ODD = ["h264.avi", "h264.ts", "hevc.mkv", "mpeg4_b.mp4", "cut.mp4", "cut_vp9.mp4", "h264_open.mkv", "h264_refresh.mp4"]
ODD += ["h264_10bit.mp4", "h264_odd.mp4", "preview.mkv"]


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", PLAIN)
def test_faster_decoders_give_the_same_pictures_of_plain_files(tmp_path, name, decoder):
    require_or_skip(decoder)
    path = make_film(name, tmp_path)
    for rate, most in ((30.0, 99), (5.0, 99), (15.0, 5)):
        clip = decode_clip(path, frames_per_second=rate, max_frames=most, decoder=decoder)
        reference = pyav_only(path, frames_per_second=rate, max_frames=most)
        np.testing.assert_array_equal(clip.numbers, reference.numbers)
        np.testing.assert_array_equal(clip.frames, reference.frames)
    assert clip.decoder == decoder


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", ODD)
def test_faster_decoders_refuse_files_in_which_they_may_go_astray(tmp_path, name, decoder):
    require_or_skip(decoder)
    path = make_film(name, tmp_path)
    with pytest.raises(VideoError, match=rf"{decoder} may give wrong frames of .*: choose --decoder auto or pyav"):
        decode_clip(path, **WHOLE, decoder=decoder)
    assert decode_clip(path, **WHOLE).decoder == "pyav"


def require_or_skip(decoder):
    try:
        require_decoder(decoder)
    except DecoderError as error:
        pytest.skip(str(error))


def test_the_choice_of_decoder_is_recorded_and_a_missing_one_named(tmp_path, monkeypatch):
    path = make_film("h264.mp4", tmp_path)
    assert decoder_versions("pyav") == f"pyav: av {av.__version__}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert decoder_versions("auto") == f"auto: av {av.__version__}"
    assert decode_clip(path, **WHOLE).decoder == "pyav"
    with pytest.raises(DecoderError, match="--decoder decord needs decord, which is not installed here: choose"):
        require_decoder("decord")
    with pytest.raises(DecoderError, match=r'--decoder torchcodec needs .*: pip install "videoglimpse\[torchcodec\]"'):
        require_decoder("torchcodec")


def test_a_torchcodec_that_finds_no_ffmpeg_is_named(tmp_path, monkeypatch):
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('no libavutil.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    with pytest.raises(
        DecoderError, match=r"needs the shared libraries of FFmpeg .*\(no libavutil\.so\): install them"
    ):
        require_decoder("torchcodec")


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("content", ["nothing", "text", "half"])
@pytest.mark.parametrize("name", ["a.mp4", 'it\'s "a"\n.mp4', "a\\b.mp4", os.fsdecode(b"br\xe9k.mp4")])
def test_files_that_cannot_be_decoded_raise_one_error(tmp_path, name, decoder, content):
    path = tmp_path / name
    write_video(path, frames=40)
    whole = path.read_bytes()
    path.write_bytes({"nothing": b"", "text": b"hello" * 99, "half": whole[: len(whole) // 2]}[content])
    with pytest.raises(VideoError, match=r"\.mp4: \w+: ") as caught:
        decode_clip(path, frames_per_second=30, max_frames=30, decoder=decoder)
    assert str(tmp_path) not in caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.avi"])
def test_a_file_with_sound_alone_is_named(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        for packet in [*stream.encode(sound), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(VideoError, match=rf"{name}: ValueError: it holds no video stream$"):
        decode_clip(tmp_path / name, frames_per_second=30, max_frames=30)


@pytest.mark.parametrize("name", ["one.mkv", "one.mpg", "one.ts", "one.webm"])
def test_a_single_frame_is_decoded_from_files_that_decord_cannot_open(tmp_path, name):
    codec = {"one.mpg": "mpeg1video", "one.webm": "libvpx-vp9"}.get(name, "libx264")
    write_video(tmp_path / name, frames=1, codec=codec)
    assert decode_clip(tmp_path / name, frames_per_second=30, max_frames=30).times.tolist() == [0.0]


@pytest.mark.parametrize(
    ("pts", "dts", "seconds"),
    [
        ([3, 4, 6], [0, 1, 2], [0, 1, 3]),  # presentation times decide
        ([None] * 4, [2, 3, 5, None], [0, 1, 3, 4.5]),  # then the order of handing out, continued by its usual step
        ([0, None, 4, None], [None] * 4, [0, 2, 4, 6]),  # else presentation times, with gaps filled evenly
        ([9, 10, 11, 0, 1], [None] * 5, [0, 1, 2, 3, 4]),  # joined end to end
        ([0, 2, 1.75, 3], [None] * 4, [0, 2, 1.75, 3]),  # out of order, in damaged files
        ([None, None], [None, None], [0, 0.5]),  # nothing but a rate
    ],
)
def test_times_of_frames(pts, dts, seconds):
    shown = shown_seconds(as_stamps(pts), as_stamps(dts), unit=1.0, average_rate=2.0)
    np.testing.assert_allclose(shown, seconds)


def test_a_file_that_knows_neither_times_nor_a_rate():
    with pytest.raises(ValueError, match="the file states neither when its frames show nor how many show per second"):
        shown_seconds(as_stamps([None]), as_stamps([None]), unit=1.0, average_rate=0.0)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        decode_clip(tmp_path / "none.mp4", frames_per_second=30, max_frames=30)
    with pytest.raises(VideoError, match="it is a folder: name the video files in it"):
        decode_clip(tmp_path, frames_per_second=30, max_frames=30)


@needs_data
@pytest.mark.parametrize("index", range(0, 928, 100))
def test_real_clips_last_as_long_as_their_index_says(index):
    path = sorted((DATA / "jhmdb" / "videos").glob("*/*.avi"))[index]
    clip = decode_clip(path, frames_per_second=30, max_frames=99)
    with av.open(str(path)) as container:
        slots = [packet.dts for packet in container.demux(video=0) if packet.size]
    assert len(clip.times) == slots[-1] - slots[0] + 1
    assert len(np.unique(clip.numbers)) == len(slots)
