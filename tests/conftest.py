"""Clip sources small enough to work episodes out by hand."""

import signal

import numpy as np
import pytest
from clip_toys import UnevenSource, counted
from hypothesis import settings

from glimpse_env.sources.protocol import ArraySource, Segment

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def toy():
    """Five clips of four 3 x 3 x 2 cubes, 10 a second; slice k of frame n of clip i is 1 + 72 i + 18 n + 2 k."""
    return ArraySource(
        features=counted(5, 4),
        labels=np.array([2, 0, 1, 1, -1]),
        class_names=("run", "jump", "wave"),
        frames_per_second=10.0,
        clip_ids=("a", "b", "c", "d", "e"),
    )


@pytest.fixture
def uneven():
    """Clips of nine, two and four frames; slice k of frame n of clip i is 1 + 162 i + 18 n + 2 k."""
    return UnevenSource(
        features=counted(3, 9),
        labels=np.array([0, 1, 0]),
        class_names=("run", "jump"),
        frames_per_second=10.0,
        lengths=(9, 2, 4),
    )


@pytest.fixture
def untrimmed():
    """One clip of four frames at 0, 0.25, 0.5 and 0.75 seconds: run in 0..0.25, wave in 0.25..0.5, then background."""
    return UnevenSource(
        features=counted(2, 4),
        labels=np.array([-1, -1]),
        class_names=("run", "jump", "wave"),
        frames_per_second=4.0,
        lengths=(4, 2),
        truths=((Segment(0.0, 0.25, 0), Segment(0.25, 0.5, 2)), (Segment(0.25, 0.25, 1),)),
    )


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The path of weights with which the original GoogLeNet is alive, though it knows nothing."""
    write_bvlc_weights = pytest.importorskip("extraction_inputs").write_bvlc_weights
    path = tmp_path_factory.mktemp("weights") / "bvlc.safetensors"
    write_bvlc_weights(path)
    return path


@pytest.fixture
def small_files():
    """Let no file grow beyond a size, as if the disk were full; None takes that back."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)
