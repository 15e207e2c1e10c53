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
from collections.abc import Sequence
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
    num_uses: int
    rows_of_rank: Int64s
    inverse_N: Int32s
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
        self._scratch: dict[str, npt.NDArray[np.int32]] = {}

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
            PlanError: a key is outside the group.
        """
        keys = lookups.keys_N
        if keys.size and (int(keys.min()) < 0 or int(keys.max()) >= self.num_rows):
            raise PlanError(f"step {self._next_push}: a key is outside [0, {self.num_rows}); the reader must check ids")
        inverse = np.empty(keys.size, np.int32)
        use_entry = np.empty(keys.size, np.int64)
        rows_of_rank = np.zeros(self.world_size, np.int64)
        self._reserve_entries(keys.size)
        count = kernels.push_batch(
            keys, lookups.bounds, self._next_push, self._tail, self._entries, self._entry_keys,
            self._first_living(), self._entry_end, inverse, use_entry, rows_of_rank,
        )  # fmt: skip
        self._check_fits(rows_of_rank)
        first, self._entry_end = self._entry_end, self._entry_end + count
        batch = _Pending(self._next_push, first, count, self._use_end, 0, rows_of_rank, inverse, lookups)
        self._reserve_uses(int(rows_of_rank.sum()))
        batch.first_use = self._use_end
        batch.num_uses = kernels.place_uses(
            first, count, self._entries, self._uses, self._use_end, use_entry, rows_of_rank
        )
        self._use_end += batch.num_uses
        self._window.append(batch)
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
            batch.num_uses = position - batch.first_use
        self._uses, self._use_end = wide, position

    # ── plan ──────────────────────────────────────────────────────────────────────────────────────

    def plan(self, *, checkpoint: bool = False) -> tuple[GroupPlan, ...]:
        """Decide the oldest batch in view; returns one `GroupPlan` for each trainer.

        Call it with `lookahead` batches behind that one in view, or fewer at the end of the data.
        """
        batch = self._window[0]
        if batch.step != self._next_plan:
            raise PlanError(f"step {self._next_plan}: the oldest batch in view is of step {batch.step}")
        offsets = np.zeros(self.world_size + 1, np.int64)
        np.cumsum(batch.rows_of_rank, out=offsets[1:])
        fetched = self._fetch(batch, offsets)
        self._note_peak()
        self._choose_kept(batch)
        left = self._release(batch, offsets)
        moved = self._move(batch, left.moving)
        self._window.popleft()
        self._next_plan += 1
        flushed = self._resident() if checkpoint else None
        self._count(batch, fetched, left, moved)
        return tuple(self._assemble(batch, r, offsets, fetched, left, moved, flushed) for r in range(self.world_size))

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

    def _choose_kept(self, batch: _Pending) -> None:
        first, count, step = batch.first_entry, batch.num_entries, batch.step
        if self.cache_rows is None or self._ample(batch):
            kernels.keep_all(first, count, self._entries)
            return
        candidates = np.zeros((self.world_size, self.lookahead + 2), np.int64)
        kernels.count_next(first, count, step, self._entries, self._uses, candidates)
        room = self._room(batch)
        # Kept across the step d ahead: every candidate whose next use is later than that.
        crossing = candidates[:, ::-1].cumsum(axis=1)[:, ::-1] - candidates
        if (room[:, 1:] >= crossing[:, 1:]).all():
            kernels.keep_all(first, count, self._entries)
            return
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

    def _release(self, batch: _Pending, offsets: Int64s) -> "_Left":
        total, world = int(offsets[-1]), self.world_size
        out = _Left(
            update=np.empty(total, np.int32),
            num_update=np.zeros(world, np.int64),
            evict_keys=np.empty(total, np.int64),
            evict_slots=np.empty(total, np.int32),
            num_evict=np.zeros(world, np.int64),
            gradients=self._buffer("gradients", total - batch.num_entries, 4),
        )
        out.num_gradients, out.moving = kernels.release_rows(
            batch.first_entry, batch.num_entries, batch.step, self._entries, self._entry_keys, self._uses, self._tail,
            self._free, self._num_free, offsets, out.update, out.num_update, out.evict_keys, out.evict_slots,
            out.num_evict, out.gradients,
        )  # fmt: skip
        return out

    def _move(self, batch: _Pending, bound: int) -> "_Moved":
        self._reserve_slots(np.full(self.world_size, batch.num_entries, np.int64))
        transfers = self._buffer("transfers", bound, 5)
        kept = np.zeros((self.world_size, self.lookahead + 2), np.int64)
        count = kernels.move_rows(
            batch.first_entry, batch.num_entries, batch.step, self._entries, self._entry_keys, self._uses,
            self._free, self._num_free, self._num_fresh, kept, transfers,
        )  # fmt: skip
        crossing = kept[:, ::-1].cumsum(axis=1)[:, ::-1] - kept
        ring = self._held.shape[1]
        self._held[:, batch.step % ring] = 0
        for distance in range(1, self.lookahead + 1):
            self._held[:, (batch.step + distance) % ring] += crossing[:, distance]
        return _Moved(transfers[:count])

    def _buffer(self, name: str, rows: int, columns: int) -> Int32s:
        """Scratch that lives across steps; contents are not kept."""
        kept = self._scratch.get(name)
        if kept is None or kept.shape[0] < rows:
            kept = self._scratch[name] = np.empty((max(rows, 1024) * 5 // 4, columns), np.int32)
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
        self, batch: _Pending, rank: int, offsets: Int64s, fetched: "_Fetched", left: "_Left", moved: "_Moved",
        flushed: "_Flushed | None",
    ) -> GroupPlan:  # fmt: skip
        begin, end = int(offsets[rank]), int(offsets[rank + 1])
        lookups = batch.lookups
        inverse = batch.inverse_N[lookups.bounds[rank] : lookups.bounds[rank + 1]]
        records, values = int(fetched.num_records[rank]), int(fetched.num_values[rank])
        evicted = int(left.num_evict[rank])
        world = self.world_size
        sent, received = left.pairs(world)
        out, into = moved.pairs(world)
        return GroupPlan(
            slots_K=fetched.slots[begin:end],
            inverse_N=inverse.astype(np.uint16) if end - begin <= 1 << 16 else inverse,
            lengths_BT=lookups.lengths[rank],
            fetch_keys=np.concatenate(
                (fetched.record_keys[begin : begin + records], fetched.value_keys[begin : begin + values])
            ),
            fetch_slots=np.concatenate(
                (fetched.record_slots[begin : begin + records], fetched.value_slots[begin : begin + values])
            ),
            num_fetch_records=records,
            fetch_after=int(fetched.after[rank]),
            grad_send=sent.of(rank),
            grad_recv=received.of(rank),
            update_K=left.update[begin : begin + int(left.num_update[rank])],
            send=Transfer(*(pairs.of(rank) for pairs in out)),
            receive=Transfer(*(pairs.of(rank) for pairs in into)),
            evict_keys=left.evict_keys[begin : begin + evicted],
            evict_slots=left.evict_slots[begin : begin + evicted],
            flush_keys=flushed.keys[flushed.ranks == rank] if flushed else _EMPTY_KEYS,
            flush_slots=flushed.slots[flushed.ranks == rank] if flushed else _EMPTY_SLOTS,
        )

    def _count(self, batch: _Pending, fetched: "_Fetched", left: "_Left", moved: "_Moved") -> None:
        stats, kinds = self.stats, np.bincount(moved.transfers[:, 4], minlength=4)
        stats.steps += 1
        stats.lookups += batch.lookups.keys_N.size
        stats.distinct_rows += int(batch.rows_of_rank.sum())
        stats.fetched_rows += int(fetched.num_records.sum() + fetched.num_values.sum())
        stats.evicted_rows += int(left.num_evict.sum())
        stats.gradient_rows += left.num_gradients
        stats.value_rows += int(kinds[0] + kinds[2])
        stats.record_rows += int(kinds[1] + kinds[3])
        stats.eager_rows += int(kinds[0] + kinds[1])

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
class _Pairs:
    """Lists of int32 for each (source, peer), source-major: what `group_pairs` returns."""

    offsets: Int64s
    values: Int32s
    world: int

    def of(self, rank: int) -> PeerLists:
        cut = self.offsets[rank * self.world : (rank + 1) * self.world + 1]
        return PeerLists((cut - cut[0]).astype(np.int32), self.values[cut[0] : cut[-1]])


def _pairs(rows: Int32s, source: int, peer: int, value: int, world: int) -> _Pairs:
    offsets = np.zeros(world * world + 1, np.int64)
    values = np.empty(rows.shape[0], np.int32)
    kernels.group_pairs(rows, rows.shape[0], source, peer, value, world, offsets, values)
    return _Pairs(offsets, values, world)


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
    """Flat by rank: rows updated and rows evicted; and the gradients that go to owners."""

    update: Int32s
    num_update: Int64s
    evict_keys: Keys
    evict_slots: Int32s
    num_evict: Int64s
    gradients: Int32s
    num_gradients: int = 0
    moving: int = 0
    grouped: tuple[_Pairs, _Pairs] | None = None

    def pairs(self, world: int) -> tuple[_Pairs, _Pairs]:
        """(what each source sends to each owner, what each owner receives from each source)."""
        if self.grouped is None:
            rows = self.gradients[: self.num_gradients]
            self.grouped = _pairs(rows, 0, 1, 2, world), _pairs(rows, 1, 0, 3, world)
        return self.grouped


@dataclass(slots=True)
class _Moved:
    """Rows of (source, destination, slot there, slot here, kind)."""

    transfers: Int32s
    grouped: tuple[Sequence[_Pairs], Sequence[_Pairs]] | None = None

    def pairs(self, world: int) -> tuple[Sequence[_Pairs], Sequence[_Pairs]]:
        """(sent, received), each by kind in the order of `Transfer`'s fields."""
        if self.grouped is None:
            kinds = [self.transfers[self.transfers[:, 4] == kind] for kind in range(4)]
            self.grouped = (
                [_pairs(rows, 0, 1, 2, world) for rows in kinds],
                [_pairs(rows, 1, 0, 3, world) for rows in kinds],
            )
        return self.grouped


@dataclass(slots=True)
class _Flushed:
    keys: Keys
    slots: Int32s
    ranks: Int32s
