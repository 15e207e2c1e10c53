"""Atomic file replacement: a reader finds the old content or the new one, never a part of it.

The content is written to a draft beside the file, flushed to the disk, and renamed; then the folder is flushed,
so that a rename that was seen survives a crash of the machine. A failure removes the draft.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bagpipe.errors import StorageError
from bagpipe.lowlevel import crash_points

DRAFTS = ".*.tmp"
"""Matches the names of drafts, which only a process that was killed leaves behind."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by a file of this content.

    Raises:
        StorageError: it cannot be written; an older file of that name is as it was.
    """
    with replacing_file(path) as draft:
        draft.write(content)


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """A draft that the body fills and that takes the name `path` when the body ends without an error.

    Raises:
        StorageError: an OSError of the body or of the replacement; an older file of that name is as it was.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        try:
            crash_points.passed(f"draft of {path.suffix or path.name}")
            with draft.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            crash_points.passed(f"rename to {path.suffix or path.name}")
            os.replace(draft, path)
            crash_points.passed(f"flush of {path.suffix or path.name}")
            _flush_folder(path.parent)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        StorageError: it cannot be made, or a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> StorageError:
    """What the user is told when the system refuses to write `path`."""
    remedy = "free some space and try again" if error.errno in _FULL else "check the folder and its permissions"
    return StorageError(f"{path}: cannot be written: {error.strerror or error}; {remedy}")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
