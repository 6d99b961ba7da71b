"""The same videos give the same store, byte for byte, with any number of decoders and under any load."""

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from extraction_inputs import contents
from numbered_films import make_film

from glimpse_env.extract import Folder, extract
from glimpse_env.store import FeatureStore

# Files that decoders read differently, or that one decoder may refuse under load.
FILMS = ("h264.mp4", "preview.mkv", "h264_10bit.mp4", "hevc.mkv", "cut.mov", "vp9.webm", "copied.avi")


@contextmanager
def load(processes):
    """Keep the processor busy."""
    with ExitStack() as stack:
        for _ in range(processes):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        yield


@pytest.fixture
def settings(tmp_path, weights):
    (tmp_path / "videos" / "film").mkdir(parents=True)
    for name in FILMS:
        make_film(name, tmp_path)
        (tmp_path / "videos" / "film" / name).symlink_to(tmp_path / name)
    return Folder(
        videos=tmp_path / "videos", out=tmp_path / "store", weights=weights, frames=3, fps=2.0, threads=1, decoders=1
    )


def check(settings, runs):
    """Extract for each (decoders, busy processes) in turn, and compare the stores."""
    expected = contents(extract(settings))
    for number, (decoders, processes) in enumerate(runs):
        out = settings.out.with_name(f"store{number}")
        with load(processes):
            extract(replace(settings, out=out, decoders=decoders))
        assert contents(out) == expected
    used = FeatureStore.open(settings.out).decoders()
    assert len(used) == len(FILMS)
    assert "pyav" in used


@pytest.mark.slow
@pytest.mark.ci
def test_decoders_and_load_do_not_change_a_store(settings):
    check(settings, [(8, 0), (8, 6)])


@pytest.mark.slow
def test_ten_extractions_give_one_store(settings):
    check(settings, [(1, 0), (8, 0), (1, 6), (8, 6), (8, 6), (1, 6), (8, 0), (8, 12), (1, 12)])
