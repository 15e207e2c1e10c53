"""An attempt from the first Hello to the last goodbye, whatever happens to its roles, its connections and its oracle.

A small world of trainers and servers talks to the real `Conversation` through queues that a test may cut. Trainers
tell their steps by the real `ToldSteps`. What is asserted holds for every order of events that hypothesis finds.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.checkpoint.store import SNAPSHOT_SECONDS
from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.errors import PeerLost
from bagpipe.net.messages import (
    Finished,
    Hello,
    Message,
    NoMorePlans,
    Refused,
    Saved,
    SaveFirst,
    StepDone,
    Stop,
    Topology,
    Wait,
)
from bagpipe.oracle.service.actions import EndAttempt, Send, SendPlan, SliceScored, StepFinished, TurnAway
from bagpipe.oracle.service.conversation import Conversation, Leaving, Limits, Streaming
from bagpipe.oracle.service.ledger import StepLedger
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.told_steps import ToldSteps

DEPTH = 2
LIMITS = Limits(startup=100.0, step=30.0, dead_peer=10.0, server_return=60.0)
TOPOLOGY = Topology(
    servers=("tcp://server0",),
    trainers=("tcp://trainer0",),
    layout=TableLayout.of([Table("a", 9, 4, ("a",))]),
    spec=JobSpec(data=DataConfig(format="synthetic")),
    num_dense=1,
    num_labels=1,
    slots=(9,),
    checkpoint=None,
    checkpoint_dir="",
    first_step=0,
    total_steps=None,
)


@dataclass(frozen=True)
class Planned:
    """Stands for an encoded plan."""

    step: int
    training: bool


@dataclass
class Role:
    """A server, or with `told` a trainer; `peer` names its present connection."""

    world: "World" = field(repr=False)
    kind: str
    index: int
    connections: int = 0
    alive: bool = True
    sent: deque[tuple[bytes, Message, list[Any]]] = field(default_factory=deque)
    received: deque[Any] = field(default_factory=deque)
    plans: list["Planned"] = field(default_factory=list)
    next_step: int = 0
    released: bool = False
    left: bool = False
    begun: bool = False

    def __post_init__(self) -> None:
        self.told = ToldSteps(self, rank=self.index, first_step=0, credit=DEPTH + 1)  # type: ignore[arg-type]

    @property
    def peer(self) -> bytes:
        return f"{self.kind} {self.index} {self.connections}".encode()

    def send(self, message: Message, arrays: Any = ()) -> None:
        self.sent.append((self.peer, message, list(arrays)))

    def hello(self) -> None:
        self.send(
            Hello(job="j", attempt=0, role=self.kind, index=self.index, endpoint=f"tcp://{self.kind}{self.index}")
        )

    def reset(self) -> None:
        """The connection breaks: whatever was under way is lost, and the role makes itself known anew."""
        self.sent.clear()
        self.received.clear()
        self.connections += 1
        self.hello()
        if self.kind == "trainer" and self.begun:
            self.told.ask_for_plans(self.next_step + len(self.plans))

    def take(self) -> None:
        """Read one message of the oracle."""
        message = self.received.popleft()
        match message:
            case Topology() if not self.begun:
                self.begun = True
                if self.kind == "trainer":
                    self.told.ask_for_plans(0)
            case Planned(step):
                assert step == self.next_step + len(self.plans), "a plan came twice, or one was left out"
                self.plans.append(message)
            case NoMorePlans():
                self.released = True
            case _:
                pass


@dataclass
class World:
    """Every role, the oracle's machine, and what came of it."""

    trainers: int
    steps: int
    scores: int
    """Steps of the evaluation."""
    roles: list[Role] = field(init=False)
    records: list[int] = field(default_factory=list)
    kept_scores: list[tuple[int, int, Any]] = field(default_factory=list)
    topology_kept: bool = False
    now: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.roles = [Role(self, "server", 0), *(Role(self, "trainer", rank) for rank in range(self.trainers))]
        self.start_oracle()
        for role in self.roles:
            role.hello()

    def start_oracle(self) -> None:
        self.talk = Conversation(
            Rendezvous(1, self.trainers),
            StepLedger(self.trainers, 0),
            LIMITS,
            DEPTH,
            answer=TOPOLOGY if self.topology_kept else Wait(),
            restarted=self.topology_kept,
        )
        self.planned, self.trained, self.evaluating, self.last_step = 0, 0, False, None

    def restart_oracle(self) -> None:
        self.start_oracle()
        for role in self.roles:
            if not role.left:
                role.reset()

    @property
    def members(self) -> list[Role]:
        return [role for role in self.roles if role.kind == "trainer"]

    def act(self, actions: list[Any]) -> None:
        by_peer = {role.peer: role for role in self.roles}
        for action in actions:
            match action:
                case Send(peer, message):
                    if isinstance(message, NoMorePlans) and peer.startswith(b"trainer"):
                        assert all(t.told._finished == self.last - 1 for t in self.members), "released too early"
                    if isinstance(message, NoMorePlans) and peer.startswith(b"server"):
                        assert all(t.left for t in self.members), "a server went before a trainer"
                    if peer in by_peer:
                        by_peer[peer].received.append(message)
                case SendPlan(peer, plan):
                    if peer in by_peer:
                        by_peer[peer].received.append(plan)
                case StepFinished(told):
                    # As `Reporter` does: what a predecessor has recorded is not recorded again.
                    if not self.records or told.step > self.records[-1]:
                        self.records.append(told.step)
                case SliceScored(told):
                    self.kept_scores.append((told.done.step, told.done.rank, told.logits))
                case TurnAway():
                    raise AssertionError("every role here belongs to the job")
                case _:
                    pass

    @property
    def last(self) -> int:
        """One past the last step of training and evaluation."""
        return self.planned

    # ── the oracle's calendar, one small move at a time ────────────────────────────────────────────

    def oracle_moves(self) -> bool:
        """Do what the shell would do next; False if it can only wait."""
        talk = self.talk
        match talk.stage:
            case Streaming() if talk.stream_over:
                if not self.evaluating and self.scores and not talk.stop_asked:
                    self.evaluating = True
                    for step, rank, logits in self.kept_scores:
                        talk.scored.setdefault(step, {})[rank] = logits
                    self.trained = self.planned
                    assert self.records == list(range(self.trained)), "evaluated before every step was recorded"
                    self.act(talk.stream(self.planned, evaluation=True))
                else:
                    self.act(talk.leave(self.planned))
                return True
            case Streaming() if talk.wants_plan:
                first = self.trained if self.evaluating else 0
                total = first + self.scores if self.evaluating else self.steps
                stopped = not self.evaluating and self.last_step is not None
                if self.planned >= total or stopped:
                    talk.no_more_plans()
                    return True
                if talk.stop_asked and not self.evaluating:
                    self.last_step = self.planned
                ranks = [r for r in range(self.trainers) if talk.outbox.wants(r, self.planned)]
                step, self.planned = self.planned, self.planned + 1
                self.act(talk.add_plan(dict.fromkeys(ranks, Planned(step, training=not self.evaluating))))
                return True
            case Streaming():
                return False
            case Leaving():
                if talk.all_left and not self.done:
                    self.done = True
                    self.act(talk.release_servers())
                    return True
                return False
            case _:
                if self.topology_kept:
                    self.act(talk.stream(0, evaluation=False))
                    return True
                if talk.rendezvous.complete:
                    self.topology_kept = True
                    self.act(talk.begin(TOPOLOGY))
                    self.act(talk.stream(0, evaluation=False))
                    return True
                return False

    def deliver(self, role: Role) -> None:
        peer, message, arrays = role.sent.popleft()
        self.act(self.talk.receive(peer, message, arrays))

    def finish_step(self, role: Role) -> None:
        """A trainer finishes the step it is at; a step of training needs every trainer to have its plan."""
        plan = role.plans.pop(0)
        role.next_step = plan.step + 1
        done = StepDone(rank=role.index, step=plan.step, loss=1.0, num_examples=1, seconds=1.0, waits={})
        role.told.tell(done, [] if plan.training else [np.array([plan.step * 10 + role.index], np.float32)])

    def can_finish(self, role: Role) -> bool:
        if not role.plans or not role.plans[0].training:
            return bool(role.plans)
        return all(other.next_step + len(other.plans) > role.plans[0].step for other in self.members)

    def moves(self, *, hung: Role | None = None) -> list[tuple[str, Role]]:
        """Everything that can happen without a fault."""
        found: list[tuple[str, Role]] = []
        for role in self.roles:
            if role.sent:
                found.append(("deliver", role))
            if role.received and role is not hung:
                found.append(("take", role))
        for role in self.members:
            if role is hung or role.left:
                continue
            if self.can_finish(role):
                found.append(("finish", role))
            if role.released:
                found.append(("leave", role))
        return found

    def do(self, move: str, role: Role) -> None:
        match move:
            case "deliver":
                self.deliver(role)
            case "take":
                role.take()
            case "finish":
                self.finish_step(role)
            case "leave":
                role.left = True
                role.send(Finished(rank=role.index))
            case "reset":
                role.reset()
            case "stop":
                role.send(Stop(rank=role.index))


