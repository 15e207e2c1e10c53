"""The rows of one width group on one shard, stored densely in the order in which they were first written.

Memory depends on the rows that were written, not on the size of the tables: a record for each row ever written, and
four bytes of index for each table row of the shard, committed only where touched (contract X4, X9). A row that was
never written is not stored at all; reading it computes its first value. Key k belongs to shard `k % num_shards` and is
number `k // num_shards` there.

With a directory, everything lies in memory-mapped files that outlive the process. New rows are stored in the order of
`RowStore.appending`: where they will end, records, keys, index, count and its copy. Whenever a process is killed, the
rows below `count` are complete and named by the index, and `recover` removes what lies beyond. A write-back is
acknowledged after all of that and its watermark, so an interrupted one is sent again; writing a record twice changes
nothing.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Floats, Keys
from bagpipe.embedding.storage import Storage
from bagpipe.errors import StorageError, WireError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.intrinsics import prefetch_lines, prefetch_row
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import WidthGroup

RESERVE_ROWS = 1 << 14
"""Rows by which the reserved part of the files grows."""
STORES = ("end", "records", "keys", "index", "count", "copy of the count", "known records")
"""What `RowStore.appending` stores, in its order."""
AHEAD = 12
"""Rows between asking for a row's memory and copying it."""


