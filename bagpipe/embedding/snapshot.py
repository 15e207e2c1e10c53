"""A shard as it was after exactly one step, written to disk while training goes on.

Rows are copied out part by part on a thread of its own. A row that changes before its part is reached
has its old record put aside first (copy on write, row by row), so the files hold one moment. Parts are
safetensors of at most `PART_BYTES`, each complete under its name or not there at all.
"""

import hashlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from numba import njit

from bagpipe.batch import Floats, Keys
from bagpipe.embedding.row_store import RowStore
from bagpipe.errors import ExitCode, StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import make_folder, write_whole
from bagpipe.net.messages import SnapshotFile, SnapshotFiles

log = logging.getLogger(__name__)

PART_BYTES = 32 << 20


@njit(cache=True, nogil=True)
def _put_aside(positions: Any, begin: Any, end: Any, records: Any, aside: Any, pool: Any, used: Any) -> Any:
    """Save the old record of every row in [begin, end) that is about to change for the first time."""
    for i in range(positions.shape[0]):
        p = positions[i]
        if begin <= p < end and aside[p] == 0:
            pool[used] = records[p]
            used += 1
            aside[p] = used
    return used


class FrozenRows:
    """One width group's rows as they are now. `before_write` and `part` may run on different threads."""

    def __init__(self, store: RowStore) -> None:
        self._store, self.count = store, store.count
        self._aside = np.zeros(self.count, np.int32)
        self._pool: Floats = np.empty((1024, store.record_width), np.float32)
        self._used = self._copied = 0
        self._lock = threading.Lock()
        self.row_bytes = 4 * store.record_width + 8
        """A record and its key."""

    @property
    def held_bytes(self) -> int:
        """Memory for old records and for where they lie."""
        return self._pool.nbytes + self._aside.nbytes

    def before_write(self, positions: npt.NDArray[np.int64]) -> None:
        """Put aside what the write is about to change."""
        with self._lock:
            if self._copied >= self.count:
                return
            if self._used + positions.size > self._pool.shape[0]:
                wide = np.empty((2 * (self._used + positions.size), self._pool.shape[1]), np.float32)
                wide[: self._used] = self._pool[: self._used]
                self._pool = wide
            self._used = _put_aside(
                positions, self._copied, self.count, self._store.records, self._aside, self._pool, self._used
            )

    def part(self, begin: int, end: int) -> tuple[Keys, Floats]:
        """Copies of rows [begin, end) as they were; parts are taken in order."""
        with self._lock:
            records = self._store.records[begin:end].copy()
            changed = np.flatnonzero(self._aside[begin:end])
            records[changed] = self._pool[self._aside[begin + changed] - 1]
            self._copied = end
        return self._store.row_keys[begin:end].copy(), records


class Snapshot:
    """A shard's rows as they were when this was made, and the files they go to.

    They are frozen at once and written once `write` is called, on a thread of its own. The memory for old rows is freed
    when the last file is there, so a finished snapshot is a few names.
    """

    def __init__(self, step: int, stores: Sequence[RowStore], directory: Path, prefix: str) -> None:
        self.step, self.directory = step, directory
        self.total_bytes = sum(store.count * (4 * store.record_width + 8) for store in stores)
        self.written_bytes = 0
        """Grows while it is written; files are a little longer than their rows."""
        self.result: SnapshotFiles | None = None
        """Once it is done or has failed."""
        self._frozen: tuple[FrozenRows, ...] = tuple(FrozenRows(store) for store in stores)
        self._prefix = prefix
        self._thread = threading.Thread(target=self._run, name=f"snapshot-{step}", daemon=True)

    def write(self) -> None:
        """Begin to write the files; returns at once."""
        self._thread.start()

    def wait(self, timeout_seconds: float) -> None:
        """Wait until the files are there or have failed, but not longer than this."""
        self._thread.join(timeout_seconds)

    def before_write(self, group: int, positions: npt.NDArray[np.int64]) -> None:
        """Put aside what a write to these rows is about to change."""
        frozen = self._frozen
        if frozen:
            frozen[group].before_write(positions)

    @property
    def held_bytes(self) -> int:
        """Memory that this takes beside the shard's rows."""
        return sum(frozen.held_bytes for frozen in self._frozen)

    def _run(self) -> None:
        try:
            crash_points.passed("folder of a snapshot")
            make_folder(self.directory / self._prefix)
            files = tuple(self._write_part(*part) for part in self._parts())
            result = SnapshotFiles(step=self.step, done=True, files=files)
        except StorageError as error:
            for_good = error.exit_code == ExitCode.BAD_CONFIG
            result = SnapshotFiles(step=self.step, done=False, error=str(error), for_good=for_good)
        except Exception as error:  # Top of a thread: without a result the trainers would wait, and the rows be kept.
            log.exception("snapshot of step %d", self.step)
            result = SnapshotFiles(step=self.step, done=False, error=f"{type(error).__name__}: {error}")
        self._frozen = ()
        self.result = result

    def _parts(self) -> list[tuple[int, int, int, int]]:
        parts = []
        for group, frozen in enumerate(self._frozen):
            rows = max(1, PART_BYTES // frozen.row_bytes)
            for number, begin in enumerate(range(0, frozen.count, rows)):
                parts.append((group, number, begin, min(begin + rows, frozen.count)))
        return parts

    def _write_part(self, group: int, number: int, begin: int, end: int) -> SnapshotFile:
        crash_points.passed("part of a snapshot")
        keys, records = self._frozen[group].part(begin, end)
        content = safetensors.numpy.save({"keys": keys, "records": records}, {"group": str(group)})
        name = f"{self._prefix}/group{group}-part{number:05d}.safetensors"
        write_whole(self.directory / name, content)
        self.written_bytes += len(content)
        return SnapshotFile(name=name, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
