"""Printing names that a terminal's encoding may lack."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """Print characters that the encoding of standard output or error lacks as backslash escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
