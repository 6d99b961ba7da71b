"""Films whose frames carry their own number, drawn as 4 x 3 black and white blocks, in many containers and codecs."""

import functools
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (176, 144)
FRAMES, RATE = 90, 30
EVEN = tuple(n / RATE for n in range(FRAMES))
# 10 per second for 2 seconds, then 30.
UNEVEN = tuple(n / 10 for n in range(20)) + tuple(2 + n / 30 for n in range(FRAMES - 20))
_MADE = tempfile.TemporaryDirectory(prefix="films")
_BITS = 10  # of the number; two more say whether it was read right


@dataclass(frozen=True)
class Film:
    """One file to make.

    Attributes:
        name: of the file; its suffix chooses the container.
        codec: an encoder of FFmpeg.
        options: of the encoder.
        pixels: format of the pictures.
        seconds: when each frame shows.
        muxer: options of the container.
        size: width and height.
    """

    name: str
    codec: str
    options: dict = field(default_factory=dict)
    pixels: str = "yuv420p"
    seconds: tuple = EVEN
    muxer: dict = field(default_factory=dict)
    size: tuple = SIZE


def draw(number, size=SIZE):
    """Return a (height, width, 3) picture of a number below 1024."""
    ones = bin(number).count("1")
    bits = [number >> place & 1 for place in range(_BITS)] + [ones & 1, 1 - (ones & 1)]
    blocks = 16 + 220 * np.array(bits, np.uint8).reshape(3, 4)
    rows, columns = np.arange(size[1]) * 3 // size[1], np.arange(size[0]) * 4 // size[0]
    return np.repeat(blocks[np.ix_(rows, columns)][..., None], 3, axis=2)


def read_number(picture):
    """Return the number on a picture of any size, -1 if it cannot be read."""
    height, width = picture.shape[:2]
    blocks = [
        picture[height * (2 * row + 1) // 6, width * (2 * column + 1) // 8].mean()
        for row in range(3)
        for column in range(4)
    ]
    bits = [int(block > 128) for block in blocks]
    number = sum(bit << place for place, bit in enumerate(bits[:_BITS]))
    parity = bin(number).count("1") & 1
    return number if bits[_BITS:] == [parity, 1 - parity] else -1


@contextmanager
def keeping_priority():
    """Undo the real-time priority that SVT-AV1 gives to a process of root, and that its children would inherit."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write_film(film, path):
    """Write a film with PyAV."""
    first = draw(0, film.size)
    with keeping_priority(), av.open(str(path), "w", options=film.muxer) as container:
        stream = container.add_stream(film.codec, rate=RATE, options=film.options)
        stream.width, stream.height = film.size
        stream.pix_fmt = film.pixels
        stream.codec_context.gop_size = 15
        if "crf" not in film.options:
            stream.codec_context.bit_rate = 4_000_000
        stream.codec_context.thread_count = 1
        if film.seconds is not EVEN:
            stream.codec_context.time_base = Fraction(1, 600)
        assert first.shape[:2] == film.size[::-1]
        for number, seconds in enumerate(film.seconds):
            frame = av.VideoFrame.from_ndarray(draw(number, film.size), format="rgb24")
            frame.time_base = stream.codec_context.time_base or Fraction(1, RATE)
            frame.pts = round(seconds / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source, path, *, after=0.0, muxer=None, keeps=lambda number: True):
    """Copy packets into another container without encoding them again.

    Args:
        source: the film.
        path: file to write.
        after: seconds; what shows before is cut away, at the key frame before it, and time begins here.
        muxer: options of the container.
        keeps: which packets, by their number.
    """
    with av.open(str(source)) as old, av.open(str(path), "w", options=muxer or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        if path.suffix == ".avi" and stream.codec_context.name == "h264":
            annexb = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
            packets = [filtered for packet in packets for filtered in annexb.filter(packet)]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        begin = max(key for key in keys if packets[key].pts * stream.time_base <= after + 1e-9)
        shift = round(after / stream.time_base) if after else min(packet.dts for packet in packets)
        for number, packet in enumerate(packets[begin:]):
            if keeps(number):
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return path


def shown_frames(path):
    """Return the numbers of all frames that a plain decoder shows, from beginning to end, and their seconds."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = max(container.streams.video, key=lambda each: each.width)
        stream.codec_context.thread_count = 1  # slices decoded at the same time conceal damage in another way
        numbers, seconds = [], []
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            numbers += [read_number(frame.to_ndarray(format="rgb24")) for frame in frames]
            seconds += [np.nan if frame.pts is None else float(frame.pts * frame.time_base) for frame in frames]
    return np.array(numbers), np.array(seconds)


X264 = {"preset": "ultrafast", "crf": "16", "bf": "3", "b_strategy": "0"}
X265 = {"preset": "ultrafast", "crf": "16", "x265-params": "keyint=15:bframes=3:log-level=none"}
CLOSED = X265 | {"x265-params": X265["x265-params"] + ":open-gop=0"}
VPX = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}
BF = {"bf": "2"}


