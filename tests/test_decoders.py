"""Decoding in other processes: the same samples, and the cost of a decoder that crashes or hangs."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from extraction_inputs import write_video

from glimpse_env.video import decoders
from glimpse_env.video.decode import VideoError, decode_clip
from glimpse_env.video.decoders import DecoderError, Decoders

SAMPLING = {"frames_per_second": 30.0, "max_frames": 8}
FAULTY_DECORD = """
import os, signal, time

class logging:
    QUIET = 0

    def set_level(level):
        os.write(1, b"noise that is no answer")

class VideoReader:
    def __init__(self, path, num_threads):
        name = os.path.basename(path)
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("greedy"):
            raise MemoryError
        if name.startswith("hang"):
            print(os.getpid(), file=open(path + ".pid", "w"), flush=True)
            while True:
                time.sleep(1)
        raise RuntimeError("left to PyAV")
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Let decoder processes, which search the same folders for packages, find a decord that fails by file name."""
    (tmp_path / "path" / "decord").mkdir(parents=True)
    (tmp_path / "path" / "decord" / "__init__.py").write_text(textwrap.dedent(FAULTY_DECORD))
    monkeypatch.syspath_prepend(tmp_path / "path")
    return tmp_path


def write_videos(folder, *names):
    """Write the same video under several names."""
    paths = [folder / name for name in names]
    write_video(paths[0], frames=10)
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    return paths


def same(clip, other):
    return all(np.array_equal(getattr(clip, name), getattr(other, name)) for name in ("times", "numbers", "frames"))


def test_samples_are_those_of_this_process_in_order(tmp_path):
    paths = [tmp_path / name for name in ("a.mp4", "b.avi", "c.mkv")]
    for number, path in enumerate(paths):
        write_video(path, frames=4 + 3 * number)
    with Decoders(**SAMPLING, processes=2) as own:
        for path, clip in zip(paths * 3, own.decode(paths * 3), strict=True):
            assert same(clip, decode_clip(path, **SAMPLING))
            assert set(clip.seconds) == {"decode", "resize"}
        again = next(own.decode(paths))
        assert same(again, decode_clip(paths[0], **SAMPLING))


def test_a_decoder_that_fails_costs_its_file_alone(faulty):
    paths = write_videos(faulty, "a.mp4", "crash.mp4", "b.mp4", "exit.mp4", "greedy.mp4", "c.mp4")
    with Decoders(**SAMPLING) as own:
        good, crash, after, ended, greedy, last = own.decode(paths)
    reference = decode_clip(paths[0], **SAMPLING, decoder="pyav")
    assert all(same(clip, reference) for clip in (good, after, last))
    reasons = [error.reason for error in (crash, ended, greedy)]
    assert reasons == [
        "the decoder crashed (SIGSEGV)",
        "the decoder crashed (exit status 3)",
        "MemoryError: decoding it needs more memory than there is",
    ]
    assert str(crash) == f"{paths[1]}: the decoder crashed (SIGSEGV)"


def test_a_decoder_that_is_killed_while_idle_costs_nothing(tmp_path):
    (path,) = write_videos(tmp_path, "a.mp4")
    with Decoders(**SAMPLING) as own:
        first = next(own.decode([path]))
        own._processes[0]._process.kill()
        assert same(next(own.decode([path])), first)


def test_a_decoder_that_cannot_be_started_is_named(tmp_path, monkeypatch):
    (path,) = write_videos(tmp_path, "a.mp4")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        Decoders(**SAMPLING) as own,
        pytest.raises(DecoderError, match=r"a decoder process did not start: .* 1\)"),
    ):
        next(own.decode([path]))


def test_a_decoder_that_hangs_is_given_up(faulty):
    paths = write_videos(faulty, "hang.mp4", "a.mp4", "hang2.mp4", "b.mp4")
    begun = time.monotonic()
    with Decoders(**SAMPLING, seconds_per_video=1.0) as own:
        first, good, second, last = own.decode(paths)
    assert time.monotonic() - begun < 60
    assert [error.reason for error in (first, second)] == ["decoding took more than 1 s"] * 2
    assert same(good, last)


def test_leaving_stops_decoders_at_once(faulty):
    paths = write_videos(faulty, "a.mp4", "hang.mp4", "hang2.mp4")
    begun = time.monotonic()
    with Decoders(**SAMPLING, processes=2) as own:
        next(own.decode(paths))
        processes = list(own._processes)
    assert time.monotonic() - begun < 60
    assert [process._process for process in processes] == [None, None]


def test_a_decoder_that_is_stopped_is_not_started_again(faulty, monkeypatch):
    (path,) = write_videos(faulty, "hang.mp4")
    launched = []
    launch = decoders._launch
    monkeypatch.setattr(decoders, "_launch", lambda: launched.append(launch()) or launched[-1])
    with Decoders(**SAMPLING) as own, ThreadPoolExecutor(1) as thread:
        clip = thread.submit(lambda: next(own.decode([path])))
        while not Path(f"{path}.pid").exists():
            time.sleep(0.01)
        own._processes[0].stop()
        assert clip.result().reason == "the decoder was stopped"
    assert len(launched) == 1


ORPHAN = """
import sys
from pathlib import Path
from glimpse_env.video.decoders import DecoderError, Decoders

with Decoders(frames_per_second=30.0, max_frames=8, seconds_per_video=1.0) as own:
    list(own.decode([Path(sys.argv[1])]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers for processes")
def test_a_hanging_decoder_does_not_outlive_a_killed_parent_for_long(faulty):
    (path,) = write_videos(faulty, "hang.mp4")
    note = Path(f"{path}.pid")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, path], env=environment)
    while not (note.exists() and note.read_text()):
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    decoder = int(note.read_text())
    os.kill(decoder, 0)
    time.sleep(8)
    with pytest.raises(ProcessLookupError):
        os.kill(decoder, 0)


def test_clips_wait_for_their_use_in_bounded_number(tmp_path):
    (path,) = write_videos(tmp_path, "a.mp4")
    asked = []

    def paths():
        for number in range(100):
            asked.append(number)
            yield path

    with Decoders(frames_per_second=30.0, max_frames=400) as own:  # 1200 frames are three clips
        clips = own.decode(paths())
        next(clips)
        assert len(asked) == 4
    asked.clear()
    with Decoders(**SAMPLING) as own:
        next(own.decode(paths()))
        assert len(asked) == 13


def test_a_missing_file_and_a_decoder_that_was_stopped(tmp_path):
    with Decoders(**SAMPLING) as own:
        (error,) = own.decode([tmp_path / "none.mp4"])
        assert isinstance(error, VideoError)
        assert error.reason == "no such file"
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        next(own.decode([tmp_path / "none.mp4"]))
