"""Memory of a decoder process: bounded by the samples, not by the length of the file."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from extraction_inputs import write_video

from glimpse_env.video.decoders import Decoders

MINUTES, RATE = 120, 25
LIMIT = 0.6e9  # bytes


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    """Return the path of a minute of H.264, 320 x 240, with B-frames and a little noise."""
    path = tmp_path_factory.mktemp("minute") / "minute.mp4"
    noise = np.random.default_rng(1).integers(0, 255, (2, 240, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "28", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(60 * RATE):
            picture = np.full((240, 320, 3), number % 200, np.uint8)
            left = number * 3 % 280
            picture[100:140, left : left + 40] = noise[number % 2, 100:140, left : left + 40]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat(source, path, times):
    """Copy the packets of a film into another container, many times in a row."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        first, length = packets[0].dts, round(60 / stream.time_base)
        contents = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        annexb = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream) if path.suffix == ".avi" else None
        for turn in range(times):
            for content, pts, dts, is_key in contents:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts - first + turn * length, dts - first + turn * length
                packet.time_base, packet.is_keyframe = stream.time_base, is_key
                for ready in annexb.filter(packet) if annexb else [packet]:
                    ready.stream = copy
                    new.mux(ready)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not report peak memory")
@pytest.mark.parametrize("suffix", ["mp4", "avi", "ts", "mkv"])
def test_two_hours_take_less_than_the_limit(minute, tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    repeat(minute, path, MINUTES)
    with Decoders(frames_per_second=60 / (60 * MINUTES), max_frames=60) as own:
        (clip,) = own.decode([path])
        status = Path(f"/proc/{own._processes[0]._process.pid}/status").read_text()
    assert len(clip.frames) == 60
    np.testing.assert_allclose(clip.numbers, np.arange(60) * 60 * MINUTES * RATE / 60, atol=1)
    (peak,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"{suffix}: {path.stat().st_size / 1e6:.0f} MB on disk, peak memory {peak / 1e9:.3f} GB, {clip.decoder}")
    assert peak < LIMIT


DECODE = """
import sys
from pathlib import Path
from glimpse_env.video.decoders import _answer
*pictures, (samples, _) = _answer(Path(sys.argv[1]), {"frames_per_second": 30.0, "max_frames": 3})
print(len(pictures), samples["numbers"], "av" in sys.modules, "torch" in sys.modules)
"""


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_decoder_processes_do_not_import_torch(tmp_path, name):
    write_video(tmp_path / name, frames=3)
    ran = subprocess.run([sys.executable, "-c", DECODE, tmp_path / name], capture_output=True, text=True, check=True)
    assert ran.stdout == "3 [0, 1, 2] True False\n"
