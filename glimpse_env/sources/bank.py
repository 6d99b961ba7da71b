"""Features that are made when they are first read, in one array that grows with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 256


class ClipBank:
    """Rows of features, those of a clip together; memory grows with the clips that were read.

    Args:
        num_clips: how many clips there may be.
        width: numbers in a row.
        dtype: of the rows.

    Attributes:
        firsts: (num_clips,) int64, the row at which each clip begins; -1 for a clip that has no rows yet.
        rows: (capacity, width); replaced by a larger array when it is full, so do not keep it.
    """

    def __init__(self, num_clips: int, width: int, dtype: type[np.floating[Any]]) -> None:
        self.firsts = np.full(num_clips, -1, np.int64)
        self.rows = np.empty((0, width), dtype)
        self._used = 0

    def add(self, clip: int, count: int) -> NDArray[Any]:
        """Return the (count, width) uninitialised rows of a clip that has none yet."""
        first, end = self._used, self._used + count
        if end > len(self.rows):
            # One array for each clip would be slower to gather from; one array for all clips would be resident at
            # once, since the kernel backs large arrays with pages of 2 MB.
            grown = np.empty((max(end, 2 * len(self.rows), _FIRST_ROWS), self.rows.shape[1]), self.rows.dtype)
            grown[:first] = self.rows[:first]
            self.rows = grown
        self.firsts[clip], self._used = first, end
        return self.rows[first:end]
