"""The trainer behind a user's own training loop: it gives batches and their embeddings, and updates the rows."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from bagpipe.batch import Cursor, Floats
from bagpipe.cache.aligned import aligned
from bagpipe.cache.by_id import embeddings_of
from bagpipe.cache.ids import BatchIds
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import Job
from bagpipe.errors import ConfigError, Diverged, ExitCode
from bagpipe.lowlevel.wording import text_of
from bagpipe.net.messages import InitCacheArguments, Refused, Topology
from bagpipe.net.register import Impatience
from bagpipe.trainer.batch_dict import BatchDict, Evaluate
from bagpipe.trainer.batch_figures import Begun, Ended, begun_figures, ended_figures
from bagpipe.trainer.checkpointer import Checkpointer
from bagpipe.trainer.dense_average import DenseAverage
from bagpipe.trainer.diverging import save_what_is_good
from bagpipe.trainer.finite import FiniteCheck
from bagpipe.trainer.loop_words import UNTRAINED, asked_again, reported_loss, scored, tell_lookahead
from bagpipe.trainer.membership import Membership, join
from bagpipe.trainer.pipeline import open_pipeline
from bagpipe.trainer.schedulers import bring_forward
from bagpipe.trainer.step import Step, slice_weight, told_loss

log = logging.getLogger(__name__)

LEAVE_SECONDS = 30.0  # A trainer that leaves early waits at most so long for the others to do the same.


class BagCache:
    """One trainer's cache. `next_batch` and `get_emb` are the paper's API; the other methods add to it."""

    def __init__(
        self,
        job: Job,
        arguments: InitCacheArguments,
        *,
        oracle: str,
        bind: str,
        device: torch.device,
        rank: int,
        attempt: int,
        logger: logging.Logger = log,
        evaluate: Evaluate | None = None,
        impatience: Impatience | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Use `init_cache`, or `bagpipe.local`."""
        self._step: Step | None = None
        self._ids: BatchIds | None = None
        self._begun: Begun | None = None
        self._ended: Ended | None = None
        self._loss: float | None = None
        self._last_loss: float | None = None
        self._done = 0
        """Batches that were trained on here."""
        self._trained_to: tuple[int, Cursor] | None = None
        self._any_gradient = False
        self._over = False
        self._process = os.getpid()
        self._evaluate = evaluate
        self._stack = ExitStack()
        joined = join(
            job,
            oracle=oracle,
            bind=bind,
            advertise=None,
            rank=rank,
            attempt=attempt,
            device=device,
            stop=stop,
            init_cache=arguments,
            impatience=impatience,
        )
        self._members: Membership = self._stack.enter_context(joined)
        try:
            self._pipeline = open_pipeline(self._members, device)
            self._checkpointer = Checkpointer(self._members, None, None)
            self._finite = self._finite_check(nn.Module())
        except BaseException:
            self._stack.close()
            raise
        # A program that never closes its cache, and a child process that multiprocessing ends, leave as it ends.
        self._stack.callback(Finalize(None, self._at_exit, exitpriority=100).cancel)
        tell_lookahead(logger, arguments.lookahead, self._members.topology.spec.lookahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without an exception as `close`; with one, leave at once.

        Of the interrupted batch nothing is updated, written back or reported, and the job ends as failed for every
        trainer; its last checkpoint stays as it was. The `StopIteration` at the end of the data counts as no exception.
        """
        if os.getpid() != self._process:  # A fork of the program leaves the block, as by `sys.exit`.
            return
        if value is None or self._over:
            self.close()
        else:
            self._abandon(value)

    def __iter__(self) -> Iterator[BatchDict]:
        """Batches to the end of the data: of all epochs, once. Raises `ConfigError` when asked for them once more."""
        if self._over:
            raise asked_again(self._members.topology.spec.epochs, self._pipeline.machine.next_step)
        while (batch := self._advance()) is not None:
            yield batch

    def next_batch(self) -> BatchDict:
        """Update the rows of the last batch, and return the next one.

        Raises:
            StopIteration: the data is at its end; every update has been applied and written back.
        """
        batch = None if self._over else self._advance()
        if batch is None:
            raise StopIteration("no more batches: the run's steps or epochs are done")
        return batch

    @property
    def topology(self) -> Topology:
        """What the oracle told this trainer: tables, the job with every `auto` resolved, numbers of features."""
        return self._members.topology

    @property
    def begun(self) -> Begun | None:
        """What bringing in the current batch took."""
        return self._begun

    @property
    def ended(self) -> Ended | None:
        """What updating the rows of the batch before took."""
        return self._ended

    @property
    def step(self) -> int:
        """Number of the current batch's step, from 0."""
        return self._current("step").plan.step

    @property
    def first_example(self) -> int:
        """Place of this slice's first example in the global batch."""
        return self._current("first_example").plan.first_example

    @property
    def weights(self) -> torch.Tensor | None:
        """Weights of the current batch's examples, `[B]` float32; None: they have none."""
        found = self._current("weights").plan.weights_B
        return None if found is None else aligned(found)

    @property
    def groups(self) -> torch.Tensor | None:
        """Group (user, session) of each of the current batch's examples, `[B]` int64; None: the data has no groups."""
        found = self._current("groups").plan.groups_B
        return None if found is None else torch.from_numpy(found.copy())

    @property
    def slice_weight(self) -> float:
        """Factor of this slice's mean loss that makes the mean over trainers that of the global batch.

        It is 1 but for a short batch that trainers cannot share evenly, and for examples with weights.
        """
        return slice_weight(self._current("slice_weight").plan, self._members.world_size)

    def embeddings(self) -> SparseEmbeddings:
        """The current batch's embeddings as `bagpipe.models` take them: pooled, by feature."""
        return self._embeddings(self._current("embeddings"))

    def get_emb(self, ls_i: "torch.Tensor | Sequence[Any]") -> list[torch.Tensor]:
        """Embeddings of a batch's ids, connected to the rows for backward.

        Args:
            ls_i: for each sparse feature, ids of this batch: `[B]` gives `[B, D]`, `[B, k]` gives `[B, k, D]`, where -1
                gives zeros. Tensors and plain lists are accepted; `sparse_vector` itself is the quickest.

        Raises:
            ConfigError: an id is not in this batch, or there are more lists than tables.
        """
        step = self._current("get_emb")
        assert self._ids is not None
        return embeddings_of(self._rows(step), self._ids.local_rows(ls_i))

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        average: DenseAverage | None = None,
    ) -> None:
        """Make the dense model part of this job's checkpoints; a resumed job's weights are loaded into it.

        Pass the model itself before it is wrapped in DDP, and None for the optimizer of a model that has nothing to
        train. Without it checkpoints hold the tables only.

        Args:
            scheduler: of the optimizer, stepped by the loop once a batch; in a resumed job it is brought to the step at
                which that goes on. None: the rate is the optimizer's, which a checkpoint keeps.
            average: of the weights, to be kept and evaluated; the loop adds to it.

        Raises:
            ConfigError: the scheduler depends on more than the step.
            CheckpointError: the checkpoint is of another model or optimizer.
        """
        rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else []
        self._checkpointer = Checkpointer(self._members, model, optimizer, average)
        self._checkpointer.restore()
        self._finite = self._finite_check(model)
        if scheduler is not None and optimizer is not None:
            bring_forward(scheduler, optimizer, rates, self.topology.first_step)

    def report_loss(self, loss: torch.Tensor | float) -> None:
        """Tell this batch's mean loss, for the run's progress records. Optional.

        Raises:
            Diverged: it is NaN or infinite (`spec.notFinite`); names where that came from.
        """
        self._loss = reported_loss(loss)
        self._finite.loss(self._current("report_loss").plan, self._loss, None, self._pipeline.rows_here)

    def finish_batch(self) -> None:
        """Update the rows of the current batch now; `next_batch` and `close` do it otherwise.

        Raises:
            Diverged: a row's gradient, or a dense weight that would be saved, is NaN or infinite (`spec.notFinite`).
        """
        if self._step is not None:
            rows = self._pipeline.rows_here
            self._finite.gradients(self._step.plan, rows)
            self._any_gradient = self._any_gradient or any(leaf.grad is not None for leaf in rows)
            step, self._step = self._step, None
            begun, in_backward = time.perf_counter(), step.watch.updating
            self._pipeline.finish(step, None if self._loss is None else told_loss(step.plan, self._loss))
            self._ended = ended_figures(step, in_backward + time.perf_counter() - begun)
            self._done, self._trained_to = self._done + 1, (step.plan.step + 1, step.plan.end)
            self._last_loss, self._loss = self._loss, None
            if step.plan.checkpoint and self._finite.savable(step.plan):
                self._checkpointer.begin(step.plan)
            # Only the next batch shows whether this one's rows are finite, so its checkpoint is completed after that.
            self._checkpointer.poll(but=step.plan.step)

    def stop(self) -> None:
        """End the job for all trainers at a checkpoint, up to which a few more batches follow."""
        self._pipeline.ask_to_stop()

    def close(self) -> None:
        """Apply the last update, write back, leave the job. Closing again does nothing.

        Before the end of the data this ends the job for all trainers, with a checkpoint of what was trained. Batches
        that were planned already are passed over without training; a resumed job begins with them.
        """
        try:
            if self._step is None or not self._pipeline.untouched:
                self.finish_batch()
            if not self._over:
                self._leave()
        finally:
            self._stack.close()

    def _at_exit(self) -> None:
        """The interpreter or this child process ends: do what leaving the `with` block does."""
        error = sys.exc_info()[1] or getattr(sys, "last_value", None)
        if error is None or (isinstance(error, SystemExit) and not error.code) or self._over:
            self.close()
        else:
            self._abandon(error)

    def _leave(self) -> None:
        """End the job, or this trainer's part in it, so that no other role waits for a trainer that is gone."""
        total, done = self._members.topology.total_steps, self._done
        if self._step is None and total is not None and self._pipeline.machine.next_step >= total:
            self._advance()
        elif self._trained_to is None:
            self._over = True
            reason = f"trainer {self._members.rank} left before it trained on a batch; there is no model to save"
            log.warning("%s", reason)
            self._pipeline.leave(Refused(reason=reason, exit_code=ExitCode.BAD_CONFIG))
        else:
            log.warning(
                "trainer %d left after %d batches, before the job's end: it ends with a checkpoint of them. For a loop "
                "of %d batches set the job's steps to %d",
                *(self._members.rank, done, done, done),
            )
            self._pass_by()

    def _pass_by(self) -> None:
        """Go through the steps that are planned already, without training, to a checkpoint.

        Raises:
            ConfigError: another trainer goes on training.
            PeerLost: another trainer does not do its part of these steps.
        """
        self._over = True
        hands, rank, loss = self._pipeline.hands, self._members.rank, self._last_loss
        self._checkpointer.trained_to = self._trained_to
        hands.idle = True
        self._members.peers.deadline_seconds = min(self._members.peers.deadline_seconds, LEAVE_SECONDS)
        step, self._step = self._step, None
        if step is None:
            self._pipeline.ask_to_stop()
            step = self._pipeline.next()
        while step is not None:
            self._pipeline.finish(step, loss)
            if not hands.idle:
                what = f"trainer {rank} left after {self._done} batches"
                reason = f"{what}, and another one trained on; let all of them take as many"
                self._pipeline.leave(Refused(reason=reason, exit_code=ExitCode.BAD_CONFIG))
                raise ConfigError(reason)
            if step.plan.checkpoint:
                self._checkpointer.begin(step.plan)
            self._checkpointer.poll()
            self._pipeline.ask_to_stop()
            step = self._pipeline.next()
        self._checkpointer.close()
        self._pipeline.leave_finished()

    def _abandon(self, error: BaseException) -> None:
        """Leave in the middle of a batch, and tell the oracle, so that no other role waits for this trainer."""
        self._step, self._over = None, True
        what = f"{type(error).__name__}: {text_of(error)}".splitlines()[0].rstrip(": ")
        rank, batch = self._members.rank, self._pipeline.machine.next_step - 1
        reason = f"trainer {rank} left in the middle of batch {batch} ({what}); look at its own output"
        left = Refused(reason=reason, exit_code=ExitCode.TRANSIENT)
        try:
            if isinstance(error, Diverged):
                left = Refused(reason=str(error), exit_code=error.exit_code)
                save_what_is_good(error, self._members, self._checkpointer, self._pipeline)
            self._pipeline.leave(left)
        finally:
            self._stack.close()

    def _finite_check(self, model: nn.Module) -> FiniteCheck:
        return FiniteCheck(model, self.topology.layout, rank=self._members.rank, policy=self.topology.spec.not_finite)

    def _advance(self) -> BatchDict | None:
        self.finish_batch()
        begun = time.perf_counter()
        step = self._pipeline.next()
        while step is not None and not step.plan.training:
            self._pipeline.finish_evaluation(step, self._scores(step))
            step = self._pipeline.next()
        if step is None:
            self._over = True
            if self._done and not self._any_gradient:
                log.warning(UNTRAINED, self._members.rank, self._done)
            self._checkpointer.close()
            self._pipeline.leave_finished()
            return None
        self._begun = begun_figures(step, self._pipeline.machine.plans_ahead, time.perf_counter() - begun)
        return self._batch(step)

    def _batch(self, step: Step) -> BatchDict:
        self._step = step
        self._ids = BatchIds(step.plan.groups, self._members.topology.layout)
        return {
            "dense_x": aligned(step.plan.dense_BF),
            "sparse_vector": self._ids.ids,
            "target": aligned(step.plan.labels_BL),
            "embeddings": self._embeddings(step),
        }

    def _scores(self, step: Step) -> Floats:
        """The caller's logits of a batch of the test part."""
        if self._evaluate is None:
            raise ConfigError("evaluate: the job evaluates, and this trainer was given nothing to score with")
        try:
            with torch.no_grad():
                return scored(self._evaluate(self._batch(step)), list(step.plan.labels_BL.shape))
        finally:
            self._step = None

    def _embeddings(self, step: Step) -> SparseEmbeddings:
        examples = step.plan.dense_BF.shape[0]
        return SparseEmbeddings.later(self.topology.layout, lambda: self._rows(step), step.plan.groups, examples)

    def _rows(self, step: Step) -> tuple[torch.Tensor, ...]:
        """Wait for the batch's rows; once they are here, what the batch before has held back is sent."""
        rows = self._pipeline.rows(step)
        self._pipeline.rows_handed_out()
        return rows

    def _current(self, what: str) -> Step:
        if self._step is None:
            raise ConfigError(f"{what}: there is no current batch; call next_batch first")
        return self._step
