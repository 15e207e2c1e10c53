"""Checks plans with a slow, obvious model of trainers and tables that executes them row by row.

`run_plans` executes a whole stream in lock step and compares it with the plain uncached execution;
the parts (`Trainer`, `Uncached`) serve tests that schedule them in other orders.

A row is (key, value, state). Arithmetic is modulo a prime and depends on the order of ranks, so a
stale value, a lost update or a sum in another order changes every later number.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bagpipe.oracle.plan.planner import GroupPlanner, Lookups
from bagpipe.oracle.plan.reference_planner import ReferencePlanner
from bagpipe.plan import GroupPlan, PeerLists

PRIME = 1_000_003
KINDS = ("eager_values", "eager_records", "deferred_values", "deferred_records")


class Planner(Protocol):
    """What the compiled planner and the reference planner have in common."""

    def push(self, lookups: Lookups) -> None: ...

    def plan(self, *, checkpoint: bool = False) -> tuple[GroupPlan, ...]: ...


@dataclass
class Row:
    key: int
    value: int
    state: int | None
    """None where only the value travelled: such a copy may not be updated or written back."""


@dataclass
class Stream:
    """Lookups of every step and trainer, and the planner's settings for them."""

    num_rows: int
    world_size: int
    lookahead: int
    steps: list[list[list[int]]]
    cache_rows: int | None = None

    @property
    def largest_share(self) -> int:
        """Most distinct rows of one trainer in one step: the smallest cache that can work."""
        return max((len(set(share)) for step in self.steps for share in step), default=0)

    def lookups(self, step: int) -> Lookups:
        shares = self.steps[step]
        bounds = np.concatenate(([0], np.cumsum([len(s) for s in shares]))).astype(np.int64)
        return Lookups(
            np.array([key for share in shares for key in share], np.int64), bounds, (None,) * self.world_size
        )

    def planner(self) -> GroupPlanner:
        return GroupPlanner(
            num_rows=self.num_rows,
            world_size=self.world_size,
            lookahead=self.lookahead,
            cache_rows=self.cache_rows,
        )

    def reference_planner(self) -> ReferencePlanner:
        return ReferencePlanner(world_size=self.world_size, cache_rows=self.cache_rows)

    def plans(self, planner: Planner, checkpoints: frozenset[int] = frozenset()) -> Iterator[tuple[GroupPlan, ...]]:
        pushed = 0
        for step in range(len(self.steps)):
            while pushed < len(self.steps) and pushed <= step + self.lookahead:
                planner.push(self.lookups(pushed))
                pushed += 1
            yield planner.plan(checkpoint=step in checkpoints)


def make_stream(
    seed: int,
    *,
    world_size: int,
    lookahead: int,
    num_steps: int,
    num_rows: int,
    share: int,
    skew: float,
    spare: int | None,
) -> Stream:
    """Random shares of 0 to `share` lookups; `spare` rows more than the largest share fit (None: any number)."""
    rng = np.random.default_rng(seed)

    def one() -> list[int]:
        size = int(rng.integers(0, share + 1))
        return [int(k) for k in (rng.zipf(skew, size) if skew else rng.integers(0, num_rows, size)) % num_rows]

    stream = Stream(num_rows, world_size, lookahead, [[one() for _ in range(world_size)] for _ in range(num_steps)])
    if spare is not None:
        stream.cache_rows = stream.largest_share + spare
    return stream


def gradients_of(step: int, rank: int, share: list[int]) -> dict[int, int]:
    """The gradient of each row of a trainer's share; every lookup counts."""
    out: dict[int, int] = {}
    for key in share:
        out[key] = (out.get(key, 0) * 31 + key * step + rank + 1) % PRIME
    return out


def updated(value: int, state: int, gradients: dict[int, int]) -> tuple[int, int]:
    """The optimizer: folds the gradients in rank order."""
    total = 0
    for rank in sorted(gradients):
        total = (total * 17 + gradients[rank]) % PRIME
    return (value * 3 + total + state) % PRIME, (state * 5 + total) % PRIME


@dataclass
class Uncached:
    """The plain execution: every row is read from the tables, updated and written at every step."""

    tables: dict[int, tuple[int, int]]

    @classmethod
    def born(cls, num_rows: int) -> "Uncached":
        return cls({key: (key + 1, key + 7) for key in range(num_rows)})

    def step(self, number: int, shares: list[list[int]]) -> None:
        by_rank = [gradients_of(number, rank, share) for rank, share in enumerate(shares)]
        for key in {k for share in shares for k in share}:
            mine = {rank: g[key] for rank, g in enumerate(by_rank) if key in g}
            self.tables[key] = updated(*self.tables[key], mine)


