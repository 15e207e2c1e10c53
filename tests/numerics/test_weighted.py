"""Weights of values in lists: every run equals plain torch, to the bit, cached or not, on one trainer and on three."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.data.dataset import open_dataset
from bagpipe.testing.compare import checkpoint_differences
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
BATCH, EXAMPLES = 40, 300


def write(path: Path) -> None:
    """Lists with weights, some of them 0; lists without; values without a list."""
    rng = np.random.default_rng(11)
    counts = rng.integers(0, 5, EXAMPLES).tolist()
    table = {
        "y": rng.integers(0, 2, EXAMPLES),
        "bought": rng.integers(0, 2, EXAMPLES),
        "importance": rng.integers(0, 5, EXAMPLES) / np.float32(3),
        "user": rng.integers(0, 30, EXAMPLES),
        "seen": [rng.integers(0, 50, k).tolist() for k in counts],
        "seconds": [(rng.integers(0, 4, k) / np.float32(3)).tolist() for k in counts],
        "tags": [rng.integers(0, 9, k).tolist() for k in reversed(counts)],
    }
    pq.write_table(pa.table(table), path)


def job_of(path: Path, trainers: int, lookahead: int) -> Job:
    tables: list[dict[str, Any]] = [
        {"name": "item", "numEmbeddings": 50, "embeddingDim": 8, "featureNames": ["seen", "watched"]},
        {"name": "tag", "numEmbeddings": 10, "embeddingDim": 8, "featureNames": ["tags", "liked"], "pooling": "mean"},
        {"name": "user", "numEmbeddings": 30, "embeddingDim": 8, "featureNames": ["user"]},
    ]
    tables[0]["featurePooling"] = {"watched": "mean"}
    sparse = [
        {"name": "user"},
        {"name": "seen", "weight": "seconds", "maxLength": 3},
        {"name": "watched", "column": "seen", "weight": "seconds"},
        {"name": "liked", "column": "tags"},
        {"name": "tags", "column": "seen", "weight": "seconds", "keep": "first", "maxLength": 2},
    ]
    spec: dict[str, Any] = {
        "model": {"name": "wdl", "bottomMlp": [8], "deepInputs": "all"},
        "data": {
            "path": str(path),
            "encoding": "hash",
            "columns": {
                "labels": [{"name": "y"}, {"name": "bought"}],
                "weight": "importance",
                "sparse": sparse,
                "ignore": ["*"],
            },
        },
        "embedding": {"dim": 8, "tables": tables, "optimizer": {"name": "adagrad", "lr": 0.05}},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batchSize": BATCH,
        "steps": 20,
        "lookahead": lookahead,
        "seed": 5,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec}, Job)


@cache
def reference(path: Path, trainers: int) -> ReferenceRun:
    job = job_of(path, trainers, 0)
    data = open_dataset(job.spec.data, job.spec.embedding, seed=5, work_dir=path.parent / "work")
    batches = [batch for batch, _ in zip(data.train_batches(BATCH), range(20), strict=False)]
    assert all(block.weights_N is not None for batch in batches for block in batch.sparse)
    return train_reference(batches, data.layout, job.spec, num_dense=0, num_labels=2, world_size=trainers)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weighted") / "log.parquet"
    write(path)
    return path


@pytest.mark.parametrize(("trainers", "lookahead"), [(1, 0), (1, 8), (3, 0), (3, 8)])
def test_weighted_pooling_equals_plain_torch(log: Path, tmp_path: Path, trainers: int, lookahead: int) -> None:
    """Weighted sums and means of one table too, one column in two tables, two labels, weighted examples: to the bit."""
    run = run_in_threads(job_of(log, trainers, lookahead), tmp_path / "run")
    expected, checkpoint = reference(log, trainers), newest_complete(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint_differences(checkpoint, expected.losses, expected) == []
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)  # means by weight are added in another order
