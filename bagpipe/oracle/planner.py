"""The planner of one width group: lookups in, decisions out (paper section 3; design.md section 3).

The planner sees `lookahead` batches beyond the step it plans. For that step it decides, for every
row of the group and every trainer at once,

* **residency**: a row is fetched when no cache holds it, kept while it is used again within the view,
  and written back after its last use. Rows whose next use is nearest are kept first (Belady), and only
  as long as every future step still fits into `cache_rows` of every trainer: under pressure the view
  shortens by itself, it never overflows and never deadlocks (contract X6);
* **coherence**: among the trainers that use a row in a step, one owns it. The others send it their
  gradients, it updates, and sends the new value to the trainers that use the row next. Ownership stays
  where it is while the owner uses the row; with it travels the optimizer state;
* **slots**: assigned per trainer like registers. A slot is free as soon as its step is over, because
  the trainer copies out everything that leaves before it copies in anything that arrives.

**When a fetch may be answered.** Tables are read and written only by fetches and write-backs, so a
fetch must see the write-back of the row's last eviction and of nothing later (nothing later exists:
the row is not in any cache). The planner knows that eviction's step exactly, `fetch_after`; a server
answers once every trainer's watermark has reached it. A row that comes back at the next step is never
evicted, hence `fetch_after <= step - 2` and no trainer ever waits for a write-back that itself waits
for that fetch. With `lookahead=0` nothing is kept: that is the uncached mode.

The planner is pure: no clock, no socket, no randomness; the same batches give the same plans.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Keys, Lengths
from bagpipe.errors import ConfigError, PlanError
from bagpipe.oracle import kernels
from bagpipe.plan import GroupPlan, PeerLists, Transfer

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

_EMPTY_KEYS: Keys = np.zeros(0, np.int64)
_EMPTY_SLOTS: Int32s = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Lookups:
    """One batch's lookups of a width group: rank r's are `keys_N[bounds[r]:bounds[r + 1]]`."""

    keys_N: Keys
    bounds: Int64s
    lengths: tuple[Lengths | None, ...]
    """Each rank's `lengths_BT`, None where every feature has exactly one lookup."""


@dataclass(slots=True)
class _Pending:
    """A batch that has been pushed and not yet planned."""

    step: int
    first_entry: int
    num_entries: int
    first_use: int
    rows_of_rank: Int64s
    inverse_N: npt.NDArray[np.uint16] | Int32s
    lookups: Lookups


@dataclass(slots=True)
class PlannerStats:
    """What the planner did so far; rows are summed over trainers unless said otherwise."""

    steps: int = 0
    lookups: int = 0
    distinct_rows: int = 0
    fetched_rows: int = 0
    evicted_rows: int = 0
    gradient_rows: int = 0
    value_rows: int = 0
    record_rows: int = 0
    eager_rows: int = 0
    shortened_steps: int = 0
    """Steps at which a row used again within the lookahead did not fit and left."""
    refused_rows: int = 0
    shortest_view: int | None = None
    """The nearest next use, in steps, of a row that had to leave."""
    peak_rows: list[int] = field(default_factory=list)
    """Most rows ever held, by trainer."""

    @property
    def hit_rate(self) -> float:
        """Share of distinct rows of a step that their trainer did not have to fetch from a server."""
        return 1.0 - self.fetched_rows / self.distinct_rows if self.distinct_rows else 0.0


