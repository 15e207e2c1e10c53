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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
import torch

from bagpipe.batch import Keys
from bagpipe.cache.cache import create_cache
from bagpipe.cache.lookup import gather_rows
from bagpipe.config import DataConfig, Job, JobSpec, Metadata, RowOptimizer, TrainerConfig
from bagpipe.errors import BagpipeError, ConfigError
from bagpipe.net.messages import Finished, Wishes
from bagpipe.tables import WidthGroup
from bagpipe.trainer.membership import Membership, join
from bagpipe.trainer.pipeline import Step, StepPipeline

log = logging.getLogger(__name__)

DEFAULT_PORT = 18000


class BatchDict(TypedDict):
    """One trainer's slice of a batch."""

    dense_x: torch.Tensor
    """`[B, F]` float32, on the CPU."""
    sparse_vector: Any
    """Ids: an int64 tensor `[tables, B]`; with several lookups a feature, a list of `[B, k]` tensors."""
    target: torch.Tensor
    """`[B, L]` float32, on the CPU."""


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
    logger: logging.Logger | None = None,
    job: str = "bagpipe",
    attempt: int = 0,
) -> "BagCache":
    """Join a running job as a trainer; returns once every role is there.

    Args:
        lookahead_value: batches the oracle looks ahead. The oracle's own setting holds; a different
            value here is logged.
        emb_size: width of every embedding table.
        ln_emb: rows of each table; empty: as the job says.
        cache_size: rows this trainer may hold; never exceeded.
        cleanup_batch_proportion: accepted and without effect: rows are fetched and written back at
            the step the plan gives, not in rounds.
        emb_optim: torch.optim class for rows (SGD, Adagrad, SparseAdam or Adam in its sparse form);
            None: as the job says.
        emb_optim_params: its options, without model parameters.
        device: "cpu" or "cuda:k".
        worker_id, world_size: RPC rank and size of the original; any layout is accepted.
        training_worker_id: rank among the trainers.
        trainer_world_size: number of trainers; None: `world_size - 2`.
        ragged: accepted; whether features have several lookups is seen in the data.
        job, attempt: must be the oracle's.

    Raises:
        ConfigError: an argument is wrong or disagrees with the job.
        PeerLost: the oracle or another role did not appear.
    """
    if not 0 <= cleanup_batch_proportion <= 1:
        raise ConfigError(f"init_cache: cleanup_batch_proportion must lie in 0..1, found {cleanup_batch_proportion}")
    trainers = trainer_world_size if trainer_world_size is not None else (world_size or 3) - 2
    if not 0 <= training_worker_id < trainers:
        raise ConfigError(f"init_cache: training_worker_id {training_worker_id} is not in 0..{trainers - 1}")
    wishes = Wishes(
        table_sizes=tuple(ln_emb),
        embedding_dim=emb_size,
        cache_rows=cache_size,
        lookahead=lookahead_value,
        optimizer=row_optimizer(emb_optim, emb_optim_params or {}),
    )
    settings = JobSpec(data=DataConfig(), trainers=TrainerConfig(replicas=trainers))
    described = Job(metadata=Metadata(name=job), spec=settings)
    return BagCache(described, wishes, torch.device(device), training_worker_id, attempt, logger or log)


def row_optimizer(kind: type[torch.optim.Optimizer] | None, options: dict[str, Any]) -> RowOptimizer | None:
    """The row optimizer that equals a torch.optim class on sparse gradients.

    Raises:
        ConfigError: no row optimizer equals it, or an option is not supported.
    """
    if kind is None:
        return None
    known: dict[type, tuple[str, dict[str, str]]] = {
        torch.optim.SGD: ("sgd", {"lr": "lr", "momentum": "momentum"}),
        torch.optim.Adagrad: ("adagrad", {"lr": "lr", "eps": "eps", "initial_accumulator_value": "initial_accumulator"}),
        torch.optim.SparseAdam: ("adam", {"lr": "lr", "eps": "eps", "betas": "betas"}),
        torch.optim.Adam: ("adam", {"lr": "lr", "eps": "eps", "betas": "betas"}),
    }
    if kind not in known:
        names = ", ".join(k.__name__ for k in known)
        raise ConfigError(f"init_cache: emb_optim {kind.__name__} has no sparse form here; use one of {names}")
    name, names_of = known[kind]
    defaults = {"sgd": {"lr": 0.001}, "adagrad": {"lr": 0.01, "eps": 1e-10}, "adam": {"lr": 0.001, "eps": 1e-8}}[name]
    fields: dict[str, Any] = dict(defaults)
    for option, value in options.items():
        if option not in names_of:
            raise ConfigError(f"init_cache: emb_optim_params: {kind.__name__} here knows {sorted(names_of)}, not {option!r}")
        if option == "betas":
            fields["beta1"], fields["beta2"] = value
        else:
            fields[names_of[option]] = value
    return RowOptimizer(name=name, **fields)  # type: ignore[arg-type]  # the literal comes from the table above


