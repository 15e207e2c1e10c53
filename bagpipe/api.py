"""The paper's trainer API: batches and their embeddings, with every fetch and synchronisation hidden.

    cache = init_cache(emb_size=48, ln_emb=sizes, cache_size=100_000, device="cpu",
                       training_worker_id=rank, trainer_world_size=world,
                       emb_optim=torch.optim.SGD, emb_optim_params={"lr": 0.01})
    with cache:
        for batch in cache:
            embeddings = cache.get_emb(batch["sparse_vector"])
            loss = model(batch["dense_x"], embeddings, batch["target"])
            loss.backward()
            optimizer.step()

The oracle is found at `MASTER_ADDR`:`MASTER_PORT` and tells everything else. Rows are updated when the
next batch is asked for, or on `close`: so after the last batch too, and nothing is lost.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
import torch
from torch import nn

from bagpipe.cache.aligned import aligned
from bagpipe.cache.ids import BatchIds
from bagpipe.cache.lookup import SparseEmbeddings, gather_rows
from bagpipe.config.document import (
    DataConfig,
    DenseOptimizer,
    Job,
    JobSpec,
    Metadata,
    TrainerConfig,
)
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError, ExitCode
from bagpipe.net.interfaces import listening_address
from bagpipe.net.messages import Finished, InitCacheArguments, Refused, Topology
from bagpipe.trainer.batch_figures import Begun, Ended, begun_figures, ended_figures
from bagpipe.trainer.checkpointer import Checkpointer
from bagpipe.trainer.membership import Membership, join
from bagpipe.trainer.pipeline import open_pipeline
from bagpipe.trainer.row_optimizers import row_optimizer
from bagpipe.trainer.step import Step, slice_weight

log = logging.getLogger(__name__)

DEFAULT_PORT = 18000


class BatchDict(TypedDict):
    """One trainer's slice of a batch, on the CPU."""

    dense_x: torch.Tensor
    """`[B, F]` float32."""
    sparse_vector: "torch.Tensor | list[torch.Tensor]"
    """Ids, int64: a tensor `[tables, B]`; where features have several lookups, a list of `[B, k]`."""
    target: torch.Tensor
    """`[B, L]` float32."""


def init_cache(
    *,
    lookahead_value: int = 200,
    emb_size: int = 1,
    ln_emb: Sequence[int] = (),
    cache_size: int = 25_000,
    cleanup_batch_proportion: float = 0.25,
    emb_optim: type[torch.optim.Optimizer] | None = None,
    emb_optim_params: dict[str, Any] | None = None,
    device: str = "cuda:0",
    worker_id: int = 0,
    world_size: int | None = None,
    training_worker_id: int = 0,
    trainer_world_size: int | None = None,
    ragged: bool = False,
    logger: logging.Logger = log,
    job: str = "bagpipe",
    attempt: int = 0,
    steps: int | None = None,
    model: ModelConfig | None = None,
    dense_optimizer: DenseOptimizer | None = None,
) -> "BagCache":
    """Join a running job as a trainer; returns once every role is there.

    Args:
        lookahead_value: batches the oracle looks ahead. The oracle's own setting holds; a different
            value here is logged. 1 is the original's word for no cache at all.
        emb_size: width of every embedding table.
        ln_emb: rows of each table; empty: as the job says.
        cache_size: rows this trainer may hold; never exceeded.
        cleanup_batch_proportion: accepted, without effect: rows are fetched and written back at the
            step that the plan gives, not in rounds.
        emb_optim: torch.optim class for rows: SGD, Adagrad, SparseAdam, or Adam in its sparse form;
            None: as the job says.
        emb_optim_params: its options, without model parameters.
        device: "cpu" or "cuda:k".
        worker_id, world_size: RPC rank and size of the original; any layout is accepted.
        training_worker_id: rank among the trainers.
        trainer_world_size: number of trainers; None: `world_size - 2`, one oracle and one server.
        ragged: accepted, without effect: the data tells whether features have several lookups.
        job, attempt: the oracle's.
        steps: batches that this loop will take; the job ends after them, with a checkpoint. None: as the
            oracle's job says.
        model, dense_optimizer: what the dense part is and is trained with, for the checkpoint: it lets
            `bagpipe evaluate` rebuild it. None: not told.

    Raises:
        ConfigError: an argument is wrong or disagrees with the job.
        PeerLost: the oracle or another role did not appear.
    """
    if not 0 <= cleanup_batch_proportion <= 1:
        raise ConfigError(f"init_cache: cleanup_batch_proportion must lie in 0..1, found {cleanup_batch_proportion}")
    trainers = trainer_world_size if trainer_world_size is not None else (world_size or 3) - 2
    if not 0 <= training_worker_id < trainers:
        raise ConfigError(f"init_cache: training_worker_id {training_worker_id} is not in 0..{trainers - 1}")
    arguments = InitCacheArguments(
        table_sizes=tuple(ln_emb),
        embedding_dim=emb_size,
        cache_rows=cache_size,
        lookahead=lookahead_value,
        optimizer=row_optimizer(emb_optim, emb_optim_params or {}),
        steps=steps,
        model=model,
        dense_optimizer=dense_optimizer,
    )
    described = Job(
        metadata=Metadata(name=job), spec=JobSpec(data=DataConfig(), trainers=TrainerConfig(replicas=trainers))
    )
    return BagCache(
        described, arguments, device=torch.device(device), rank=training_worker_id, attempt=attempt, logger=logger
    )


