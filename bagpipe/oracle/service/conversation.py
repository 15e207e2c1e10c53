"""Decides what the oracle sends to servers and trainers, and what their messages cause, during one attempt. Pure.

Messages and the passing of time come in, actions go out (`actions.py`); an attempt that cannot go on ends in an
exception of `bagpipe.errors`. There is no socket and no clock here: `now` counts the seconds in which the shell has
listened, so that time spent on planning is held against nobody.

Roles come, are lost and come back in any order and at any time, so every message is answered in every stage:

| stage | Hello | NeedPlans | a role has vanished | the oracle waits for |
|---|---|---|---|---|
| `Preparing` | Wait | plans are kept for it | its place is free again | its own data |
| `Gathering` | Wait | as above | its place is free again | every role, `startupSeconds` |
| `Streaming` | Topology | the plans it lacks | the attempt ends, naming it | trainers whose turn it is (`silence.py`) |
| `Leaving` | Topology | NoMorePlans | the attempt ends, naming it | `Finished` of every trainer |
| `Released` | Topology, NoMorePlans | NoMorePlans | nothing is lost with it | a moment for every server to hear it |

A process that takes the place of one that was killed while it let the roles go begins in `Leaving`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bagpipe.batch import Floats
from bagpipe.checkpoint.store import SNAPSHOT_SECONDS
from bagpipe.config.evaluation import EvaluationConfig
from bagpipe.errors import BagpipeError, ExitCode, PeerLost
from bagpipe.net.messages import (
    Finished,
    Hello,
    MayLeave,
    Message,
    NeedPlans,
    NeedValidation,
    NoMorePlans,
    Ping,
    Pong,
    Refused,
    Saved,
    SaveFirst,
    StepDone,
    Stop,
    Topology,
    ValidationOutputs,
    Wait,
)
from bagpipe.oracle.service.actions import (
    Action,
    EndAttempt,
    Ignored,
    NoteLeft,
    Send,
    SendPlan,
    SliceScored,
    StepFinished,
    TurnAway,
    Warn,
)
from bagpipe.oracle.service.claims import contradiction, disbelieved
from bagpipe.oracle.service.ledger import StepLedger, Told, ToldStep
from bagpipe.oracle.service.limits import Limits
from bagpipe.oracle.service.liveness import Liveness, RoleName
from bagpipe.oracle.service.outbox import Outbox
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.scores import Scores
from bagpipe.oracle.service.silence import Silence, Turn
from bagpipe.oracle.service.stages import Gathering, Leaving, Preparing, Released, Stage, Streaming
from bagpipe.oracle.service.validation import Validations

PLANS_IN_RESERVE = 2
"""Steps planned beyond every trainer's credit, so that a credit is answered at once."""


