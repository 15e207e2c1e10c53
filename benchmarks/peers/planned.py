"""The planner's own lower bound: bytes of rows, gradients and plans that a trainer's link must carry in one step."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bagpipe.config.document import DataConfig, EmbeddingConfig, RowOptimizer
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.oracle.sizing.estimate import Estimate, estimate
from peers.setting import Setting


def planned_bytes(setting: Setting, data: Path) -> dict[str, int]:
    """Payload of one trainer's link in each direction, without the dense all-reduce, headers and acknowledgements.

    Two plannings that end at different steps begin and end alike: their difference is the usual state.
    """
    embedding = EmbeddingConfig(dim=setting.dim, optimizer=RowOptimizer(name="sgd", lr=setting.lr))
    source = DataConfig(path=str(data), format="parquet")
    dataset = open_dataset(source, embedding, seed=setting.seed, work_dir=data)
    long = setting.stream_steps
    short = max(setting.lookahead, 1) + (long - setting.lookahead) // 2
    planned = {steps: _totals(setting, dataset, steps) for steps in (short, long)}
    sent, received = (
        (planned[long][way] - planned[short][way]) / (long - short) / setting.trainers for way in range(2)
    )
    return {"sent": round(sent), "received": round(received)}


def _totals(setting: Setting, dataset: Dataset, steps: int) -> tuple[float, float]:
    """Bytes that all trainers together send and receive in the first `steps` steps."""
    found = _planned(setting, dataset, steps)
    per_step = found.bytes
    return (
        steps * (found.peer_bytes + per_step.write_back),
        steps * (found.peer_bytes + per_step.fetch + per_step.plans),
    )


def _planned(setting: Setting, dataset: Dataset, steps: int) -> Estimate:
    batches: Iterator = dataset.train_batches(setting.batch * setting.trainers, epochs=1)
    return estimate(
        islice(batches, steps),
        dataset.layout,
        world_size=setting.trainers,
        num_servers=setting.servers,
        lookahead=setting.lookahead,
        cache_rows=[setting.cache_rows],
        embedding=EmbeddingConfig(optimizer=RowOptimizer(name="sgd", lr=setting.lr)),
    )