FILMS = [
    *[
        Film(f"h264.{s}", "libx264", X264)
        for s in ("mp4", "mov", "mkv", "avi", "ts", "flv", "m4v", "m2ts", "3gp", "mpg")
    ],
    Film("h264_no_b.mp4", "libx264", X264 | {"bf": "0"}),
    Film("h264_open.mkv", "libx264", X264 | {"x264-params": "open-gop=1:bframes=3"}),
    Film("h264_open.mp4", "libx264", X264 | {"x264-params": "open-gop=1:bframes=3"}),
    Film("h264_refresh.mp4", "libx264", X264 | {"intra-refresh": "1"}),
    Film("h264_16b.mkv", "libx264", X264 | {"bf": "16"}),
    Film("h264_fragments.mp4", "libx264", X264, muxer={"movflags": "frag_keyframe+empty_moov"}),
    Film("h264_bt709.mp4", "libx264", X264 | {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}),
    Film("h264_full_range.mp4", "libx264", X264 | {"x264-params": "fullrange=on"}),
    Film("h264_uneven.mp4", "libx264", X264, seconds=UNEVEN),
    Film("h264_uneven.mkv", "libx264", X264, seconds=UNEVEN),
    Film("h264_10bit.mp4", "libx264", X264, "yuv420p10le"),
    Film("h264_444.mkv", "libx264", X264, "yuv444p"),
    Film("h264_odd.mp4", "libx264", X264, "yuv444p", size=(175, 143)),
    *[Film(f"hevc.{s}", "libx265", X265) for s in ("mp4", "mov", "mkv", "ts")],
    Film("hevc_closed.mkv", "libx265", CLOSED),
    Film("hevc_uneven.mkv", "libx265", X265, seconds=UNEVEN),
    *[Film(f"vp8.{s}", "libvpx", VPX) for s in ("webm", "mkv", "avi")],
    *[Film(f"vp9.{s}", "libvpx-vp9", VPX) for s in ("webm", "mkv", "mp4")],
    Film("vp9_uneven.webm", "libvpx-vp9", VPX, seconds=UNEVEN),
    *[
        Film(f"av1.{s}", "libsvtav1", {"preset": "8", "crf": "5", "svtav1-params": "enable-tf=0"})
        for s in ("mp4", "mkv")
    ],
    *[Film(f"mpeg4.{s}", "mpeg4") for s in ("mp4", "avi", "mkv", "3gp")],
    *[Film(f"mpeg4_b.{s}", "mpeg4", BF) for s in ("mp4", "mov", "mkv", "avi", "ts")],
    Film("mpeg4_uneven.avi", "mpeg4", seconds=UNEVEN),
    Film("mpeg4_b_uneven.avi", "mpeg4", BF, seconds=UNEVEN),
    *[Film(f"mpeg2_b.{s}", "mpeg2video", BF) for s in ("mpg", "ts", "mkv", "mp4", "vob", "avi", "mov")],
    *[Film(f"mpeg1.{s}", "mpeg1video", BF) for s in ("mpg", "mkv")],
    *[Film(f"mjpeg.{s}", "mjpeg", pixels="yuvj420p") for s in ("avi", "mov", "mkv", "mp4")],
    Film("prores.mov", "prores_ks", pixels="yuv422p10le"),
    *[Film(f"ffv1.{s}", "ffv1") for s in ("mkv", "avi")],
    Film("huffyuv.avi", "huffyuv", pixels="yuv422p"),
    Film("ffvhuff.avi", "ffvhuff"),
    *[Film(f"h263.{s}", "h263") for s in ("3gp", "avi")],
    Film("flv1.flv", "flv"),
    *[Film(f"wmv2.{s}", "wmv2") for s in ("wmv", "asf", "avi")],
    Film("wmv1.wmv", "wmv1"),
    Film("msmpeg4.avi", "msmpeg4"),
    Film("msmpeg4v2.avi", "msmpeg4v2"),
    Film("qtrle.mov", "qtrle", pixels="rgb24"),
    *[Film(f"png.{s}", "png", pixels="rgb24") for s in ("mov", "avi")],
    *[Film(f"raw.{s}", "rawvideo") for s in ("avi", "mkv")],
    Film("utvideo.avi", "utvideo"),
    Film("film.gif", "gif", pixels="rgb8"),
    Film("snow.mkv", "snow"),
    Film("asv1.avi", "asv1"),
    Film("zmbv.avi", "zmbv", pixels="bgr0"),
    Film("flashsv.flv", "flashsv", pixels="bgr24"),
    Film("svq1.mov", "svq1", pixels="yuv410p"),
    Film("magicyuv.avi", "magicyuv", pixels="yuv420p"),
    Film("jpeg2000.mkv", "jpeg2000"),
    Film("cfhd.mov", "cfhd", pixels="yuv422p10le"),
    Film("v210.mov", "v210", pixels="yuv422p10le"),
    Film("vc2.mkv", "vc2"),
    Film("cinepak.mov", "cinepak", pixels="rgb24"),
]


