"""What the kernels decided about one step, flat over trainers, and how it is cut into each one's plan."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Keys
from bagpipe.oracle.plan import finish_kernels as kernels
from bagpipe.oracle.plan.finish_kernels import AfterUpdate, Messages
from bagpipe.oracle.plan.plan_kernels import Fetched, Step
from bagpipe.oracle.plan.window import Pending
from bagpipe.plan import GroupPlan, PeerLists, Transfer

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

NO_KEYS: Keys = np.zeros(0, np.int64)
NO_SLOTS: Int32s = np.zeros(0, np.int32)


def empty_fetched(total: int, world: int) -> Fetched:
    """Room for `total` rows, all trainers together."""
    return Fetched(
        record_keys=np.empty(total, np.int64),
        record_slots=np.empty(total, np.int32),
        num_records=np.zeros(world, np.int64),
        value_keys=np.empty(total, np.int64),
        value_slots=np.empty(total, np.int32),
        num_values=np.zeros(world, np.int64),
        after=np.full(world, -1, np.int64),
    )


def empty_after_update(total: int, world: int, horizon: int, gradients: Int32s, values: Int32s) -> AfterUpdate:
    """Room for `total` rows, all trainers together; `gradients` and `values` for the rows of messages."""
    return AfterUpdate(
        slots_K=np.empty(total, np.int32),
        evict_keys=np.empty(total, np.int64),
        evict_slots=np.empty(total, np.int32),
        num_evicted=np.zeros(world, np.int64),
        gradients=Messages(gradients, np.zeros(world * world, np.int64)),
        values=Messages(values, np.zeros(kernels.NUM_KINDS * world * world, np.int64)),
        horizon=horizon,
        kept_for=np.zeros(world * horizon, np.int64),
        next_user=np.full(world, -1, np.int64),
    )


@dataclass(frozen=True, slots=True)
class MessageLists:
    """Rows that travel between trainers, listed for both ends: by (own rank, kind, other rank)."""

    kinds: int
    counts: Int64s
    values: Int32s
    """`[2, rows]`: what leaves, what arrives."""
    offsets: Int32s
    """`[2, world * kinds, world + 1]`, from the start of the (rank, kind)."""
    starts: list[list[int]]

    @classmethod
    def of(cls, messages: Messages, count: int, kinds: int, world: int) -> "MessageLists":
        values = np.empty((2, count), np.int32)
        offsets = np.empty((2, world * kinds, world + 1), np.int32)
        starts = np.empty((2, world * kinds + 1), np.int64)
        kernels.sort_messages(messages, count, values[0], offsets[0], values[1], offsets[1], starts)
        return cls(kinds, messages.counts, values, offsets, starts.tolist())

    def sent(self, rank: int, kind: int) -> PeerLists:
        return self._cut(0, rank * self.kinds + kind)

    def received(self, rank: int, kind: int) -> PeerLists:
        return self._cut(1, rank * self.kinds + kind)

    def _cut(self, end: int, piece: int) -> PeerLists:
        starts = self.starts[end]
        return PeerLists(self.offsets[end, piece], self.values[end, starts[piece] : starts[piece + 1]])


@dataclass(frozen=True, slots=True)
class Flushed:
    """Rows that a checkpoint also saves: all rows in caches, by their owner."""

    keys: Keys
    slots: Int32s
    ranks: Int32s


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """Everything decided about one step of one width group."""

    batch: Pending
    step: Step
    fetched: Fetched
    after: AfterUpdate
    gradients: MessageLists
    values: MessageLists
    flushed: Flushed | None

    def plans(self) -> tuple[GroupPlan, ...]:
        return tuple(self._plan(rank) for rank in range(self.step.starts.size - 1))

    def _plan(self, rank: int) -> GroupPlan:
        batch, fetched, after, flushed = self.batch, self.fetched, self.after, self.flushed
        begin, end = int(self.step.starts[rank]), int(self.step.starts[rank + 1])
        bounds = batch.bounds
        records, values = begin + int(fetched.num_records[rank]), begin + int(fetched.num_values[rank])
        evicted = begin + int(after.num_evicted[rank])
        mine = flushed.ranks == rank if flushed else None
        return GroupPlan(
            slots_K=after.slots_K[begin:end],
            inverse_N=batch.inverse_N[bounds[rank] : bounds[rank + 1]],
            lengths_BT=batch.lengths[rank],
            fetch_keys=np.concatenate((fetched.record_keys[begin:records], fetched.value_keys[begin:values])),
            fetch_slots=np.concatenate((fetched.record_slots[begin:records], fetched.value_slots[begin:values])),
            num_fetch_records=records - begin,
            fetch_after=int(fetched.after[rank]),
            grad_send=self.gradients.sent(rank, 0),
            grad_recv=self.gradients.received(rank, 0),
            send=Transfer(*(self.values.sent(rank, kind) for kind in range(kernels.NUM_KINDS))),
            receive=Transfer(*(self.values.received(rank, kind) for kind in range(kernels.NUM_KINDS))),
            evict_keys=after.evict_keys[begin:evicted],
            evict_slots=after.evict_slots[begin:evicted],
            flush_keys=flushed.keys[mine] if flushed else NO_KEYS,
            flush_slots=flushed.slots[mine] if flushed else NO_SLOTS,
            keys_K=NO_KEYS,
        )
