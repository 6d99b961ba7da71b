"""The one definition of when the frames of a video file show.

A frame shows at its presentation time (`frame.pts` of the decoder), counted from the first frame shown. Frames in the
file that players do not show (before a cut made without re-encoding, before the first key frame, lost) do not count.

- AVI has no presentation times, but an index of slots of equal length. A frame shows in the slot in which the decoder
  returns it (`frame.dts`); times that FFmpeg derives for packets ignore reordering. An empty slot is a dropped frame:
  the frame before stays. So a clip of J-HMDB with 40 frames in 48 slots of 1/30 s lasts 1.6 s, as in every player.
- Times that jump back, in streams joined end to end, continue after the last one.
- Frames of a file without any times are spaced evenly, at its average rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_JUMP = 0.5  # seconds back; frames out of order in damaged files are nearer
Stamps = NDArray[np.float64]  # (n,) in units of the stream; NaN if the file states none


def as_stamps(values: Iterable[int | None]) -> Stamps:
    """Return timestamps with NaN for missing ones."""
    return np.fromiter((np.nan if value is None else value for value in values), np.float64)


def shown_seconds(pts: Stamps, dts: Stamps, *, unit: float, average_rate: float) -> NDArray[np.float64]:
    """Return (n,) float64 seconds of a file's shown frames, counted from the first.

    They ascend, unless a damaged file shows frames out of order.

    Args:
        pts: (n,) presentation times of the frames, in the order in which they show.
        dts: (n,) times at which the decoder returns them.
        unit: seconds of a timestamp.
        average_rate: frames per second that the file states; 0 if none.

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
    """Return the slots in which the decoder will return the frames of an AVI.

    Args:
        packet_dts: (n,) slots of the packets, ascending.
        first_dts: slot in which it returned the first frame, later than its packet's if frames are reordered.
    """
    delay = int(np.searchsorted(packet_dts, first_dts))
    return np.append(packet_dts[delay:], np.full(min(delay, len(packet_dts)), np.nan))


def _filled(stamps: Stamps) -> Stamps:
    """Space missing stamps evenly between their neighbours, and at the end by the usual step."""
    known = np.flatnonzero(np.isfinite(stamps))
    if len(known) < 2 or known[0] > 0:
        return stamps
    places = np.arange(len(stamps))
    filled: Stamps = np.interp(places, known, stamps[known])
    step = np.median(np.diff(filled[max(0, known[-1] - 3) : known[-1] + 1]))
    filled += step * np.maximum(places - known[-1], 0)
    return filled


def _joined(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.diff(seconds)
    jumps = steps < -_JUMP
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    seconds[1:] += np.cumsum(np.where(jumps, usual - steps, 0.0))
    return seconds
