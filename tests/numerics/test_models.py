"""Every shipped model trains exactly: cached, on several trainers, resumed (contracts X1, X2, X3).

Batch normalisation uses a slice's statistics, so models with it are compared with a reference of as many trainers;
dropout masks are a function of step and example, so X2 holds with them.
"""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.data.dataset import open_dataset
from bagpipe.testing.compare import differences
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

STEPS, BATCH, SIZES = 12, 30, [40, 200, 7, 90]
USERS, ITEMS, HISTORY, CANDIDATES = 30, 50, 5, 6
MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {"bottomMlp": [8], "overMlp": [8], "interactionItself": True, "loss": "mse"},
    "wdl": {"bottomMlp": [8, 8], "deepInputs": "all"},
    "dcn": {"bottomMlp": [8], "overMlp": [8], "crossRank": 3},
    "deepfm": {"overMlp": [8, 8]},
    "fgcnn": {"overMlp": [8], "convKernel": 3},
    "caser": {"sequenceLength": HISTORY, "verticalFilters": 2, "horizontalFilters": 3},
}
NORMALISED = ("deepfm", "fgcnn")


def job_of(model: str, trainers: int = 1, **more: Any) -> Job:
    spec = {
        "model": {"name": model, **MODELS[model]},
        "data": {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": SIZES, "numDense": 3}},
        "embedding": {"dim": 4, "optimizer": {"name": "adagrad", "lr": 0.05}},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": 4,
        "seed": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    if model == "caser":
        spec["data"] = {"format": "criteo-json", "path": str(sequences()), "encoding": "ids"}
        widths = {"users": (USERS, 4, "sum"), "items": (ITEMS, 4, "none"), "itemsOut": (ITEMS, 9, "none")}
        tables = [
            {"name": name, "numEmbeddings": rows, "embeddingDim": dim, "featureNames": [f"C{n}"], "pooling": pooling}
            for n, (name, (rows, dim, pooling)) in enumerate(widths.items(), 1)
        ]
        spec["embedding"] = {"tables": tables, "optimizer": {"name": "adagrad", "lr": 0.05}}
    return msgspec.convert({"spec": spec | more}, Job)


@pytest.fixture(scope="module", autouse=True)
def _sequence_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Histories of one to five items; half of the candidates are positive."""
    draw = np.random.default_rng(2)
    lines = []
    for _ in range(400):
        history = draw.integers(0, ITEMS, draw.integers(1, HISTORY + 1)).tolist()
        candidates = draw.integers(0, ITEMS, CANDIDATES).tolist()
        labels = [1, 1, 1, 0, 0, 0]
        lines.append(json.dumps({"label": labels, "sparse": [[int(draw.integers(USERS))], history, candidates]}))
    _FILES["sequences"] = tmp_path_factory.mktemp("data") / "sequences.jsonl"
    _FILES["sequences"].write_text("\n".join(lines) + "\n")


_FILES: dict[str, Path] = {}


def sequences() -> Path:
    return _FILES["sequences"]


@cache
def reference(model: str, trainers: int) -> ReferenceRun:
    spec = job_of(model).spec
    data = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))
    batches = itertools.islice(data.train_batches(BATCH), STEPS)
    return train_reference(
        batches, data.layout, spec, num_dense=data.num_dense, num_labels=data.num_labels, world_size=trainers
    )


@pytest.mark.parametrize("trainers", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_equals_the_uncached_reference(model: str, trainers: int, tmp_path: Path) -> None:
    """Losses, rows, state, dense weights and running statistics are the reference's, bit for bit (X1)."""
    run = run_in_threads(job_of(model, trainers), tmp_path / "run")
    assert differences(run, reference(model, trainers)) == []
    first, last = np.mean(run.losses[:3]), np.mean(run.losses[-3:])
    assert last < first or model in NORMALISED  # dropout and fresh statistics hide so short a run's progress


@pytest.mark.parametrize("model", MODELS)
def test_trainers_differ_by_rounding_only(model: str) -> None:
    """Three trainers follow one, dropout included (X2); normalised by slices they do not, and that is said."""
    one, three = reference(model, 1).losses, reference(model, 3).losses
    if model in NORMALISED:
        assert not np.allclose(three, one, rtol=1e-3)
    else:
        np.testing.assert_allclose(three, one, rtol=1e-4)


@pytest.mark.parametrize("model", ["deepfm", "caser"])
def test_resumed_with_dropout_ends_the_same(model: str, tmp_path: Path) -> None:
    """Masks and running statistics after a resume are those of the uninterrupted run (X3)."""
    run_in_threads(job_of(model, 2, steps=7, checkpoint={"every": 5}), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of(model, 2), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert differences(run, reference(model, 2)) == []
