"""Extraction by Ray's workers: the same store, even if workers or the driver die."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from extraction_inputs import contents, write_video

from glimpse_env.extract import Folder, extract
from glimpse_env.video.backbones import DeviceError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory, weights):
    """Twelve shards of two clips each, one of which is no video."""
    root = tmp_path_factory.mktemp("inputs")
    for number in range(24):
        path = root / "videos" / f"class{number % 2}" / f"{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames=4 + number)
    (root / "videos" / "class0" / "06.mp4").write_text("this is no video")
    return Folder(
        videos=root / "videos", out=root / "store", weights=weights, frames=4, max_frames=6, batch_size=4, threads=1,
        shard_frames=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(settings):
    return contents(extract(settings))


def start(settings, out, *flags):
    """Begin an extraction by two workers in a process of its own, whose environment names the folder of the test."""
    flags = [
        *("--videos", settings.videos, "--weights", settings.weights, "--out", out, "--frames", "4"),
        *(
            "--max-frames",
            "6",
            "--batch-size",
            "4",
            "--threads",
            "1",
            "--shard-frames",
            "12",
            "--engine",
            "ray",
            *flags,
        ),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "glimpse_env.extract", "folder", *map(str, flags)],
        env={**os.environ, "MARK": str(out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(out):
    """Return the process ids of the workers of the extraction into a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"MARK={out}\0".encode() in (process / "environ").read_bytes()
            if ours and (process / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def finish(running):
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    return output


@pytest.mark.ci
def test_ray_writes_the_same_store(settings, expected, tmp_path):
    output = finish(start(settings, tmp_path / "store", "--workers", "2"))
    assert contents(tmp_path / "store") == expected
    assert "23 of 24 clips" in output
    assert "skipped: " in output


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_killed_workers_are_started_again(settings, expected, tmp_path):
    out = tmp_path / "store"
    running = start(settings, out)
    killed = []
    for shards in (1, 4, 8):
        while running.poll() is None and len(list(out.glob("shards/?????"))) < shards:
            time.sleep(0.01)
        for worker in workers(out):
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
    finish(running)
    assert len(killed) >= 3
    assert contents(out) == expected


def test_a_killed_driver_resumes_and_other_errors_are_printed(settings, expected, tmp_path):
    out = tmp_path / "store"
    running = start(settings, out)
    while running.poll() is None and not list(out.glob("shards/?????")):
        time.sleep(0.01)
    running.kill()
    running.communicate()
    assert contents(extract(replace(settings, out=out))) == expected
    output, _ = start(settings, tmp_path / "none", "--workers", "999").communicate()
    assert "error: Ray has room for " in output
    assert "workers of 1 cores, not for 999: choose fewer --workers or --threads" in output


@pytest.mark.ci
def test_a_ray_that_does_not_start_is_one_line(settings, tmp_path, monkeypatch):
    def fail(**_):
        raise RuntimeError("The node timed out during startup.\nMore lines")

    monkeypatch.setattr("ray.init", fail)
    message = (
        r"Ray cannot be started \(The node timed out during startup\.\): run the same command again, or use --engine"
    )
    with pytest.raises(DeviceError, match=message):
        extract(replace(settings, out=tmp_path / "store", engine="ray"))
