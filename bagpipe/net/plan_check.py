"""Checks that a plan is for the trainer that got it: its rank, its trainers, and no slot or row that it does not have.

Compiled loops read and write where the plan points, without asking where a slab ends. So every list of slots and of
local indices is compared with its bound once, when the plan arrives: one pass over each, some 50 microseconds a step.
Which row belongs into which slot is the oracle's to decide, and is not decided again here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.errors import WireError
from bagpipe.plan import BatchPlan, GroupPlan, Transfer

Integers = npt.NDArray[Any]


def check_plan(plan: BatchPlan, *, rank: int, world_size: int, slots: Sequence[int] | None) -> None:
    """Refuse a plan that `rank` cannot carry out.

    Args:
        slots: of each width group in the trainer's cache; None: the plan only reads, and uses none.

    Raises:
        WireError: names what is wrong with it.
    """
    where = f"plan of step {plan.step}"
    if plan.rank != rank:
        raise WireError(f"{where}: expected one for trainer {rank}, found one for trainer {plan.rank}")
    if slots is not None and len(plan.groups) != len(slots):
        raise WireError(f"{where}: expected {len(slots)} width groups, found {len(plan.groups)}")
    for number, group in enumerate(plan.groups):
        count = group.slots_K.size if slots is None else slots[number]
        # A plan of the evaluation has every list of its trainer alone: no rows move.
        trainers = world_size if plan.training else None
        _check_group(group, count, trainers, f"{where}, group {number}")


def _check_group(group: GroupPlan, count: int, trainers: int | None, where: str) -> None:
    found_lists = group.grad_send.offsets.size - 1  # The codec has seen to it that all lists are alike.
    if trainers is not None and found_lists != trainers:
        raise WireError(f"{where}: expected lists for {trainers} trainers, found {found_lists}")
    rows, lookups = group.slots_K.size, group.inverse_N.size
    for part in (group.inverse_N, group.grad_send.values, group.grad_recv.values):
        _check_below(part, rows, "a row", where)
    slots = (group.slots_K, group.fetch_slots, group.evict_slots, group.flush_slots)
    for part in (*slots, *_moved(group.send), *_moved(group.receive)):
        _check_below(part, count, "a slot", where)
    if group.lengths_BT is not None:
        _check_below(group.lengths_BT, lookups + 1, "a number of lookups", where)
        if (found := int(group.lengths_BT.sum(dtype=np.int64))) != lookups:
            raise WireError(f"{where}: expected counts that add up to {lookups} lookups, found {found}")


def _moved(transfer: Transfer) -> tuple[Integers, ...]:
    """The slots of rows that move between trainers."""
    lists = (transfer.eager_values, transfer.eager_records, transfer.deferred_values, transfer.deferred_records)
    return tuple(one.values for one in lists)


def _check_below(numbers: Integers, limit: int, what: str, where: str) -> None:
    """Every number is from 0 to below the limit: a negative one is a huge one without its sign."""
    unsigned = numbers if numbers.dtype == np.uint16 else numbers.view(np.uint32)
    if numbers.size and int(unsigned.max()) >= limit:
        found = numbers.flat[int(unsigned.argmax())]
        raise WireError(f"{where}: expected {what} from 0 to below {limit}, found {found}")
