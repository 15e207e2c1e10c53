"""A shard's order: no fetch before what it depends on, no snapshot that holds too much or too little."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.embedding.gate import Gate
from bagpipe.embedding.watermark import Watermarks


class World:
    """Records what a gate let through."""

    def __init__(self, trainers: int) -> None:
        self.applied: list[tuple[int, int]] = []
        self.snapshots: dict[int, set[tuple[int, int]]] = {}
        self.answered: list[int] = []
        marks = Watermarks(np.zeros(trainers + 1, np.int64))
        marks.reset(0)
        self.gate: Gate[tuple[int, int], int] = Gate(marks, self.applied.append, self.snap, self.answered.append)

    def snap(self, step: int) -> None:
        self.snapshots[step] = set(self.applied)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 4), steps=st.integers(1, 8), every=st.integers(1, 4))
def test_any_order_of_arrival(data: st.DataObject, trainers: int, steps: int, every: int) -> None:
    """Whatever the order between trainers, and with write-backs sent twice, snapshots are exact and nothing is lost."""
    world = World(trainers)
    waiting = dict.fromkeys(range(trainers), 0)
    while any(step < steps for step in waiting.values()):
        rank = data.draw(st.sampled_from([r for r, step in waiting.items() if step < steps]))
        step = waiting[rank]
        for attempt in range(data.draw(st.integers(1, 2))):
            arrival = world.gate.write_back(rank, step, checkpoint=(step + 1) % every == 0, what=(rank, step))
            assert arrival == ("old" if attempt else "new")
        waiting[rank] += 1
    everything = {(rank, step) for rank in range(trainers) for step in range(steps)}
    assert set(world.applied) == everything and len(world.applied) == len(everything)
    assert set(world.snapshots) == {s for s in range(steps) if (s + 1) % every == 0}
    for step, held in world.snapshots.items():
        assert held == {(r, s) for r, s in everything if s <= step}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_fetches_wait_for_every_watermark(data: st.DataObject, trainers: int) -> None:
    """A fetch is answered exactly when all trainers have written the step it depends on."""
    world = World(trainers)
    for number in range(6):
        world.gate.fetch(number - 1, number)
    done = [0] * trainers
    for _ in range(6 * trainers):
        rank = data.draw(st.sampled_from([r for r in range(trainers) if done[r] < 6]))
        world.gate.write_back(rank, done[rank], checkpoint=False, what=(rank, done[rank]))
        done[rank] += 1
        assert sorted(world.answered) == [n for n in range(6) if n - 1 < min(done)]


def test_a_restarted_server_still_holds_back() -> None:
    """A process that ends between two trainers' flagged write-backs leaves word of the snapshot that is due."""
    memory = np.zeros(3, np.int64)
    Watermarks(memory).reset(0)
    first: Gate[tuple[int, int], int] = Gate(Watermarks(memory), lambda _: None, lambda _: None, lambda _: None)
    first.write_back(0, 0, checkpoint=True, what=(0, 0))
    applied: list[tuple[int, int]] = []
    snapshots: list[tuple[int, list[tuple[int, int]]]] = []
    again: Gate[tuple[int, int], int] = Gate(
        Watermarks(memory), applied.append, lambda step: snapshots.append((step, list(applied))), lambda _: None
    )
    again.write_back(0, 1, checkpoint=False, what=(0, 1))
    assert applied == []
    again.write_back(1, 0, checkpoint=True, what=(1, 0))
    assert snapshots == [(0, [(1, 0)])] and applied == [(1, 0), (0, 1)]


def test_a_gap_is_not_jumped() -> None:
    """A write-back that comes before the one it follows is refused, so that resent ones still count.

    That happens when a server is killed with some write-backs unapplied and its successor first hears
    the trainer's next one.
    """
    world = World(trainers=1)
    assert world.gate.write_back(0, 0, checkpoint=False, what=(0, 0)) == "new"
    assert world.gate.write_back(0, 3, checkpoint=False, what=(0, 3)) == "gap"
    assert [world.gate.write_back(0, s, checkpoint=False, what=(0, s)) for s in (0, 1, 2, 3)] == [
        "old",
        "new",
        "new",
        "new",
    ]
    assert world.applied == [(0, 0), (0, 1), (0, 2), (0, 3)]