def run(world: World, data: st.DataObject, *, faults: int, restarts: int = 0, stops: int = 0) -> None:
    """Let everything happen in an order that hypothesis chooses, with so many faults, until the oracle is done."""
    for _ in range(5000):
        if world.done:
            return
        world.now += 0.01
        world.act(world.talk.pass_time(world.now))
        moves = world.moves()
        if faults:
            moves += [("reset", role) for role in world.roles if not role.left and role.connections < faults]
        if restarts and not any(role.left for role in world.members):
            moves.append(("restart", world.roles[0]))
        if stops:
            moves += [("stop", role) for role in world.members if role.begun and not role.left]
        moves.append(("oracle", world.roles[0]))
        move, role = data.draw(st.sampled_from(moves))
        if move == "oracle" and not world.oracle_moves() and len(moves) == 1:
            break
        if move == "restart":
            restarts -= 1
            world.restart_oracle()
        elif move == "stop":
            stops -= 1
        world.do(move, role)
    raise AssertionError(f"nothing can go on: {world.talk}")


def check_whole(world: World, *, scores: int) -> None:
    """Every step was recorded once and in order, every slice of the evaluation scored, and everybody is gone."""
    trained = world.planned - scores
    assert world.records == list(range(trained))
    ranks = range(world.trainers)
    expected = [step * 10 + rank for step in range(trained, trained + scores) for rank in ranks]
    assert [float(part[0]) for part in world.talk.logits(trained)] == expected
    assert all(role.left and not role.plans for role in world.members)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), scores=st.integers(0, 3))