class BagCache:
    """One trainer's cache. `next_batch` and `get_emb` are the paper's; the rest is what it lacks."""

    def __init__(
        self,
        job: Job,
        arguments: InitCacheArguments,
        *,
        device: torch.device,
        rank: int,
        attempt: int,
        logger: logging.Logger,
    ) -> None:
        self._step: Step | None = None
        self._ids: BatchIds | None = None
        self._begun: Begun | None = None
        self._ended: Ended | None = None
        self._loss: float | None = None
        self._over = False
        self._stack = ExitStack()
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        port = os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
        joined = join(
            job,
            oracle=f"tcp://{host}:{port}",
            bind=os.environ.get("BAGPIPE_BIND") or f"tcp://{listening_address(host, int(port))}:0",
            advertise=None,
            rank=rank,
            attempt=attempt,
            device=device,
            stop=lambda: False,
            init_cache=arguments,
        )
        self._members: Membership = self._stack.enter_context(joined)
        try:
            self._pipeline = open_pipeline(self._members, device)
            self._checkpointer = Checkpointer(self._members, None, None)
        except BaseException:
            self._stack.close()
            raise
        used = self._members.topology.spec.lookahead
        if used != arguments.lookahead and (used, arguments.lookahead) != (0, 1):
            logger.info(
                "lookahead_value %d has no effect: the oracle looks %s batches ahead", arguments.lookahead, used
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without an exception as `close`; with one, leave at once.

        Of the batch that was interrupted nothing is updated, written back or reported, and the job ends for everybody
        without success: its last checkpoint stays what it was. `StopIteration` at the end of the data is no exception.
        """
        if value is None or self._over:
            self.close()
        else:
            self._abandon(value)

    def __iter__(self) -> Iterator[BatchDict]:
        """Batches to the end of the data."""
        while (batch := self._advance()) is not None:
            yield batch

    def next_batch(self) -> BatchDict:
        """Update the rows of the last batch, and return the next one.

        Raises:
            StopIteration: the data is at its end; every update has been applied and written back.
        """
        batch = self._advance()
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
    def first_example(self) -> int:
        """Place of this slice's first example in the global batch."""
        return self._current("first_example").plan.first_example

    @property
    def slice_weight(self) -> float:
        """Factor of this slice's mean loss that makes the mean over trainers that of the global batch.

        It is 1 but for a short batch that trainers cannot share evenly, and for examples with weights.
        """
        return slice_weight(self._current("slice_weight").plan, self._members.world_size)

    def embeddings(self) -> SparseEmbeddings:
        """The current batch's embeddings as `bagpipe.models` take them: pooled, by feature."""
        step = self._current("embeddings")
        examples = step.plan.dense_BF.shape[0]
        return SparseEmbeddings.later(self.topology.layout, lambda: self._rows(step), step.plan.groups, examples)

    def get_emb(self, ls_i: "torch.Tensor | Sequence[Any]") -> list[torch.Tensor]:
        """Embeddings of a batch's ids, connected to the rows for backward.

        Args:
            ls_i: for each table, ids of this batch: `[B]` gives `[B, D]`, `[B, k]` gives `[B, k, D]`.
                Tensors and plain lists are accepted; `sparse_vector` itself is the quickest.

        Raises:
            ConfigError: an id is not in this batch, or there are more lists than tables.
        """
        step = self._current("get_emb")
        assert self._ids is not None
        indices = self._ids.local_indices(ls_i)
        # One lookup for all tables: each would sum a gradient as large as all of the batch's rows.
        found_ND = gather_rows(self._rows(step)[0], np.concatenate([i.reshape(-1) for i in indices]))
        parts = torch.split(found_ND, [i.size for i in indices])
        return [part.view(*index.shape, -1) for part, index in zip(parts, indices, strict=True)]

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Make the dense model part of this job's checkpoints; a resumed job's weights are loaded into it.

        Pass the model itself before it is wrapped in DDP, and None for the optimizer of a model that has nothing to
        train. Without it checkpoints hold the tables only.
        """
        self._checkpointer = Checkpointer(self._members, model, optimizer)
        self._checkpointer.restore()

    def report_loss(self, loss: float) -> None:
        """Tell this batch's mean loss, for the run's progress records. Optional."""
        self._loss = float(loss)

    def finish_batch(self) -> None:
        """Update the rows of the current batch now; `next_batch` and `close` do it otherwise."""
        if self._step is not None:
            step, self._step = self._step, None
            begun, in_backward = time.perf_counter(), step.watch.updating
            self._pipeline.finish(step, self._loss)
            self._ended = ended_figures(step, in_backward + time.perf_counter() - begun)
            self._loss = None
            if step.plan.checkpoint:
                self._checkpointer.begin(step.plan)
            self._checkpointer.poll()

    def close(self) -> None:
        """Apply the last update, write back, leave the job. Closing again does nothing.

        Before the end of the data this ends the job for everybody, and its model is not saved: say with
        `init_cache(steps=...)` how many batches the loop takes.
        """
        try:
            if self._step is not None and self._pipeline.untouched:
                self._step = None  # It was fetched and not trained on.
                self._leave_after(self._pipeline.machine.next_step - 1)
            self.finish_batch()
            self._leave()
        finally:
            self._stack.close()

    def _leave(self) -> None:
        """Nobody must wait for a trainer that is gone."""
        done, total = self._pipeline.machine.next_step, self._members.topology.total_steps
        if not self._over and total is not None and done >= total:
            self._advance()
        if self._over:
            return
        self._leave_after(done)

    def _leave_after(self, done: int) -> None:
        """End the job after so many batches, which is before its end."""
        self._over = True
        reason = (
            f"trainer {self._members.rank} left after {done} batches, before the job's end; "
            f"for a loop of {done} batches pass steps={done} to init_cache"
        )
        log.warning("%s; the model is not saved", reason)
        self._pipeline.leave(Refused(reason=reason, exit_code=ExitCode.BAD_CONFIG))

    def _abandon(self, error: BaseException) -> None:
        """Leave in the middle of a batch; whoever waits for this trainer hears of it at once."""
        self._step, self._over = None, True
        what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        rank, batch = self._members.rank, self._pipeline.machine.next_step - 1
        try:
            reason = f"trainer {rank} left in the middle of batch {batch} ({what}); look at its own output"
            self._pipeline.leave(Refused(reason=reason, exit_code=ExitCode.TRANSIENT))
        finally:
            self._stack.close()

    def _advance(self) -> BatchDict | None:
        self.finish_batch()
        begun = time.perf_counter()
        step = self._pipeline.next()
        while step is not None and not step.plan.training:
            # Evaluation needs a model, which only the caller has; the rows are read and that is all.
            self._pipeline.finish_evaluation(step, np.zeros(step.plan.dense_BF.shape[0], np.float32))
            step = self._pipeline.next()
        if step is None:
            self._over = True
            self._checkpointer.close()
            self._members.oracle.send(Finished(rank=self._members.rank))
            return None
        self._step = step
        self._begun = begun_figures(step, self._pipeline.machine.plans_ahead, time.perf_counter() - begun)
        self._ids = BatchIds(step.plan.groups[0], self._members.topology.layout.groups[0])
        return {
            "dense_x": aligned(step.plan.dense_BF),
            "sparse_vector": self._ids.ids,
            "target": aligned(step.plan.labels_BL),
        }

    def _rows(self, step: Step) -> tuple[torch.Tensor, ...]:
        """Wait for the batch's rows; with them here, what the batch before left for later goes out."""
        rows = self._pipeline.rows(step)
        self._pipeline.rows_handed_out()
        return rows

    def _current(self, what: str) -> Step:
        if self._step is None:
            raise ConfigError(f"{what}: there is no current batch; call next_batch first")
        return self._step
