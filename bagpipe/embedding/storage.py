"""Memory that grows to its full size without costing anything until it is touched.

Backed by a file, it outlives the process (the kernel holds the pages), so that a killed server goes on
where it was. Disk space is reserved before it is written: a full disk is an error at the reservation,
never a signal in the middle of a row.
"""

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.errors import StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_write, free_bytes, refused
from bagpipe.lowlevel.wording import space


class Storage:
    """`num_bytes` of zeroes, in a sparse file or in anonymous memory (`path` None).

    Args:
        reserved: the disk has room for all of it from the beginning.

    Raises:
        StorageError: the file cannot be made, the disk has no room for it, or this process may map no more memory.
    """

    def __init__(self, path: Path | None, num_bytes: int, *, reserved: bool = False) -> None:
        self._path, self._fd = path, -1
        size = max(num_bytes, mmap.PAGESIZE)
        if path is None:
            try:
                self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise refused(f"{space(size)} of rows cannot be held in memory", error) from None
            if hasattr(mmap, "MADV_HUGEPAGE"):
                # Rows are dense, so large pages waste nothing, and a random row costs no page walk.
                with suppress(OSError):  # A kernel that has none refuses the advice.
                    self.map.madvise(mmap.MADV_HUGEPAGE)
            return
        crash_points.passed("file of a shard")
        try:
            self.map = self._mapped(path, size, num_bytes if reserved else 0)
        except StorageError:
            self.close()
            raise

    def _mapped(self, path: Path, size: int, reserved: int) -> mmap.mmap:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise cannot_write(path, error) from None
        self.reserve(0, reserved)
        try:
            return mmap.mmap(self._fd, size)  # It takes a descriptor of its own, so a limit may refuse that too.
        except OSError as error:
            raise refused(f"{path}: {space(size)} cannot be mapped into memory", error) from None

    def array(self, dtype: npt.DTypeLike, shape: tuple[int, ...], offset: int = 0) -> npt.NDArray[Any]:
        """A view of the memory."""
        return np.ndarray(shape, dtype, self.map, offset)

    def write(self, offset: int, rows: npt.NDArray[Any]) -> None:
        """Copy contiguous memory to `offset` (bytes), which was reserved; readers of the mapping see it.

        For pages of a file that are written for the first time this is several times cheaper than storing into the
        mapping, where each page costs a fault in which the kernel clears what is overwritten at once.
        """
        data = rows.data.cast("B")
        if self._path is None:
            self.map[offset : offset + len(data)] = data
            return
        try:
            while data:
                written = os.pwrite(self._fd, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def reserve(self, begin: int, end: int) -> None:
        """Make sure that bytes `[begin, end)` can be written.

        Raises:
            StorageError: the disk is full, or fails; nothing was written.
        """
        if self._path is None or end <= begin:
            return
        try:
            os.posix_fallocate(self._fd, begin, end - begin)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise cannot_write(self._path, error) from None
            free = free_bytes(self._path.parent)
            left = "" if free is None else f", {space(free)} free"
            raise StorageError(
                f"{self._path}: no room for {space(end - begin)} of more rows ({error.strerror}{left}); "
                "free space or use more embedding servers"
            ) from None

    def close(self) -> None:
        """Give back the descriptor. The mapping is released once no array refers to it; the file stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