class GroupPlanner:
    """Plans one width group. Call `push` for each batch in order and `plan` once the view is full.

    Args:
        num_rows: rows of the group; keys are below it.
        world_size: number of trainers.
        lookahead: future batches in view (0: uncached).
        cache_rows: slots of each trainer; None: as many as it takes.
        first_step: step of the first batch pushed.
    """

    def __init__(
        self, *, num_rows: int, world_size: int, lookahead: int, cache_rows: int | None = None, first_step: int = 0
    ) -> None:
        self.num_rows, self.world_size, self.lookahead = num_rows, world_size, lookahead
        self.cache_rows = cache_rows
        self.stats = PlannerStats(peak_rows=[0] * world_size)
        self._next_push = self._next_plan = first_step
        self._tail: Int32s = np.zeros(num_rows, np.int32)
        self._entries: Int32s = np.zeros((1024, 8), np.int32)
        self._entry_keys: Keys = np.zeros(1024, np.int64)
        self._uses: Int32s = np.zeros((1024, 4), np.int32)
        self._window: deque[_Pending] = deque()
        self._entry_end = self._use_end = 0
        self._free: Int32s = np.zeros((world_size, 1024), np.int32)
        self._num_free: Int64s = np.zeros(world_size, np.int64)
        self._num_fresh: Int64s = np.zeros(world_size, np.int64)
        # Rows held across a step without being used in it, by trainer and step modulo the view.
        self._held: Int64s = np.zeros((world_size, lookahead + 2), np.int64)
        self._scratch: dict[str, Int32s] = {}
        self._scratch64: dict[str, Int64s] = {}

    def __repr__(self) -> str:
        held = (self._num_fresh - self._num_free).tolist()
        return f"GroupPlanner(next_plan={self._next_plan}, next_push={self._next_push}, rows_held={held})"

    @property
    def pending(self) -> int:
        """Batches pushed and not yet planned."""
        return len(self._window)

    # ── push ──────────────────────────────────────────────────────────────────────────────────────

    def push(self, lookups: Lookups) -> None:
        """Bring the next batch into view.

        Raises:
            ConfigError: a single step does not fit into `cache_rows`.
            PlanError: a key is outside the group, or the view is full (call `plan` first).
        """
        if len(self._window) > self.lookahead:
            raise PlanError(f"step {self._next_push}: {len(self._window)} batches wait already; plan the oldest first")
        keys = lookups.keys_N
        self._reserve_entries(keys.size)
        largest = int(np.diff(lookups.bounds).max(initial=0))
        inverse = np.empty(keys.size, np.uint16 if largest <= 1 << 16 else np.int32)
        latest, previous, use_row, fill = self._int32s("push", 4, keys.size)
        row_keys = self._int64s("row_keys", keys.size)
        rows_of_rank = np.zeros(self.world_size, np.int64)
        count = kernels.number_rows(
            keys, lookups.bounds, self.num_rows, self._tail, self._entry_end, self._entries.shape[0] - 1,
            inverse, latest, previous, row_keys, use_row, rows_of_rank,
        )  # fmt: skip
        if count < 0:
            raise PlanError(
                f"step {self._next_push}: key {keys[-count - 1]} is outside [0, {self.num_rows}); the reader must check ids"
            )
        self._check_fits(rows_of_rank)
        self._reserve_uses(int(rows_of_rank.sum()))
        taken = kernels.enter_rows(
            self._entry_end, count, self._next_push, self._entries, self._entry_keys, self._uses, self._use_end,
            previous, row_keys, use_row, rows_of_rank, fill,
        )  # fmt: skip
        self._window.append(
            _Pending(self._next_push, self._entry_end, count, self._use_end, rows_of_rank, inverse, lookups)
        )
        self._entry_end += count
        self._use_end += taken
        self._next_push += 1

    def _check_fits(self, rows_of_rank: Int64s) -> None:
        if self.cache_rows is None or rows_of_rank.max(initial=0) <= self.cache_rows:
            return
        rank = int(rows_of_rank.argmax())
        raise ConfigError(
            f"spec.cacheRows: step {self._next_push} alone uses {int(rows_of_rank[rank])} distinct rows on trainer {rank}, "
            f"but its cache holds {self.cache_rows}; raise cacheRows, lower batchSize or add trainers"
        )

    def _first_living(self) -> int:
        return self._window[0].first_entry if self._window else self._entry_end

    def _reserve_entries(self, count: int) -> None:
        """Room for `count` more entries: the ring holds the window, whatever its size turns out to be."""
        low, need = self._first_living(), self._entry_end - self._first_living() + count
        if need <= self._entries.shape[0]:
            return
        size = 1 << (need - 1).bit_length()
        wide, wide_keys = np.zeros((size, 8), np.int32), np.zeros(size, np.int64)
        kernels.grow_entries(self._entries, self._entry_keys, low, self._entry_end, wide, wide_keys, self._tail)
        self._entries, self._entry_keys = wide, wide_keys

    def _reserve_uses(self, count: int) -> None:
        low = self._window[0].first_use if self._window else self._use_end
        # An entry's uses do not wrap, so each turn of the ring may waste up to world_size places.
        need = self._use_end - low + count + 2 * self.world_size
        if need <= self._uses.shape[0]:
            return
        wide = np.zeros((1 << need.bit_length(), 4), np.int32)
        position = 0
        for batch in self._window:
            batch.first_use = position
            position = kernels.move_uses(
                batch.first_entry, batch.num_entries, self._entries, self._uses, wide, position
            )
        self._uses, self._use_end = wide, position

    # ── plan ──────────────────────────────────────────────────────────────────────────────────────

    def plan(self, *, checkpoint: bool = False) -> tuple[GroupPlan, ...]:
        """Decide the oldest batch in view; returns one `GroupPlan` for each trainer.

        Call it with `lookahead` batches behind that one in view, or fewer at the end of the data.
        """
        if not self._window:
            raise PlanError(f"step {self._next_plan}: no batch is in view; push it first")
        batch = self._window[0]
        offsets = np.zeros(self.world_size + 1, np.int64)
        np.cumsum(batch.rows_of_rank, out=offsets[1:])
        fetched = self._fetch(batch, offsets)
        self._note_peak()
        scarce = self._choose_kept(batch)
        left = self._settle(batch, offsets, scarce=scarce)
        self._window.popleft()
        self._next_plan += 1
        flushed = self._resident() if checkpoint else None
        self._count(batch, fetched, left)
        return tuple(self._assemble(batch, r, offsets, fetched, left, flushed) for r in range(self.world_size))

    def _fetch(self, batch: _Pending, offsets: Int64s) -> "_Fetched":
        self._reserve_slots(batch.rows_of_rank)
        total, world = int(offsets[-1]), self.world_size
        out = _Fetched(
            slots=np.empty(total, np.int32),
            record_keys=np.empty(total, np.int64),
            record_slots=np.empty(total, np.int32),
            num_records=np.zeros(world, np.int64),
            value_keys=np.empty(total, np.int64),
            value_slots=np.empty(total, np.int32),
            num_values=np.zeros(world, np.int64),
            after=np.full(world, -1, np.int64),
        )
        kernels.fetch_rows(
            batch.first_entry, batch.num_entries, self._entries, self._entry_keys, self._uses,
            self._free, self._num_free, self._num_fresh, offsets, out.slots, out.record_keys, out.record_slots,
            out.num_records, out.value_keys, out.value_slots, out.num_values, out.after,
        )  # fmt: skip
        return out

    def _reserve_slots(self, more: Int64s) -> None:
        """The free list of a trainer is as long as the slots it ever used."""
        need = int((self._num_fresh + more).max())
        if need > self._free.shape[1]:
            wide = np.zeros((self.world_size, max(need, 2 * self._free.shape[1])), np.int32)
            wide[:, : self._free.shape[1]] = self._free
            self._free = wide

    def _note_peak(self) -> None:
        for rank, rows in enumerate((self._num_fresh - self._num_free).tolist()):
            self.stats.peak_rows[rank] = max(self.stats.peak_rows[rank], rows)
            if self.cache_rows is not None and rows > self.cache_rows:
                raise PlanError(f"step {self._next_plan}: trainer {rank} would hold {rows} rows of {self.cache_rows}")

    def _choose_kept(self, batch: _Pending) -> bool:
        """Mark what stays after this step; True where slots may be too scarce to take before freeing."""
        first, count, step = batch.first_entry, batch.num_entries, batch.step
        if self.cache_rows is None or self._ample(batch):
            kernels.keep_all(first, count, self._entries)
            return False
        candidates = np.zeros((self.world_size, self.lookahead + 2), np.int64)
        kernels.count_next(first, count, step, self._entries, self._uses, candidates)
        room = self._room(batch)
        # Kept across the step d ahead: every candidate whose next use is later than that.
        crossing = candidates[:, ::-1].cumsum(axis=1)[:, ::-1] - candidates
        if (room[:, 1:] >= crossing[:, 1:]).all():
            kernels.keep_all(first, count, self._entries)
            return True
        counts = np.zeros(self.lookahead + 3, np.int64)
        by_distance = np.empty(count, np.int64)
        kernels.sort_by_distance(first, count, step, self._entries, counts, by_distance)
        refused, nearest = kernels.keep_nearest(
            first, count, step, self._entries, self._uses, room, by_distance[: counts[self.lookahead + 1]]
        )
        stats = self.stats
        stats.refused_rows += refused
        stats.shortened_steps += refused > 0
        if refused:
            stats.shortest_view = min(nearest, stats.shortest_view or nearest)
        return True

    def _ample(self, batch: _Pending) -> bool:
        """Cheap and sufficient: even if every row of the step moved to every trainer, all would fit."""
        assert self.cache_rows is not None
        held = int((self._num_fresh - self._num_free).max())
        largest = max(int(b.rows_of_rank.max()) for b in self._window)
        return held + batch.num_entries + largest <= self.cache_rows

    def _room(self, batch: _Pending) -> Int64s:
        """Slots that each step ahead leaves free, by trainer and distance."""
        assert self.cache_rows is not None
        room = np.full((self.world_size, self.lookahead + 2), self.cache_rows, np.int64)
        for ahead in self._window:
            distance = ahead.step - batch.step
            room[:, distance] -= ahead.rows_of_rank + self._held[:, ahead.step % self._held.shape[1]]
        return room

    def _settle(self, batch: _Pending, offsets: Int64s, *, scarce: bool) -> "_Left":
        total, world = int(offsets[-1]), self.world_size
        out = _Left(
            update=np.empty(total, np.int32),
            num_update=np.zeros(world, np.int64),
            evict_keys=np.empty(total, np.int64),
            evict_slots=np.empty(total, np.int32),
            num_evict=np.zeros(world, np.int64),
            world=world,
        )
        self._reserve_slots(np.full(world, batch.num_entries, np.int64))
        gradients = self._rows("gradients", total - batch.num_entries)
        gradient_counts, transfer_counts = np.zeros(world * world, np.int64), np.zeros(4 * world * world, np.int64)
        kept = np.zeros((world, self.lookahead + 2), np.int64)

        def settle(release: bool, move: bool, transfers: Int32s) -> tuple[int, int, int]:
            result: tuple[int, int, int] = kernels.settle_rows(
                release, move, batch.first_entry, batch.num_entries, batch.step, self._entries, self._entry_keys,
                self._uses, self._tail, self._free, self._num_free, self._num_fresh, offsets, out.update,
                out.num_update, out.evict_keys, out.evict_slots, out.num_evict, gradients, gradient_counts,
                transfers, transfer_counts, kept,
            )  # fmt: skip
            return result

        # Every row may move to every trainer: 12 bytes each are reserved, and touched only as needed.
        transfers = self._rows("transfers", batch.num_entries * world)
        if scarce:
            num_gradients, _, _ = settle(True, False, transfers)
            _, num_transfers, _ = settle(False, True, transfers)
        else:
            num_gradients, num_transfers, _ = settle(True, True, transfers)
        out.gradients = _Lists.of(gradients, num_gradients, gradient_counts, 1, world)
        out.transfers = _Lists.of(transfers, num_transfers, transfer_counts, 4, world)
        self._note_held(batch.step, kept)
        return out

    def _note_held(self, step: int, kept: Int64s) -> None:
        """A row kept until distance d occupies its slot, unused, at every step in between."""
        crossing = kept[:, ::-1].cumsum(axis=1)[:, ::-1] - kept
        ring = self._held.shape[1]
        self._held[:, step % ring] = 0
        ahead = np.arange(1, self.lookahead + 1)
        self._held[:, (step + ahead) % ring] += crossing[:, 1:-1]

    def _int32s(self, name: str, columns: int, size: int) -> Int32s:
        """Scratch that lives across steps, so that no page is touched for the first time twice."""
        kept = self._scratch.get(name)
        if kept is None or kept.shape[1] < size:
            kept = self._scratch[name] = np.empty((columns, max(size, 1024) * 5 // 4), np.int32)
        return kept

    def _int64s(self, name: str, size: int) -> Int64s:
        kept = self._scratch64.get(name)
        if kept is None or kept.size < size:
            kept = self._scratch64[name] = np.empty(max(size, 1024) * 5 // 4, np.int64)
        return kept

    def _rows(self, name: str, count: int) -> Int32s:
        kept = self._scratch.get(name)
        if kept is None or kept.shape[0] < count:
            kept = self._scratch[name] = np.empty((max(count, 1024) * 5 // 4, 3), np.int32)
        return kept

    def _resident(self) -> "_Flushed":
        total = self._entry_end - self._first_living()
        keys, slots, ranks = np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.int32)
        count = kernels.resident_rows(
            self._first_living(), self._entry_end, self._entries, self._entry_keys, self._uses, keys, slots, ranks
        )
        return _Flushed(keys[:count], slots[:count], ranks[:count])

    # ── assemble ──────────────────────────────────────────────────────────────────────────────────

    def _assemble(
        self, batch: _Pending, rank: int, offsets: Int64s, fetched: "_Fetched", left: "_Left", flushed: "_Flushed | None"
    ) -> GroupPlan:
        begin, end = int(offsets[rank]), int(offsets[rank + 1])
        lookups = batch.lookups
        records, values = begin + int(fetched.num_records[rank]), begin + int(fetched.num_values[rank])
        evicted = begin + int(left.num_evict[rank])
        mine = flushed.ranks == rank if flushed else None
        return GroupPlan(
            slots_K=fetched.slots[begin:end],
            inverse_N=batch.inverse_N[lookups.bounds[rank] : lookups.bounds[rank + 1]],
            lengths_BT=lookups.lengths[rank],
            fetch_keys=np.concatenate((fetched.record_keys[begin:records], fetched.value_keys[begin:values])),
            fetch_slots=np.concatenate((fetched.record_slots[begin:records], fetched.value_slots[begin:values])),
            num_fetch_records=records - begin,
            fetch_after=int(fetched.after[rank]),
            grad_send=left.gradients.sent(rank, 0),
            grad_recv=left.gradients.received(rank, 0),
            update_K=left.update[begin : begin + int(left.num_update[rank])],
            send=Transfer(*(left.transfers.sent(rank, kind) for kind in range(4))),
            receive=Transfer(*(left.transfers.received(rank, kind) for kind in range(4))),
            evict_keys=left.evict_keys[begin:evicted],
            evict_slots=left.evict_slots[begin:evicted],
            flush_keys=flushed.keys[mine] if flushed else _EMPTY_KEYS,
            flush_slots=flushed.slots[mine] if flushed else _EMPTY_SLOTS,
            keys_K=_EMPTY_KEYS,
        )

    def _count(self, batch: _Pending, fetched: "_Fetched", left: "_Left") -> None:
        stats, kinds = self.stats, left.transfers.counts.reshape(4, -1).sum(axis=1).tolist()
        stats.steps += 1
        stats.lookups += batch.lookups.keys_N.size
        stats.distinct_rows += int(batch.rows_of_rank.sum())
        stats.fetched_rows += int(fetched.num_records.sum() + fetched.num_values.sum())
        stats.evicted_rows += int(left.num_evict.sum())
        stats.gradient_rows += int(left.gradients.counts.sum())
        stats.value_rows += kinds[0] + kinds[2]
        stats.record_rows += kinds[1] + kinds[3]
        stats.eager_rows += kinds[0] + kinds[1]

    def check_invariants(self) -> None:
        """Recompute from scratch what the planner believes: each slot has one row, occupancy adds up.

        Raises:
            PlanError: a slot is used twice, or free and used, or the counts differ.
        """
        for rank in range(self.world_size):
            used: list[int] = []
            for batch in self._window:
                for number in range(batch.first_entry, batch.first_entry + batch.num_entries):
                    entry = self._entries[number & (self._entries.shape[0] - 1)]
                    uses = self._uses[entry[kernels.FIRST_USE] :][: entry[kernels.NUM_USES]]
                    if entry[kernels.OWNER] >= 0:
                        used += [int(u[kernels.SLOT]) for u in uses if u[kernels.RANK] == rank]
            free = self._free[rank, : self._num_free[rank]].tolist()
            fresh = int(self._num_fresh[rank])
            if sorted(used + free) != list(range(fresh)):
                raise PlanError(f"before step {self._next_plan}: trainer {rank} has {fresh} slots, {used=} {free=}")


@dataclass(slots=True)
class _Lists:
    """Rows that travel between trainers, listed for both ends: by (own rank, kind, other rank)."""

    counts: Int64s
    sent_values: Int32s
    sent_offsets: Int32s
    received_values: Int32s
    received_offsets: Int32s
    kinds: int
    world: int

    @classmethod
    def of(cls, rows: Int32s, count: int, counts: Int64s, kinds: int, world: int) -> "_Lists":
        values = np.empty((2, count), np.int32)
        offsets = np.empty((2, kinds * world * world + 1), np.int32)
        kernels.group_lists(rows, count, counts, kinds, world, values[0], offsets[0], values[1], offsets[1])
        return cls(counts, values[0], offsets[0], values[1], offsets[1], kinds, world)

    def sent(self, rank: int, kind: int) -> PeerLists:
        return self._cut(self.sent_offsets, self.sent_values, rank, kind)

    def received(self, rank: int, kind: int) -> PeerLists:
        return self._cut(self.received_offsets, self.received_values, rank, kind)

    def _cut(self, offsets: Int32s, values: Int32s, rank: int, kind: int) -> PeerLists:
        begin = (rank * self.kinds + kind) * self.world
        cut = offsets[begin : begin + self.world + 1]
        return PeerLists(cut - cut[0], values[cut[0] : cut[-1]])


@dataclass(slots=True)
class _Fetched:
    """Flat by rank (`offsets`): the step's slots and what each trainer fetches."""

    slots: Int32s
    record_keys: Keys
    record_slots: Int32s
    num_records: Int64s
    value_keys: Keys
    value_slots: Int32s
    num_values: Int64s
    after: Int64s


@dataclass(slots=True)
class _Left:
    """After the update. Flat by rank: rows updated, rows evicted; and what trainers exchange."""

    update: Int32s
    num_update: Int64s
    evict_keys: Keys
    evict_slots: Int32s
    num_evict: Int64s
    world: int
    gradients: _Lists = field(init=False)
    transfers: _Lists = field(init=False)


@dataclass(slots=True)
class _Flushed:
    keys: Keys
    slots: Int32s
    ranks: Int32s
