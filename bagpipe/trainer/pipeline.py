"""Drives a trainer's step: tells `StepMachine` what happened, has its instructions carried out, and waits.

Three files make a step: `transitions.py` holds its order as a table, `machine.py` reads it, `hands.py` does the work.
This one connects them with the loop, the model, autograd and the sockets, from which events come.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bagpipe.batch import Floats
from bagpipe.cache.cache import EmbeddingCache, Reduction, create_cache
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.errors import ConfigError, PeerLost
from bagpipe.net.connection import Connection
from bagpipe.net.messages import (
    Finished,
    Hello,
    MayLeave,
    Message,
    NoMorePlans,
    Plan,
    Refused,
    SaveFirst,
    ValidationBatch,
    ValidationDone,
)
from bagpipe.net.plan_check import check_plan
from bagpipe.net.plan_codec import unpack_plan
from bagpipe.net.register import refusal
from bagpipe.rows.record import record_widths
from bagpipe.trainer.coherence import Coherence
from bagpipe.trainer.hands import StepHands
from bagpipe.trainer.machine import Instruction, StepFacts, StepMachine
from bagpipe.trainer.membership import Membership
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.row_kinds import RowKinds
from bagpipe.trainer.step import Step, StepWatch
from bagpipe.trainer.torch_private import at_the_end
from bagpipe.trainer.transitions import Do, Event, State

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""A trainer that waits looks after its other connections at this interval."""
_COUNTED = {
    Do.STORE_DEFERRED: "deferred",
    Do.LOAD_ROWS: "fetch",
    Do.STORE_EAGER: "eager",
    Do.ADD_GRADIENTS: "gradients",
}
"""Instructions whose time counts as part of the wait before them, in the current step."""


