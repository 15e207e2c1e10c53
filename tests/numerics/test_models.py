"""Every shipped model trains exactly: cached, on several trainers, resumed (contracts X1, X2, X3).

Batch normalisation and in-batch negatives use a slice's examples, so models with them are compared with a reference of
as many trainers;
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
    "dcnv2": {"overMlp": [8], "crossLayers": 2},
    "autoint": {"overMlp": [8], "attentionLayers": 2, "attentionDim": 3},
    "two-tower": {"itemFeatures": ["C1", "C4"], "towerMlp": [8, 4], "normalise": True, "temperature": 0.5},
    "in-batch": {"name": "two-tower", "itemFeatures": ["C1"], "towerMlp": [8], "negatives": "in-batch", "logQ": True},
    "mmoe": {"experts": 3, "expertMlp": [8], "towerMlp": [4]},
    "din": {"targetFeatures": ["C2"], "historyFeatures": ["C3"], "attentionMlp": [6], "overMlp": [8]},
    "sasrec": {"historyFeatures": ["C1"], "sequenceLength": HISTORY + 1, "positions": 2, "attentionHeads": 2},
}
NORMALISED = ("deepfm", "fgcnn", "in-batch")
"""Models whose results depend on which examples share a slice."""


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
    if model in TABLES:
        spec["data"] = {"format": "criteo-json", "path": str(_FILES[model]), "encoding": "ids"}
        tables = [
            {"name": name, "numEmbeddings": rows, "embeddingDim": dim, "featureNames": features, "pooling": pooling}
            for name, rows, dim, features, pooling in TABLES[model]
        ]
        spec["embedding"] = {"tables": tables, "optimizer": {"name": "adagrad", "lr": 0.05}}
    return msgspec.convert({"spec": spec | more}, Job)


@pytest.fixture(scope="module", autouse=True)
def _sequence_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Users, histories, and candidates of which half are positive: what each model takes of them."""
    draw = np.random.default_rng(2)
    lines: dict[str, list[str]] = {model: [] for model in TABLES}
    for _ in range(400):
        user, item = [int(draw.integers(USERS))], [int(draw.integers(ITEMS))]
        history = draw.integers(0, ITEMS, draw.integers(1, HISTORY + 1)).tolist()
        candidates = draw.integers(0, ITEMS // 2, CANDIDATES) + np.repeat([0, ITEMS // 2], CANDIDATES // 2)
        candidates, labels = candidates.tolist(), [1, 1, 1, 0, 0, 0]
        lines["caser"].append(json.dumps({"label": labels, "sparse": [user, history, candidates]}))
        lines["sasrec"].append(json.dumps({"label": labels, "sparse": [history + item, candidates]}))
        lines["din"].append(json.dumps({"label": int(item[0] % 2), "sparse": [user, item, history]}))
    for model, text in lines.items():
        _FILES[model] = tmp_path_factory.mktemp("data") / f"{model}.jsonl"
        _FILES[model].write_text("\n".join(text) + "\n")


_FILES: dict[str, Path] = {}
TABLES: dict[str, list[tuple[str, int, int, list[str], str]]] = {
    "caser": [
        ("users", USERS, 4, ["C1"], "sum"),
        ("items", ITEMS, 4, ["C2"], "none"),
        ("itemsOut", ITEMS, 9, ["C3"], "none"),
    ],
    "din": [("users", USERS, 4, ["C1"], "mean"), ("items", ITEMS, 4, ["C2", "C3"], "none")],
    "sasrec": [("items", ITEMS, 4, ["C1", "C2"], "none")],
}
"""Tables of the models that take lists: name, rows, width, features, pooling."""


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
    """Three trainers follow one, dropout included (X2); by slices they do not, and that is said."""
    one, three = reference(model, 1).losses, reference(model, 3).losses
    if model in NORMALISED:
        assert not np.allclose(three, one, rtol=1e-3)
    else:
        np.testing.assert_allclose(three, one, rtol=1e-4)


@pytest.mark.parametrize("model", ["deepfm", "caser", "sasrec"])
def test_resumed_with_dropout_ends_the_same(model: str, tmp_path: Path) -> None:
    """Masks and running statistics after a resume are those of the uninterrupted run (X3)."""
    run_in_threads(job_of(model, 2, steps=7, checkpoint={"every": 5}), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of(model, 2), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert differences(run, reference(model, 2)) == []
