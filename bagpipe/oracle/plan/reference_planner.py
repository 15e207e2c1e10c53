"""How does the oracle decide? The whole planner in plain Python, one row at a time, written to be read.

`planner.py` makes the same plans with compiled loops, thousands of times faster. It is held equal to this file by
`tests/unit/oracle/test_reference_planner.py`. `docs/plan.md` walks through this file with pictures.

`push` brings a batch into view. `plan` decides the oldest batch in view, for all trainers at once:

1. **Fetch.** A row that no cache holds is fetched by every trainer that uses it. One of them becomes its *owner*.
2. **Gradients.** Every other user sends its gradient to the owner, which alone updates the row.
3. **Keep or evict.** A row that is used again within the view is kept if every step until then has a slot for it; the
   rows whose next use is nearest choose first. Any other row is evicted: its owner writes it back to the servers, and a
   later fetch of the row waits for that write-back (`fetch_after`).
4. **Values.** The trainers that use a kept row next receive its new value from the owner: *eagerly* if they use it in
   the very next step, *deferred* otherwise. The owner stays the owner if it is one of them. Otherwise one of them
   becomes the owner and is sent a *record*, which is the value with its optimizer state.

A row lies in one *slot* at each trainer that uses it in this step and, between two uses, at each trainer that uses it
next. Slots are given out as a compiler gives out registers; the slot that was freed last is taken first.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bagpipe.batch import Keys
from bagpipe.oracle.plan.window import Lookups
from bagpipe.plan import GroupPlan, PeerLists, Slots, Transfer


class Batch:
    """One batch in view: the distinct rows of each trainer's share, and the trainers that use each row."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups
        self.shares: list[list[int]] = [share.tolist() for share in np.split(lookups.keys_N, lookups.bounds[1:-1])]
        self.rows = [list(dict.fromkeys(share)) for share in self.shares]
        """Of each trainer, in the order of its lookups. A row's place in this list is its local index."""
        self.users: dict[int, list[int]] = {}
        """Of each row, in the order of the whole batch's lookups: the trainers that use it, in rank order."""
        for rank, rows in enumerate(self.rows):
            for row in rows:
                self.users.setdefault(row, []).append(rank)


class Use(NamedTuple):
    """A later step within the view that uses a row, and the trainers that use it there."""

    step: int
    users: list[int]


@dataclass
class SlotPool:
    """The slots of one trainer's cache. The slot that was freed last is taken first."""

    free: list[int] = field(default_factory=list)
    """Slots that were used and freed."""
    total: int = 0
    """How many slots were ever used."""

    def take(self) -> int:
        """A free slot, or a new one."""
        if self.free:
            return self.free.pop()
        self.total += 1
        return self.total - 1


