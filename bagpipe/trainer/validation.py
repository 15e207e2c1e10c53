"""Evaluates the validation part between two training steps: batches from the oracle, rows from the servers, read-only.

Training is not disturbed: its plans keep coming in, the rows of its next steps are on their way meanwhile, and its
caches stay as they are. The servers hold the rows of the step that has just ended, because everything newer was written
back with it (`BatchPlan.validates`), and no trainer goes on before the outputs of all are at the oracle.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from bagpipe.batch import Floats
from bagpipe.cache.aligned import aligned
from bagpipe.errors import PeerLost
from bagpipe.lowlevel import crash_points
from bagpipe.net.messages import (
    FIRST_READING,
    Message,
    NeedValidation,
    ValidationBatch,
    ValidationDone,
    ValidationOutputs,
)
from bagpipe.net.plan_check import check_plan
from bagpipe.net.plan_codec import unpack_plan
from bagpipe.plan import BatchPlan
from bagpipe.trainer.membership import Membership
from bagpipe.trainer.pipeline import LOOK_SECONDS, StepPipeline
from bagpipe.trainer.reduction import share_buffers
from bagpipe.trainer.user_code import failed_evaluation

Rows = tuple[torch.Tensor, ...]
Forward = Callable[[BatchPlan, Callable[[], Rows]], Floats]
"""From a slice, and a function that returns its rows, to the outputs of the model."""


class Validation:
    """One trainer's part in evaluations between steps. Used by the thread that trains.

    Args:
        forward: evaluates a slice.
        between: called before each batch.
    """

    def __init__(
        self,
        members: Membership,
        pipeline: StepPipeline,
        forward: Forward,
        device: torch.device,
        between: Callable[[], None],
    ) -> None:
        self.members, self.pipeline, self.forward, self.between = members, pipeline, forward, between
        self.device = device
        self._next_request = FIRST_READING
        self._say: Callable[[], None] = _nothing
        """Sends the latest request, or the outputs, to the oracle; called again after a reconnect."""
        pipeline.hear_validation, pipeline.oracle_is_back = self._hear, self._say_again
        self._step = -1
        self._batches: dict[int, BatchPlan] = {}
        self._requests: dict[int, list[list[int]]] = {}
        """By batch, for each width group: the numbers of the requests for its rows."""
        self._arrived = 0
        self._done: ValidationDone | None = None

    def after(self, step: int, model: nn.Module) -> ValidationDone:
        """Evaluate the validation part after this step.

        Raises:
            PeerLost: the oracle, or a server, did not answer in time.
        """
        self._step, self._arrived, self._done = step, 0, None
        self._batches, self._requests = {}, {}
        outputs: list[Floats] = []
        failed: str | None = None
        with evaluating(model, self.members.process_group):
            try:
                for number in range(self.members.topology.validation_batches):
                    self.between()
                    crash_points.passed("batch of a validation")
                    outputs.append(self._outputs(number))
            except BaseException as error:
                failed = failed_evaluation(error, model, f"batch {len(outputs)} of the validation part")
                if failed is None:
                    raise
                outputs = []
        told = np.concatenate(outputs) if outputs else np.zeros(0, np.float32)
        crash_points.passed("outputs of a validation")
        self._tell(ValidationOutputs(rank=self.members.rank, step=step, failed=failed or ""), [told])
        self._await(lambda: self._done is not None, "the figures")
        self._say = _nothing
        self._forget_rows()
        assert self._done is not None, "waited for"
        return self._done

    def _outputs(self, number: int) -> Floats:
        self._ask(until=number + self.members.topology.spec.prefetch_depth + 1)
        self._await(lambda: number in self._batches, f"batch {number}")
        plan = self._batches.pop(number)
        return self.forward(plan, lambda: self._rows(number)).reshape(-1)

    def _rows(self, number: int) -> Rows:
        collect = self.members.servers.collect
        groups = enumerate(self._requests.pop(number))
        values = [np.concatenate([collect(one, group)[1] for one in requests]) for group, requests in groups]
        return tuple(aligned(rows).to(self.device) for rows in values)

    def _forget_rows(self) -> None:
        """Where the model has failed, rows were asked for that it never took: each evaluation would leave some here."""
        for requests in self._requests.values():
            for group, numbers in enumerate(requests):
                for number in numbers:
                    self.members.servers.forget(number, group)
        self._batches, self._requests = {}, {}

    # ── the oracle ────────────────────────────────────────────────────────────────────────────────

    def _ask(self, until: int) -> None:
        def say() -> None:
            message = NeedValidation(rank=self.members.rank, step=self._step, next=self._arrived, until=until)
            self.members.oracle.send(message)

        self._say = say
        say()

    def _tell(self, message: ValidationOutputs, arrays: Sequence[Floats]) -> None:
        def say() -> None:
            self.members.oracle.send(message, arrays)

        self._say = say
        say()

    def _say_again(self) -> None:
        """What was said last may be lost."""
        self._say()

    def _hear(self, message: Message, arrays: list[Floats]) -> None:
        match message:
            case ValidationBatch() if message.after == self._step and message.plan.step == self._arrived:
                plan = unpack_plan(message.plan, arrays)
                check_plan(plan, rank=self.members.rank, world_size=self.members.world_size, slots=None)
                self._batches[self._arrived] = plan
                self._requests[self._arrived] = [self._request(plan, group) for group in range(len(plan.groups))]
                self._arrived += 1
            case ValidationDone() if message.step == self._step:
                self._done = message
            case _:  # said twice, or of an evaluation that is over
                pass

    def _request(self, plan: BatchPlan, group: int) -> list[int]:
        """Ask for a width group's rows, in pieces: a server answers for no more keys than a cache has slots."""
        part, most = plan.groups[group], self.members.topology.slots[group]
        numbers = []
        for begin in range(0, max(1, part.fetch_keys.size), most):
            number, self._next_request = self._next_request, self._next_request + 1
            keys = part.fetch_keys[begin : begin + most]
            self.members.servers.fetch(number, group, keys, num_records=0, after=part.fetch_after)
            numbers.append(number)
        return numbers

    def _await(self, there: Callable[[], bool], what: str) -> None:
        """Wait for the oracle, which sends a batch when no trainer is more than `prefetchDepth` batches behind."""
        spec = self.members.topology.spec
        seconds = spec.transport.step_seconds * (spec.prefetch_depth + 2)
        limit = time.monotonic() + seconds
        while not there():
            self.members.oracle.poll(LOOK_SECONDS)
            self.pipeline.look_around()
            if there():
                return
            if self.members.oracle.lost or time.monotonic() > limit:
                why = "it is gone" if self.members.oracle.lost else f"nothing came for {seconds:g} s"
                raise PeerLost(
                    f"trainer {self.members.rank}: waited for {what} of the validation after step {self._step} from "
                    f"the oracle; {why}"
                )


def _nothing() -> None:
    """Outside an evaluation nothing is sent to the oracle."""


@contextmanager
def evaluating(model: nn.Module, process_group: dist.ProcessGroup | None) -> Iterator[None]:
    """Inside, the model is in evaluation mode, with the buffers of rank 0; afterwards its modes are as before."""
    modes = [(module, module.training) for module in model.modules()]
    share_buffers(model, process_group)
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
