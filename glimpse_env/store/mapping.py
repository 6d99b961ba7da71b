"""Arrays in files, mapped so that reading costs the pages that are looked at."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows, where nothing can be advised either
    _ADVISES = False
else:
    _ADVISES = hasattr(mmap, "MADV_RANDOM")


class MappedRows:
    """A `.npy` file, mapped read-only; its first axis are the rows.

    The kernel reads around a page that is asked for, by the megabytes on some disks: for one slice more than a whole
    cube. So the map is declared random, which makes a slice cost its one or two pages, and whoever wants all of a row
    announces it, lest its pages be fetched one by one.

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
        self._announced = bytearray()  # a flag for each row, since the process had waited for the disk so often:
        self._waits = -1
        if _ADVISES:
            self._pages.madvise(mmap.MADV_RANDOM)

    def announce(self, rows: Iterable[int]) -> None:
        """Have whole rows fetched from the disk, all at once, before they are read.

        That takes microseconds, a tenth of copying a cube that is in memory already, so a row is announced once: until
        the process has had to wait for the disk, since then memory is short, and what was fetched may be gone.
        """
        if not _ADVISES:
            return
        waits = getrusage(RUSAGE_SELF).ru_majflt
        if waits != self._waits:
            self._waits, self._announced = waits, bytearray(len(self.rows))
        for row in rows:
            if not self._announced[row]:
                self._announced[row] = True
                begin = self._first_byte + row * self.rows.strides[0]
                page = begin - begin % mmap.PAGESIZE
                self._pages.madvise(mmap.MADV_WILLNEED, page, begin + self.rows.strides[0] - page)