def test_every_step_is_done_recorded_and_scored_once(data: st.DataObject, trainers: int, scores: int) -> None:
    """Hellos, plans, reports and goodbyes in any order, every connection reset up to twice at any moment."""
    world = World(trainers, steps=6, scores=scores)
    run(world, data, faults=2)
    assert world.planned == 6 + scores
    check_whole(world, scores=scores)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), scores=st.integers(0, 3))
def test_an_oracle_replaced_at_any_moment_loses_nothing(data: st.DataObject, trainers: int, scores: int) -> None:
    """In training, between, and in the evaluation; connections are reset as well."""
    world = World(trainers, steps=6, scores=scores)
    run(world, data, faults=2, restarts=2)
    check_whole(world, scores=scores)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_a_stop_ends_training_early_and_whole(data: st.DataObject, trainers: int) -> None:
    """A trainer that is asked to stop ends the run for all after the same step; the evaluation is left out."""
    world = World(trainers, steps=40, scores=2)
    run(world, data, faults=0, stops=1)
    scores = world.planned - world.trained if world.evaluating else 0
    check_whole(world, scores=scores)
    if world.planned < 40:
        assert world.talk.stop_asked and not world.evaluating


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), step=st.integers(0, 7))
def test_the_trainer_that_hangs_is_named(data: st.DataObject, trainers: int, step: int) -> None:
    """It stops at any step, its connection stays. Trainers that are ahead of it, or wait for plans, are not blamed."""
    world = World(trainers, steps=6, scores=2)
    hung = world.members[data.draw(st.integers(0, trainers - 1))]
    while hung.next_step < step:
        everything = [*world.moves(), ("oracle", hung)]
        move, role = data.draw(st.sampled_from(everything))
        world.oracle_moves() if move == "oracle" else world.do(move, role)
    # From here on it does nothing; the others and the oracle go on for as long as they can.
    while world.oracle_moves() or world.moves(hung=hung):
        moves = world.moves(hung=hung)
        if moves:
            world.do(*data.draw(st.sampled_from(moves)))
    world.act(world.talk.pass_time(world.now))
    patience = LIMITS.startup if step == 0 else LIMITS.step
    world.act(world.talk.pass_time(world.now + patience - 0.5))
    with pytest.raises(PeerLost, match=r"oracle: trainer .* did not") as caught:
        world.talk.pass_time(world.now + patience + 0.5)
    blamed = {role.index for role in world.members if f"trainer {role.index}" in str(caught.value).split(" did not")[0]}
    # One that waits within the same step for the hung one looks the same from here.
    assert hung.index in blamed and blamed <= {r.index for r in world.members if r.next_step == hung.next_step}


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), trainers=st.integers(1, 3), after=st.integers(0, 60), kind=st.sampled_from(["trainer", "server"])
)
def test_a_role_that_vanishes_is_named(data: st.DataObject, trainers: int, after: int, kind: str) -> None:
    """Once the job has begun: a trainer within `deadPeerSeconds`, a server when it may not come back any more."""
    world = World(trainers, steps=50, scores=0)
    victim = data.draw(st.sampled_from([role for role in world.roles if role.kind == kind]))
    for _ in range(2000):
        if world.topology_kept and after <= 0:
            break
        after -= world.topology_kept
        everything = [*world.moves(), ("oracle", victim)]
        move, role = data.draw(st.sampled_from(everything))
        world.oracle_moves() if move == "oracle" else world.do(move, role)
    limit = LIMITS.dead_peer if kind == "trainer" else LIMITS.server_return
    world.act(world.talk.pass_time(1.0, []))
    warned = world.talk.pass_time(2.0, [victim.peer])
    assert any(f"{kind} {victim.index} is gone" in str(action) for action in warned)
    world.talk.pass_time(2.0 + limit - 0.5, [victim.peer])
    with pytest.raises(PeerLost, match=f"{kind} {victim.index} at tcp://{kind}{victim.index} has vanished"):
        world.talk.pass_time(2.0 + limit + 0.5, [victim.peer])