class BagCache:
    """One trainer's cache. `next_batch` and `get_emb` are the paper's; the rest is what it lacks."""

    def __init__(
        self, job: Job, wishes: Wishes, device: torch.device, rank: int, attempt: int, logger: logging.Logger
    ) -> None:
        self.device = device
        self._stack = ExitStack()
        self._step: Step | None = None
        self._ids: Any = None
        self._losses: float | None = None
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        port = os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
        bind_host = "127.0.0.1" if host in ("localhost", "127.0.0.1") else "0.0.0.0"  # noqa: S104  # several machines
        self._members: Membership = self._stack.enter_context(
            join(
                job,
                oracle=f"tcp://{host}:{port}",
                bind=f"tcp://{bind_host}:0",
                advertise=None,
                rank=rank,
                attempt=attempt,
                device=device,
                stop=lambda: False,
                wishes=wishes,
            )
        )
        self._pipeline = self._make_pipeline(wishes, logger)

    def _make_pipeline(self, wishes: Wishes, logger: logging.Logger) -> StepPipeline:
        members, topology = self._members, self._members.topology
        if len(topology.layout.groups) != 1:
            raise ConfigError("init_cache: the job's tables differ in width; this API has one emb_size")
        if topology.spec.lookahead != wishes.lookahead:
            logger.info("lookahead_value %d: the oracle uses %s", wishes.lookahead, topology.spec.lookahead)
        spec = topology.spec
        return StepPipeline(
            rank=members.rank,
            world_size=members.world_size,
            oracle=members.oracle,
            servers=members.servers,
            peers=members.peers,
            caches=[create_cache(topology.slots[0], self._group.embedding_dim, spec.embedding.optimizer, self.device)],
            first_step=topology.first_step,
            depth=spec.prefetch_depth,
            gradient_scale=1.0 / members.world_size if spec.embedding.gradient_reduction == "mean" else 1.0,
            deadline_seconds=spec.transport.step_seconds,
        )

    @property
    def _group(self) -> WidthGroup:
        return self._members.topology.layout.groups[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

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

    def report_loss(self, loss: float) -> None:
        """Tell the oracle this batch's mean loss, for its progress records. Optional."""
        self._losses = float(loss)

    def get_emb(self, ls_i: Any) -> list[torch.Tensor]:
        """Embeddings of a batch's ids, connected to the rows for backward.

        Args:
            ls_i: for each table, ids of this batch: `[B]` gives `[B, D]`, `[B, k]` gives `[B, k, D]`.
                Tensors and plain lists are accepted; `sparse_vector` itself is the quickest.

        Raises:
            ConfigError: an id is not in this batch, or there are more lists than tables.
        """
        if self._step is None:
            raise ConfigError("get_emb: call next_batch first")
        rows_KD = self._step.rows[0]
        if ls_i is self._ids:
            local = self._local_of_batch()
        else:
            if len(ls_i) > len(self._group.feature_names):
                raise ConfigError(f"get_emb: {len(ls_i)} lists of ids for {len(self._group.feature_names)} sparse features")
            local = [self._local_of(feature, ids) for feature, ids in enumerate(ls_i)]
        return [gather_rows(rows_KD, index) for index in local]

    def finish_batch(self) -> None:
        """Update the rows of the current batch now; `next_batch` and `close` do it otherwise."""
        if self._step is not None:
            step, self._step = self._step, None
            self._pipeline.finish(step, self._losses)
            self._losses = None

    def close(self) -> None:
        """Apply the last update, write everything back, leave the job. Closing again does nothing."""
        if self._stack is None:
            return
        try:
            self.finish_batch()
        finally:
            self._stack.close()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> BatchDict | None:
        self.finish_batch()
        while (step := self._pipeline.next()) is not None:
            if step.plan.training:
                self._step = step
                return self._batch(step)
            # Evaluation needs a model, which only its owner knows: the rows are read and that is all.
            self._pipeline.finish_evaluation(step, np.zeros(step.plan.dense_BF.shape[0], np.float32))
        self._members.oracle.send(Finished(rank=self._members.rank))
        return None

    def _batch(self, step: Step) -> BatchDict:
        plan = step.plan
        part = plan.groups[0]
        ids_N = part.keys_K[part.inverse_N]
        self._ids = self._by_feature(ids_N, subtract_offsets=True)
        return {
            "dense_x": torch.from_numpy(np.array(plan.dense_BF)),
            "sparse_vector": self._ids,
            "target": torch.from_numpy(np.array(plan.labels_BL)),
        }

    def _local_of_batch(self) -> list[torch.Tensor]:
        assert self._step is not None
        inverse = self._step.plan.groups[0].inverse_N.astype(np.int64)
        return list(self._by_feature(inverse, subtract_offsets=False))

    def _by_feature(self, values_N: Keys, *, subtract_offsets: bool) -> Any:
        """Per-lookup values of the batch as `[T, B]`, or per feature `[B, k]` where bags have k lookups."""
        assert self._step is not None or subtract_offsets
        plan_part = self._part_of_current()
        offsets = self._feature_offsets if subtract_offsets else np.zeros(len(self._group.feature_names), np.int64)
        num_features = offsets.size
        if plan_part.lengths_BT is None:
            table = values_N.reshape(-1, num_features) - offsets
            return torch.from_numpy(np.ascontiguousarray(table.T))
        lengths = plan_part.lengths_BT
        ends = np.concatenate(([0], lengths.reshape(-1).cumsum()))
        columns = []
        for feature in range(num_features):
            k = int(lengths[0, feature]) if lengths.shape[0] else 0
            if not (lengths[:, feature] == k).all():
                raise BagpipeError(
                    f"feature {self._group.feature_names[feature]} has bags of different lengths; this API returns "
                    "rectangular ids, use `bagpipe run` with a model of your own for ragged ones"
                )
            starts = ends[np.arange(lengths.shape[0]) * num_features + feature]
            columns.append(torch.from_numpy(values_N[starts[:, None] + np.arange(k)] - offsets[feature]))
        return columns

    def _part_of_current(self) -> Any:
        assert self._current is not None
        return self._current.plan.groups[0]

    @property
    def _feature_offsets(self) -> Keys:
        group = self._group
        return np.array(
            [offset for table, offset in zip(group.tables, group.offsets, strict=True) for _ in table.feature_names], np.int64
        )

    def _local_of(self, feature: int, ids: Any) -> torch.Tensor:
        """Local indices of ids by searching the step's keys."""
        assert self._step is not None
        keys_K = self._step.plan.groups[0].keys_K
        wanted = np.asarray(ids, np.int64) + self._feature_offsets[feature]
        order = np.argsort(keys_K)
        at = np.minimum(np.searchsorted(keys_K, wanted, sorter=order), max(keys_K.size - 1, 0))
        local = order[at] if keys_K.size else np.zeros_like(wanted)
        if not keys_K.size or not np.array_equal(keys_K[local], wanted):
            missing = wanted.reshape(-1)[(keys_K[local] != wanted).reshape(-1)] if keys_K.size else wanted.reshape(-1)
            raise ConfigError(
                f"get_emb: id {int(missing[0] - self._feature_offsets[feature])} of feature "
                f"{self._group.feature_names[feature]} is not in this batch"
            )
        return torch.from_numpy(local)
