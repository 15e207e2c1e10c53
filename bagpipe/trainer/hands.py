"""Carries out the instructions of `transitions.py`, each for one step: one method for each instruction.

Nothing here decides: the table gives the order, the plan gives every list of rows. Nothing here does arithmetic:
`sums.py` adds gradients, the cache updates rows. `coherence.py` exchanges rows with other trainers.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from bagpipe.batch import Floats, Keys
from bagpipe.cache.cache import EmbeddingCache, Reduction
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.lowlevel import crash_points
from bagpipe.net.connection import Connection
from bagpipe.net.messages import Hello, Refused, StepDone, Stop
from bagpipe.plan import BatchPlan, GroupPlan
from bagpipe.trainer.coherence import Coherence, Parcel
from bagpipe.trainer.machine import StepMachine
from bagpipe.trainer.row_kinds import RowKinds
from bagpipe.trainer.step import StepWatch
from bagpipe.trainer.told_steps import ToldSteps
from bagpipe.trainer.transitions import Do


class StepHands:
    """One trainer's rows and connections, and what is done with them. Used by one thread.

    Args:
        caches: one for each width group.
        kinds: how each width group's rows are updated.
        depth: steps ahead for which rows are requested.
        reduction: from a row's summed gradient to the one it is updated with.
        gradients_made: called in backward when a width group has its gradients, if other trainers need them.
    """

    def __init__(
        self,
        machine: StepMachine,
        *,
        rank: int,
        world_size: int,
        hello: Hello,
        oracle: Connection,
        servers: EmbeddingClient,
        caches: Sequence[EmbeddingCache],
        kinds: Sequence[RowKinds],
        coherence: Coherence,
        depth: int,
        reduction: Reduction,
        gradients_made: Callable[[int], None],
    ) -> None:
        self.machine, self.rank, self.world_size, self.hello = machine, rank, world_size, hello
        self.oracle, self.servers, self.caches, self.coherence = oracle, servers, tuple(caches), coherence
        self.kinds = tuple(kinds)
        self.reduction, self.gradients_made = reduction, gradients_made
        self.plans: dict[int, BatchPlan] = {}
        """By step, from arrival until nothing of the step is missing anywhere here."""
        self.watches: dict[int, StepWatch] = {}
        """By step, until it is reported."""
        self.losses: dict[int, float | None] = {}
        self.skipped: dict[int, str] = {}
        """By step, until it is reported: why its rows are not updated, on any trainer."""
        self.rows: tuple[torch.Tensor, ...] | None = None
        """The current step's rows, one leaf tensor `[K, D]` for each width group."""
        self.logits: Floats = np.zeros(0, np.float32)
        self.idle = False
        """This trainer has stopped training: planned steps pass by without an update. False again once another trainer
        sends a gradient that is not zero."""
        self.failed = ""
        """Why there are no logits."""
        self.leave_as: Refused | None = None
        """What the oracle is told by a trainer that leaves."""
        self._told = ToldSteps(oracle, rank=rank, first_step=machine.next_step, credit=depth + 1)
        self._gradients: list[Floats] = []
        self._deferred: list[Parcel] = []
        self._leaving: list[tuple[Keys, Floats]] = []
        self._asked_for = -1
        """The last plan that was asked for because a later one came before it."""
        self._methods = self._method_of_each()

    def carry_out(self, do: Do, step: int) -> None:
        """Carry out one instruction for this step."""
        crash_points.passed(do.name)
        self._methods[do](step)

    def let_go(self) -> None:
        """Free the rows and their gradients, when backward has returned.

        If they were kept until the next step, its rows would have to be allocated on new pages, which page faults make
        slow (about 8 MiB a step in the peers' benchmark).
        """
        self.rows, self._gradients = None, []

    def _method_of_each(self) -> dict[Do, Callable[[int], None]]:
        return {
            Do.SAY_HELLO: lambda _: self.oracle.send(self.hello),
            Do.ASK_FOR_PLANS: self._ask_for_plans,
            Do.REQUEST_ROWS: self._request_rows,
            Do.REQUEST_ROWS_AHEAD: self._request_rows,
            Do.STORE_DEFERRED: lambda step: self.coherence.store(self.plans[step], "deferred"),
            Do.LOAD_ROWS: self._load_rows,
            Do.STORE_EAGER: lambda step: self.coherence.store(self.plans[step], "eager"),
            Do.CONFIRM: self._confirm,
            Do.GATHER_ROWS: self._gather_rows,
            Do.SEND_GRADIENTS: self._send_gradients,
            Do.ADD_GRADIENTS: lambda step: self.coherence.add_gradients(self.plans[step], self._gradients),
            Do.UPDATE_ROWS: self._update_rows,
            Do.SEND_EAGER: self._send_eager,
            Do.COPY_DEFERRED: self._copy_deferred,
            Do.COPY_LEAVING: self._copy_leaving,
            Do.COPY_STAYING: self._copy_staying,
            Do.SEND_DEFERRED: self._send_deferred,
            Do.WRITE_BACK: self._write_back,
            Do.REPORT: lambda step: self._report(step, self.losses.pop(step)),
            Do.REPORT_LOGITS: lambda step: self._report(step, 0.0, [self.logits]),
            Do.LEAVE_PEERS: self.coherence.leave,
            Do.SAY_LEAVING: self._say_leaving,
            Do.SAY_STOP: lambda _: self.oracle.send(Stop(rank=self.rank)),
        }

    def plan_came_early(self) -> None:
        """A plan came before the one whose turn it is, so that one was lost, or comes late: ask for it, once."""
        if self._asked_for < self.machine.next_plan:
            self._asked_for = self.machine.next_plan
            self._told.ask_for_plans(self._asked_for)

    def _ask_for_plans(self, _: int) -> None:
        self._told.ask_for_plans(self.machine.next_plan)

    def _request_rows(self, step: int) -> None:
        for group, part in enumerate(self.plans[step].groups):
            if part.fetch_keys.size:
                self.servers.fetch(
                    step, group, part.fetch_keys, num_records=part.num_fetch_records, after=part.fetch_after
                )

    def _load_rows(self, step: int) -> None:
        for group, (cache, part) in enumerate(self._parts(step)):
            if part.fetch_keys.size:
                records, values = self.servers.collect(step, group)
                cache.store_records(part.fetch_slots[: part.num_fetch_records], records)
                cache.store_values(part.fetch_slots[part.num_fetch_records :], values)

    def _confirm(self, through: int) -> None:
        self.coherence.done(through)
        for step in [step for step in self.plans if step <= through]:
            del self.plans[step]

    def _gather_rows(self, number: int) -> None:
        plan = self.plans[number]
        self.rows = tuple(c.weights(g.slots_K) for c, g in self._parts(number))
        if plan.training and self.world_size > 1:
            for group, leaf in enumerate(self.rows):
                hook = self._hook(group)
                leaf.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch has not annotated it

    def _hook(self, group: int) -> Callable[[torch.Tensor], None]:
        return lambda _: self.gradients_made(group)

    def _send_gradients(self, step: int) -> None:
        assert self.rows is not None
        self._gradients = [_gradient(rows) for rows in self.rows]
        self.coherence.send_gradients(self.plans[step], self._gradients)

    def _update_rows(self, step: int) -> None:
        if step in self.skipped:
            return
        if self.idle and not any(sums.any() for sums in self._gradients):
            return
        self.idle = False
        for (cache, part), kinds, sums in zip(self._parts(step), self.kinds, self._gradients, strict=True):
            for kind, index in kinds.updated(part):
                cache.update(part.slots_K[index], sums, index, self.reduction, step, kind)

    def _send_eager(self, step: int) -> None:
        self.coherence.send(step, "eager", self.coherence.take(self.plans[step], "eager"))

    def _copy_deferred(self, step: int) -> None:
        self._deferred = self.coherence.take(self.plans[step], "deferred")

    def _copy_leaving(self, step: int) -> None:
        self._leaving = [(part.evict_keys, c.take_records(part.evict_slots)) for c, part in self._parts(step)]

    def _copy_staying(self, step: int) -> None:
        staying = [(part.flush_keys, c.take_records(part.flush_slots)) for c, part in self._parts(step)]
        self._leaving = [_joined(gone, kept) for gone, kept in zip(self._leaving, staying, strict=True)]

    def _send_deferred(self, step: int) -> None:
        deferred, self._deferred = self._deferred, []
        self.coherence.send(step, "deferred", deferred)

    def _write_back(self, step: int) -> None:
        leaving, self._leaving = self._leaving, []
        with self.watches[step].waiting_for("write_back"):
            self.servers.write_back(step, leaving, checkpoint=self.plans[step].checkpoint)

    def _report(self, step: int, loss: float | None, arrays: Sequence[Floats] = ()) -> None:
        watch = self.watches.pop(step)
        done = StepDone(
            rank=self.rank,
            step=step,
            loss=loss,
            num_examples=self.plans[step].dense_BF.shape[0],
            seconds=watch.seconds,
            waits=watch.waits,
            failed=self.failed,
            skipped=self.skipped.pop(step, ""),
        )
        self._told.tell(done, arrays)

    def _say_leaving(self, _: int) -> None:
        if self.leave_as is not None:
            self.oracle.send(self.leave_as)

    def _parts(self, step: int) -> Iterator[tuple[EmbeddingCache, GroupPlan]]:
        return zip(self.caches, self.plans[step].groups, strict=True)


def _gradient(rows: torch.Tensor) -> Floats:
    """A step's row gradients on the host; zeros where the loss did not depend on the rows."""
    if rows.grad is None:
        return np.zeros(tuple(rows.shape), np.float32)
    array: Floats = rows.grad.detach().cpu().numpy()
    return array


def _joined(first: tuple[Keys, Floats], second: tuple[Keys, Floats]) -> tuple[Keys, Floats]:
    return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))
