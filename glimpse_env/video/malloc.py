"""How this process gets its memory."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have the process keep the memory of freed arrays for the next ones, instead of giving it back to the system.

    glibc gets memory for arrays of more than 32 MB from the system, page by page at their first touch, and gives it
    back when they are freed. Networks free such arrays after every layer: on the CPU that cost GoogLeNet a fifth to a
    third of its speed. What the process holds then never shrinks; it does not grow beyond its peak either.

    Returns:
        Whether there was something to change: False on systems without glibc.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
