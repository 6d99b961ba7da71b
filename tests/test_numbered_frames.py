"""The frame shown is the one nearest in time: read from the picture, for every container, codec and sampling pattern.

Each frame carries its number, so that a plain decode from beginning to end shows which frames a file has. The film's
own list says when each of them shows.
"""

import os
import shutil

import numpy as np
import pytest
from numbered_films import DAMAGED, NAMES, PROGRAM, RARE, make_film, read_number, shown_frames, true_seconds

from glimpse_env.video.decode import decode_clip
from glimpse_env.video.readers import open_video

WINDOWS = {  # frames per second, most samples
    "dense": (30.0, 1000),
    "sparse": (2.5, 1000),
    "centred": (15.0, 11),
    "repeating": (45.0, 1000),
}
JUMPS = {  # places of the shown frames, as shares of the clip, for each call of one open reader
    "late": [[0.9, 0.97]],
    "backward": [[0.6, 0.8, 0.95], [0.1, 0.5]],
}
MARKED = [pytest.param(name, marks=pytest.mark.slow if name in RARE or name in PROGRAM else ()) for name in NAMES]


def test_there_are_enough_films_for_every_change():
    assert len(NAMES) - len(RARE) - len(PROGRAM) >= 60
    assert set(NAMES) >= RARE


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="reads the priority as Linux shows it")
def test_making_a_film_leaves_no_real_time_priority(tmp_path):
    before = os.sched_getscheduler(0)
    make_film("av1.mp4", tmp_path)
    assert os.sched_getscheduler(0) == before == os.SCHED_OTHER


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Return a function that makes each film once, with the numbers and seconds of the frames that it shows."""
    folder, known = tmp_path_factory.mktemp("films"), {}

    def make(name):
        if name in PROGRAM and not shutil.which("ffmpeg"):
            pytest.skip("the program ffmpeg is not installed")
        if name not in known:
            path = make_film(name, folder)
            shown, seconds = shown_frames(path)
            assert name in DAMAGED or (shown >= 0).all()
            known[name] = path, shown, seconds if name in DAMAGED else true_seconds(name, shown)
        return known[name]

    return make


@pytest.mark.parametrize("pattern", WINDOWS)
@pytest.mark.parametrize("name", MARKED)
def test_samples_show_the_frames_nearest_in_time(films, name, pattern):
    path, shown, seconds = films(name)
    rate, most = WINDOWS[pattern]
    seconds = seconds - seconds[0]
    count = int(seconds.max() * rate + 0.05) + 1
    times = (max(0, count - most) // 2 + np.arange(min(count, most))) / rate
    clip = decode_clip(path, frames_per_second=rate, max_frames=most)
    np.testing.assert_allclose(clip.times, times)
    expected = shown[np.abs(seconds[:, None] - times).round(6).argmin(axis=0)]
    assert [read_number(picture) for picture in clip.frames] == expected.tolist()


@pytest.mark.parametrize("pattern", JUMPS)
@pytest.mark.parametrize("name", MARKED)
def test_frames_are_found_late_and_backward(films, name, pattern):
    path, shown, _ = films(name)
    reader = open_video(path)
    for shares in JUMPS[pattern]:
        places = [int(share * len(shown)) for share in shares]
        assert [read_number(picture) for picture in reader.read(places)] == shown[places].tolist()
