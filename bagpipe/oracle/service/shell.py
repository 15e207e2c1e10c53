"""Carries out the actions of the oracle's conversation: the socket, the clock and the files of one attempt."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from bagpipe.batch import Floats
from bagpipe.config.document import TransportConfig
from bagpipe.errors import Stopped
from bagpipe.lowlevel import crash_points
from bagpipe.net.listener import Listener
from bagpipe.net.messages import Ping, Topology
from bagpipe.net.plan_codec import pack_plan
from bagpipe.net.register import refusal
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
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.report import Reporter
from bagpipe.oracle.service.validating import Validator
from bagpipe.plan import BatchPlan

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
TRIES_WHILE_ALIVE = 5
"""Times that every role's connection is tried within `deadPeerSeconds`."""

Made = TypeVar("Made")


class Shell:
    """The socket, the clock and the files of one attempt; carries out the conversation's actions."""

    def __init__(
        self,
        transport: TransportConfig,
        listener: Listener,
        conversation: Conversation,
        reporter: Reporter,
        stop: Callable[[], bool],
    ) -> None:
        self.conversation, self.reporter = conversation, reporter
        self.hit_rate: Callable[[], float] = float
        """The cache's hit rate over the steps that have been planned so far."""
        self.validator: Validator | None = None
        """None where no validation part is evaluated."""
        self.keep_score: Callable[[int, int, Floats], None] = lambda step, rank, logits: None
        self.keep_left: Callable[[frozenset[int]], None] = lambda ranks: None
        """Called with the trainers that have nothing left to do, before they are told that they may go."""
        self._listener, self._stop = listener, stop
        self._between_tries = transport.dead_peer_seconds / TRIES_WHILE_ALIVE
        self._listened = self._tried_at = 0.0

    @property
    def now(self) -> float:
        """Seconds that this oracle has listened: its clock stands still while it plans."""
        return self._listened

    def begin(self, topology: Topology) -> None:
        """Tell every role the topology; from now on no other process is one of its trainers."""
        self._listener.admission.begin(topology.trainer_processes)
        self.act(self.conversation.begin(topology))

    def prepare(self, make: Callable[[], Made]) -> Made:
        """Run this on a thread, so that roles are answered meanwhile.

        Raises:
            Stopped: the process, or a trainer, was asked to stop meanwhile; the thread is left to itself.
        """
        self.reporter.event("preparing")
        made: Future[Made] = Future()
        # A daemon: what it reads may take minutes, and an attempt that is over must not wait for it.
        threading.Thread(target=_make, args=(made, make), name="prepare", daemon=True).start()
        while not made.done():
            self.listen(POLL_SECONDS / 10)
            if self.conversation.stop_asked:
                raise Stopped("oracle: asked to stop while the data was prepared")
        return made.result()

    def listen(self, timeout_seconds: float) -> None:
        """Answer what has arrived, waiting at most so long for the first message, and look at the time.

        Raises:
            PeerLost, ConfigError, DataError: as `Conversation.receive` and `pass_time`.
        """
        begun = time.monotonic()
        arrived = self._listener.poll(timeout_seconds)
        self._listened += time.monotonic() - begun
        for peer, message, arrays in arrived:
            self.act(self.conversation.receive(peer, message, arrays))
        if self._stop():
            self.conversation.stop_asked = True
        unreachable = None
        if self._listened - self._tried_at >= self._between_tries:
            self._tried_at = self._listened
            unreachable = [peer for peer in self.conversation.watched if not self._listener.send(peer, Ping())]
        self.act(self.conversation.pass_time(self._listened, unreachable))

    def act(self, actions: list[Action]) -> None:
        """Carry out what the conversation has decided.

        Raises:
            PeerLost, ConfigError, DataError: a role gave up, for this reason.
        """
        for action in actions:
            crash_points.passed(type(action).__name__)
            match action:
                case Send(peer, message):
                    self._listener.send(peer, message)
                case SendPlan(peer, frames):
                    self._listener.send_frames(peer, frames)
                case StepFinished(told):
                    self.reporter.step(told, hit_rate=self.hit_rate())
                case SliceScored(told):
                    self.keep_score(told.done.step, told.done.rank, told.logits)
                case NoteLeft(ranks):
                    self.keep_left(ranks)
                case TurnAway(peer, refused):
                    self._listener.turn_away(peer, refused)
                case EndAttempt(refused):
                    raise refusal(refused)
                case Ignored(text):
                    self._listener.refused.add(text)
                case Warn(text):
                    log.warning("%s", text)

    def stream(self, plans: Iterator[tuple[BatchPlan, ...]], first_step: int, *, evaluation: bool) -> None:
        """Plan ahead of the trainers' credit, send within it, until every step is done."""
        conversation = self.conversation
        self.act(conversation.stream(first_step, evaluation=evaluation))
        while not conversation.stream_over:
            if self._validate():
                self.listen(0.0)
                continue
            if not conversation.wants_plan:
                self.listen(POLL_SECONDS)
                continue
            step_plans = next(plans, None)
            if step_plans is None:
                conversation.no_more_plans()
            else:
                wanted = [plan for plan in step_plans if conversation.outbox.wants(plan.rank, plan.step)]
                frames = {plan.rank: self._listener.encoded(*pack_plan(plan)) for plan in wanted}
                self.act(conversation.add_plan(frames, validates=step_plans[0].validates))
            self.listen(0.0)

    def _validate(self) -> bool:
        """Do the next thing for an evaluation between two steps; False: there was nothing to do."""
        validations, validator = self.conversation.validations, self.validator
        if validator is None or (step := validations.current) is None:
            return False
        if validations.complete:
            outputs, failed = validations.all_outputs()
            validator.read_all(step)
            self.act(validations.judged(validator.judge(step, outputs, failed, validations.history)))
        elif validations.wants_batch:
            self.act(validations.add_batch(validator.next_batch(step)))
        else:
            return False
        return True


def _make(made: "Future[Made]", make: Callable[[], Made]) -> None:
    try:
        made.set_result(make())
    except BaseException as error:  # whatever it is, it is raised where the result is awaited
        made.set_exception(error)
