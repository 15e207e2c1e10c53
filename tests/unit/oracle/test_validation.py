"""Evaluations between steps: whatever is lost, every batch is evaluated once by every trainer."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.evaluation import EarlyStopping, EvaluationConfig
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import NeedValidation, ValidationDone, ValidationOutputs
from bagpipe.oracle.service.actions import Ignored, Send, SendPlan
from bagpipe.oracle.service.validating import in_words
from bagpipe.oracle.service.validation import Validations

DEPTH = 2


@dataclass
class Trainer:
    """Evaluates batch after batch; what it said last is said once more after its connection broke."""

    rank: int
    batches: int
    step: int = 0
    connections: int = 0
    arrived: int = 0
    evaluated: list[int] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    told: bool = False
    done: list[int] = field(default_factory=list)
    sent: deque[Any] = field(default_factory=deque)
    received: deque[Any] = field(default_factory=deque)

    @property
    def peer(self) -> bytes:
        return f"{self.rank} {self.connections}".encode()

    def say(self) -> None:
        if self.told:
            outputs = np.array(self.evaluated, np.float32)
            self.sent.append((self.peer, ValidationOutputs(rank=self.rank, step=self.step), [outputs]))
        else:
            until = len(self.evaluated) + DEPTH + 1
            need = NeedValidation(rank=self.rank, step=self.step, next=self.arrived, until=until)
            self.sent.append((self.peer, need, []))

    def reset(self) -> None:
        self.sent.clear()
        self.received.clear()
        self.connections += 1
        self.say()

    def take(self) -> None:
        message = self.received.popleft()
        if isinstance(message, ValidationDone):
            if message.step == self.step:
                self.done.append(self.step)
                self.step, self.arrived, self.evaluated, self.told = self.step + 1, 0, [], False
                self.waiting.clear()
                self.say()
            return
        step, number, rank = message
        assert rank == self.rank
        if step == self.step and number == self.arrived:
            self.waiting.append(number)
            self.arrived += 1

    def evaluate(self) -> None:
        self.evaluated.append(self.waiting.popleft())
        self.told = len(self.evaluated) == self.batches
        self.say()


def test_a_late_message_of_an_older_evaluation_changes_nothing() -> None:
    """Its outputs would count for the newer one, and its trainer would be sent batches of it under the older step."""
    machine = Validations(2, EvaluationConfig(every=1), depth=DEPTH, history=[])
    machine.num_batches = 2
    newer = NeedValidation(rank=0, step=5, next=0, until=1)
    machine.need(b"0", newer)
    late = NeedValidation(rank=1, step=3, next=0, until=2)
    assert machine.need(b"1", late) == []
    assert machine.outputs(b"1", ValidationOutputs(rank=1, step=3), [np.ones(4, np.float32)]) == []
    assert machine.current == 5 and machine.takes_part(0) and not machine.takes_part(1)


def test_a_word_of_a_later_evaluation_takes_nobodys_outputs() -> None:
    """A trainer that speaks of a planned evaluation before its time is not heard; the one under way is judged whole.

    Where an oracle begins anew, it may hear of such a one before it has planned any: that gives way to the next one.
    """
    machine = Validations(2, EvaluationConfig(every=1), depth=DEPTH, history=[])
    machine.num_batches = 1
    later = NeedValidation(rank=1, step=5, next=0, until=1)
    machine.need(b"1", later)
    for step in (3, 5):
        machine.planned(step)
    machine.outputs(b"0", ValidationOutputs(rank=0, step=3), [np.zeros(1, np.float32)])
    assert machine.current == 3
    for early in (machine.need(b"1", later), machine.outputs(b"1", ValidationOutputs(rank=1, step=5), [])):
        assert len(early) == 1 and isinstance(early[0], Ignored) and "after step 3 comes first" in early[0].text
    machine.outputs(b"1", ValidationOutputs(rank=1, step=3), [np.ones(1, np.float32)])
    assert machine.complete and [one.tolist() for one in machine.all_outputs()[0]] == [[0.0], [1.0]]


def test_a_late_request_sets_nothing_back() -> None:
    """A link that says an old message again must not keep a trainer from the batch that it waits for."""
    machine = Validations(1, EvaluationConfig(every=1), depth=DEPTH, history=[])
    machine.num_batches = 7
    early = NeedValidation(rank=0, step=0, next=0, until=3)
    for request in (early, NeedValidation(rank=0, step=0, next=3, until=6)):
        machine.need(b"0", request)
        while machine.wants_batch:
            machine.add_batch({0: "a batch"})
    machine.need(b"0", NeedValidation(rank=0, step=0, next=6, until=7))
    assert machine.need(b"0", early) == []
    assert machine.wants_batch, "the oracle waits for a trainer that waits for it"
    assert machine.add_batch({0: "the last"}) == [SendPlan(b"0", "the last")]
    machine.outputs(b"0", ValidationOutputs(rank=0, step=0), [np.ones(7, np.float32)])
    assert machine.need(b"0", early) == [] and machine.complete


@dataclass
class World:
    """Trainers that evaluate after every step, and the oracle's machine with what its process keeps."""

    trainers: int
    batches: int
    rounds: int
    kept: list[Validation] = field(default_factory=list)
    said: list[tuple[Trainer, Any, Any]] = field(default_factory=list)
    """What has come in, which may come again."""
    seen: list[list[list[float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = [Trainer(rank, self.batches) for rank in range(self.trainers)]
        self.start()
        for one in self.members:
            one.say()

    def start(self) -> None:
        stopping = EvaluationConfig(every=1, early_stopping=EarlyStopping(metric="auc", patience=10**5))
        self.machine = Validations(self.trainers, stopping, depth=DEPTH, history=list(self.kept))
        self.prepared = False

    def prepare(self) -> None:
        """The data is open, and plans are made; trainers may have asked before."""
        self.prepared, self.machine.num_batches = True, self.batches
        for step in range(self.rounds):
            self.machine.planned(step)

    def restart(self) -> None:
        self.start()
        for one in self.members:
            one.reset()

    def hear(self, peer: bytes, message: Any, arrays: Any) -> None:
        if message.step == self.rounds:  # it trains on
            return
        if isinstance(message, NeedValidation):
            self.act(self.machine.need(peer, message))
        else:
            self.act(self.machine.outputs(peer, message, arrays))

    def act(self, actions: list[Any]) -> None:
        by_peer = {one.peer: one for one in self.members}
        for action in actions:
            match action:
                case Send(peer, message) if peer in by_peer:
                    by_peer[peer].received.append(message)
                case SendPlan(peer, frames) if peer in by_peer:
                    by_peer[peer].received.append(frames)
                case _:
                    pass

    @property
    def can_work(self) -> bool:
        return self.prepared and (self.machine.complete or self.machine.wants_batch)

    def work(self) -> None:
        """What the shell does next."""
        machine = self.machine
        step = machine.current
        assert step is not None
        if machine.complete:
            outputs, failed = machine.all_outputs()
            assert not failed
            self.seen.append([part.tolist() for part in outputs])
            judged = Validation(step=step + 1, figures={"auc": 0.5})
            self.kept.append(judged)
            self.act(machine.judged(judged))
        else:
            assert len(machine._round.batches) <= 2 * DEPTH + 2, "kept without bound"  # type: ignore[union-attr]
            number = machine._round.made  # type: ignore[union-attr]
            self.act(machine.add_batch({rank: (step, number, rank) for rank in range(self.trainers)}))

    @property
    def over(self) -> bool:
        return all(one.step >= self.rounds for one in self.members)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), trainers=st.integers(1, 3), batches=st.integers(1, 6), rounds=st.integers(1, 3))
def test_every_batch_is_evaluated_once_whatever_is_lost(seed: int, trainers: int, batches: int, rounds: int) -> None:
    """Connections break, messages come late, the oracle is replaced; no trainer goes on before all outputs are in."""
    world, faults, rng = World(trainers, batches, rounds), 4, random.Random(seed)
    for _ in range(3000):
        if world.over:
            break
        moves: list[tuple[str, Any]] = [("work", None)] * world.can_work
        for one in world.members:
            moves += [("deliver", one)] * bool(one.sent) + [("take", one)] * bool(one.received)
            moves += [("evaluate", one)] * bool(one.waiting) + [("reset", one)] * bool(faults and one.step < rounds)
        moves += [("late", None)] * bool(faults and world.said)
        moves += [("restart", None)] * bool(faults) + [("prepare", None)] * (not world.prepared)
        move, who = rng.choice(moves)
        match move:
            case "work":
                world.work()
            case "deliver":
                peer, message, arrays = who.sent.popleft()
                world.hear(peer, message, arrays)
                world.said.append((who, message, arrays))
            case "late":
                faults -= 1
                who, message, arrays = rng.choice(world.said)
                world.hear(who.peer, message, arrays)
            case "prepare":
                world.prepare()
            case "restart":
                faults -= 1
                world.restart()
            case "reset":
                faults -= 1
                who.reset()
            case _:
                getattr(who, move)()
        spread = [one.step for one in world.members]
        assert max(spread) - min(spread) <= 1
        assert max(spread) <= len(world.kept), "a trainer went on before the evaluation was judged"
    assert world.over, f"nothing can go on: {world.machine}"
    assert [one.step for one in world.kept] == list(range(1, rounds + 1))
    assert world.seen == [[list(map(float, range(batches)))] * trainers] * rounds
    assert world.machine.over and not world.machine.holds_plans
    assert all(one.done == list(range(rounds)) for one in world.members)


def test_what_may_follow_an_early_stop_is_not_planned() -> None:
    """Plans are held from the evaluation on that may end training, and only from there."""
    stopping = EvaluationConfig(every=1, early_stopping=EarlyStopping(metric="auc", patience=2))
    machine = Validations(1, stopping)
    machine.num_batches = 1

    def evaluate(step: int, auc: float) -> None:
        machine.outputs(b"0", ValidationOutputs(rank=0, step=step), [np.zeros(1, np.float32)])
        machine.judged(Validation(step=step + 1, figures={"auc": auc}))

    machine.planned(0)
    assert not machine.holds_plans  # the first evaluation cannot be the second without improvement
    machine.planned(1)
    assert machine.holds_plans  # what the first one says is not known
    evaluate(0, 0.7)
    assert not machine.holds_plans
    evaluate(1, 0.6)
    machine.planned(2)
    assert machine.holds_plans and machine.stops_at is None
    evaluate(2, 0.6)
    assert machine.over and machine.stops_at == 3


def test_the_evaluation_that_ends_training_says_so() -> None:
    """Lines of progress end there, before the last step that they announced; no other evaluation says it."""
    history = [Validation(step=s, figures={"examples": 9, "auc": a}) for s, a in ((5, 0.7), (10, 0.6), (15, 0.6))]
    config = EvaluationConfig(every=5, early_stopping=EarlyStopping(metric="auc", patience=2))
    words = [in_words(one, config, None, history[:at]) for at, one in enumerate(history)]
    assert words[2] == "validation after step 15: auc 0.6000  best auc 0.7000 at step 5; training stops early"
    assert not any("stops" in line for line in words[:2])
