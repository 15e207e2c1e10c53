"""A shard's order: each write-back once, no fetch before what it depends on, no snapshot of another moment."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.embedding.gate import (
    MOST_HELD,
    Acknowledge,
    Action,
    Answer,
    AskAgain,
    Gate,
    Refuse,
    StartSnapshot,
    StoreDue,
    StoreMark,
    StoreRows,
)
from bagpipe.embedding.requests import FetchRequest, KeysOfGroup, WriteBackRequest

NO_KEYS = KeysOfGroup(0, np.zeros(0, np.int64), np.zeros(0, np.int64), 0)


def write_back(rank: int, step: int, *, checkpoint: bool = False) -> WriteBackRequest:
    return WriteBackRequest(b"%d" % rank, rank, step, checkpoint, ())


def fetch(rank: int, step: int, after: int) -> FetchRequest:
    return FetchRequest(b"%d" % rank, rank, step, after, NO_KEYS, 0, packed=False)


@dataclass(slots=True)
class World:
    """What outlives a shard's process, as plain values, and what reached the trainers."""

    trainers: int
    marks: list[int] = field(default_factory=list)
    due: int | None = None
    stored: list[tuple[int, int]] = field(default_factory=list)
    """(rank, step) of each write-back whose rows were stored, in order."""
    snapshots: dict[int, frozenset[tuple[int, int]]] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    answered: set[tuple[int, int]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    asked_again: list[tuple[bytes, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.marks = self.marks or [-1] * self.trainers

    def gate(self, most_waiting: int = 100) -> Gate:
        return Gate(self.marks, self.due, most_waiting=most_waiting)

    def carry_out(self, actions: list[Action], until: int | None = None) -> bool:
        """Whether all of them were done before the process was killed."""
        for action in actions[:until]:
            match action:
                case StoreDue(step):
                    self.due = step
                case StoreRows(request):
                    self.stored.append((request.rank, request.step))
                case StoreMark(rank, step):
                    self.marks[rank] = step
                case Acknowledge(peer, step):
                    # What is confirmed must have been stored before: rows, and then the mark.
                    assert self.marks[int(peer)] >= step
                    assert step < 0 or (int(peer), step) in self.stored
                    self.acknowledged[int(peer)] = max(step, self.acknowledged.get(int(peer), -1))
                case AskAgain(peer, after):
                    self.asked_again.append((peer, after))
                case StartSnapshot(step):
                    assert self.snapshots.get(step, frozenset(self.stored)) == frozenset(self.stored)
                    self.snapshots[step] = frozenset(self.stored)
                case Answer(request):
                    assert min(self.marks) >= request.after
                    assert request.after < 0 or {(r, request.after) for r in range(self.trainers)} <= set(self.stored)
                    self.answered.add((request.rank, request.step))
                case Refuse(_, reason):
                    self.refused.append(reason)
        return until is None or until >= len(actions)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 4), steps=st.integers(1, 8), every=st.integers(1, 4))
def test_any_order_of_arrival(data: st.DataObject, trainers: int, steps: int, every: int) -> None:
    """Whatever the order between trainers, and with write-backs sent twice, snapshots are exact and nothing is lost."""
    world = World(trainers)
    gate = world.gate()
    waiting = dict.fromkeys(range(trainers), 0)
    while any(step < steps for step in waiting.values()):
        rank = data.draw(st.sampled_from([r for r, step in waiting.items() if step < steps]))
        step = waiting[rank]
        for _ in range(data.draw(st.integers(1, 2))):
            world.carry_out(gate.write_back(write_back(rank, step, checkpoint=(step + 1) % every == 0)))
        waiting[rank] += 1
    everything = {(rank, step) for rank in range(trainers) for step in range(steps)}
    assert set(world.stored) == everything and len(world.stored) == len(everything)
    assert set(world.snapshots) == {s for s in range(steps) if (s + 1) % every == 0}
    for step, held in world.snapshots.items():
        assert held == {(r, s) for r, s in everything if s <= step}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_fetches_wait_for_every_watermark(data: st.DataObject, trainers: int) -> None:
    """A fetch is answered exactly when all trainers have written the step it depends on."""
    world = World(trainers)
    gate = world.gate()
    for number in range(6):
        world.carry_out(gate.fetch(fetch(0, number, number - 1)))
    done = [0] * trainers
    for _ in range(6 * trainers):
        rank = data.draw(st.sampled_from([r for r in range(trainers) if done[r] < 6]))
        world.carry_out(gate.write_back(write_back(rank, done[rank])))
        done[rank] += 1
        assert sorted(step for _, step in world.answered) == [n for n in range(6) if n - 1 < min(done)]


@dataclass(slots=True)
class Trainer:
    """Sends its write-backs in order and keeps what is not acknowledged, as `EmbeddingClient` does."""

    rank: int
    next_step: int = 0
    unwritten: deque[WriteBackRequest] = field(default_factory=deque)
    unanswered: dict[int, FetchRequest] = field(default_factory=dict)

    def note(self, world: World) -> None:
        while self.unwritten and self.unwritten[0].step <= world.acknowledged.get(self.rank, -1):
            self.unwritten.popleft()
        for step in [step for step in self.unanswered if (self.rank, step) in world.answered]:
            del self.unanswered[step]


class Process:
    """A shard's process that is killed before chosen actions, counted over its whole life, and started again.

    Args:
        lost: actions whose message, if they send one, does not reach the trainer.
    """

    def __init__(self, world: World, kills: set[int], lost: set[int]) -> None:
        self.world, self.kills, self.lost, self.done = world, kills, lost, 0
        self.gate = world.gate()

    def take(self, request: WriteBackRequest | FetchRequest) -> None:
        actions = self.gate.write_back(request) if isinstance(request, WriteBackRequest) else self.gate.fetch(request)
        while not self._survives(actions):
            self.gate = self.world.gate()
            actions = self.gate.resume()

    def _survives(self, actions: list[Action]) -> bool:
        for action in actions:
            self.done += 1
            if self.done in self.kills:
                return False
            if self.done not in self.lost or not isinstance(action, Acknowledge | AskAgain | Answer | Refuse):
                self.world.carry_out([action])
        return True


@settings(max_examples=150, deadline=None)
@given(
    trainers=st.integers(1, 3),
    steps=st.integers(1, 6),
    every=st.integers(1, 4),
    back=st.integers(1, 4),
    schedule=st.lists(st.integers(0, 11), min_size=1, max_size=20),
    kills=st.sets(st.integers(1, 120), max_size=5),
    lost=st.sets(st.integers(1, 120), max_size=5),
    late=st.dictionaries(st.integers(0, 40), st.integers(0, 60), max_size=5),
)
def test_killed_between_any_two_actions(
    trainers: int,
    steps: int,
    every: int,
    back: int,
    schedule: list[int],
    kills: set[int],
    lost: set[int],
    late: dict[int, int],
) -> None:
    """A shard that is killed anywhere, any number of times, ends as one that never was: all stored, all answered.

    Trainers send what is unanswered again, in any order between them. Each action of the gate is a point at which the
    process may end; what it kept in memory is gone then. Whichever process begins a snapshot, and if one begins it a
    second time, it holds exactly the write-backs up to its step. Answers are lost too, and at some turns (`late`) a
    link says once more what any trainer said before, however long ago.
    """
    world = World(trainers)
    process = Process(world, kills, lost)
    said: list[WriteBackRequest | FetchRequest] = []
    roles = [Trainer(rank) for rank in range(trainers)]
    turn = 0
    while unfinished := [r for r in roles if r.next_step < steps or r.unwritten or r.unanswered]:
        # Another round through the schedule is another schedule, so that everybody's turn comes.
        choice, turn = schedule[turn % len(schedule)] + turn // len(schedule), turn + 1
        if turn in late and said:
            process.take(said[late[turn] % len(said)])
        role = unfinished[choice % len(unfinished)]
        sent: list[WriteBackRequest | FetchRequest] = [*role.unwritten, *role.unanswered.values()]
        if role.next_step < steps and (not sent or choice // 3 % 2):
            step = role.next_step
            role.next_step += 1
            role.unwritten.append(write_back(role.rank, step, checkpoint=(step + 1) % every == 0))
            role.unanswered[step] = fetch(role.rank, step, max(-1, step - back))
            sent = [role.unanswered[step], role.unwritten[-1]]
        said += sent
        for request in sent:
            process.take(request)
            for each in roles:
                each.note(world)
    everything = {(rank, step) for rank in range(trainers) for step in range(steps)}
    assert set(world.stored) == everything
    assert world.marks == [steps - 1] * trainers and not world.refused
    assert set(world.snapshots) == {s for s in range(steps) if (s + 1) % every == 0}
    for step, held in world.snapshots.items():
        assert held == {(r, s) for r, s in everything if s <= step}


def test_a_restarted_server_still_holds_back() -> None:
    """A process that ends between two trainers' flagged write-backs leaves word of the snapshot that is due."""
    world = World(2)
    world.carry_out(world.gate().write_back(write_back(0, 0, checkpoint=True)))
    again = world.gate()
    assert again.resume() == [] and again.write_back(write_back(0, 1)) == []
    world.carry_out(again.write_back(write_back(1, 0, checkpoint=True)))
    assert world.snapshots == {0: {(0, 0), (1, 0)}} and world.stored == [(0, 0), (1, 0), (0, 1)]


def test_a_snapshot_that_had_not_begun_begins_after_a_restart() -> None:
    """A process that is killed between the last mark and the snapshot leaves it to its successor."""
    world = World(1)
    actions = world.gate().write_back(write_back(0, 0, checkpoint=True))
    world.carry_out(actions, until=actions.index(StartSnapshot(0)))
    assert world.snapshots == {}
    world.carry_out(world.gate().resume())
    assert world.snapshots == {0: {(0, 0)}} and world.due is None


def test_a_gap_is_not_jumped() -> None:
    """A write-back that comes before the one it follows is asked for again, and counts when it is next.

    That happens when a server is killed with some write-backs unapplied and its successor first hears
    the trainer's next one.
    """
    world = World(1)
    gate = world.gate()
    world.carry_out(gate.write_back(write_back(0, 0)))
    assert gate.write_back(write_back(0, 3)) == [AskAgain(b"0", 0)]
    assert gate.write_back(write_back(0, 0)) == [Acknowledge(b"0", 0)]
    for step in (1, 2, 3):
        world.carry_out(gate.write_back(write_back(0, step)))
    assert world.stored == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_what_is_held_is_not_acknowledged() -> None:
    """A write-back that waits for a snapshot is confirmed up to what is stored, also when it is sent again."""
    world = World(2)
    gate = world.gate()
    world.carry_out(gate.write_back(write_back(0, 0, checkpoint=True)))
    assert gate.write_back(write_back(0, 1)) == []
    assert gate.write_back(write_back(0, 1)) == [Acknowledge(b"0", 0)]


@pytest.mark.parametrize(
    ("before", "request_", "reason"),
    [
        ([write_back(0, 0, checkpoint=True)], write_back(1, 0), "flagged otherwise"),
        ([write_back(0, 0), write_back(0, 1)], write_back(1, 0, checkpoint=True), "gone on without one"),
    ],
)
def test_contradicting_flags_are_refused(
    before: list[WriteBackRequest], request_: WriteBackRequest, reason: str
) -> None:
    """Trainers that disagree on where a snapshot is due are refused, and the right write-back still counts."""
    world = World(2)
    gate = world.gate()
    for request in before:
        world.carry_out(gate.write_back(request))
    world.carry_out(gate.write_back(request_))
    assert len(world.refused) == 1 and reason in world.refused[0] and (1, 0) not in world.stored
    world.carry_out(gate.write_back(write_back(1, 0, checkpoint=not request_.checkpoint)))
    assert (1, 0) in world.stored


def test_what_waits_is_bounded() -> None:
    """Fetches and write-backs that wait are refused beyond a number; a repeated fetch takes its own place."""
    world = World(2)
    gate = world.gate(most_waiting=3)
    for step in (1, 2, 3, 1, 2, 3):
        assert gate.fetch(fetch(0, step, 0)) == []
    (refused,) = gate.fetch(fetch(0, 4, 0))
    assert isinstance(refused, Refuse) and gate.fetch(fetch(1, 4, 0)) == []
    world.carry_out(gate.write_back(write_back(0, 0, checkpoint=True)))
    for step in range(1, MOST_HELD + 1):
        assert gate.write_back(write_back(0, step)) == []
    (refused,) = gate.write_back(write_back(0, MOST_HELD + 1))
    assert isinstance(refused, Refuse)
    world.carry_out(gate.write_back(write_back(1, 0, checkpoint=True)))
    assert world.marks == [MOST_HELD, 0] and sorted(world.answered) == [(0, 1), (0, 2), (0, 3), (1, 4)]