@dataclass
class Trainer:
    """One trainer's slots, and the parts of a step (module docstring of `bagpipe.plan`)."""

    rank: int
    slots: dict[int, Row] = field(default_factory=dict)
    gradients: dict[int, int] = field(default_factory=dict)

    def load(self, plan: GroupPlan, rows: list[Row]) -> None:
        for slot, row in zip(plan.fetch_slots.tolist(), rows, strict=True):
            self.slots[slot] = row

    def compute(self, number: int, plan: GroupPlan, share: list[int], expected: dict[int, tuple[int, int]]) -> None:
        """Read every row looked up, which must be what the plain execution has, and take gradients."""
        local_keys: dict[int, int] = {}
        for local, key in zip(plan.inverse_N.tolist(), share, strict=True):
            row = self.slots[int(plan.slots_K[local])]
            assert row.key == key, f"step {number}: trainer {self.rank} reads row {row.key} for {key}"
            assert row.value == expected[key][0], f"step {number}: trainer {self.rank} reads a stale row {key}"
            local_keys[local] = key
        assert sorted(local_keys) == list(range(plan.slots_K.size))
        by_key = gradients_of(number, self.rank, share)
        self.gradients = {local: by_key[key] for local, key in local_keys.items()}

    def gradients_for(self, plan: GroupPlan, owner: int) -> list[int]:
        return [self.gradients[local] for local in plan.grad_send[owner].tolist()]

    def update(self, plan: GroupPlan, arrived: dict[int, list[int]]) -> None:
        """`arrived[rank]` are the gradients that rank sent here."""
        parts = {local: {self.rank: self.gradients[local]} for local in plan.owned().tolist()}
        for rank, values in arrived.items():
            for local, value in zip(plan.grad_recv[rank].tolist(), values, strict=True):
                parts[local][rank] = value
        for local, gradients in parts.items():
            row = self.slots[int(plan.slots_K[local])]
            assert row.state is not None, f"trainer {self.rank} updates row {row.key} without optimizer state"
            row.value, row.state = updated(row.value, row.state, gradients)

    def copies(self, keys: list[int] | None, slots: list[int]) -> list[Row]:
        rows = [self.slots[slot] for slot in slots]
        if keys is not None:
            assert [row.key for row in rows] == keys
            assert all(row.state is not None for row in rows)
        return [Row(row.key, row.value, row.state) for row in rows]

    def receive(self, kind: str, slots: list[int], rows: list[Row]) -> None:
        for slot, row in zip(slots, rows, strict=True):
            assert row.state is not None or "values" in kind
            self.slots[slot] = Row(row.key, row.value, row.state if "records" in kind else None)


def lists_of(plan: GroupPlan, side: str, kind: str) -> PeerLists:
    lists: PeerLists = getattr(getattr(plan, side), kind)
    return lists


def run_plans(stream: Stream, checkpoints: frozenset[int] = frozenset()) -> GroupPlanner:
    """Execute a stream in lock step, checking every read, fetch, checkpoint and the final tables."""
    planner = stream.planner()
    reference, tables = Uncached.born(stream.num_rows), Uncached.born(stream.num_rows).tables
    trainers = [Trainer(rank) for rank in range(stream.world_size)]
    written: dict[int, int] = {}
    for number, plans in enumerate(stream.plans(planner, checkpoints)):
        planner.check_invariants()
        shares = stream.steps[number]
        for trainer, plan, share in zip(trainers, plans, shares, strict=True):
            _check_fetch(number, plan, written)
            trainer.load(plan, _fetched(plan, tables))
            trainer.compute(number, plan, share, reference.tables)
        reference.step(number, shares)
        for trainer, plan in zip(trainers, plans, strict=True):
            trainer.update(plan, {q: trainers[q].gradients_for(plans[q], trainer.rank) for q in range(len(plans))})
        moving = _leave(plans, trainers)
        for trainer, plan in zip(trainers, plans, strict=True):
            keys = plan.evict_keys.tolist()
            for row in trainer.copies(keys, plan.evict_slots.tolist()):
                assert row.state is not None
                tables[row.key], written[row.key] = (row.value, row.state), number
        for (source, destination, kind), rows in moving.items():
            trainers[destination].receive(kind, lists_of(plans[destination], "receive", kind)[source].tolist(), rows)
        assert number in checkpoints or not any(plan.flush_keys.size for plan in plans)
        if number in checkpoints:
            assert _snapshot(tables, plans, trainers) == reference.tables, (
                f"the checkpoint after step {number} is not whole"
            )
    assert tables == reference.tables, "something dirty was never written back"
    return planner


def _check_fetch(number: int, plan: GroupPlan, written: dict[int, int]) -> None:
    """`fetch_after` is the latest write-back among the fetched rows, and never that of the step before."""
    assert plan.fetch_after == max((written.get(key, -1) for key in plan.fetch_keys.tolist()), default=-1)
    assert plan.fetch_after <= max(number - 1, -1)


def _fetched(plan: GroupPlan, tables: dict[int, tuple[int, int]]) -> list[Row]:
    rows = []
    for at, key in enumerate(plan.fetch_keys.tolist()):
        value, state = tables[key]
        rows.append(Row(key, value, state if at < plan.num_fetch_records else None))
    return rows


def _leave(plans: tuple[GroupPlan, ...], trainers: list[Trainer]) -> dict[tuple[int, int, str], list[Row]]:
    return {
        (source, destination, kind): trainers[source].copies(None, lists_of(plan, "send", kind)[destination].tolist())
        for source, plan in enumerate(plans)
        for destination in range(len(plans))
        for kind in KINDS
    }


def _snapshot(
    tables: dict[int, tuple[int, int]], plans: tuple[GroupPlan, ...], trainers: list[Trainer]
) -> dict[int, tuple[int, int]]:
    out = dict(tables)
    for trainer, plan in zip(trainers, plans, strict=True):
        for row in trainer.copies(plan.flush_keys.tolist(), plan.flush_slots.tolist()):
            assert row.state is not None
            out[row.key] = (row.value, row.state)
    return out