def assembled(trainers: int = 2) -> World:
    """Every trainer has asked for plans, none is planned."""
    world = World(trainers, steps=6, scores=0)
    while not (world.topology_kept and world.talk.outbox.everyone):
        for move in world.moves():
            world.do(*move)
        if not world.topology_kept:
            world.oracle_moves()
    return world


def drain(world: World) -> None:
    """Deliver everything, and let the oracle do all it can, until only trainers can go on."""
    while True:
        moves = [move for move in world.moves() if move[0] in ("deliver", "take")]
        if not moves and not world.oracle_moves():
            return
        for move in moves:
            world.do(*move)


def test_all_steps_whose_reports_were_lost_at_once_are_told_again() -> None:
    """A trainer goes as far as its credit reaches before a reset takes all of its reports."""
    world = assembled(1)
    drain(world)
    (trainer,) = world.members
    while trainer.plans:
        world.finish_step(trainer)
    assert trainer.next_step > 2 and world.records == []
    trainer.reset()
    drain(world)
    assert world.records == list(range(trainer.next_step))


def test_a_goodbye_that_was_lost_is_said_again() -> None:
    """The connection breaks while `NoMorePlans` is on its way."""
    world = assembled(1)
    (trainer,) = world.members
    while not isinstance(world.talk.stage, Leaving):
        drain(world)
        while trainer.plans:
            world.finish_step(trainer)
        while trainer.sent:
            world.deliver(trainer)
        while not isinstance(world.talk.stage, Leaving) and world.oracle_moves():
            pass
    trainer.reset()
    drain(world)
    assert trainer.released


def test_training_is_not_over_before_its_last_report_is_here() -> None:
    """A trainer that rejoins says first that it is done, and only then what the last step came to."""
    world = World(1, steps=1, scores=0)
    drain(world)
    (trainer,) = world.members
    world.finish_step(trainer)
    trainer.reset()
    while world.records == []:
        assert not world.talk.stream_over
        world.deliver(trainer)
        if not isinstance(world.talk.stage, Leaving) and world.talk.wants_plan:
            world.oracle_moves()
    assert world.talk.stream_over and world.records == [0]


def test_an_evaluation_is_not_over_before_its_last_score_is_here() -> None:
    """A trainer that rejoins says first that it is done, and only then how it scored its last slice."""
    world = World(1, steps=1, scores=1)
    (trainer,) = world.members
    for _ in ("training", "evaluation"):
        drain(world)
        world.finish_step(trainer)
    assert world.evaluating
    trainer.reset()
    while not world.kept_scores:
        assert not world.talk.stream_over
        world.deliver(trainer)
    assert world.talk.stream_over and [float(part[0]) for part in world.talk.logits(1)] == [10.0]


def test_a_connection_that_is_remade_by_itself_has_a_new_clock() -> None:
    """The socket keeps its name over a reset: the role is there again, and may be gone as long once more."""
    world = assembled()
    peer = world.members[0].peer
    world.talk.pass_time(1.0, [peer])
    world.talk.pass_time(5.0, [])
    world.talk.pass_time(12.0, [peer])
    assert world.talk.pass_time(21.0, [peer]) == []
    with pytest.raises(PeerLost, match="trainer 0 at tcp://trainer0 has vanished"):
        world.talk.pass_time(23.0, [peer])