class StepPipeline:
    """One trainer's rows, step by step. Used by one thread.

    Args:
        caches, slots: of each width group, its cache, and how many slots that has: no plan may use more.
        kinds: how each width group's rows are updated.
        depth: steps ahead for which rows are requested.
        reduction: from a row's summed gradient to the one it is updated with.
        packing: told how long each step took.
        deadline_seconds: longest wait for a plan of the oracle.
        startup_seconds: the same for the first plan, before which the oracle may have to compile its kernels.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        hello: Hello,
        oracle: Connection,
        servers: EmbeddingClient,
        caches: Sequence[EmbeddingCache],
        slots: Sequence[int],
        kinds: Sequence[RowKinds],
        coherence: Coherence,
        first_step: int,
        depth: int,
        reduction: Reduction,
        packing: Packing,
        deadline_seconds: float,
        startup_seconds: float = 0.0,
    ) -> None:
        self.rank, self.oracle, self.servers, self.coherence = rank, oracle, servers, coherence
        self.packing, self.deadline_seconds, self.slots = packing, deadline_seconds, tuple(slots)
        self.startup_seconds = max(startup_seconds, deadline_seconds)
        self.machine = StepMachine(num_groups=len(caches), first_step=first_step, depth=depth)
        self.hands = StepHands(
            self.machine,
            rank=rank,
            world_size=world_size,
            hello=hello,
            oracle=oracle,
            servers=servers,
            caches=caches,
            kinds=kinds,
            coherence=coherence,
            depth=depth,
            reduction=reduction,
            gradients_made=self._gradients_made,
        )
        self._watch = StepWatch()
        """Of the current step."""
        self._to_do: deque[Instruction] = deque()
        self._busy = self._holding = self._may_leave = False
        self.meanwhile: Callable[[], None] = lambda: None
        """Called now and then in every wait; it never waits itself."""
        self.save_first: Callable[[], None] = lambda: None
        """Called when the attempt is to end after the latest checkpoint."""
        self._finished: Finished | None = None
        """What is sent once nothing is left to do, and again to an oracle that was restarted."""
        self.hear_validation: Callable[[Message, list[Any]], None] = lambda message, arrays: None
        self.oracle_is_back: Callable[[], None] = lambda: None
        """Of evaluations between steps: called with the oracle's messages about them; and after a reconnect to it."""
        self._ended_at: float | None = None
        """When the last step ended, by `time.perf_counter`."""
        servers.while_waiting(self.look_around)
        coherence.while_waiting(self.look_around)
        self._happened(Event.JOINED)

    # ── what the loop calls ───────────────────────────────────────────────────────────────────────

    def next(self) -> Step | None:
        """The next step, or None after the last one. Its rows are awaited when they are asked for.

        Raises:
            PeerLost: the oracle, or at the end of the run another role, is gone or silent.
        """
        self._watch = watch = StepWatch()
        self._look_at_oracle()
        self._happened(Event.NEXT_ASKED)
        self._wait()
        if self.machine.state is State.OVER:
            return None
        watch.waits["plan"] = time.perf_counter() - watch.begun
        number = self.machine.next_step - 1
        self.hands.watches[number] = watch
        return Step(self.hands.plans[number], watch)

    @property
    def untouched(self) -> bool:
        """Whether the current step has begun, and nobody has asked for its rows."""
        return self.machine.state is State.BEGUN

    def rows(self, step: Step) -> tuple[torch.Tensor, ...]:
        """Weights of the distinct rows `[K, D]` of each width group; leaf tensors whose `.grad` backward fills.

        Waits for whatever is not here yet, and sends nothing. The first call is followed by `rows_handed_out`.

        Raises:
            PeerLost: a server or another trainer did not send its rows in time.
        """
        if self.machine.state is State.BEGUN:
            self._hear()
            self._happened(Event.ROWS_ASKED)
            self._wait()
        assert self.hands.rows is not None, "the rows of a step that has ended"
        return self.hands.rows

    @property
    def rows_here(self) -> tuple[torch.Tensor, ...]:
        """What `rows` returned in the current step; empty if it has not been called."""
        return self.hands.rows or ()

    def rows_handed_out(self) -> None:
        """The model has its rows, so this trainer waits for no message now: what was held back is sent."""
        if self.machine.state is State.HOLDS_ROWS:
            self._happened(Event.ROWS_HANDED_OUT)

    @contextmanager
    def holding_gradients(self) -> Iterator[None]:
        """Gradients of rows that are made inside are added up, and leave after the next backward pass outside."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def finish(self, step: Step, loss: torch.Tensor | float | None) -> None:
        """End the step after backward has returned; at a checkpoint all rows that changed are written back.

        Raises:
            PeerLost: another trainer did not send gradients, or values at a checkpoint, in time.
        """
        number = step.plan.step
        self.hands.losses[number] = None if loss is None else float(loss)
        if self.machine.state is State.BEGUN:
            self.rows(step)
            self.rows_handed_out()
        self._end_backward()
        self.hands.let_go()
        self._time_step()
        self._hear()
        self._happened(Event.STEP_ENDED)
        self._wait()

    def finish_evaluation(self, step: Step, logits: Floats, failed: str = "") -> None:
        """After a forward pass of the test part: hand the logits to the oracle, or say why there are none."""
        self.rows(step)
        self.rows_handed_out()
        self.hands.let_go()
        self.hands.logits, self.hands.failed = np.ascontiguousarray(logits, np.float32), failed
        self._watch.seconds = time.perf_counter() - self._watch.begun
        self._happened(Event.EVALUATED)

    def leave(self, reason: Refused) -> None:
        """Leave before the end: the job ends for every role, for this reason. Returns at once."""
        self.hands.leave_as = reason
        self._happened(Event.LEAVE_ASKED)

    def leave_finished(self) -> None:
        """Every step and checkpoint is complete: leave once the oracle has noted that, or is gone for good.

        Raises:
            PeerLost: the oracle is there and does not answer. One that is gone has released all roles, or failed.
        """
        self._finished = Finished(rank=self.rank)
        self.oracle.send(self._finished)
        self._await_oracle("the word to leave", lambda: not (self._may_leave or self.oracle.lost))

    def ask_to_stop(self) -> None:
        """End the run through the plan, at a checkpoint, so that all trainers stop after the same step."""
        self._happened(Event.STOP_ASKED)

    # ── what happens ──────────────────────────────────────────────────────────────────────────────

    def _happened(self, event: Event) -> None:
        self._carry_out(self.machine.happened(event))

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        """Carry them out in their order, even if one of them waits and an event adds more meanwhile."""
        self._to_do.extend(instructions)
        if self._busy:
            return
        self._busy = True
        try:
            while self._to_do:
                do, step = self._to_do.popleft()
                counted = _COUNTED.get(do)
                if counted is None:
                    self.hands.carry_out(do, step)
                else:
                    with self._watch.waiting_for(counted):
                        self.hands.carry_out(do, step)
        finally:
            self._busy = False
            self._to_do.clear()

    def _wait(self) -> None:
        """Wait until the machine awaits nothing."""
        while (what := self.machine.waits_for) is not None:
            self._await(what)

    def _await(self, what: str) -> None:
        """Wait for the next thing that is missing, and tell the machine that it came."""
        number = self.machine.next_step - 1
        with self._watch.waiting_for(what):
            match what:
                case "plan":
                    step = self.machine.next_step
                    self._await_oracle(f"the plan of step {step}", lambda: self.machine.state is State.AWAITS_PLAN)
                    return
                case "fetch":
                    self.servers.await_rows(number)
                case "write_back":
                    self.servers.await_acknowledgements(number)
                case _:
                    self.coherence.await_one(self.machine.missing()[0])
        if what == "fetch":
            self._carry_out(self.machine.rows_arrived(number))
        elif what == "write_back":
            self._carry_out(self.machine.written_back())
        else:
            self._hear()

    def _hear(self) -> None:
        """Take in what has come from other trainers."""
        for kind, step, peer in self.coherence.arrivals():
            self._carry_out(self.machine.peer_rows_arrived(kind, step, peer))

    def _gradients_made(self, group: int) -> None:
        """Backward has made a width group's gradients. Autograd runs callbacks in the order in which they are queued:
        ours before DDP's, which waits for dense gradients, if the rows' gradients come before the last dense ones.
        """
        if self._holding:
            return
        if self.machine.state is not State.COMPUTING:
            raise ConfigError(
                f"trainer {self.rank}: the rows of step {self.machine.next_step - 1} went through backward twice, but "
                "their gradients have left after the first time; add the losses and call backward once"
            )
        instructions = self.machine.gradients_made(group)
        self._carry_out(instructions)
        if instructions:
            at_the_end(self._end_backward)

    def _end_backward(self) -> None:
        """Called when the backward pass has nothing left to compute, and again after it; the first call counts."""
        if self.machine.state not in (State.COMPUTING, State.GRADIENTS_SENT):
            return
        begun = time.perf_counter()
        self._hear()
        self._happened(Event.BACKWARD_ENDED)
        self._wait()
        self._watch.updated = time.perf_counter()
        self._watch.updating = self._watch.updated - begun

    # ── the oracle ────────────────────────────────────────────────────────────────────────────────

    def look_around(self) -> None:
        """Called in every wait: send again what a reset lost, and see whether the oracle has ended the job."""
        self.coherence.look_after()
        self.meanwhile()
        self._look_at_oracle()

    def _look_at_oracle(self) -> None:
        if self.oracle.reconnected():
            # It may have been restarted: it replays what it planned, and must learn who we are and where we listen.
            self._happened(Event.ORACLE_RECONNECTED)
            if self._finished is not None:
                self.oracle.send(self._finished)
            self.oracle_is_back()
        while (received := self.oracle.try_receive()) is not None:
            self._hear_oracle(*received)

    def _hear_oracle(self, message: Message, arrays: list[Any]) -> None:
        match message:
            case Plan() if message.step == self.machine.next_plan:
                plan = self.hands.plans[message.step] = unpack_plan(message, arrays)
                check_plan(plan, rank=self.rank, world_size=self.hands.world_size, slots=self.slots)
                self._carry_out(self.machine.plan_arrived(StepFacts.of(plan)))
            case Plan() if message.step > self.machine.next_plan:
                self.hands.plan_came_early()
            case ValidationBatch() | ValidationDone():
                self.hear_validation(message, arrays)
            case SaveFirst():
                self.save_first()
            case MayLeave():
                self._may_leave = True
            case NoMorePlans():
                self._carry_out(self.machine.plans_ended(stopped=message.stopped))
            case Refused():
                error = refusal(message)
                raise type(error)(f"trainer {self.rank}: {error}")

    def _await_oracle(self, what: str, awaited: Callable[[], bool]) -> None:
        seconds = self.startup_seconds if self._ended_at is None else self.deadline_seconds
        limit = time.monotonic() + seconds
        while awaited():
            self.look_around()
            if not awaited():
                return
            if self.oracle.lost or time.monotonic() > limit:
                why = "it is gone" if self.oracle.lost else f"nothing came for {seconds:g} s"
                raise PeerLost(f"trainer {self.rank}: waited for {what} from the oracle; {why}")
            self.oracle.poll(LOOK_SECONDS)

    def _time_step(self) -> None:
        now = time.perf_counter()
        self._watch.seconds = now - self._watch.begun
        ended, self._ended_at = self._ended_at, now
        if ended is not None and (why := self.packing.step_took(now - ended)) is not None:
            log.info("trainer %d: %s", self.rank, why)


def open_pipeline(members: Membership, device: torch.device) -> StepPipeline:
    """The row pipeline of a trainer that has joined a job, with empty caches on `device`."""
    topology, spec = members.topology, members.topology.spec
    groups, widths = topology.layout.groups, record_widths(spec.embedding, topology.layout)
    kinds = [RowKinds(spec.embedding, group) for group in groups]
    caches = [
        create_cache(slots, group.embedding_dim, width, own.kinds, device)
        for slots, group, width, own in zip(topology.slots, groups, widths, kinds, strict=True)
    ]
    return StepPipeline(
        rank=members.rank,
        world_size=members.world_size,
        hello=members.hello,
        oracle=members.oracle,
        servers=members.servers,
        caches=caches,
        slots=topology.slots,
        kinds=kinds,
        coherence=Coherence(members.peers, caches, rank=members.rank, world_size=members.world_size),
        first_step=topology.first_step,
        depth=spec.prefetch_depth,
        reduction=Reduction(members.world_size, mean=spec.embedding.gradient_reduction == "mean"),
        packing=members.packing,
        deadline_seconds=spec.transport.step_seconds,
        startup_seconds=spec.transport.startup_seconds,
    )
