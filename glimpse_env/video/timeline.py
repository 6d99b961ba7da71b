"""When the frames of a video file show: the one definition of their times.

A frame shows at its own presentation time, counted from the first frame shown. Frames that the file holds and players
do not show (before a cut made without re-encoding, before the first key frame, lost on the way) do not count.

- The presentation time is the one that the decoder hands out with the frame (`frame.pts`).
- AVI keeps no presentation times, but an index of slots of equal length. A frame's time there is the slot in which
  the decoder hands it out (`frame.dts`); the times that FFmpeg deduces for its packets ignore reordering. An empty slot
  is a frame that was dropped: time passes, and the frame before stays. So a copy of J-HMDB with 40 frames in 48 slots
  of 1/30 s lasts 1.6 s, as in every player, and not 40/30 s.
- Times that jump back, in streams joined end to end, continue after the last one.
- A file without any times shows its frames evenly, at its average rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_JUMP = 0.5  # seconds: frames out of order, in damaged files, are nearer to each other
Stamps = NDArray[np.float64]  # (n,) in units of the stream; NaN where the file has none


def as_stamps(values: Iterable[int | None]) -> Stamps:
    """Return (n,) float64 of timestamps, NaN for those that are missing."""
    return np.fromiter((np.nan if value is None else value for value in values), np.float64)


def shown_seconds(pts: Stamps, dts: Stamps, *, unit: float, average_rate: float) -> NDArray[np.float64]:
    """Return the times of a file's shown frames, counted from the first.

    Args:
        pts: (n,) presentation times of the frames, in the order in which they show.
        dts: (n,) times at which the decoder hands them out, likewise.
        unit: seconds.
        average_rate: frames per second that the file states; 0 if it states none.

    Returns:
        (n,) float64 seconds. They ascend, unless a damaged file shows frames out of order; the first of equal ones is
        sampled.

    Raises:
        ValueError: there are neither times nor a rate.
    """
    stamps = next((each for each in (pts, _filled(dts), _filled(pts)) if np.isfinite(each).all()), None)
    if stamps is not None:
        return _joined((stamps - stamps[0]) * unit)
    if not average_rate > 0:
        raise ValueError("the file states neither when its frames show nor how many show per second")
    return np.arange(len(pts)) / average_rate


def index_stamps(packet_dts: Stamps, first_dts: float) -> Stamps:
    """Return the slots in which the frames of an AVI will be handed out, judged by its first frame.

    Args:
        packet_dts: (n,) slots of the packets, ascending.
        first_dts: slot in which the first frame was handed out: later than its packet's if frames are reordered.
    """
    delay = int(np.searchsorted(packet_dts, first_dts))
    return np.append(packet_dts[delay:], np.full(min(delay, len(packet_dts)), np.nan))


def _filled(stamps: Stamps) -> Stamps:
    """Space missing stamps evenly between their neighbours, and those at the end by the usual step before them."""
    known = np.flatnonzero(np.isfinite(stamps))
    if len(known) < 2 or known[0] > 0:
        return stamps
    places = np.arange(len(stamps))
    filled: Stamps = np.interp(places, known, stamps[known])
    step = np.median(np.diff(filled[max(0, known[-1] - 3) : known[-1] + 1]))
    filled += step * np.maximum(places - known[-1], 0)
    return filled


def _joined(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Continue times that jump back after the ones before, by the usual step."""
    steps = np.diff(seconds)
    jumps = steps < -_JUMP
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    seconds[1:] += np.cumsum(np.where(jumps, usual - steps, 0.0))
    return seconds
