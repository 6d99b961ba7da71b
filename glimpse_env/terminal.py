"""Output on a terminal or in a notebook."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """Print characters that the encoding of standard output or error lacks as backslash escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shows_bars() -> bool:
    """Return whether a progress bar can be drawn: on a terminal or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
