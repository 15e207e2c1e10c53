"""The data plane of one trainer: what happens to rows in a step, in the order that `plan.py` gives.

`next` takes the step's plan; its rows are brought into the cache when the model first reads them, so that
whatever a model does before (DLRM's bottom MLP) runs while they travel. Their gradients leave for their
owners as soon as the backward pass has made them, under the rest of it. Where it ends, and while the dense
all-reduce is under way, the rows this trainer owns are updated. On a slow link each byte delays those behind it,
so what is left goes out in the order in which it is waited for: the values that the next step needs behind the dense
gradients (dense weights are needed at its beginning, rows a little later), and what nobody waits for
(rows that leave, deferred values, the report) once those values have come in. Nothing here decides: every list
of rows comes from the plan. Nothing here does arithmetic: `sums.py` adds gradients, the cache updates rows.
What travels between trainers is `coherence.py`'s.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bagpipe.batch import Floats, Keys
from bagpipe.cache.cache import EmbeddingCache, Reduction, create_cache
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.errors import PeerLost
from bagpipe.net.messages import Hello, NoMorePlans, Plan, Refused, StepDone
from bagpipe.net.plan_codec import unpack_plan
from bagpipe.net.sockets import Connection
from bagpipe.plan import BatchPlan, GroupPlan
from bagpipe.trainer.backward import at_the_end
from bagpipe.trainer.coherence import Coherence
from bagpipe.trainer.membership import Membership
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.step import Step
from bagpipe.trainer.told_steps import ToldSteps

log = logging.getLogger(__name__)


class StepPipeline:
    """One trainer's rows, step by step. Used by one thread.

    Args:
        caches: one for each width group.
        depth: steps ahead for which rows are requested.
        reduction: from a row's summed gradient to the one it is updated with.
        packing: told how long each step took.
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
        coherence: Coherence,
        first_step: int,
        depth: int,
        reduction: Reduction,
        packing: Packing,
        deadline_seconds: float,
    ) -> None:
        self.rank, self.world_size, self.depth, self.hello = rank, world_size, depth, hello
        self.oracle, self.servers, self.caches, self.coherence = oracle, servers, tuple(caches), coherence
        self.reduction, self.packing, self.deadline_seconds = reduction, packing, deadline_seconds
        self.next_step = first_step
        self.stopped = False
        """The oracle ended the run because it was asked to stop."""
        self._plans: deque[BatchPlan] = deque()
        self._ended = False
        self._asked_to_fetch = first_step
        self._told = ToldSteps(oracle, rank=rank, first_step=first_step, credit=depth + 1)
        self._ended_at: float | None = None
        """When the last step was finished, by `time.perf_counter`."""
        self._rest: Step | None = None
        """The last finished step, until what nobody waits for is sent."""
        self._ask_for_plans()

    # ── begin ─────────────────────────────────────────────────────────────────────────────────────

    def next(self) -> Step | None:
        """The next step, or None after the last one. Its rows are awaited when they are first asked for."""
        started = time.perf_counter()
        waits: dict[str, float] = {}
        self._await_plan()
        waits["plan"] = time.perf_counter() - started
        if not self._plans:
            self.send_rest()
            self.coherence.receive_eager()
            self.coherence.receive_deferred(before=self.next_step)
            self.servers.settle(self.next_step - 1)
            self.coherence.leave(self.next_step - 1)
            return None
        plan = self._plans.popleft()
        step = Step(plan, started, waits, self._bring_rows)
        self._request_rows([plan])
        self.next_step += 1
        return step

    @property
    def plans_ahead(self) -> int:
        """Steps not begun whose plans have arrived."""
        return len(self._plans)

    def _bring_rows(self, step: Step) -> tuple[torch.Tensor, ...]:
        """Everything this step reads, into the cache and out of it again as one leaf for each width group."""
        plan = step.plan
        if self._rest is not None and _needs_write_back(plan, self._rest.plan.step):
            self.send_rest()
        with step.waiting_for("deferred"):
            self.coherence.receive_deferred(before=plan.step - 1)
        with step.waiting_for("fetch"):
            self._load(plan)
        # Sent last, so awaited last.
        with step.waiting_for("eager"):
            self.coherence.receive_eager()
        self.coherence.done(plan.step - 2)
        self.send_rest()
        self._request_rows(self._plans)
        rows = tuple(c.weights(g.slots_K) for c, g in zip(self.caches, plan.groups, strict=True))
        if plan.training and self.world_size > 1:
            self._exchange_when_made(step, rows)
        return rows

    def _exchange_when_made(self, step: Step, rows: Sequence[torch.Tensor]) -> None:
        """Send once the last group has its gradient, exchange once backward has nothing left to compute.

        Autograd runs its callbacks in the order they were asked for: ours before DDP's, which waits for the dense
        all-reduce, if the rows' gradients come before the last of the dense ones. A group that the loss does not
        reach gets none: `finish` sees to it.
        """
        missing = len(rows)

        def made(_: torch.Tensor) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                self._send_gradients(step, [_gradient(r) for r in step.rows])
                at_the_end(lambda: self._exchange(step))

        for leaf in rows:
            leaf.register_post_accumulate_grad_hook(made)  # type: ignore[no-untyped-call]  # torch has not annotated it

    def _ask_for_plans(self) -> None:
        step = self.next_step + len(self._plans)
        self._told.ask_for_plans(step)

    def _await_plan(self) -> None:
        """Take in what the oracle has sent; wait for this step's plan if it is not there yet."""
        limit = time.monotonic() + self.deadline_seconds
        while True:
            if self.oracle.reconnected():
                # It was restarted: it replays what it planned, and must know who we are and where.
                self.oracle.send(self.hello)
                self._ask_for_plans()
            while (received := self.oracle.try_receive()) is not None:
                self._take_plan(*received)
            if self._plans or self._ended:
                return
            self.send_rest()
            self.coherence.look_after()
            if self.oracle.lost or time.monotonic() > limit:
                why = "it is gone" if self.oracle.lost else f"nothing came for {self.deadline_seconds:g} s"
                raise PeerLost(
                    f"trainer {self.rank}: waited for the plan of step {self.next_step} from the oracle; {why}"
                )
            self.oracle.poll(0.2)

    def _take_plan(self, message: object, arrays: list[Any]) -> None:
        match message:
            case Plan():
                plan = unpack_plan(message, arrays)
                if plan.step == self.next_step + len(self._plans):
                    self._plans.append(plan)
            case NoMorePlans():
                self._ended, self.stopped = True, message.stopped
            case Refused():
                raise PeerLost(f"trainer {self.rank}: {message.reason}")

    def _request_rows(self, plans: Sequence[BatchPlan]) -> None:
        """Ask the servers for every planned step's rows, once."""
        for plan in plans:
            if self._asked_to_fetch <= plan.step <= self.next_step + self.depth:
                for group, part in enumerate(plan.groups):
                    if part.fetch_keys.size:
                        self.servers.fetch(
                            plan.step,
                            group,
                            part.fetch_keys,
                            num_records=part.num_fetch_records,
                            after=part.fetch_after,
                        )
                self._asked_to_fetch = plan.step + 1

    def _load(self, plan: BatchPlan) -> None:
        for group, (cache, part) in enumerate(zip(self.caches, plan.groups, strict=True)):
            if part.fetch_keys.size:
                records, values = self.servers.collect(plan.step, group)
                cache.store_records(part.fetch_slots[: part.num_fetch_records], records)
                cache.store_values(part.fetch_slots[part.num_fetch_records :], values)

    # ── finish ────────────────────────────────────────────────────────────────────────────────────

    def finish(self, step: Step, loss: float | None) -> None:
        """After backward; a checkpoint is written back at once."""
        plan = step.plan
        self._exchange(step)
        step.release()
        now = time.perf_counter()
        step.loss, step.seconds = loss, now - step.started
        self._time_step(now)
        self.coherence.expect(plan)
        if plan.checkpoint:
            self._send_deferred(step)
            with step.waiting_for("deferred"):
                self.coherence.receive_eager()
                self.coherence.receive_deferred(before=plan.step + 1)
            step.leaving = [
                _joined(kept, self._flush(c, p)) for kept, (c, p) in zip(step.leaving, self._parts(plan), strict=True)
            ]
        self._rest = step
        if plan.checkpoint or self.coherence.eager_here():
            self.send_rest()
            self._request_rows(self._plans)

    def _time_step(self, now: float) -> None:
        ended, self._ended_at = self._ended_at, now
        if ended is not None and (why := self.packing.step_took(now - ended)) is not None:
            log.info("trainer %d: %s", self.rank, why)

    def _exchange(self, step: Step) -> None:
        """Gradients to the rows' owners, the update of the rows owned here, their values for the next step's users."""
        if step.exchanged is not None:
            return
        plan, begun = step.plan, time.perf_counter()
        gradients = [_gradient(rows) for rows in step.rows]
        self._send_gradients(step, gradients)
        with step.waiting_for("gradients"):
            self.coherence.add_gradients(plan, gradients)
        for cache, part, sums in zip(self.caches, plan.groups, gradients, strict=True):
            index = part.owned()
            cache.update(part.slots_K[index], sums, index, self.reduction, plan.step)
        # Behind the dense gradients, which are on their way already: a connection keeps its order.
        self.coherence.send(plan.step, "eager", self.coherence.take(plan, "eager"))
        # Copied under the dense all-reduce: nothing changes these rows any more.
        step.deferred = self.coherence.take(plan, "deferred")
        step.leaving = [(part.evict_keys, c.take_records(part.evict_slots)) for c, part in self._parts(plan)]
        step.exchanged = time.perf_counter()
        step.exchange_seconds = step.exchanged - begun

    def send_rest(self) -> None:
        """Send what the last finished step left for later: deferred values, rows that leave, the report."""
        if self._rest is None:
            return
        step, self._rest = self._rest, None
        self._send_deferred(step)
        plan = step.plan
        with step.waiting_for("write_back"):
            self.servers.write_back(plan.step, step.leaving, checkpoint=plan.checkpoint)
        self._report(step, step.loss, step.seconds)

    def _send_deferred(self, step: Step) -> None:
        """Once: a checkpoint sends them ahead of the rest."""
        deferred, step.deferred = step.deferred, []
        self.coherence.send(step.plan.step, "deferred", deferred)

    def finish_evaluation(self, step: Step, logits: Floats) -> None:
        """After a forward pass of the test part: hand the logits to the oracle."""
        self._report(step, 0.0, time.perf_counter() - step.started, [np.ascontiguousarray(logits, np.float32)])

    def _report(self, step: Step, loss: float | None, seconds: float, arrays: Sequence[Floats] = ()) -> None:
        plan = step.plan
        done = StepDone(
            rank=self.rank,
            step=plan.step,
            loss=loss,
            num_examples=plan.dense_BF.shape[0],
            seconds=seconds,
            waits=step.waits,
        )
        self._told.tell(done, arrays)

    def _parts(self, plan: BatchPlan) -> Iterator[tuple[EmbeddingCache, GroupPlan]]:
        return zip(self.caches, plan.groups, strict=True)

    def _send_gradients(self, step: Step, gradients: Sequence[Floats]) -> None:
        """To the rows' owners, once a step."""
        sent, step.gradients_sent = step.gradients_sent, True
        if not sent:
            self.coherence.send_gradients(step.plan, gradients)

    def _flush(self, cache: EmbeddingCache, part: GroupPlan) -> tuple[Keys, Floats]:
        return part.flush_keys, cache.take_records(part.flush_slots)


