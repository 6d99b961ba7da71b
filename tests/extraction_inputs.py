"""Videos and weights written for tests of decoding and extraction."""

import json
import struct
from fractions import Fraction

import av
import numpy as np
import torch
from safetensors.torch import save_file

from glimpse_env.video.backbones import BVLCGoogLeNet
from glimpse_env.video.decode import Stopwatch
from glimpse_env.video.decoders import Decoders
from glimpse_env.video.features import embed


def features_of(paths, backbone, *, crop=None, **sampling):
    """Return the features, or the error, of each video file, in network calls of four frames."""
    with Decoders(**sampling) as decoders:
        clips = zip(paths, decoders.decode(paths, backbone.rule), strict=True)
        return embed(clips, backbone, batch_size=4, crop=crop, stopwatch=Stopwatch())


def write_video(path, *, frames, fps=30, codec="libx264", size=(96, 64), timestamps=None):
    """Write a video in which every frame differs: a white bar moves over a ground that brightens.

    Args:
        path: file to write; its suffix decides the container.
        frames: how many.
        fps: constant rate; not used with timestamps.
        codec: of FFmpeg.
        size: width and height in pixels.
        timestamps: one for each frame, in 1/600 s.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"bf": "2", "crf": "10"} if codec == "libx264" else {})
        stream.width, stream.height = size
        is_odd = size[0] % 2 or size[1] % 2
        stream.pix_fmt = "yuv444p" if is_odd and codec == "libx264" else "yuv420p"
        stream.gop_size = 12
        stream.codec_context.thread_count = 1  # with more, two files of the same pictures may differ
        if timestamps is not None:
            stream.codec_context.time_base = Fraction(1, 600)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(_picture(number, frames, size), format="rgb24")
            if timestamps is not None:
                frame.pts, frame.time_base = timestamps[number], Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _picture(number, frames, size):
    picture = np.full((size[1], size[0], 3), 30 + 200 * number // frames, np.uint8)
    left = number * size[0] // frames
    picture[:, left : left + 6] = 255
    return picture


def turn_video(path, degrees):
    """Have an MP4 file say that it is to be shown turned clockwise."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    set_display_matrix(path, (cosine, sine, -sine, cosine))


def set_display_matrix(path, matrix):
    """Write a, b, c and d into the display matrix of an MP4's track header: x' = a x + c y, y' = b x + d y."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    assert content[header + 4] == 0  # version 0 has the matrix 44 bytes behind its name
    a, b, c, d = (value << 16 for value in matrix)
    matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content[header + 44 : header + 80] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def write_bvlc_weights(path):
    """Write weights with which the original GoogLeNet is alive, though it knows nothing."""
    torch.manual_seed(0)
    network = BVLCGoogLeNet()
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            torch.nn.init.zeros_(parameter)
    save_file(network.state_dict(), path)


def write_activitynet(path, **changes):
    """Write annotations of six videos: three train, one validates, one tests, one trains without labels."""

    def video(subset, *segments):
        notes = [{"segment": [start, end], "label": label} for start, end, label in segments]
        return {"duration": 10.0, "subset": subset, "annotations": notes}

    database = {
        "aaaaaaaaaaa": video("training", (1.0, 4, "Walk"), (5.0, 12.5, "Run")),
        "bbbbbbbbbbb": video("training", (2.0, 2.0, "Run")),
        "ccccccccccc": video("training", (0.0, 3.0, "Run")),
        "ddddddddddd": video("validation", (0.5, 3.0, "Walk")),
        "eeeeeeeeeee": video("testing"),
        "fffffffffff": video("training"),
    }
    path.write_text(json.dumps({"version": "VERSION 1.3", "database": database | changes}))
    return path


def contents(path):
    """Return the bytes of each of a store's files; the report and the description are no part of it."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del files["report.json"], files["lazy.json"]
    return files
