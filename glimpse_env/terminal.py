"""Output to terminals that cannot show every name."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """Have standard output and error print a character that their encoding lacks as its backslash escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
