"""What the kernels wrote about one step, flat over trainers, and how it is cut into each one's plan."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Keys
from bagpipe.oracle.plan import plan_kernels as kernels
from bagpipe.oracle.plan.window import Pending
from bagpipe.plan import GroupPlan, PeerLists, Transfer

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

NO_KEYS: Keys = np.zeros(0, np.int64)
NO_SLOTS: Int32s = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Flat by rank: what each trainer fetches, with and without optimizer state."""

    record_keys: Keys
    record_slots: Int32s
    num_records: Int64s
    value_keys: Keys
    value_slots: Int32s
    num_values: Int64s
    after: Int64s

    @classmethod
    def empty(cls, total: int, world: int) -> "Fetched":
        return cls(
            record_keys=np.empty(total, np.int64),
            record_slots=np.empty(total, np.int32),
            num_records=np.zeros(world, np.int64),
            value_keys=np.empty(total, np.int64),
            value_slots=np.empty(total, np.int32),
            num_values=np.zeros(world, np.int64),
            after=np.full(world, -1, np.int64),
        )


@dataclass(frozen=True, slots=True)
class Left:
    """Flat by rank: the step's slots, rows evicted."""

    slots: Int32s
    evict_keys: Keys
    evict_slots: Int32s
    num_evict: Int64s

    @classmethod
    def empty(cls, total: int, world: int) -> "Left":
        return cls(
            slots=np.empty(total, np.int32),
            evict_keys=np.empty(total, np.int64),
            evict_slots=np.empty(total, np.int32),
            num_evict=np.zeros(world, np.int64),
        )


@dataclass(frozen=True, slots=True)
class Lists:
    """Rows that travel between trainers, listed for both ends: by (own rank, kind, other rank)."""

    kinds: int
    counts: Int64s
    values: Int32s
    """`[2, rows]`: what leaves, what arrives."""
    offsets: Int32s
    """`[2, world * kinds, world + 1]`, from the start of the (rank, kind)."""
    starts: list[list[int]]

    @classmethod
    def of(cls, rows: Int32s, count: int, counts: Int64s, kinds: int, world: int) -> "Lists":
        values = np.empty((2, count), np.int32)
        offsets = np.empty((2, world * kinds, world + 1), np.int32)
        starts = np.empty((2, world * kinds + 1), np.int64)
        kernels.group_lists(rows, count, counts, kinds, world, values[0], offsets[0], values[1], offsets[1], starts)
        return cls(kinds, counts, values, offsets, starts.tolist())

    def sent(self, rank: int, kind: int) -> PeerLists:
        return self._cut(0, rank * self.kinds + kind)

    def received(self, rank: int, kind: int) -> PeerLists:
        return self._cut(1, rank * self.kinds + kind)

    def _cut(self, end: int, piece: int) -> PeerLists:
        starts = self.starts[end]
        return PeerLists(self.offsets[end, piece], self.values[end, starts[piece] : starts[piece + 1]])


@dataclass(frozen=True, slots=True)
class Flushed:
    """Rows that a checkpoint also saves: resident, whoever owns them."""

    keys: Keys
    slots: Int32s
    ranks: Int32s


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything decided about one step of one width group."""

    batch: Pending
    offsets: Int64s
    """Where each rank's share of the flat arrays begins."""
    fetched: Fetched
    left: Left
    gradients: Lists
    transfers: Lists
    flushed: Flushed | None

    def plans(self) -> tuple[GroupPlan, ...]:
        return tuple(self._plan(rank) for rank in range(self.offsets.size - 1))

    def _plan(self, rank: int) -> GroupPlan:
        batch, fetched, left, flushed = self.batch, self.fetched, self.left, self.flushed
        begin, end = int(self.offsets[rank]), int(self.offsets[rank + 1])
        bounds = batch.bounds
        records, values = begin + int(fetched.num_records[rank]), begin + int(fetched.num_values[rank])
        evicted = begin + int(left.num_evict[rank])
        mine = flushed.ranks == rank if flushed else None
        return GroupPlan(
            slots_K=left.slots[begin:end],
            inverse_N=batch.inverse_N[bounds[rank] : bounds[rank + 1]],
            lengths_BT=batch.lengths[rank],
            fetch_keys=np.concatenate((fetched.record_keys[begin:records], fetched.value_keys[begin:values])),
            fetch_slots=np.concatenate((fetched.record_slots[begin:records], fetched.value_slots[begin:values])),
            num_fetch_records=records - begin,
            fetch_after=int(fetched.after[rank]),
            grad_send=self.gradients.sent(rank, 0),
            grad_recv=self.gradients.received(rank, 0),
            send=Transfer(*(self.transfers.sent(rank, kind) for kind in range(4))),
            receive=Transfer(*(self.transfers.received(rank, kind) for kind in range(4))),
            evict_keys=left.evict_keys[begin:evicted],
            evict_slots=left.evict_slots[begin:evicted],
            flush_keys=flushed.keys[mine] if flushed else NO_KEYS,
            flush_slots=flushed.slots[mine] if flushed else NO_SLOTS,
            keys_K=NO_KEYS,
        )
