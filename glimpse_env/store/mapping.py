"""Arrays in files, mapped so that reading costs the pages that are looked at."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np

_ADVISES = hasattr(mmap, "MADV_RANDOM")  # Windows takes no advice
_REMEMBERED = 60.0  # seconds: what was fetched so long ago may have left memory again


def most_maps() -> int:
    """Return how many files a store may keep mapped: each costs an open file, and the system allows so many."""
    if sys.platform == "win32":
        return 512
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if allowed == resource.RLIM_INFINITY else max(1, min(4096, allowed // 4))


class MappedRows:
    """A `.npy` file, mapped read-only; its first axis are the rows.

    The kernel reads around a page that is asked for, by the megabytes on some disks: for one slice more than a whole
    cube. So the map is declared random, which makes a slice cost its one or two pages, and what is to be read is
    announced before, lest its pages be fetched one by one.

    Args:
        file: its path.

    Raises:
        ValueError: it is no `.npy` file, is shorter than its header says, or holds objects.
    """

    def __init__(self, file: Path) -> None:
        mapped = np.lib.format.open_memmap(file, mode="r")
        self.rows = np.asarray(mapped)  # the plain view indexes faster than the map itself
        self._pages = cast(mmap.mmap, mapped.base)
        self._first_byte = mapped.offset % mmap.ALLOCATIONGRANULARITY  # of row 0 in the map, which begins at a page
        self._announced: dict[int, bytearray] = {}  # for rows in so many parts, a flag for each part
        self._forgets_at = 0.0
        if _ADVISES:
            self._pages.madvise(mmap.MADV_RANDOM)

    def announce(self, parts: Iterable[int], *, parts_per_row: int = 1) -> None:
        """Have parts of the rows fetched from the disk, all at once, before they are read.

        The kernel takes microseconds for it even where they are in memory, a tenth and more of copying a cube, so none
        is announced twice within a minute.

        Args:
            parts: their numbers, all rows' counted; with one part to a row, the rows'.
            parts_per_row: into how many equal parts a row is cut.
        """
        if not _ADVISES:
            return
        now = time.monotonic()
        if now >= self._forgets_at:
            self._announced, self._forgets_at = {}, now + _REMEMBERED
        announced = self._announced.get(parts_per_row)
        if announced is None:
            announced = self._announced[parts_per_row] = bytearray(len(self.rows) * parts_per_row)
        size = self.rows.strides[0] // parts_per_row
        for part in parts:
            if not announced[part]:
                announced[part] = True
                begin = self._first_byte + part * size
                page = begin - begin % mmap.PAGESIZE
                self._pages.madvise(mmap.MADV_WILLNEED, page, begin + size - page)