def make_film(name, folder):
    """Copy the film of that name into a folder; a test session makes each once."""
    return Path(shutil.copy(_made(name), folder / name))


@functools.cache
def _made(name):
    path = Path(_MADE.name) / name
    if name in STRUCTURES:
        source, change = STRUCTURES[name]
        return change(_made(source), path)
    if name in PROGRAM:
        source, output, given = PROGRAM[name]
        command = ["ffmpeg", "-loglevel", "error", *given, "-i", _made(source), *output, path]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path
    return write_film(next(film for film in FILMS if film.name == name), path)


def true_seconds(name, numbers):
    """Return when the frames with these numbers show in the film of that name."""
    source = (STRUCTURES | PROGRAM)[name][0] if name in STRUCTURES or name in PROGRAM else name
    return np.array(next(film for film in FILMS if film.name == source).seconds)[numbers]


def _cut(after):
    return lambda source, path: remux(source, path, after=after)


def _middle(source, path):
    """Begin and end a transport stream in the middle of a group of pictures."""
    content = source.read_bytes()
    packets = len(content) // 188
    path.write_bytes(content[: 2 * 188] + content[packets // 4 * 188 : packets * 7 // 8 * 188])
    return path


def _lossy(source, path):
    """Lose one in 25 packets of a transport stream."""
    content = np.frombuffer(source.read_bytes(), np.uint8).reshape(-1, 188)
    kept = np.random.default_rng(3).random(len(content)) > 0.04
    kept[:8] = True
    path.write_bytes(content[kept].tobytes())
    return path


def _lost_chunks(source, path):
    return remux(source, path, keeps=lambda number: not 40 <= number < 50)


def _previewed(source, path):
    """Put a small film of other numbers before the film itself, which is the default."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        small = new.add_stream("mpeg4", rate=RATE)
        small.width, small.height, small.pix_fmt = 88, 72, "yuv420p"
        copy = new.add_stream_from_template(old.streams.video[0])
        copy.disposition, small.disposition = av.stream.Disposition.default, av.stream.Disposition(0)
        for number in range(FRAMES):
            new.mux(small.encode(av.VideoFrame.from_ndarray(draw(1000 - number, (88, 72)), format="rgb24")))
        new.mux(small.encode())
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    return path


STRUCTURES = {  # files made of other files, without encoding them again
    "cut.mp4": ("h264.mp4", _cut(0.8)),
    "cut.mov": ("h264.mov", _cut(0.8)),
    "cut_no_b.mp4": ("h264_no_b.mp4", _cut(0.7)),
    "cut_uneven.mp4": ("h264_uneven.mp4", _cut(1.9)),
    "cut_vp9.mp4": ("vp9.mp4", _cut(0.8)),
    "cut_hevc.mp4": ("hevc.mp4", _cut(0.8)),
    "cut.mkv": ("h264.mp4", _cut(0.8)),
    "cut_open.mkv": ("h264_open.mkv", _cut(1.0)),
    "cut_hevc.mkv": ("hevc.mkv", _cut(1.0)),
    "cut.webm": ("vp9.webm", _cut(0.8)),
    "copied.avi": ("h264.mp4", remux),
    "copied_open.avi": ("h264_open.mp4", remux),
    "copied_no_b.avi": ("h264_no_b.mp4", remux),
    "copied_uneven.avi": ("h264_uneven.mp4", remux),
    "copied_b.avi": ("mpeg4_b.mp4", remux),
    "lost_chunks.avi": ("mjpeg.avi", _lost_chunks),
    "lost_chunks_mpeg4.avi": ("mpeg4.avi", _lost_chunks),
    "middle.ts": ("h264.ts", _middle),
    "middle_hevc.ts": ("hevc.ts", _middle),
    "middle_mpeg2.ts": ("mpeg2_b.ts", _middle),
    "lossy.ts": ("h264.ts", _lossy),
    "lossy_hevc.ts": ("hevc.ts", _lossy),
    "lossy_mpeg2.ts": ("mpeg2_b.ts", _lossy),
    "preview.mkv": ("h264.mp4", _previewed),
    "preview.mp4": ("h264.mp4", _previewed),
}
PROGRAM = {  # files made of other files by the program ffmpeg, which has more encoders and other muxers
    "program_cut.mp4": ("h264.mp4", ["-c", "copy"], ["-ss", "0.8"]),
    "program_cut.mov": ("h264.mov", ["-c", "copy"], ["-ss", "1.3"]),
    "program_cut.mkv": ("hevc.mkv", ["-c", "copy"], ["-ss", "1.3"]),
    "program_copy.avi": ("h264.mp4", ["-c", "copy"], []),
    "program_negative.mp4": ("h264.mp4", ["-c", "copy", "-movflags", "negative_cts_offsets"], []),
    "program_no_edits.mp4": ("h264.mp4", ["-c", "copy", "-use_editlist", "0"], []),
    "program_offset.mkv": ("h264.mkv", ["-c", "copy"], ["-itsoffset", "5"]),
    "program_x265.mp4": ("ffv1.mkv", ["-c:v", "libx265", "-crf", "10", "-x265-params", "keyint=20:log-level=none"], []),
    "program_x265.mkv": ("ffv1.mkv", ["-c:v", "libx265", "-crf", "10", "-x265-params", "keyint=20:log-level=none"], []),
    "program_theora.ogv": ("ffv1.mkv", ["-c:v", "libtheora", "-q:v", "10", "-g", "15"], []),
    "program_aom.mp4": ("ffv1.mkv", ["-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "10", "-g", "15"], []),
    "program_x264_10_bit.mkv": ("ffv1.mkv", ["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p10le"], []),
    "program_interlaced.mp4": ("ffv1.mkv", ["-c:v", "libx264", "-crf", "10", "-flags", "+ildct+ilme"], []),
    "program_mpeg2.mxf": ("ffv1.mkv", ["-c:v", "mpeg2video", "-q:v", "2", "-bf", "2"], []),
    "program_dash.mp4": ("h264.mp4", ["-c", "copy", "-movflags", "dash+frag_keyframe"], []),
}
NAMES = [*(film.name for film in FILMS), *STRUCTURES, *PROGRAM]
# fmt: off
RARE = {  # left to the slow tests
    "cinepak.mov", "zmbv.avi", "jpeg2000.mkv", "snow.mkv", "asv1.avi", "svq1.mov", "magicyuv.avi",
    "cfhd.mov", "v210.mov", "vc2.mkv", "flashsv.flv", "png.avi", "png.mov", "raw.mkv",
    "ffvhuff.avi", "huffyuv.avi", "wmv1.wmv", "msmpeg4v2.avi", "mjpeg.mkv", "mjpeg.mp4", "wmv2.asf",
    "wmv2.avi", "h263.avi", "h264.m4v", "h264.m2ts", "h264.3gp", "mpeg2_b.vob", "mpeg2_b.avi",
    "mpeg2_b.mov", "mpeg1.mkv", "mpeg4.3gp", "mpeg4.mkv", "vp8.mkv", "vp8.avi", "vp9.mkv",
    "av1.mkv", "hevc.mov", "h264_444.mkv", "h264_odd.mp4", "h264_uneven.mkv", "utvideo.avi", "qtrle.mov",
    "prores.mov", "lossy_mpeg2.ts", "copied_no_b.avi", "cut_no_b.mp4", "middle_mpeg2.ts",
}
# fmt: on
DAMAGED = {"lossy.ts", "lossy_hevc.ts", "lossy_mpeg2.ts", "lost_chunks_mpeg4.avi"}  # some numbers cannot be read
