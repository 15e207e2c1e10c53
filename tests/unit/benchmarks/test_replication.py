"""Does the published policy, as planned for the benchmark, train as if there were no cache?

A small simulation executes the plans of all trainers step by step with a scalar for each row, an update that depends
on the row's value, and the deferral that the policy has; the reference keeps whole tables.
"""

import numpy as np
import pytest
from peers.replication import StepPlan, Summed, plan_replication

ROWS, FEATURES, BATCH = 60, 3, 4


def _stream(steps: int, world: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [(ROWS * draw.random((BATCH * world, FEATURES)) ** 3).astype(np.int64) for _ in range(steps)]


def _gradients(plan: StepPlan, values: np.ndarray) -> np.ndarray:
    """Of each distinct row: its value times its lookups, so that a stale value shows."""
    return values * np.bincount(plan.inverse, minlength=values.size) * 0.01


class Trainers:
    """All trainers' caches and the table behind them."""

    def __init__(self, plans: list[list[StepPlan]], slots: int) -> None:
        self.plans = plans
        self.table = np.arange(1.0, ROWS + 1)
        self.caches = [np.full(slots, np.nan) for _ in plans]
        self.deferred: tuple[int, np.ndarray] | None = None

    def sum_over(self, gradients: list[np.ndarray], parts: list[Summed]) -> np.ndarray:
        total = np.zeros(parts[0].slots.size)
        for gradient, part in zip(gradients, parts, strict=True):
            np.add.at(total, part.places, gradient[part.own])
        return total

    def step(self, number: int) -> None:
        now = [plans[number] for plans in self.plans]
        for cache, plan in zip(self.caches, now, strict=True):
            cache[plan.fetch_slots] = self.table[plan.fetch_keys]
        gradients = [_gradients(p, c[p.own_slots]) for c, p in zip(self.caches, now, strict=True)]
        assert not any(np.isnan(g).any() for g in gradients), "a row was used that nobody fetched"
        self.settle()
        urgent = self.sum_over(gradients, [p.now for p in now])
        for cache, plan, gradient in zip(self.caches, now, gradients, strict=True):
            cache[plan.now.slots] -= urgent
            alone = np.zeros(plan.alone.slots.size)
            alone[plan.alone.places] = gradient[plan.alone.own]
            cache[plan.alone.slots] -= alone
        self.deferred = number, self.sum_over(gradients, [p.later for p in now])

    def settle(self) -> None:
        if self.deferred is None:
            return
        number, total = self.deferred
        for cache, plans in zip(self.caches, self.plans, strict=True):
            plan = plans[number]
            cache[plan.later.slots] -= total
            self.table[plan.leave_keys] = cache[plan.leave_slots]
        self.deferred = None


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("lookahead", [5, 12, 100])
def test_replication_computes_what_whole_tables_compute(world: int, lookahead: int) -> None:
    """The tables after 60 steps are the reference's, for any number of trainers and any lookahead."""
    stream = _stream(60, world, seed=lookahead)
    planned = [
        plan_replication(stream, rank=rank, world=world, lookahead=lookahead, num_rows=ROWS) for rank in range(world)
    ]
    trainers = Trainers([plans for plans, _ in planned], planned[0][1])
    reference = np.arange(1.0, ROWS + 1)
    for number, keys in enumerate(stream):
        trainers.step(number)
        reference -= reference * np.bincount(keys.ravel(), minlength=ROWS) * 0.01
    trainers.settle()
    np.testing.assert_allclose(trainers.table, reference, rtol=1e-9)


def test_more_lookahead_fetches_less_and_syncs_what_is_used_again() -> None:
    """A row that stays cached is not fetched again, but its gradients are exchanged."""
    stream = _stream(80, 2, seed=3)
    fetched, synced = {}, {}
    for lookahead in (5, 30):
        plans, _ = plan_replication(stream, rank=0, world=2, lookahead=lookahead, num_rows=ROWS)
        fetched[lookahead] = sum(p.fetch_keys.size for p in plans)
        synced[lookahead] = sum(p.num_synced for p in plans)
    assert fetched[30] < fetched[5]
    assert synced[30] >= synced[5]
