"""The planner of one width group, compiled: lookups in, decisions out (section 3 of the paper).

`reference_planner.py` makes the same decisions in plain Python; read it first.

The planner sees `lookahead` batches beyond the step it plans. For that step it decides, for every
row of the group and every trainer at once,

* **residency**: a row is fetched when no cache holds it, kept while it is used again within the view,
  and written back after its last use. Rows whose next use is nearest are kept first (Belady), and only
  as long as every future step still fits into `cache_rows` of every trainer: under pressure the view
  shortens by itself, it never overflows and never deadlocks (contract X6). A row once kept stays until
  its next use, so that each later step is settled once; dropping it for a nearer one after all, as
  Belady's optimum does, would save up to 30 % of the fetches of a cache that is far too small;
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

from bagpipe.errors import ConfigError, PlanError
from bagpipe.oracle.plan import finish_kernels, plan_kernels
from bagpipe.oracle.plan.finish_kernels import AfterUpdate
from bagpipe.oracle.plan.plan_kernels import CacheSlots, Fetched, Step
from bagpipe.oracle.plan.planned_step import Flushed, MessageLists, PlannedStep, empty_after_update, empty_fetched
from bagpipe.oracle.plan.window import Lookups, Pending, Window
from bagpipe.plan import GroupPlan

__all__ = ["GroupPlanner", "Lookups", "PlannerStats"]

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt8s = npt.NDArray[np.uint8]

_KEEP_ALL: UInt8s = np.zeros(0, np.uint8)


@dataclass(slots=True)
class PlannerStats:
    """What the planner did so far; rows are summed over trainers unless said otherwise."""

    steps: int = 0
    lookups: int = 0
    distinct_rows: int = 0
    fetched_rows: int = 0
    fetched_records: int = 0
    """Of the fetched rows: those with optimizer state."""
    updated_rows: int = 0
    """Distinct rows of each step, whatever the number of their trainers."""
    evicted_rows: int = 0
    gradient_rows: int = 0
    value_rows: int = 0
    record_rows: int = 0
    eager_rows: int = 0
    """Of value and record rows: those the next step needs."""
    eager_records: int = 0
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
        self._window = Window(num_rows, world_size)
        self._slots = CacheSlots(
            free=np.zeros(world_size * 1024, np.int32),
            width=1024,
            num_free=np.zeros(world_size, np.int64),
            num_used=np.zeros(world_size, np.int64),
        )
        # Slots not free for newcomers, by step modulo the view and trainer: rows used in the step, and
        # rows held across it without being used.
        self._taken: Int64s = np.zeros((lookahead + 2, world_size), np.int64)
        self._largest = _SlidingMaximum()
        self._gradients: Int32s = np.empty(0, np.int32)
        self._values: Int32s = np.empty(0, np.int32)

    def __repr__(self) -> str:
        held = self._held().tolist()
        return f"GroupPlanner(next_plan={self._next_plan}, next_push={self._next_push}, rows_held={held})"

    @property
    def pending(self) -> int:
        """Batches pushed and not yet planned."""
        return len(self._window.batches)

    @property
    def window_bytes(self) -> int:
        """Memory of the batches in view; the tables cost 4 bytes a row beside it."""
        return self._window.nbytes

    def push(self, lookups: Lookups) -> None:
        """Bring the next batch into view, or raise and change nothing.

        Raises:
            ConfigError: a single step does not fit into `cache_rows`.
            PlanError: a key is outside the group, or the view is full (call `plan` first).
        """
        step = self._next_push
        if self.pending > self.lookahead:
            raise PlanError(f"step {step}: {self.pending} batches wait already; plan the oldest first")
        rows_of_rank = self._window.push(lookups, step, self._check_fits)
        self._taken[step % self._taken.shape[0]] += rows_of_rank
        self._largest.push(step, int(rows_of_rank.max()))
        self._next_push += 1

    def _check_fits(self, rows_of_rank: Int64s) -> None:
        if self.cache_rows is None or rows_of_rank.max(initial=0) <= self.cache_rows:
            return
        rank = int(rows_of_rank.argmax())
        raise ConfigError(
            f"spec.cacheRows: step {self._next_push} alone uses {int(rows_of_rank[rank])} distinct rows on trainer "
            f"{rank}, but its cache holds {self.cache_rows}; raise cacheRows, lower batchSize or add trainers"
        )

    def plan(self, *, checkpoint: bool = False) -> tuple[GroupPlan, ...]:
        """Decide the oldest batch in view; returns one `GroupPlan` for each trainer.

        Call it with `lookahead` batches behind that one in view, or fewer at the end of the data.

        Args:
            checkpoint: list what stays in caches as well (`GroupPlan.flush_keys`).

        Raises:
            PlanError: no batch is in view.
        """
        if not self._window.batches:
            raise PlanError(f"step {self._next_plan}: no batch is in view; push it first")
        batch = self._window.batches[0]
        starts = np.zeros(self.world_size + 1, np.int64)
        np.cumsum(batch.rows_of_rank, out=starts[1:])
        step = Step(batch.step, batch.first_entry, batch.num_entries, starts)
        fetched = self._fetch(step, batch)
        self._note_peak()
        self._taken[batch.step % self._taken.shape[0]] = 0
        keep = self._choose_kept(step)
        after, gradients, values = self._finish(step, keep)
        self._note_kept(step, after.kept_for.reshape(self.world_size, -1))
        self._window.pop()
        self._next_plan += 1
        flushed = Flushed(*self._window.resident()) if checkpoint else None
        planned = PlannedStep(batch, step, fetched, after, gradients, values, flushed)
        self._count(planned)
        return planned.plans()

    def _fetch(self, step: Step, batch: Pending) -> Fetched:
        self._reserve_slots(batch.rows_of_rank)
        fetched = empty_fetched(int(step.starts[-1]), self.world_size)
        plan_kernels.fetch_rows(step, self._window.rings, self._slots, fetched)
        return fetched

    def _reserve_slots(self, more: Int64s) -> None:
        """Enlarge the lists of free slots, so that each has room for all slots that its trainer may have used."""
        slots = self._slots
        need = int((slots.num_used + more).max())
        if need >= slots.width:
            width = max(need + 1, 2 * slots.width)
            free = np.zeros((self.world_size, width), np.int32)
            free[:, : slots.width] = slots.free.reshape(self.world_size, -1)
            self._slots = slots._replace(free=free.reshape(-1), width=width)

    def _held(self) -> Int64s:
        """Rows that each trainer holds now."""
        held: Int64s = self._slots.num_used - self._slots.num_free
        return held

    def _note_peak(self) -> None:
        for rank, rows in enumerate(self._held().tolist()):
            self.stats.peak_rows[rank] = max(self.stats.peak_rows[rank], rows)
            if self.cache_rows is not None and rows > self.cache_rows:
                raise PlanError(f"step {self._next_plan}: trainer {rank} would hold {rows} rows of {self.cache_rows}")

    def _choose_kept(self, step: Step) -> UInt8s:
        """What stays after this step; empty: all that is used again."""
        rings, stats = self._window.rings, self.stats
        if self._all_rows_fit(step):
            return _KEEP_ALL
        candidates = np.zeros((self.world_size, self.lookahead + 2), np.int64)
        plan_kernels.count_next(step, rings, candidates)
        room = self._room(step)
        if (room[:, 1:] >= _passing(candidates)[:, 1:]).all():
            return _KEEP_ALL
        counts = np.zeros(self.lookahead + 3, np.int64)
        by_distance, keep = np.empty(step.count, np.int64), np.zeros(step.count, np.uint8)
        plan_kernels.sort_by_distance(step, rings, counts, by_distance)
        by_distance = by_distance[: counts[self.lookahead + 1]]
        kept, least = np.zeros(self.world_size, np.int64), np.full(self.world_size, 1 << 60, np.int64)
        refused, nearest = plan_kernels.keep_nearest(step, rings, room, by_distance, keep, kept, least)
        if refused:
            stats.refused_rows += refused
            stats.shortened_steps += 1
            stats.shortest_view = min(nearest, stats.shortest_view or nearest)
        return keep

    def _all_rows_fit(self, step: Step) -> bool:
        """Cheap and sufficient: even if every row of the step moved to every trainer, every step in view would fit."""
        return self.cache_rows is None or (
            self._held().max() + step.count + self._largest.since(step.number) <= self.cache_rows
        )

    def _slots_abound(self, step: Step) -> bool:
        """Whether no cache can overflow even if all rows of the step moved to one trainer before any of them left."""
        return self.cache_rows is None or bool(self._held().max() + step.count <= self.cache_rows)

    def _room(self, step: Step) -> Int64s:
        """Slots that each step ahead leaves free, by trainer and distance."""
        assert self.cache_rows is not None
        ahead = (step.number + np.arange(self.lookahead + 2)) % self._taken.shape[0]
        return np.ascontiguousarray((self.cache_rows - self._taken[ahead]).T)

    def _finish(self, step: Step, keep: UInt8s) -> tuple[AfterUpdate, MessageLists, MessageLists]:
        total, world = int(step.starts[-1]), self.world_size
        self._reserve_slots(np.full(world, step.count, np.int64))
        self._reserve_messages(total - step.count, step.count * world)
        after = empty_after_update(total, world, self.lookahead + 2, self._gradients, self._values)
        num_gradients, num_values = finish_kernels.finish_rows(
            step, self._window.rings, self._slots, keep, after, self._slots_abound(step)
        )
        gradients = MessageLists.of(after.gradients, num_gradients, 1, world)
        return after, gradients, MessageLists.of(after.values, num_values, finish_kernels.NUM_KINDS, world)

    def _reserve_messages(self, gradients: int, values: int) -> None:
        """Every row may move to every trainer: 12 bytes each are reserved, and touched only as needed."""
        if self._gradients.size < 3 * (gradients + 1):
            self._gradients = np.empty(4 * (gradients + 1), np.int32)
        if self._values.size < 3 * (values + 1):
            self._values = np.empty(4 * (values + 1), np.int32)

    def _note_kept(self, step: Step, kept_for: Int64s) -> None:
        """A row kept until distance d occupies its slot, unused, at every step in between."""
        ahead = (step.number + np.arange(1, self.lookahead + 1)) % self._taken.shape[0]
        self._taken[ahead] += _passing(kept_for)[:, 1:-1].T

    def _count(self, planned: PlannedStep) -> None:
        stats, fetched = self.stats, planned.fetched
        kinds = planned.values.counts.reshape(finish_kernels.NUM_KINDS, -1).sum(axis=1).tolist()
        stats.steps += 1
        stats.lookups += planned.batch.inverse_N.size
        stats.distinct_rows += int(planned.step.starts[-1])
        stats.fetched_rows += int(fetched.num_records.sum() + fetched.num_values.sum())
        stats.fetched_records += int(fetched.num_records.sum())
        stats.updated_rows += planned.step.count
        stats.evicted_rows += int(planned.after.num_evicted.sum())
        stats.gradient_rows += int(planned.gradients.counts.sum())
        stats.value_rows += (
            kinds[finish_kernels.EAGER + finish_kernels.VALUE] + kinds[finish_kernels.DEFERRED + finish_kernels.VALUE]
        )
        stats.record_rows += (
            kinds[finish_kernels.EAGER + finish_kernels.RECORD] + kinds[finish_kernels.DEFERRED + finish_kernels.RECORD]
        )
        stats.eager_rows += (
            kinds[finish_kernels.EAGER + finish_kernels.VALUE] + kinds[finish_kernels.EAGER + finish_kernels.RECORD]
        )
        stats.eager_records += kinds[finish_kernels.EAGER + finish_kernels.RECORD]

    def check_invariants(self) -> None:
        """Recompute from scratch what the planner believes: each slot has one row, occupancy adds up.

        Raises:
            PlanError: a slot is used twice, or free and used, or the counts differ.
        """
        used, slots = self._window.slots_in_use(), self._slots
        for rank in range(self.world_size):
            free = slots.free[rank * slots.width :][: slots.num_free[rank]].tolist()
            num_used = int(slots.num_used[rank])
            if sorted(used[rank] + free) != list(range(num_used)):
                raise PlanError(
                    f"step {self._next_plan}: trainer {rank} has {num_used} slots, {used[rank]} used, {free} free"
                )


def _passing(kept_for: Int64s) -> Int64s:
    """`[trainer, d]`: of the rows kept for some later step, those that pass the step d ahead on their way there."""
    passing: Int64s = kept_for[:, ::-1].cumsum(axis=1)[:, ::-1] - kept_for
    return passing


class _SlidingMaximum:
    """The largest value of the steps in view, in constant time: only values that can still win are kept."""

    def __init__(self) -> None:
        self._values: deque[tuple[int, int]] = deque()

    def push(self, step: int, value: int) -> None:
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((step, value))

    def since(self, step: int) -> int:
        while self._values[0][0] < step:
            self._values.popleft()
        return self._values[0][1]
