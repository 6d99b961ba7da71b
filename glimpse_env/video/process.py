"""Settings of a process that runs a network: device, threads and memory."""

from __future__ import annotations

import torch

from glimpse_env.video.malloc import keep_freed_memory


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


def software(*, compiled: bool) -> str:
    """Return the versions that decide the last bits of a network's output."""
    return f"torch {torch.__version__}{', compiled' * compiled}"
