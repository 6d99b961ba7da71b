"""Files that are whole or missing: written under another name, forced to the disk and renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

_ABANDONED = 3600.0  # seconds after which nobody is writing an unfinished file any more


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write bytes, or call a function with the open file, so that no reader ever sees half a file.

    Of several writers at once the last one wins. A file that cannot be completed is removed, since the disk may be
    full, and so are old ones of writers that were killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # another writer was faster
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write_synced(partial, content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force renames in a folder to the disk; systems that cannot do so order them themselves."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:  # some network file systems have no such thing
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
