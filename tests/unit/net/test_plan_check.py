"""A plan that points to what its trainer does not have is refused before anything is read or written by it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bagpipe.errors import WireError
from bagpipe.net.plan_check import check_plan
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists
from bagpipe.testing.mutate_frames import sample_plan

SLOTS, TRAINERS = 3, 2
Change = Callable[[GroupPlan], dict[str, Any]]


def with_last(array: Any, value: int) -> Any:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def with_list(lists: PeerLists, value: int) -> PeerLists:
    return PeerLists(lists.offsets, with_last(lists.values, value))


WRONG: dict[str, tuple[Change, str]] = {
    "a slot too far": (lambda g: {"slots_K": with_last(g.slots_K, SLOTS)}, "a slot from 0 to below 3, found 3"),
    "a slot below it": (lambda g: {"slots_K": with_last(g.slots_K, -1)}, "a slot from 0 to below 3, found -1"),
    "fetched into no slot": (lambda g: {"fetch_slots": with_last(g.fetch_slots, 7)}, "a slot"),
    "evicted from no slot": (lambda g: {"evict_slots": with_last(g.evict_slots, 2**31 - 1)}, "a slot"),
    "flushed from no slot": (lambda g: {"flush_slots": np.array([-(2**31)], np.int32)}, "a slot"),
    "sent from no slot": (
        lambda g: {"send": dataclasses.replace(g.send, deferred_records=with_list(g.send.deferred_records, 3))},
        "a slot",
    ),
    "received into no slot": (
        lambda g: {"receive": dataclasses.replace(g.receive, eager_values=with_list(g.receive.eager_values, -2))},
        "a slot",
    ),
    "a lookup of no row": (lambda g: {"inverse_N": with_last(g.inverse_N, 3)}, "a row from 0 to below 3, found 3"),
    "a gradient of no row": (lambda g: {"grad_send": with_list(g.grad_send, 5)}, "a row"),
    "a gradient for no row": (lambda g: {"grad_recv": with_list(g.grad_recv, -1)}, "a row"),
    "a negative count": (lambda g: {"lengths_BT": with_last(g.lengths_BT, -1)}, "a number of lookups"),
    "more counted than looked up": (lambda g: {"lengths_BT": with_last(g.lengths_BT, 2)}, "add up to 8 lookups"),
}


def refused(plan: BatchPlan, rank: int = 0, trainers: int = TRAINERS, slots: tuple[int, ...] | None = (SLOTS,)) -> str:
    with pytest.raises(WireError) as told:
        check_plan(plan, rank=rank, world_size=trainers, slots=slots)
    return str(told.value)


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG)
def test_what_points_beyond_an_end_is_refused(change: Change, told: str) -> None:
    """Every list of slots and of rows is compared with its bound; step, group, expected and found are told."""
    plan = sample_plan()
    check_plan(plan, rank=0, world_size=TRAINERS, slots=(SLOTS,))
    (group,) = plan.groups
    wrong = dataclasses.replace(plan, groups=(dataclasses.replace(group, **change(group)),))
    found = refused(wrong)
    assert told in found and found.startswith("plan of step 3, group 0: expected")


def test_a_plan_of_another_trainer_or_job_is_refused() -> None:
    """Another rank's plan would be carried out with the wrong slots; lists of other trainers would be cut wrongly."""
    plan = sample_plan()
    assert "expected one for trainer 1, found one for trainer 0" in refused(plan, rank=1)
    assert "expected lists for 3 trainers, found 2" in refused(plan, trainers=3)
    assert "expected 2 width groups, found 1" in refused(plan, slots=(SLOTS, SLOTS))
    # In the evaluation no rows move, and every list is of one trainer.
    check_plan(dataclasses.replace(plan, training=False), rank=0, world_size=3, slots=(SLOTS,))


def test_a_plan_that_only_reads_uses_as_many_places_as_it_has_rows() -> None:
    """A batch of the validation part has no cache to go by."""
    plan = sample_plan()
    check_plan(plan, rank=0, world_size=TRAINERS, slots=None)
    (group,) = plan.groups
    more = dataclasses.replace(group, fetch_slots=with_last(group.fetch_slots, 3))
    assert "a slot" in refused(dataclasses.replace(plan, groups=(more,)), slots=None)
