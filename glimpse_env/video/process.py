"""Settings of a process that runs a network: device, threads and memory."""

from __future__ import annotations

import ctypes
import sys

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def parse_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {name!r}") from error


def num_threads() -> int:
    """Return the number of threads that torch uses on the CPU."""
    return torch.get_num_threads()


def prepare_process(*, threads: int) -> None:
    """Set the number of threads, and keep freed memory for the next batch."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Keep the memory of freed arrays for the next ones, and return whether this system can.

    glibc gives arrays of more than 32 MB back to the system, and touches every page of the next one again. Networks
    free such arrays after every layer: on the CPU that cost GoogLeNet a fifth to a third of its speed.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def software(*, compiled: bool) -> str:
    """Return the versions that decide the last bits of a network's output."""
    return f"torch {torch.__version__}{', compiled' * compiled}"
