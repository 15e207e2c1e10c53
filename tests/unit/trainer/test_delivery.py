"""Nothing sent is lost, nothing is taken twice, and little is kept, whatever connections do."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.trainer.delivery import CONFIRM_STEPS, KEPT_STEPS, Delivery, Label


def delivery() -> Delivery[str, str]:
    return Delivery([1, 2])


def test_what_is_not_confirmed_goes_again_in_its_order() -> None:
    """All messages of steps that the peer has not confirmed, and no others."""
    one = delivery()
    for step in range(4):
        one.sent(1, step, f"a{step}")
        one.sent(1, step, f"b{step}")
    one.confirmed(1, 1)
    assert one.kept(1) == ["a2", "b2", "a3", "b3"]
    assert one.unconfirmed() == [1]
    one.confirmed(1, 0)
    assert one.kept(1) == ["a2", "b2", "a3", "b3"], "an older confirmation, sent again, takes nothing back"


def test_what_comes_twice_is_taken_once() -> None:
    """Before it is taken, after it, and after its step is done."""
    one, label = delivery(), Label(3, "eager", 1)
    assert one.arrived(label, "rows") and one.has(label)
    assert not one.arrived(label, "rows again")
    assert one.take(label) == "rows"
    assert not one.arrived(label, "rows again") and not one.has(label)
    one.done(3)
    assert not one.arrived(label, "rows again") and not one.has(label)


def test_what_waits_is_bounded_in_bytes() -> None:
    """By peer; what is taken, or of steps that are done, leaves room; a message that is larger alone is taken in."""
    one: Delivery[str, str] = Delivery([1, 2], most_bytes=100)
    assert not one.full(1, 500) and one.arrived(Label(0, "dense", 1), "large", 500)
    assert "500 bytes of it wait already" in one.full(1, 1) and not one.full(2, 100)
    one.take(Label(0, "dense", 1))
    one.arrived(Label(1, "dense", 1), "rows", 60)
    assert not one.full(1, 40) and one.full(1, 41)
    one.done(1)
    assert not one.full(1, 100)


def test_a_peer_that_only_sends_is_told_now_and_then() -> None:
    """Once in `CONFIRM_STEPS` steps, if no message to it says so; never a peer that sends nothing."""
    one, told = delivery(), []
    for step in range(4 * CONFIRM_STEPS):
        one.arrived(Label(step, "eager", 1), "rows")
        one.done(step)
        for peer in one.due():
            told.append((step, peer))
            one.told(peer)
    assert told == [(n * CONFIRM_STEPS - 1, 1) for n in range(1, 5)]


def test_a_peer_that_confirms_nothing_has_room_for_so_many_steps() -> None:
    """Then the sender has to wait."""
    one = delivery()
    steps = 0
    while one.room(1, steps):
        one.sent(1, steps, "rows")
        steps += 1
    assert steps == KEPT_STEPS and len(one.kept(1)) == KEPT_STEPS
    one.confirmed(1, 0)
    assert one.room(1, steps) and one.room(2, steps)


# ── every schedule ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Side:
    """One trainer that sends one message of every step to each peer, and needs one of every step from each."""

    delivery: Delivery[tuple[int, int, int], int]
    step: int = 0
    taken: list[tuple[int, int, int]] = field(default_factory=list)
    """(source, step, what it carried)."""


class NeverSendsAgain(Delivery[tuple[int, int, int], int]):
    def kept(self, peer):
        return []


class TakesTwice(Delivery[tuple[int, int, int], int]):
    def arrived(self, label, arrays):
        self._here[label] = arrays, 0
        return True


class NeverForgets(Delivery[tuple[int, int, int], int]):
    def confirmed(self, peer, through):
        pass


class Links:
    """Trainers and their connections; one random source picks what happens next."""

    def __init__(self, seed: int, world: int, kind: type[Delivery] = Delivery, steps: int = 15) -> None:
        self.random, self.steps = random.Random(seed), steps
        ranks = range(world)
        self.sides = [Side(kind([p for p in ranks if p != rank])) for rank in ranks]
        self.wires: dict[tuple[int, int], deque[tuple[int, int, int]]] = {
            (a, b): deque() for a in ranks for b in ranks if a != b
        }
        """(source, destination): (step, through, contents) under way; step -1: only a confirmation."""
        self.remade: set[tuple[int, int]] = set()
        """Connections whose sender has not yet noticed that they were reset."""
        self.said: list[tuple[int, int, tuple[int, int, int]]] = []
        """(source, destination, message) of what has arrived: a link may say any of it once more, however late."""
        self.most_kept = 0

    def run(self) -> None:
        """Until every trainer has taken everything; an AssertionError where nothing can go on."""
        for _ in range(20_000):
            if all(side.step == self.steps for side in self.sides):
                return
            kind = self.random.choice(["begin", "deliver", "deliver", "reset", "notice", "say again"])
            getattr(self, kind.replace(" ", "_"))()
        raise AssertionError(f"nothing goes on: {[side.step for side in self.sides]}")

    def begin(self) -> None:
        """A trainer that has what it needs of its step goes on to the next, and sends."""
        rank = self.random.randrange(len(self.sides))
        side, d = self.sides[rank], self.sides[rank].delivery
        peers = [p for p in range(len(self.sides)) if p != rank]
        if side.step == self.steps or not all(d.room(p, side.step) for p in peers):
            return
        if side.step:
            labels = [Label(side.step - 1, "eager", p) for p in peers]
            if not all(d.has(label) for label in labels):
                return
            side.taken += [(label.source, label.step, d.take(label)) for label in labels]
            d.done(side.step - 1)
        for peer in peers:
            message = (side.step, d.through, 100 * rank + side.step)
            self.wires[rank, peer].append(message)
            d.sent(peer, side.step, message)
        self.most_kept = max(self.most_kept, *(len(d.kept(p)) for p in peers))
        side.step += 1

    def deliver(self) -> None:
        (source, destination), wire = self.random.choice(list(self.wires.items()))
        if wire:
            self.said.append((source, destination, wire.popleft()))
            self.arrive(*self.said[-1])

    def arrive(self, source: int, destination: int, message: tuple[int, int, int]) -> None:
        step, through, contents = message
        d = self.sides[destination].delivery
        d.confirmed(source, through)
        if step >= 0:
            d.arrived(Label(step, "eager", source), contents)

    def say_again(self) -> None:
        if self.said and self.random.random() < 0.3:
            self.arrive(*self.random.choice(self.said))

    def reset(self) -> None:
        """What is under way on one connection is lost from some place on; what follows gets through."""
        if self.random.random() < 0.2:
            link, wire = self.random.choice(list(self.wires.items()))
            lost = self.random.randint(0, len(wire))
            for _ in range(lost):
                wire.pop()
            self.remade.add(link)

    def notice(self) -> None:
        if self.remade:
            source, destination = link = self.random.choice(sorted(self.remade))
            self.remade.discard(link)
            d = self.sides[source].delivery
            self.wires[link].extend((step, d.through, what) for step, _, what in d.kept(destination))
            self.wires[link].append((-1, d.through, 0))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), world=st.integers(2, 3))
def test_every_message_is_taken_once_in_every_schedule(seed: int, world: int) -> None:
    """Whatever is reset when: each trainer takes each message once, with what it carried, and keeps few."""
    check(Links(seed, world))


def check(links: Links) -> None:
    links.run()
    ranks = range(len(links.sides))
    for rank, side in enumerate(links.sides):
        expected = [(p, s, 100 * p + s) for s in range(links.steps - 1) for p in ranks if p != rank]
        assert side.taken == expected
        assert not [label for label in side.delivery._here if label.step < links.steps - 1], "one is left over"
    assert links.most_kept <= 4, "too much is kept"


@pytest.mark.parametrize(
    ("kind", "what"),
    [(NeverSendsAgain, "nothing goes on"), (TakesTwice, "one is left over"), (NeverForgets, "too much is kept")],
)
def test_each_rule_is_needed(kind: type[Delivery], what: str) -> None:
    """Without sending again nothing goes on; without dropping something is left over; without confirming too much is
    kept.
    """
    found = 0
    for seed in range(100):
        try:
            check(Links(seed, 2, kind))
        except AssertionError as error:
            found += what in str(error)
        if found == 3:
            return
    raise AssertionError(f"only {found} of 100 schedules show it")