def open_pipeline(members: Membership, device: torch.device) -> StepPipeline:
    """The row pipeline of a trainer that has joined a job, with empty caches on `device`."""
    topology = members.topology
    spec = topology.spec
    caches = [
        create_cache(slots, group.embedding_dim, spec.embedding.optimizer, device)
        for slots, group in zip(topology.slots, topology.layout.groups, strict=True)
    ]
    return StepPipeline(
        rank=members.rank,
        world_size=members.world_size,
        hello=members.hello,
        oracle=members.oracle,
        servers=members.servers,
        caches=caches,
        coherence=Coherence(members.peers, caches, rank=members.rank, world_size=members.world_size),
        first_step=topology.first_step,
        depth=spec.prefetch_depth,
        reduction=Reduction(members.world_size, mean=spec.embedding.gradient_reduction == "mean"),
        packing=members.packing,
        deadline_seconds=spec.transport.step_seconds,
    )


def _needs_write_back(plan: BatchPlan, step: int) -> bool:
    """Whether a fetch of `plan` waits for the write-back of `step`: without a cache, that of the step before."""
    return any(part.fetch_keys.size and part.fetch_after >= step for part in plan.groups)


def _gradient(rows: torch.Tensor) -> Floats:
    """A step's row gradients on the host; zeros where the loss did not depend on the rows."""
    if rows.grad is None:
        return np.zeros(tuple(rows.shape), np.float32)
    array: Floats = rows.grad.detach().cpu().numpy()
    return array


def _joined(first: tuple[Keys, Floats], second: tuple[Keys, Floats]) -> tuple[Keys, Floats]:
    return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))
