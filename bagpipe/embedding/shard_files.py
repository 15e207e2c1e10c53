"""A shard's directory: whose rows lie there, and how far each trainer had written.

`header.json` names job, attempt, start and layout; rows of another attempt, start or job are not reused.
Watermarks lie in a small mapped file beside the rows, so that they survive the process like them.
"""

import hashlib
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from bagpipe.embedding.storage import Storage
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_read, make_folder, write_whole
from bagpipe.tables import TableLayout


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the files of a shard usable by a restarted process."""

    job: str
    attempt: int
    start: str
    """`Topology.start`: tells two starts of the same attempt's number apart."""
    shard: int
    num_shards: int
    num_trainers: int
    record_widths: tuple[int, ...]
    layout_digest: str


HEADER = "header.json"
STARTED = "started.json"
"""Lies in a shard's directory from the moment a process begins until its rows are complete and it serves."""


class _Started(msgspec.Struct, frozen=True):
    job: str
    attempt: int


Note = TypeVar("Note", Header, _Started)


def layout_digest(layout: TableLayout) -> str:
    return hashlib.sha256(msgspec.json.encode(layout.tables)).hexdigest()


def claim_directory(directory: Path, header: Header) -> bool:
    """Make the directory this shard's; True if it already holds this very start's rows.

    Raises:
        StorageError: it cannot be made, or read now.
    """
    if _read(directory / HEADER, Header) == header:
        crash_points.passed("removal of started.json")
        (directory / STARTED).unlink(missing_ok=True)
        return True
    make_folder(directory)
    for left in directory.iterdir():
        if left.name != STARTED:
            crash_points.passed("removal of another shard's file")
            left.unlink() if not left.is_dir() else shutil.rmtree(left, ignore_errors=True)
    return False


def note_start(directory: Path, *, job: str, attempt: int) -> bool:
    """Note that a process of this attempt begins here, before it registers.

    Returns whether an earlier one did so and was killed before it had served anything: then nothing is lost with it.

    Raises:
        StorageError: it cannot be noted, or what an earlier one noted cannot be read now.
    """
    make_folder(directory)
    path, ours = directory / STARTED, _Started(job, attempt)
    if _read(path, _Started) == ours:
        return True
    write_whole(path, msgspec.json.encode(ours))
    return False


def holds_rows(directory: Path, *, job: str, attempt: int) -> bool:
    """Whether an earlier process of this attempt left its rows here.

    Raises:
        StorageError: that cannot be read now.
    """
    header = _read(directory / HEADER, Header)
    return header is not None and header.job == job and header.attempt == attempt


def _read(path: Path, kind: type[Note]) -> Note | None:
    """What an earlier process noted; None: nothing, or it is damaged.

    A file that only cannot be read now (a disk that fails for a moment, too many open files) is not taken for missing:
    its rows would be cleared away after the oracle was told that they are here.

    Raises:
        StorageError: the system refuses.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from None


def confirm_directory(directory: Path, header: Header) -> None:
    """From here on the rows are complete: a restart may reuse them."""
    write_whole(directory / HEADER, msgspec.json.encode(header))
    crash_points.passed("removal of started.json")
    (directory / STARTED).unlink(missing_ok=True)


def give_up_directory(directory: Path) -> None:
    """The rows here are not to be trusted: the next process finds none, and registers without rows."""
    for name in (STARTED, HEADER):
        (directory / name).unlink(missing_ok=True)


def watermark_array(directory: Path | None, num_trainers: int) -> npt.NDArray[np.int64]:
    """Memory of `Watermarks`: a step is written only after the write-back it stands for."""
    storage = Storage(directory / "watermarks" if directory else None, 8 * (num_trainers + 1), reserved=True)
    storage.close()  # The array keeps the mapping, which is all that is written to.
    return storage.array(np.int64, (num_trainers + 1,))
