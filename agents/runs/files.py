"""Files of a run: written whole, and errors that name the file and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glimpse_env.files import write_atomically


class SaveError(OSError):
    """A file could not be written; the message names it and the remedy."""


@contextmanager
def raising_save_error(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into a SaveError."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error}); earlier files are kept. Free space or fix the permissions, then "
            "run the same command again, or resume a run with --resume"
        ) from error


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file atomically; after a SaveError an earlier file of that name is still there."""
    with raising_save_error(path):
        write_atomically(path, content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON as `write_file` does."""
    write_file(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in {path.parent}")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): restore it, or train again") from error