@njit(cache=True, nogil=True)
def _find(keys: Any, shard: Any, num_shards: Any, index: Any, positions: Any) -> Any:
    """Position of each key's record, or -1; returns the place of the first key not ours, or -1."""
    for i in range(keys.shape[0]):
        if i + AHEAD < keys.shape[0] and 0 <= keys[i + AHEAD] // num_shards < index.shape[0]:
            prefetch_row(index, keys[i + AHEAD] // num_shards)
        key = keys[i]
        number = key // num_shards
        if key < 0 or key % num_shards != shard or number >= index.shape[0]:
            return i
        positions[i] = index[number] - 1
    return -1


@njit(cache=True, nogil=True)
def _read(records: Any, positions: Any, out: Any) -> None:
    """Copy the leading columns of the stored rows; positions below 0 are left alone."""
    width = out.shape[1]
    for i in range(positions.shape[0]):
        if i + AHEAD < positions.shape[0] and positions[i + AHEAD] >= 0:
            prefetch_lines(records, positions[i + AHEAD], 3)
        p = positions[i]
        if p >= 0:
            for j in range(width):
                out[i, j] = records[p, j]


@njit(cache=True, nogil=True)
def _write(records: Any, positions: Any, rows: Any) -> None:
    width = rows.shape[1]
    for i in range(positions.shape[0]):
        if i + AHEAD < positions.shape[0]:
            prefetch_lines(records, positions[i + AHEAD], 3)
        p = positions[i]
        for j in range(width):
            records[p, j] = rows[i, j]


@njit(cache=True, nogil=True)
def _place(positions: Any, count: Any, limit: Any) -> Any:
    """Give every new row the next position; returns the new count, or -1 past the limit."""
    for i in range(positions.shape[0]):
        if positions[i] < 0:
            if count >= limit:
                return -1
            positions[i] = count
            count += 1
    return count


@njit(cache=True, nogil=True)
def _enter(keys: Any, num_shards: Any, positions: Any, old_count: Any, index: Any) -> None:
    """Enter every new row's position, plus 1, in the index; 0 there means that the row is not stored."""
    for i in range(keys.shape[0]):
        if positions[i] >= old_count:
            index[keys[i] // num_shards] = positions[i] + 1


@njit(cache=True, nogil=True)
def _repeated_new(keys: Any, positions: Any) -> Any:
    """The place of the first key without a position that was there before, or -1."""
    new = 0
    for i in range(positions.shape[0]):
        new += positions[i] < 0
    if new < 2:
        return -1
    size = 4
    while size < 2 * new:
        size *= 2
    seen = np.full(size, -1, np.int64)
    for i in range(keys.shape[0]):
        if positions[i] >= 0:
            continue
        at = (keys[i] * 0x9E3779B1) & (size - 1)
        while seen[at] >= 0:
            if seen[at] == keys[i]:
                return i
            at = (at + 1) & (size - 1)
        seen[at] = keys[i]
    return -1


@njit(cache=True, nogil=True)
def _reclaim(row_keys: Any, num_shards: Any, begin: Any, end: Any, index: Any) -> Any:
    """Clear every index entry that names a position in [begin, end); returns how many there were."""
    cleared = 0
    for p in range(begin, end):
        number = row_keys[p] // num_shards
        if 0 <= number < index.shape[0] and index[number] == p + 1:
            index[number] = 0
            cleared += 1
    return cleared


@njit(cache=True, nogil=True)
def _first_unsound(row_keys: Any, shard: Any, num_shards: Any, count: Any, index: Any) -> Any:
    """The first stored row whose key is not ours or whose index entry names another row, or -1."""
    for p in range(count):
        if p + AHEAD < count and 0 <= row_keys[p + AHEAD] // num_shards < index.shape[0]:
            prefetch_row(index, row_keys[p + AHEAD] // num_shards)
        key = row_keys[p]
        number = key // num_shards
        if key < 0 or key % num_shards != shard or number >= index.shape[0] or index[number] != p + 1:
            return p
    return -1


@njit(cache=True, nogil=True)
def _entries(index: Any) -> Any:
    """Index entries that name a row."""
    found = 0
    for i in range(index.shape[0]):
        found += index[i] != 0
    return found


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `RowStore.recover` found."""

    rows: int
    """Stored rows, all of them sound."""
    reclaimed: int
    """Rows that a killed process had begun to append; they are sent again."""


class RowStore:
    """The rows of one width group on one shard. `R` record width, `D` embedding_dim, float32."""

    def __init__(
        self,
        group: WidthGroup,
        initial_rows: InitialRows,
        *,
        shard: int,
        num_shards: int,
        directory: Path | None,
    ) -> None:
        self.embedding_dim = group.embedding_dim
        self.record_width = initial_rows.record_width
        self._initial_rows = initial_rows
        self._shard, self._num_shards = shard, num_shards
        self.capacity = len(range(shard, group.num_rows, num_shards))
        name = f"dim{group.embedding_dim}"

        def storage(what: str, num_bytes: int, *, reserved: bool = False) -> Storage:
            made = Storage(directory / f"{name}.{what}" if directory else None, num_bytes, reserved=reserved)
            opened.callback(made.close)
            return made

        with ExitStack() as opened:  # Closes the first ones where a later one cannot be made.
            self._records_storage = storage("records", 4 * self.record_width * self.capacity)
            self._keys_storage = storage("keys", 8 * self.capacity)
            self._index_storage = storage("index", 4 * self.capacity, reserved=True)
            self._count_storage = storage("count", 24, reserved=True)
            opened.pop_all()
        self.records: Floats = self._records_storage.array(np.float32, (self.capacity, self.record_width))
        self.row_keys: Keys = self._keys_storage.array(np.int64, (self.capacity,))
        self._index = self._index_storage.array(np.int32, (self.capacity,))
        self._count = self._count_storage.array(np.int64, (1,))
        self._begun = self._count_storage.array(np.int64, (1,), 8)
        """Where the rows end that are being appended; it equals `count` unless a process was killed meanwhile."""
        self._copy = self._count_storage.array(np.int64, (1,), 16)
        """`count` once more, stored after it. Else one that a turned bit has lowered would be taken for one that was
        not stored yet, and the rows beyond it, which are acknowledged, for unfinished ones."""
        self._reserved = self.count

    def __repr__(self) -> str:
        return f"RowStore(dim={self.embedding_dim}, record={self.record_width}, rows={self.count}/{self.capacity})"

    @property
    def count(self) -> int:
        """Rows stored: every row ever written."""
        return int(self._count[0])

    def positions(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Where each key's record lies, -1 where it was never written.

        Raises:
            WireError: a key is not of this shard.
        """
        positions = np.empty(keys.size, np.int64)
        bad = _find(keys, self._shard, self._num_shards, self._index, positions)
        if bad >= 0:
            raise WireError(f"key {keys[bad]} is not one of shard {self._shard} of {self._num_shards}")
        return positions

    def check_new(self, keys: Keys, positions: npt.NDArray[np.int64]) -> None:
        """Refuse keys that would be stored twice, or more rows than the tables have.

        Raises:
            WireError: a key without a position is there twice, or there are too many of them.
        """
        repeated = _repeated_new(keys, positions)
        if repeated >= 0:
            raise WireError(f"expected distinct keys, found key {keys[repeated]} twice")
        new = np.count_nonzero(positions < 0)
        if self.count + new > self.capacity:
            raise WireError(f"expected at most {self.capacity - self.count} new rows, found {new}")

    def read(
        self, keys: Keys, num_records: int, positions: npt.NDArray[np.int64] | None = None
    ) -> tuple[Floats, Floats]:
        """The first `num_records` rows with optimizer state `[.., R]`, the others without `[.., D]`."""
        where = self.positions(keys) if positions is None else positions
        records = np.empty((num_records, self.record_width), np.float32)
        values = np.empty((keys.size - num_records, self.embedding_dim), np.float32)
        for out, begin in ((records, 0), (values, num_records)):
            here = where[begin : begin + out.shape[0]]
            _read(self.records, here, out)
            new = np.flatnonzero(here < 0)
            if new.size:
                born = np.empty((new.size, out.shape[1]), np.float32)
                self._initial_rows.fill_records(keys[begin + new], born)
                out[new] = born
        return records, values

    def write(self, keys: Keys, records_KR: Floats, positions: npt.NDArray[np.int64] | None = None) -> None:
        """Store whole records; new rows are appended. Keys are distinct.

        Args:
            positions: those of the keys if they are known already; completed here.

        Raises:
            WireError: a key is not of this shard, the records have another width, or the tables have no such rows.
            StorageError: the disk is full; nothing was changed.
        """
        if records_KR.shape != (keys.size, self.record_width):
            raise WireError(f"expected records [{keys.size}, {self.record_width}], found {records_KR.shape}")
        where = self.positions(keys) if positions is None else positions
        old = self.count
        new = _place(where, old, self.capacity)
        if new < 0:
            raise WireError(f"expected at most {self.capacity - old} new rows, found more among {keys.size}")
        if new == old:
            crash_points.passed("known rows")
            _write(self.records, where, records_KR)
            return
        self._reserve(new)
        for number, store in enumerate(self.appending(keys, records_KR, where, new)):
            crash_points.passed(f"{STORES[number]} of new rows")
            store()

    def appending(
        self, keys: Keys, records_KR: Floats, positions: npt.NDArray[np.int64], end: int
    ) -> tuple[Callable[[], None], ...]:
        """The stores of a write that appends rows `[count, end)`, in the order in which they must be done.

        A process may be killed between any two of them, and within each.
        """
        old = self.count
        fresh = positions >= old  # in the order of their positions
        known = ~fresh
        return (
            lambda: self._begun.fill(end),
            lambda: self._records_storage.write(4 * self.record_width * old, records_KR[fresh]),
            lambda: self._keys_storage.write(8 * old, keys[fresh]),
            lambda: _enter(keys, self._num_shards, positions, old, self._index),
            lambda: self._count.fill(end),
            lambda: self._copy.fill(end),
            lambda: _write(self.records, positions[known], records_KR[known]),
        )

    def recover(self) -> Recovered:
        """Remove what a killed process had begun to append, and check that every stored row is sound.

        Raises:
            StorageError: the files contradict themselves, which killing a process cannot cause.
        """
        count, begun = self.count, int(self._begun[0])
        if not 0 <= count <= self.capacity or not 0 <= begun <= self.capacity:
            raise StorageError(f"{self}: expected up to {self.capacity} rows, found {count}, {begun} begun")
        if count not in (int(self._copy[0]), begun):
            raise StorageError(f"{self}: expected {self._copy[0]} or {begun} rows, found {count}")
        crash_points.passed("reclaim of rows")
        reclaimed = _reclaim(self.row_keys, self._num_shards, count, begun, self._index)
        crash_points.passed("end of reclaimed rows")
        self._begun.fill(count)
        self._copy.fill(count)
        unsound = _first_unsound(self.row_keys, self._shard, self._num_shards, count, self._index)
        if unsound >= 0:
            raise StorageError(f"{self}: expected the index to name every row, but not row {unsound} of {count}")
        named = _entries(self._index)
        if named != count:
            raise StorageError(f"{self}: expected an index of {count} rows, found {named}")
        return Recovered(count, int(reclaimed))

    def _reserve(self, rows: int) -> None:
        if rows > self._reserved:
            end = min(self.capacity, -(-rows // RESERVE_ROWS) * RESERVE_ROWS)
            width = 4 * self.record_width
            self._records_storage.reserve(self._reserved * width, end * width)
            self._keys_storage.reserve(self._reserved * 8, end * 8)
            self._reserved = end

    def close(self) -> None:
        for storage in (self._records_storage, self._keys_storage, self._index_storage, self._count_storage):
            storage.close()