class ReferencePlanner:
    """Plans one width group, as `GroupPlanner` does. Call `push` for each batch and `plan` once the view is full."""

    def __init__(self, *, world_size: int, cache_rows: int | None = None, first_step: int = 0) -> None:
        self.world_size, self.cache_rows, self.step = world_size, cache_rows, first_step
        self.view: deque[Batch] = deque()
        """The batch to plan next, and the batches that the oracle has read beyond it."""
        self.owner: dict[int, int] = {}
        """Of each row in a cache: the trainer that has its newest value and its optimizer state."""
        self.slots: dict[int, dict[int, int]] = {}
        """Of each row in a cache: its slot at each trainer that holds it."""
        self.kept: dict[int, Use] = {}
        """Of each row that stays in a cache after its step: the use for which it stays."""
        self.written_back: dict[int, int] = {}
        """Of each row ever evicted: the step of its last eviction."""
        self.caches = [SlotPool() for _ in range(world_size)]
        """Of each trainer: which slots of its cache are taken."""

    def push(self, lookups: Lookups) -> None:
        self.view.append(Batch(lookups))

    def plan(self, *, checkpoint: bool = False) -> tuple[GroupPlan, ...]:
        """Decide the oldest batch in view; returns one `GroupPlan` for each trainer."""
        batch = self.view[0]
        drafts = [Draft(self.world_size) for _ in range(self.world_size)]
        for row in batch.users:
            self.kept.pop(row, None)
            if row not in self.owner:
                self._fetch(row, drafts)
        slots = {row: self.slots[row] for row in batch.users}
        for row in batch.users:
            self._send_gradients(row, drafts)
        self._choose_kept()
        # Where slots are scarce, every row gives its slots back before the first row takes a new one.
        for rows in [[row] for row in batch.users] if self._slots_abound() else [list(batch.users)]:
            for row in rows:
                self._release(row, drafts)
            for row in rows:
                self._send_values(row, slots[row], drafts)
        self.view.popleft()
        self.step += 1
        if checkpoint:
            self._flush(drafts)
        return tuple(draft.plan(batch, rank, slots) for rank, draft in enumerate(drafts))

    # 1. Fetch.

    def _fetch(self, row: int, drafts: list["Draft"]) -> None:
        users = self.view[0].users[row]
        self.owner[row] = choose(row, users)
        self.slots[row] = {rank: self.caches[rank].take() for rank in users}
        for rank in users:
            draft = drafts[rank]
            fetched = draft.fetch_records if rank == self.owner[row] else draft.fetch_values
            fetched.append((row, self.slots[row][rank]))
            draft.fetch_after = max(draft.fetch_after, self.written_back.get(row, -1))

    # 2. Gradients.

    def _send_gradients(self, row: int, drafts: list["Draft"]) -> None:
        rows, owner = self.view[0].rows, self.owner[row]
        for rank in self.view[0].users[row]:
            if rank != owner:
                drafts[rank].grad_send[owner].append(rows[rank].index(row))
                drafts[owner].grad_recv[rank].append(rows[owner].index(row))

    # 3. Keep or evict.

    def _choose_kept(self) -> None:
        """Belady's rule with capacity: nearest next use first, while every trainer has a slot at every step between."""
        used_again = [(row, use) for row in self.view[0].users if (use := self._next_use(row))]
        occupied = self._occupied()
        for row, use in sorted(used_again, key=lambda item: item[1].step):
            between = self._between(use)
            if self.cache_rows is None or all(occupied[place] < self.cache_rows for place in between):
                self.kept[row] = use
                occupied.update(between)

    def _next_use(self, row: int) -> Use | None:
        uses = [Use(step, batch.users[row]) for step, batch in enumerate(self.view, self.step) if row in batch.users]
        return uses[1] if len(uses) > 1 else None  # The first one is now.

    def _occupied(self) -> Counter[tuple[int, int]]:
        """Slots needed by each (trainer, step): for the rows it uses there, and for rows kept for a later use."""
        occupied = Counter(place for use in self.kept.values() for place in self._between(use))
        for step, batch in enumerate(self.view, self.step):
            occupied.update({(rank, step): len(rows) for rank, rows in enumerate(batch.rows)})
        return occupied

    def _between(self, use: Use) -> list[tuple[int, int]]:
        """Each (trainer, step) at which a row waits in a slot from now until that use."""
        return [(rank, step) for rank in use.users for step in range(self.step + 1, use.step)]

    def _release(self, row: int, drafts: list["Draft"]) -> None:
        """Free the row's slots at the trainers that do not use it next; evict it if it is not kept."""
        slots = self.slots[row]
        stays = self.kept[row].users if row in self.kept else []
        self.slots[row] = {rank: slot for rank, slot in slots.items() if rank in stays}
        for rank, slot in slots.items():
            if rank not in stays:
                self.caches[rank].free.append(slot)
        if not stays:
            owner = self.owner.pop(row)
            drafts[owner].evict.append((row, slots[owner]))
            self.written_back[row] = self.step
            del self.slots[row]

    # 4. Values.

    def _send_values(self, row: int, slots: dict[int, int], drafts: list["Draft"]) -> None:
        """Send a kept row, which lay in `slots` during this step, from its owner to its next users."""
        if row not in self.kept:
            return
        use, source = self.kept[row], self.owner[row]
        self.owner[row] = source if source in use.users else choose(row, use.users)
        when = "eager" if use.step == self.step + 1 else "deferred"
        for rank in use.users:
            if rank not in self.slots[row]:
                self.slots[row][rank] = self.caches[rank].take()
            if rank != source:
                kind = f"{when}_{'records' if rank == self.owner[row] else 'values'}"
                drafts[source].send[kind][rank].append(slots[source])
                drafts[rank].receive[kind][source].append(self.slots[row][rank])

    def _flush(self, drafts: list["Draft"]) -> None:
        """A checkpoint also saves what stays: the owner of each row in a cache writes it, and keeps it."""
        for row in dict.fromkeys(row for batch in self.view for row in batch.users):
            if row in self.owner:
                owner = self.owner[row]
                drafts[owner].flush.append((row, self.slots[row][owner]))

    def _slots_abound(self) -> bool:
        """Whether no cache can overflow even if all rows of the step moved to one trainer before any of them left."""
        taken = max(cache.total - len(cache.free) for cache in self.caches)
        return self.cache_rows is None or taken + len(self.view[0].users) <= self.cache_rows