@dataclass(slots=True)
class Conversation:
    """The oracle's side of one attempt.

    Args:
        rendezvous: the roles that have registered.
        ledger: the steps that trainers report, from the one on at which the attempt starts.
        answer: to `Hello`: `Wait`, or the topology that a predecessor of this process has given out.
        depth: `prefetchDepth`.
        restarted: a predecessor of this process may have sent plans.
        validations: the evaluations between training steps.
    """

    rendezvous: Rendezvous
    ledger: StepLedger
    limits: Limits
    depth: int
    answer: Topology | Wait
    restarted: bool = False
    validations: Validations = field(default_factory=lambda: Validations(0, EvaluationConfig()))
    stage: Stage = field(default_factory=Preparing)
    stop_asked: bool = False
    """A trainer or this process was asked to stop."""
    scores: Scores = field(init=False)
    outbox: Outbox = field(init=False)
    _liveness: Liveness = field(init=False)
    _silence: Silence = field(default_factory=Silence)
    _unreported: list[ToldStep] = field(default_factory=list)
    _finished: set[int] = field(default_factory=set)
    _told_to_go: set[RoleName] = field(default_factory=set)
    """Roles that this process has told that they may go."""
    _ending: EndAttempt | None = None
    """Waits for a checkpoint that is under way."""
    _ending_since: float | None = None
    _saved: int = 0
    """Steps of the newest complete checkpoint."""
    _first_step: int = field(init=False)
    _planned: int = field(init=False)
    _exhausted: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.scores = Scores(self.rendezvous.num_trainers)
        self.outbox = Outbox(self.rendezvous.num_trainers, keep_early=4 * self.depth + 16)
        self._liveness = Liveness({"trainer": self.limits.dead_peer, "server": self.limits.server_return})
        self._first_step = self._planned = self.ledger.next_step
        if isinstance(self.answer, Topology):
            self.rendezvous.begin(self.answer.server_processes)

    # ── from stage to stage ───────────────────────────────────────────────────────────────────────

    def gather(self, now: float) -> None:
        """The data is ready: from here on the missing roles are what everybody waits for."""
        self.stage = Gathering(now)

    def begin(self, topology: Topology) -> list[Action]:
        """Every role is there: tell them all."""
        self.answer = topology
        self.rendezvous.begin(topology.server_processes)
        return [Send(peer, topology) for peer in self._liveness.watched]

    def stream(self, first_step: int, *, evaluation: bool) -> list[Action]:
        """Plans of the steps from `first_step` on follow, by `add_plan`, and then `no_more_plans`."""
        self.stage = Streaming(first_step, evaluation)
        self._planned, self._exhausted = first_step, False
        return self._report(())

    def leave(self, step: int, *, stopped: bool, left: Collection[int] = ()) -> list[Action]:
        """Every step before `step` is done: trainers finish their checkpoints and go.

        Args:
            left: ranks that have gone already, as a predecessor of this process has noted.
        """
        no_more_plans = NoMorePlans(step=step, stopped=stopped)
        self.stage = Leaving(no_more_plans)
        self._finished |= set(left)
        return [Send(peer, no_more_plans) for peer in self.outbox.peers]

    @property
    def all_left(self) -> bool:
        """Whether every trainer has finished its last checkpoint."""
        return len(self._finished) == self.rendezvous.num_trainers

    def release_servers(self) -> list[Action]:
        """No trainer needs a server any more; those that are not here now are told when they come."""
        assert isinstance(self.stage, Leaving)
        self.stage = Released(self.stage.no_more_plans)
        servers = [(peer, role) for peer, role in self._liveness.watched.items() if role.kind == "server"]
        self._told_to_go |= {role for _, role in servers}
        return [Send(peer, self.stage.no_more_plans) for peer, _ in servers]

    @property
    def all_told(self) -> bool:
        """Whether this process has told every role that it may go."""
        return len(self._told_to_go) == self.rendezvous.num_servers + self.rendezvous.num_trainers

    def give_up(self, error: BagpipeError) -> list[Action]:
        """Tell every role why the attempt cannot go on, so that none waits for a deadline."""
        lasting = (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA)
        code = error.exit_code if error.exit_code in lasting else ExitCode.TRANSIENT
        refused = Refused(reason=f"the oracle gave up: {error}", exit_code=code)
        return [Send(peer, refused) for peer in self._liveness.watched]

    # ── plans ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def wants_plan(self) -> bool:
        """Whether the next step is to be planned now: a little ahead of the trainers' credit, and no further."""
        # A trainer may wait within a step for another that has not come back yet, and so may never ask for plans.
        ready = self.outbox.everyone or (self.restarted and self.outbox.joined)
        done = self.outbox.done(default=self._first_step - 1)
        if self.validations.holds_plans:
            return False
        return not self._exhausted and ready and self._planned - done <= self.depth + 1 + PLANS_IN_RESERVE

    def add_plan(self, frames: Mapping[int, Any], *, validates: bool = False) -> list[Action]:
        """The next step's plan of each rank that lacks it (`Outbox.wants`), encoded.

        Args:
            validates: the validation part is evaluated after the step.
        """
        if validates:
            self.validations.planned(self._planned)
        for rank, encoded in frames.items():
            self.outbox.add(rank, self._planned, encoded)
        self._planned += 1
        return self._due()

    def no_more_plans(self) -> None:
        """The step before was the stream's last."""
        self._exhausted = True

    @property
    def stream_over(self) -> bool:
        """Whether every trainer has finished every step of the stream, and what it told has arrived."""
        done = self.outbox.done(default=self._first_step - 1)
        if not self._exhausted or not self.outbox.everyone or done < self._planned - 1:
            return False
        if isinstance(self.stage, Streaming) and self.stage.evaluation:
            return self.scores.complete(self.stage.first_step, self._planned, self.ledger.told_from)
        return self.ledger.next_step >= self._planned and self.validations.over

    # ── what comes in ─────────────────────────────────────────────────────────────────────────────

    def receive(self, peer: bytes, message: Message, arrays: list[Any]) -> list[Action]:
        """Answer one message.

        Raises:
            PeerLost: a server came back without the rows that it held.
        """
        if why := self._disbelieved(message):
            return [Ignored(why)]
        knows = self.validations.knows
        if why := contradiction(message, arrays, self.stage, self._planned, answer=self.answer, knows=knows):
            refused = Refused(
                reason=f"the oracle refused a {type(message).__name__}: {why}", exit_code=ExitCode.SOFTWARE
            )
            return [Ignored(f"refused {why}"), Send(peer, refused)]
        match message:
            case Ping():
                return [Send(peer, Pong())]
            case Hello():
                return self._hello(peer, message)
            case NeedPlans():
                return self._need_plans(peer, message)
            case StepDone():
                return self._step_done(message, arrays)
            case NeedValidation() | ValidationOutputs():
                return self.validations.receive(peer, message, arrays)
            case Finished() if isinstance(self.stage, Leaving | Released):
                return self._trainer_left(peer, message.rank)
            case Stop():
                self.stop_asked = True
            case Saved():
                self._saved = max(self._saved, message.step)
                ending = self._ending
                return [ending] if ending is not None and self._saved >= ending.refused.saved_first else []
            case Refused() if peer in self._liveness.watched and message.saved_first > self._saved:
                self._ending = self._ending or EndAttempt(message)
                return [Send(trainer, SaveFirst(step=message.saved_first)) for trainer in self.outbox.peers]
            case Refused() if peer in self._liveness.watched:
                return [EndAttempt(message)]
            case _:
                return [Ignored(f"ignored an unexpected {type(message).__name__}")]
        return []

    def pass_time(self, now: float, unreachable: Collection[bytes] | None = None) -> list[Action]:
        """Time has passed; `unreachable` are the peers whose connection was just tried in vain, None: none was tried.

        Raises:
            PeerLost: names the role that has vanished, did not come, or did not do what was its turn.
        """
        actions: list[Action] = []
        if unreachable is not None:
            gone = self._liveness.tried(unreachable, now)
            actions += [Warn(f"the connection to {role} is gone; it is awaited") for role in gone]
        if self._ending is not None:
            self._ending_since = now if self._ending_since is None else self._ending_since
            return [*actions, self._ending] if now - self._ending_since > SNAPSHOT_SECONDS else actions
        if isinstance(self.stage, Released):
            return actions
        for role, seconds in self._liveness.vanished(now):
            self._vanished(role, seconds)
        match self.stage:
            case Gathering(since) if now - since > self.limits.startup and not self.rendezvous.complete:
                raise PeerLost(
                    f"oracle: {self.rendezvous.missing()} did not register within {self.limits.startup:g} s "
                    "(spec.transport.startupSeconds); look at their logs"
                )
            case Streaming() | Leaving():
                # Trainers that wait for a role that is gone are not late: that role is, and has a limit of its own.
                self._silence.check({} if self._liveness.anybody_gone else self._turns(), now)
            case _:
                pass
        return actions

    @property
    def watched(self) -> Collection[bytes]:
        """The peers whose connection is to be tried now and then."""
        return self._liveness.watched.keys()

    # ── how ───────────────────────────────────────────────────────────────────────────────────────

    def _disbelieved(self, message: Message) -> str:
        told_from = self.ledger.told_from.get(message.rank) if isinstance(message, StepDone) else None
        ahead = self.outbox.keep_early
        return disbelieved(message, planned=self._planned, told_from=told_from, ahead=ahead, restarted=self.restarted)

    def _hello(self, peer: bytes, hello: Hello) -> list[Action]:
        known = peer in self._liveness.watched
        if not known and (lost := self.rendezvous.rows_lost(hello)) is not None:
            raise PeerLost(f"oracle: {lost.reason}")
        if not known and self._no_topology_yet and hello.role != "oracle":
            # Another process has the role now, perhaps elsewhere: the listener lets it in where the first one is gone.
            self.rendezvous.forget(hello.role, hello.index)
        if (refused := self.rendezvous.register(hello)) is not None:
            return [TurnAway(peer, refused)]
        self._liveness.hello(_name(hello), peer)
        if isinstance(self.stage, Gathering) and isinstance(self.answer, Wait):
            return [Send(peer, Wait(missing=self.rendezvous.missing_servers()))]
        if isinstance(self.stage, Released) and hello.role == "server":
            self._told_to_go.add(_name(hello))
            return [Send(peer, self.answer), Send(peer, self.stage.no_more_plans)]
        return [Send(peer, self.answer)]

    def _trainer_left(self, peer: bytes, rank: int) -> list[Action]:
        """A trainer has nothing left to do. That is noted before it may go, so that no successor waits for it."""
        known, name = rank in self._finished, RoleName("trainer", rank)
        self._finished.add(rank)
        self._told_to_go.add(name)
        self._liveness.left(name)
        noted = [] if known else [NoteLeft(frozenset(self._finished))]
        return [*noted, Send(peer, MayLeave())]

    def _need_plans(self, peer: bytes, asked: NeedPlans) -> list[Action]:
        self.outbox.join(asked.rank, peer, credit=asked.credit, done=asked.done, step=asked.step)
        actions = self._report(self.ledger.joined(asked.rank, asked.told_from, ahead=self.outbox.keep_early))
        if isinstance(self.stage, Leaving | Released):
            return [*actions, Send(peer, self.stage.no_more_plans)]
        return [*actions, *self._due()]

    def _step_done(self, done: StepDone, arrays: list[Any]) -> list[Action]:
        self.outbox.finished(done.rank, done.step)
        if not arrays:
            return [*self._report(self.ledger.add(Told(done, _NO_LOGITS))), *self._due()]
        if not self.scores.add(done, arrays[0]):
            return self._due()
        return [SliceScored(Told(done, arrays[0])), *self._due()]

    def _report(self, steps: Collection[ToldStep]) -> list[Action]:
        """Report these steps; not before plans are made, whose figures belong to the reports."""
        self._unreported += steps
        if isinstance(self.stage, Preparing | Gathering):
            return []
        reported, self._unreported = self._unreported, []
        return [StepFinished(step) for step in reported]

    def _due(self) -> list[Action]:
        return [SendPlan(peer, frames) for peer, frames in self.outbox.take_due()]

    def _vanished(self, role: RoleName, seconds: float) -> None:
        if self._no_topology_yet:
            self._liveness.left(role)
            self.rendezvous.forget(role.kind, role.index)
            return
        raise PeerLost(
            f"oracle: {role} at {self.rendezvous.endpoint(role.kind, role.index)} has vanished: its connection has "
            f"been gone for {seconds:.0f} s; look at its log and its machine"
        )

    @property
    def _no_topology_yet(self) -> bool:
        """Nobody has been told where the roles listen: each may still begin elsewhere."""
        return isinstance(self.stage, Preparing | Gathering) and isinstance(self.answer, Wait)

    def _turns(self) -> dict[int, Turn]:
        """What each trainer has to do; none for those that wait for the oracle."""
        turns = {}
        for rank in set(range(self.rendezvous.num_trainers)) - self._finished:
            turn = self._turn(rank)
            if turn is not None:
                turns[rank] = turn
        return turns

    def _turn(self, rank: int) -> Turn | None:
        limits = self.limits
        step = self.outbox.step_of(rank)
        if step is None:
            return Turn("ask for plans", -1, limits.startup, "startupSeconds")
        if isinstance(self.stage, Leaving):
            return Turn("finish its last checkpoint and leave", step, limits.step + SNAPSHOT_SECONDS, "stepSeconds")
        if self.validations.takes_part(rank):
            return self.validations.turn(rank, step, limits.step)
        if not self.outbox.holds_plan(rank):
            return None
        if step == self._first_step:
            # It builds its model, loads its weights and compiles its kernels before and within that step.
            return Turn(f"finish its first step, {step},", step, limits.startup, "startupSeconds")
        return Turn(f"finish step {step}", step, limits.step, "stepSeconds")


_NO_LOGITS: Floats = np.empty(0, np.float32)


def _name(hello: Hello) -> RoleName:
    return RoleName("server" if hello.role == "server" else "trainer", hello.index)