def test_slow_planning_is_held_against_nobody() -> None:
    """However long the oracle takes for a plan, a trainer that has none is not late."""
    world = assembled()
    for now in (1.0, 1e3, 1e6):
        assert world.talk.pass_time(now, []) == []


def test_a_role_that_comes_back_in_time_is_forgotten_about() -> None:
    """The server's process was killed and started again on its files: no end, and a new clock if it goes again."""
    world = assembled()
    server = world.roles[0]
    world.talk.pass_time(1.0, [server.peer])
    server.reset()
    world.deliver(server)
    world.talk.pass_time(59.0, [])
    world.talk.pass_time(60.0, [server.peer])
    assert world.talk.pass_time(119.0, [server.peer]) == []


def test_before_the_job_begins_a_vanished_role_leaves_its_place_to_another() -> None:
    """Nothing is lost with it; a process at another address takes over, and the start goes on."""
    world = World(1, steps=1, scores=0)
    trainer, server = world.members[0], world.roles[0]
    world.deliver(trainer)
    world.talk.gather(0.0)
    world.talk.pass_time(1.0, [trainer.peer])
    world.talk.pass_time(12.0, [trainer.peer])
    assert world.talk.rendezvous.missing() == "server 0, trainer 0"
    other = Hello(job="j", attempt=0, role="trainer", index=0, endpoint="tcp://elsewhere")
    assert world.talk.receive(b"other", other, []) == [Send(b"other", Wait(missing="server 0"))]
    world.deliver(server)
    assert world.talk.rendezvous.complete


def test_who_does_not_come_is_named() -> None:
    """The start has a deadline that begins when the data is ready."""
    world = World(2, steps=1, scores=0)
    world.deliver(world.members[0])
    world.talk.pass_time(500.0, [])
    world.talk.gather(500.0)
    world.talk.pass_time(599.0, [])
    with pytest.raises(PeerLost, match=r"server 0, trainer 1 did not register within 100 s \(spec.transport.startup"):
        world.talk.pass_time(601.0, [])


def test_start_up_counts_against_its_own_limit() -> None:
    """Building and compiling before and within the first step: `startupSeconds`; later steps: `stepSeconds`."""
    world = assembled(1)
    (trainer,) = world.members
    while world.oracle_moves():
        pass
    world.talk.pass_time(0.0)
    world.talk.pass_time(LIMITS.startup - 1)
    while trainer.received:
        trainer.take()
    world.finish_step(trainer)
    world.deliver(trainer)
    world.talk.pass_time(200.0)
    world.talk.pass_time(200.0 + LIMITS.step - 1)
    with pytest.raises(PeerLost, match=r"trainer 0 did not finish step 1 within 30 s; .*transport.stepSeconds"):
        world.talk.pass_time(200.0 + LIMITS.step + 1)


def test_a_last_checkpoint_may_take_longer_than_a_step() -> None:
    """Its snapshots may meet a slow disk; a trainer that hangs there is named all the same."""
    world = assembled(1)
    world.talk.leave(0)
    world.talk.pass_time(0.0)
    world.talk.pass_time(LIMITS.step + SNAPSHOT_SECONDS - 1)
    with pytest.raises(PeerLost, match="trainer 0 did not finish its last checkpoint and leave"):
        world.talk.pass_time(LIMITS.step + SNAPSHOT_SECONDS + 1)


def talking(trainers: int) -> World:
    """A world whose roles have all joined and got their first plans."""
    world = World(trainers, steps=4, scores=0)
    for _ in range(20):
        for role in world.roles:
            while role.sent:
                world.deliver(role)
            while role.received:
                role.take()
        world.oracle_moves()
    return world


def test_an_attempt_that_diverges_ends_when_its_checkpoint_is_complete() -> None:
    """Or when that takes too long; without one under way it ends at once."""
    why = Refused(reason="diverged", exit_code=65, saved_first=2)
    world = talking(trainers=2)
    first, second = (role.peer for role in world.members)
    asked = world.talk.receive(second, why, [])
    assert asked == [Send(peer, SaveFirst(step=2)) for peer in world.talk.outbox.peers]
    assert {action.peer for action in asked if isinstance(action, Send)} == {first, second}
    assert world.talk.receive(first, Saved(rank=0, step=2), []) == [EndAttempt(why)]
    assert world.talk.receive(second, why, []) == [EndAttempt(why)]
    slow = talking(trainers=2)
    slow.talk.receive(second, why, [])
    assert slow.talk.pass_time(1.0) == []
    assert slow.talk.pass_time(2.0 + SNAPSHOT_SECONDS) == [EndAttempt(why)]
