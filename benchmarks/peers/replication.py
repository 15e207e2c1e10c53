"""The published policy as a plan: every trainer holds every cached row, and gradients are all-reduced.

What the released code of the paper does, written afresh from its description and computed before training, so that
its oracle costs nothing here. For the batch of step s, all trainers together:

- a row that is not cached is fetched, by every trainer; it stays until its last use within the lookahead;
- rows that step s + 1 uses are *now*: their gradients are summed over all trainers before s + 1 may begin;
- the others are *later*: their sum travels under step s + 1;
- a row that only one example uses and that then leaves is *alone*: only its trainer fetches, updates and returns it.

A row that leaves is written back by one trainer: each takes an equal part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
NEVER = np.int64(1) << 40
RELEASE_AFTER = 3
"""Steps until a slot is given away again: the deferred sum and the write-back come first."""


@dataclass(frozen=True, slots=True)
class Summed:
    """Rows whose gradients are summed together: their slots, and which of this trainer's own rows are among them."""

    slots: Ints
    own: Ints
    """Positions among this trainer's distinct rows..."""
    places: Ints
    """...and where each stands in `slots`."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of one trainer."""

    inverse: npt.NDArray[np.int32]
    own_slots: Ints
    fetch_keys: Ints
    fetch_slots: Ints
    now: Summed
    later: Summed
    alone: Summed
    leave_keys: Ints
    leave_slots: Ints
    num_synced: int


@dataclass(frozen=True, slots=True)
class _Union:
    """Distinct rows of a step over all trainers, ascending."""

    keys: Ints
    once: npt.NDArray[np.bool_]
    owner: Ints
    next_use: Ints


def plan_replication(
    steps: Sequence[Ints], *, rank: int, world: int, lookahead: int, num_rows: int
) -> tuple[list[StepPlan], int]:
    """Plans of one trainer, and how many slots its cache needs.

    Args:
        steps: keys of every step, `[B, T]`, trainer by trainer.
    """
    unions = _unions(steps, world, num_rows)
    slot_of = np.full(num_rows, -1, np.int64)
    free: list[Ints] = []
    leaving: list[Ints] = []
    top, plans = 0, []
    for step, union in enumerate(unions):
        kept = union.next_use < step + lookahead
        alone = union.once & ~kept
        fresh = union.keys[slot_of[union.keys] < 0]
        if len(leaving) >= RELEASE_AFTER:
            free.append(leaving[-RELEASE_AFTER])
        pool = np.concatenate(free) if free else np.empty(0, np.int64)
        more = max(0, fresh.size - pool.size)
        pool = np.concatenate([pool, np.arange(top, top + more)])
        top += more
        slot_of[fresh], free = pool[: fresh.size], [pool[fresh.size :]]
        following = unions[step + 1].keys if step + 1 < len(unions) else np.empty(0, np.int64)
        plans.append(_step(steps[step], union, slot_of, kept, alone, fresh, following, rank, world))
        gone = union.keys[~kept]
        leaving.append(slot_of[gone])
        slot_of[gone] = -1
    return plans, top


def _unions(steps: Sequence[Ints], world: int, num_rows: int) -> list[_Union]:
    next_use = np.full(num_rows, NEVER, np.int64)
    found: list[_Union] = []
    for step in reversed(range(len(steps))):
        keys, first, counts = np.unique(steps[step], return_index=True, return_counts=True)
        owner = first // (steps[step].size // world)
        found.append(_Union(keys, counts == 1, owner, next_use[keys]))
        next_use[keys] = step
    return found[::-1]


def _step(
    keys_BT: Ints,
    union: _Union,
    slot_of: Ints,
    kept: npt.NDArray[np.bool_],
    alone: npt.NDArray[np.bool_],
    fresh: Ints,
    following: Ints,
    rank: int,
    world: int,
) -> StepPlan:
    size = len(keys_BT) // world
    own, inverse = np.unique(keys_BT[rank * size : (rank + 1) * size], return_inverse=True)
    mine = union.owner == rank
    now = ~alone & np.isin(union.keys, following, assume_unique=True)
    others_alone = union.keys[alone & ~mine]
    fetch = np.setdiff1d(fresh, others_alone, assume_unique=True)
    shared_leavers = np.array_split(union.keys[~kept & ~alone], world)[rank]
    leave = np.concatenate([union.keys[alone & mine], shared_leavers])

    def summed(chosen: npt.NDArray[np.bool_]) -> Summed:
        rows = union.keys[chosen]
        at = np.searchsorted(rows, own)
        inside = (at < rows.size) & (rows[np.minimum(at, max(rows.size - 1, 0))] == own) if rows.size else at < 0
        return Summed(slot_of[rows], np.flatnonzero(inside), at[inside])

    return StepPlan(
        inverse=inverse.ravel().astype(np.int32),
        own_slots=slot_of[own],
        fetch_keys=fetch,
        fetch_slots=slot_of[fetch],
        now=summed(now),
        later=summed(~alone & ~now),
        alone=summed(alone & mine),
        leave_keys=leave,
        leave_slots=slot_of[leave],
        num_synced=int((~alone).sum()),
    )
