"""The requests of trainers to a shard, each checked completely before anything changes.

A request that is wrong in any way is a `WireError` here, and its sender is told: it takes no place in the order of
write-backs, is never kept, and cannot end up in the answer to another trainer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats, Keys
from bagpipe.embedding.row_store import RowStore
from bagpipe.errors import WireError
from bagpipe.net.messages import Fetch, WriteBack

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeysOfGroup:
    """Keys of one width group that are this shard's, and where their rows lie."""

    group: int
    keys: Keys
    positions: Positions
    rows_then: int
    """Rows stored when the positions were looked up: the positions are valid as long as no row is added."""

    def positions_in(self, store: RowStore) -> Positions:
        """Where the rows lie now."""
        return self.positions if store.count == self.rows_then else store.positions(self.keys)


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Rows that the trainer `rank` asks for; answered once every trainer has written back step `after`."""

    peer: bytes
    rank: int
    step: int
    after: int
    rows: KeysOfGroup
    num_records: int
    packed: bool


@dataclass(frozen=True, slots=True)
class WriteBackRequest:
    """Records that left the cache of trainer `rank` after `step`: keys and `[n, record width]` of each group."""

    peer: bytes
    rank: int
    step: int
    checkpoint: bool
    """A snapshot of exactly this step is due."""
    groups: tuple[tuple[KeysOfGroup, Floats], ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What this job's trainers can ask for at most."""

    num_trainers: int
    slots: tuple[int, ...]
    """Cache slots of each width group at one trainer."""


def check_fetch(
    peer: bytes, message: Fetch, arrays: Sequence[npt.NDArray[Any]], stores: Sequence[RowStore], bounds: Bounds
) -> FetchRequest:
    """The request in a `Fetch`.

    Raises:
        WireError: names what is wrong with it.
    """
    _check_rank(message.rank, bounds)
    if message.group >= len(stores):
        raise WireError(f"expected a width group below {len(stores)}, found {message.group}")
    if len(arrays) != 1:
        raise WireError(f"expected one array of keys, found {len(arrays)} arrays")
    rows = _keys_of_group(message.group, arrays[0], stores, bounds.slots[message.group])
    if message.num_records > rows.keys.size:
        raise WireError(f"expected at most {rows.keys.size} records, as many as keys, found {message.num_records}")
    if message.after >= message.step:
        raise WireError(f"expected a fetch for step {message.step} to wait for an earlier one, found {message.after}")
    return FetchRequest(peer, message.rank, message.step, message.after, rows, message.num_records, message.packed)


def check_write_back(
    peer: bytes, message: WriteBack, arrays: Sequence[npt.NDArray[Any]], stores: Sequence[RowStore], bounds: Bounds
) -> WriteBackRequest:
    """The request in a `WriteBack`.

    Raises:
        WireError: names what is wrong with it.
    """
    _check_rank(message.rank, bounds)
    if message.step < 0:
        raise WireError(f"expected a step from 0 on, found {message.step}")
    if len(arrays) != 2 * len(stores):
        raise WireError(f"expected keys and records of {len(stores)} width groups, found {len(arrays)} arrays")
    groups = []
    for group, store in enumerate(stores):
        # At a checkpoint a slot may be evicted, filled again and flushed in one step: two rows of one slot.
        rows = _keys_of_group(group, arrays[2 * group], stores, 2 * bounds.slots[group])
        records = arrays[2 * group + 1]
        if records.dtype != np.float32 or records.shape != (rows.keys.size, store.record_width):
            raise WireError(
                f"width group {group}: expected records float32 ({rows.keys.size}, {store.record_width}), "
                f"found {records.dtype} {records.shape}"
            )
        store.check_new(rows.keys, rows.positions)
        groups.append((rows, records))
    return WriteBackRequest(peer, message.rank, message.step, message.checkpoint, tuple(groups))


def _check_rank(rank: int, bounds: Bounds) -> None:
    if not 0 <= rank < bounds.num_trainers:
        raise WireError(f"expected a rank below {bounds.num_trainers}, found {rank}")


def _keys_of_group(group: int, keys: npt.NDArray[Any], stores: Sequence[RowStore], most: int) -> KeysOfGroup:
    if keys.dtype != np.int64 or keys.ndim != 1:
        raise WireError(f"width group {group}: expected keys int64 (n,), found {keys.dtype} {keys.shape}")
    if keys.size > most:
        raise WireError(f"width group {group}: expected at most {most} keys, found {keys.size}")
    store = stores[group]
    return KeysOfGroup(group, keys, store.positions(keys), store.count)
