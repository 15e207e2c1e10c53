"""A shard as it was after exactly one step, written to disk while training goes on.

Rows are copied out part by part on a thread of its own. A row that changes before its part is reached
has its old record put aside first (copy on write, row by row), so the files hold one moment. Parts are
safetensors of at most `PART_BYTES`, each complete under its name or not there at all.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from numba import njit

from bagpipe.batch import Floats, Keys
from bagpipe.embedding.shard import RowStore
from bagpipe.errors import StorageError
from bagpipe.lowlevel.atomic_files import make_folder, write_whole
from bagpipe.net.messages import SnapshotFile

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
        keys = self._store.row_keys[begin:end].copy()
        # A process killed between a record and its index entry leaves a row that nothing names.
        named = self._store.positions(keys) == np.arange(begin, end)
        return (keys, records) if named.all() else (keys[named], records[named])


class Snapshot:
    """A shard's snapshot of one step under way: `files` once it is done, `error` if it failed."""

    def __init__(self, step: int, stores: Sequence[RowStore], directory: Path, prefix: str) -> None:
        self.step = step
        self.files: tuple[SnapshotFile, ...] | None = None
        self.error = ""
        self._frozen = [FrozenRows(store) for store in stores]
        self._directory, self._prefix = directory, prefix
        self._thread = threading.Thread(target=self._write, name=f"snapshot-{step}")
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def before_write(self, group: int, positions: npt.NDArray[np.int64]) -> None:
        self._frozen[group].before_write(positions)

    def wait(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def _write(self) -> None:
        try:
            make_folder(self._directory / self._prefix)
            self.files = tuple(self._write_part(*part) for part in self._parts())
        except StorageError as error:
            self.error = str(error)

    def _parts(self) -> list[tuple[int, int, int, int]]:
        parts = []
        for group, frozen in enumerate(self._frozen):
            rows = max(1, PART_BYTES // frozen.row_bytes)
            for number, begin in enumerate(range(0, frozen.count, rows)):
                parts.append((group, number, begin, min(begin + rows, frozen.count)))
        return parts

    def _write_part(self, group: int, number: int, begin: int, end: int) -> SnapshotFile:
        keys, records = self._frozen[group].part(begin, end)
        content = safetensors.numpy.save({"keys": keys, "records": records}, {"group": str(group)})
        name = f"{self._prefix}/group{group}-part{number:05d}.safetensors"
        write_whole(self._directory / name, content)
        return SnapshotFile(name=name, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
