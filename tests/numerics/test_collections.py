"""A model in TorchRec's vocabulary trains exactly: cached, on several trainers (contracts X1 and X2).

`tests/integration/test_torchrec_twins.py` holds the same reference to TorchRec's own modules in plain PyTorch.
"""

import itertools
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bagpipe.config.document import Job
from bagpipe.config.load import load_job
from bagpipe.data.dataset import open_dataset
from bagpipe.testing.compare import differences
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEPS = 10


def job_of(trainers: int) -> Job:
    document = msgspec.to_builtins(load_job(EXAMPLES / "torchrec-model.yaml"))
    document["spec"] |= {
        "batchSize": 50,
        "steps": STEPS,
        "lookahead": 4,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    document["spec"]["data"]["testFraction"] = 0.0
    return msgspec.convert(document, Job)


@cache
def reference(trainers: int) -> ReferenceRun:
    spec = job_of(trainers).spec
    data = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))
    batches = itertools.islice(data.train_batches(spec.batch_size), STEPS)
    return train_reference(batches, data.layout, spec, num_dense=data.num_dense, world_size=trainers)


@pytest.fixture(autouse=True)
def _example_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize("trainers", [1, 3])
def test_equals_the_uncached_reference(trainers: int, tmp_path: Path) -> None:
    """Two features in one table, a mean and a sequence: losses, rows, state and dense weights bit for bit (X1)."""
    run = run_in_threads(job_of(trainers), tmp_path / "run")
    assert differences(run, reference(trainers)) == []
    assert {name for name, _ in reference(trainers).records} == {"products", "shops", "words"}


def test_trainers_differ_by_rounding_only() -> None:
    """Three trainers follow one (X2)."""
    np.testing.assert_allclose(reference(3).losses, reference(1).losses, rtol=1e-4)
