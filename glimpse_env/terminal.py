"""Output on a terminal or in a notebook, Ctrl-C, and the help of command lines."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import FrameType
from typing import Annotated, Any, get_type_hints


def escape_unprintable() -> None:
    """Print characters that the encoding of standard output or error lacks as backslash escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C raise KeyboardInterrupt and ignore later ones, which would interrupt the clean-up.

    Python's locks end in a RuntimeError if a second KeyboardInterrupt is raised while they are given back.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody else decides about Ctrl-C
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def shows_bars() -> bool:
    """Return whether a progress bar can be drawn: on a terminal or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def join_help_lines(block: Any) -> None:
    """Remove the line breaks of the source, which tyro keeps, from the help of a dataclass, its bases and blocks."""
    import docstring_parser
    import tyro

    for kind in filter(is_dataclass, block.__mro__):
        hints = get_type_hints(kind, include_extras=True)
        for parameter in docstring_parser.parse_from_object(kind).params:
            text = " ".join((parameter.description or "").split())
            kind.__annotations__[parameter.arg_name] = Annotated[hints[parameter.arg_name], tyro.conf.arg(help=text)]
        for hint in filter(is_dataclass, hints.values()):
            join_help_lines(hint)
