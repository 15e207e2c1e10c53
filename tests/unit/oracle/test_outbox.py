"""Every trainer gets every plan once, in order and within its credit, whatever breaks in between."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.oracle.service.outbox import Outbox

STEPS, CREDIT = 12, 3


def test_credit_bounds_what_is_under_way() -> None:
    """Plans beyond the credit wait until a step is finished."""
    box = Outbox(1, keep_early=8)
    box.join(0, b"a", credit=2, done=-1, step=0)
    for step in range(4):
        box.add(0, step, [step])
    assert box.take_due() == [(b"a", [0]), (b"a", [1])]
    assert box.take_due() == []
    assert box.finished(0, 0) and not box.finished(0, 0)
    assert box.take_due() == [(b"a", [2])]
    assert box.done(-1) == 0 and box.step_of(0) == 1 and box.holds_plan(0)


def test_what_a_broken_connection_lost_is_sent_again() -> None:
    """A trainer that joins anew gets the plans from the step it asks for, to its new address."""
    box = Outbox(1, keep_early=8)
    box.join(0, b"a", credit=3, done=-1, step=0)
    for step in range(3):
        box.add(0, step, [step])
    box.take_due()
    box.join(0, b"b", credit=3, done=-1, step=1)
    assert box.take_due() == [(b"b", [1]), (b"b", [2])]


def test_a_request_that_comes_twice_sets_nothing_back() -> None:
    """A trainer's first request, heard again much later: what is finished stays finished, and it gets what it lacks."""
    box = Outbox(1, keep_early=8)
    box.join(0, b"a", credit=2, done=-1, step=0)
    for step in range(6):
        box.add(0, step, [step])
        box.finished(0, step - 1)
    box.take_due()
    box.join(0, b"a", credit=2, done=-1, step=0)
    assert box.done(-1) == 4 and box.take_due() == [(b"a", [5])]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), restart=st.integers(0, 40))
def test_no_plan_is_lost_or_repeated_over_a_restart(data: st.DataObject, restart: int) -> None:
    """Two trainers, steps finished in any order, the oracle replaced once: each plan arrives exactly once."""
    box, planned = Outbox(2, keep_early=4 * CREDIT + 16), 0
    received: dict[int, list[int]] = {0: [], 1: []}
    done = {0: -1, 1: -1}
    waiting = {0, 1}
    for turn in range(400):
        if turn == restart:
            box, planned, waiting = Outbox(2, keep_early=4 * CREDIT + 16), 0, {0, 1}
        moves = [("join", r) for r in waiting]
        if planned < STEPS and box.joined and planned - box.done(-1) <= CREDIT + 2:
            moves.append(("plan", 0))
        # A step needs both trainers: neither finishes it before both have its plan.
        moves += [("finish", r) for r in (0, 1) if r not in waiting and min(map(len, received.values())) > done[r] + 1]
        if not moves:
            break
        move, rank = data.draw(st.sampled_from(moves))
        if move == "join":
            waiting.remove(rank)
            box.join(rank, bytes([rank]), credit=CREDIT, done=done[rank], step=len(received[rank]))
        elif move == "plan":
            for r in (0, 1):
                # Nothing is encoded for a trainer that got it from the oracle before this one.
                assert box.wants(r, planned) == (r in waiting or planned >= len(received[r]))
                if box.wants(r, planned):
                    box.add(r, planned, [planned])
            planned += 1
        else:
            done[rank] += 1
            box.finished(rank, done[rank])
        for peer, frames in box.take_due():
            received[peer[0]] += frames
    assert received == {0: list(range(STEPS)), 1: list(range(STEPS))}
    assert done == {0: STEPS - 1, 1: STEPS - 1}
