"""A small world of trainers and servers that talks to the real `Conversation` through queues that a test may cut."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.net.messages import (
    Finished,
    Hello,
    MayLeave,
    Message,
    NoMorePlans,
    StepDone,
    Stop,
    Topology,
    Wait,
)
from bagpipe.oracle.service.actions import NoteLeft, Send, SendPlan, SliceScored, StepFinished, TurnAway
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.ledger import StepLedger
from bagpipe.oracle.service.limits import Limits
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.stages import Leaving, Released, Streaming
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
    server_processes=("server0", "server1", "server2"),
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
    finished: bool = False
    """It has said that nothing is left to do."""
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
            Hello(
                job="j",
                attempt=0,
                role=self.kind,
                index=self.index,
                endpoint=f"tcp://{self.kind}{self.index}:1",
                fresh=self.kind == "server" and not self.begun,
                process=f"{self.kind}{self.index}",
            )
        )

    def reset(self) -> None:
        """The connection breaks: whatever was under way is lost, and the role makes itself known anew."""
        self.sent.clear()
        self.received.clear()
        self.connections += 1
        self.hello()
        if self.kind == "trainer" and self.begun:
            self.told.ask_for_plans(self.next_step + len(self.plans))
        if self.finished:
            self.send(Finished(rank=self.index))

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
                self.left = self.kind == "server"
            case MayLeave():
                assert self.finished
                self.left = True
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
    ending_kept: tuple[int, bool, frozenset[int]] | None = None
    """What outlives an oracle once every step is done: the last step, whether it was stopped, and who has left."""
    now: float = 0.0
    done: bool = False
    scored_all: list[Any] = field(default_factory=list)
    """The logits of the evaluation, when it was over."""

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
        if self.ending_kept is not None:
            step, stopped, left = self.ending_kept
            self.planned = step
            self.act(self.talk.leave(step, stopped=stopped, left=left))

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
                        assert all(t.finished for t in self.members), "a server went before a trainer"
                    if peer in by_peer:
                        by_peer[peer].received.append(message)
                case SendPlan(peer, plan):
                    if peer in by_peer:
                        by_peer[peer].received.append(plan)
                case StepFinished(told):
                    # As `Reporter` does: what a predecessor has recorded is not recorded again.
                    if not self.records or told.step > self.records[-1]:
                        self.records.append(told.step)
                case NoteLeft(ranks):
                    assert self.ending_kept is not None
                    self.ending_kept = (*self.ending_kept[:2], ranks)
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
                        talk.scores.parts.setdefault(step, {})[rank] = logits
                    self.trained = self.planned
                    assert self.records == list(range(self.trained)), "evaluated before every step was recorded"
                    self.act(talk.stream(self.planned, evaluation=True))
                else:
                    self.ending_kept = (self.planned, talk.stop_asked, frozenset())
                    self.scored_all = talk.scores.in_order(self.trained) if self.evaluating else []
                    self.act(talk.leave(self.planned, stopped=talk.stop_asked))
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
                if talk.all_left:
                    self.act(talk.release_servers())
                    return True
                return False
            case Released():
                self.done = talk.all_told or all(role.left for role in self.roles)
                return self.done
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
            if role.released and not role.finished:
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
                role.finished = True
                role.send(Finished(rank=role.index))
            case "reset":
                role.reset()
            case "stop":
                role.send(Stop(rank=role.index))


def run(
    world: World, data: st.DataObject, *, faults: int, restarts: int = 0, stops: int = 0, while_leaving: bool = False
) -> None:
    """Let everything happen in an order that hypothesis chooses, with so many faults, until the oracle is done.

    Args:
        while_leaving: the oracle is replaced only once every step is done.
    """
    for _ in range(5000):
        if world.done:
            return
        world.now += 0.01
        world.act(world.talk.pass_time(world.now))
        moves = world.moves()
        if faults:
            moves += [("reset", role) for role in world.roles if not role.left and role.connections < faults]
        if restarts and (world.ending_kept is not None or not while_leaving):
            moves.append(("restart", world.roles[0]))
        if stops:
            moves += [("stop", role) for role in world.members if role.begun and not role.finished]
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
    """Every step was recorded once and in order, every slice of the evaluation scored, and nothing is left to do."""
    trained = world.planned - scores
    assert world.records == list(range(trained))
    ranks = range(world.trainers)
    expected = [step * 10 + rank for step in range(trained, trained + scores) for rank in ranks]
    assert [float(part[0]) for part in world.scored_all] == expected
    assert all(role.finished and not role.plans for role in world.members)