def choose(row: int, users: list[int]) -> int:
    """One of a row's users, the same at every call and spread evenly over rows: the top bits of a multiplied key."""
    mixed = row * 0x9E3779B97F4A7C15 % 2**64
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 % 2**64
    return users[(mixed >> 33) * len(users) >> 31]


KINDS: tuple[str, ...] = ("eager_values", "eager_records", "deferred_values", "deferred_records")


@dataclass
class Draft:
    """One trainer's `GroupPlan` in the making; lists by peer have one list for each rank."""

    world_size: int
    fetch_records: list[tuple[int, int]] = field(default_factory=list)
    """Keys and slots, as in the lists below."""
    fetch_values: list[tuple[int, int]] = field(default_factory=list)
    fetch_after: int = -1
    evict: list[tuple[int, int]] = field(default_factory=list)
    flush: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grad_send, self.grad_recv = self._by_peer(), self._by_peer()
        self.send = {kind: self._by_peer() for kind in KINDS}
        self.receive = {kind: self._by_peer() for kind in KINDS}

    def _by_peer(self) -> list[list[int]]:
        return [[] for _ in range(self.world_size)]

    def plan(self, batch: Batch, rank: int, slots: dict[int, dict[int, int]]) -> GroupPlan:
        """The finished plan; `slots` says where the rows of the batch lay during the step."""
        rows, share = batch.rows[rank], batch.shares[rank]
        narrow = max(map(len, batch.shares)) <= 1 << 16
        inverse = [rows.index(row) for row in share]
        fetch_keys, fetch_slots = _keys_and_slots(self.fetch_records + self.fetch_values)
        evict_keys, evict_slots = _keys_and_slots(self.evict)
        flush_keys, flush_slots = _keys_and_slots(self.flush)
        return GroupPlan(
            slots_K=np.array([slots[row][rank] for row in rows], np.int32),
            inverse_N=np.array(inverse, np.uint16) if narrow else np.array(inverse, np.int32),
            lengths_BT=batch.lookups.lengths[rank],
            fetch_keys=fetch_keys,
            fetch_slots=fetch_slots,
            num_fetch_records=len(self.fetch_records),
            fetch_after=self.fetch_after,
            grad_send=PeerLists.of(self.grad_send),
            grad_recv=PeerLists.of(self.grad_recv),
            send=Transfer(*(PeerLists.of(self.send[kind]) for kind in KINDS)),
            receive=Transfer(*(PeerLists.of(self.receive[kind]) for kind in KINDS)),
            evict_keys=evict_keys,
            evict_slots=evict_slots,
            flush_keys=flush_keys,
            flush_slots=flush_slots,
            keys_K=np.zeros(0, np.int64),
        )


def _keys_and_slots(pairs: list[tuple[int, int]]) -> tuple[Keys, Slots]:
    return np.array([key for key, _ in pairs], np.int64), np.array([slot for _, slot in pairs], np.int32)
