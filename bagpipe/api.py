"""The paper's trainer API: batches and their embeddings, with every fetch and synchronisation hidden.

    cache = init_cache(emb_size=48, ln_emb=sizes, cache_size=100_000, device="cpu",
                       training_worker_id=rank, trainer_world_size=world,
                       emb_optim=torch.optim.SGD, emb_optim_params={"lr": 0.01})
    with cache:
        cache.attach(model, optimizer)
        for batch in cache:
            embeddings = cache.get_emb(batch["sparse_vector"])
            loss = model(batch["dense_x"], embeddings, batch["target"])
            loss.backward()
            optimizer.step()

The oracle is found at `MASTER_ADDR`:`MASTER_PORT` and sends everything else that a trainer must know. Rows are updated
when the next batch is asked for, or on `close`, which the end of the interpreter calls too.
"""

import logging
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import torch

from bagpipe.config.document import (
    DataConfig,
    DenseOptimizer,
    Job,
    JobSpec,
    Metadata,
    TrainerConfig,
)
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.net.endpoints import bracketed
from bagpipe.net.interfaces import listening_address
from bagpipe.net.messages import InitCacheArguments
from bagpipe.net.register import REMEDY, Impatience
from bagpipe.trainer.batch_dict import BatchDict, Evaluate
from bagpipe.trainer.own_loop import BagCache
from bagpipe.trainer.row_optimizers import row_optimizer

__all__ = ["BagCache", "BatchDict", "Evaluate", "init_cache"]

log = logging.getLogger(__name__)

DEFAULT_PORT = 18000
ANSWER_SECONDS = 8.0
Section = TypeVar("Section", bound=msgspec.Struct)
_EXAMPLES = {"model": '{"entrypoint": "package.module:Class"}', "dense_optimizer": '{"name": "adam", "lr": 0.001}'}


def init_cache(
    *,
    lookahead_value: int = 200,
    emb_size: int | None = 1,
    ln_emb: Sequence[int] = (),
    cache_size: int | None = 25_000,
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
    model: ModelConfig | Mapping[str, Any] | None = None,
    dense_optimizer: DenseOptimizer | Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> BagCache:
    """Join a running job as a trainer; returns once every role is there.

    Args:
        lookahead_value: batches the oracle looks ahead. The oracle's own setting holds; a different
            value here is logged. 1 means no cache at all, as in the paper's artifact.
        emb_size: width of every embedding table; None: as the job says, where tables may differ.
        ln_emb: rows of each table; empty: as the job says.
        cache_size: rows this trainer may hold; never exceeded. None: as the job says.
        cleanup_batch_proportion: accepted, without effect: rows are fetched and written back at the
            step that the plan gives, not in rounds.
        emb_optim: torch.optim class for rows: SGD, Adagrad, SparseAdam, or Adam in its sparse form;
            None: as the job says.
        emb_optim_params: its options, without model parameters.
        device: "cpu" or "cuda:k".
        worker_id, world_size: RPC rank and size in the paper's artifact; any layout is accepted.
        training_worker_id: rank among the trainers.
        trainer_world_size: number of trainers; None: `world_size - 2`, one oracle and one server.
        ragged: accepted, without effect: the data tells whether features have several lookups.
        job, attempt: name of the oracle's job, and the number of its attempt.
        steps: batches that this loop will take; the job ends after them, with a checkpoint. None: as the
            oracle's job says.
        model, dense_optimizer: what the dense model and its optimizer are, as dicts of `spec.model` and
            `spec.optimizer`, for instance `{"entrypoint": "package.module:Class"}`: with them `bagpipe evaluate` can
            rebuild the model. The model itself goes to `BagCache.attach`. None: as the job says.
        evaluate: scores a batch of the test part, after the last step. None: the job's test part is not evaluated.
        answer_seconds: seconds for the oracle to answer, and for its servers to register once its data is ready. Other
            trainers, and the data, may take as long as the job's `startupSeconds`.

    Raises:
        ConfigError: an argument is wrong or disagrees with the job.
        PeerLost: the oracle or another role did not appear; the message says how to start them.
    """
    if not 0 <= cleanup_batch_proportion <= 1:
        raise ConfigError(f"init_cache: cleanup_batch_proportion must lie in 0..1, found {cleanup_batch_proportion}")
    trainers = trainer_world_size if trainer_world_size is not None else (world_size or 3) - 2
    if not 0 <= training_worker_id < trainers:
        raise ConfigError(f"init_cache: training_worker_id {training_worker_id} is not in 0..{trainers - 1}")
    arguments = InitCacheArguments(
        table_sizes=tuple(_whole("ln_emb", rows) for rows in ln_emb),
        embedding_dim=None if emb_size is None else _whole("emb_size", emb_size),
        cache_rows=None if cache_size is None else _whole("cache_size", cache_size),
        lookahead=_whole("lookahead_value", lookahead_value),
        optimizer=row_optimizer(emb_optim, emb_optim_params or {}),
        steps=None if steps is None else _whole("steps", steps),
        model=_section("model", model, ModelConfig),
        dense_optimizer=_section("dense_optimizer", dense_optimizer, DenseOptimizer),
        evaluate=evaluate is not None,
    )
    described = Job(
        metadata=Metadata(name=job), spec=JobSpec(data=DataConfig(), trainers=TrainerConfig(replicas=trainers))
    )
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
    oracle = f"tcp://{bracketed(host)}:{port}"
    return BagCache(
        described,
        arguments,
        oracle=oracle,
        bind=os.environ.get("BAGPIPE_BIND") or f"tcp://{bracketed(listening_address(host, int(port)))}:0",
        device=torch.device(device),
        rank=training_worker_id,
        attempt=attempt,
        logger=logger,
        evaluate=evaluate,
        impatience=Impatience(answer_seconds, REMEDY.format(oracle=oracle)),
    )


def _whole(name: str, value: Any) -> int:
    """A whole number, also numpy's or torch's."""
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"init_cache: {name}: expected a whole number, found {value!r:.60}") from None


def _section(name: str, value: Any, kind: type[Section]) -> Section | None:
    """A section of the job that describes the caller's model or optimizer."""
    if value is None or isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"init_cache: {name}: expected a dict of settings that describe it, such as {_EXAMPLES[name]}, found a "
            f"{type(value).__name__}; the model and its optimizer themselves go to cache.attach(model, optimizer)"
        )
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"init_cache: {name}: {error}; see docs/settings.md") from None
