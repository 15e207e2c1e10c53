"""Every run equals the uncached reference, to the bit (contracts X1 and X2).

The reference (`bagpipe.testing.reference`) is plain torch in one process: no cache, no planner, no
socket. Runs here are whole jobs with every role a thread; `tests/integration` has them as processes.
The grid covers every pair of values of the settings that must not matter, for every optimizer.
"""

import itertools
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.data.dataset import open_dataset
from bagpipe.net.delay import DELAY_SECONDS
from bagpipe.testing.compare import differences
from bagpipe.testing.covering import covering
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import ThreadedRun, run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
"""torch says so once of every sparse tensor; the reference is made of them."""

BATCH, EXAMPLES = 50, 620
BEYOND = 1000
"""A lookahead longer than the data."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "adagrad": {"name": "adagrad", "lr": 0.05},
    "rowwise-adagrad": {"name": "rowwise-adagrad", "lr": 0.05},
    "adam": {"name": "adam", "lr": 0.01},
}


class Setting(NamedTuple):
    """One point of the grid; what stands before `servers` may change bits, the rest must not."""

    trainers: int
    optimizer: str
    jagged: bool
    servers: int
    lookahead: int
    cache: str
    depth: int
    pack_floats: str


AXES = Setting(
    trainers=(1, 2, 3),  # type: ignore[arg-type]
    optimizer=tuple(OPTIMIZERS),  # type: ignore[arg-type]
    jagged=(False, True),  # type: ignore[arg-type]
    servers=(1, 2, 3),  # type: ignore[arg-type]
    lookahead=(0, 1, 2, 8, 64, BEYOND),  # type: ignore[arg-type]
    cache=("barely", "ample"),  # type: ignore[arg-type]
    depth=(1, 4),  # type: ignore[arg-type]
    pack_floats=("never", "always", "auto"),  # type: ignore[arg-type]
)


GRID = [Setting(*values) for values in covering(AXES)]


def job_of(setting: Setting, **more: Any) -> Job:
    sizes = [40, 300, 7, 90]
    spec = {
        "model": {"name": "dlrm", "bottomMlp": [16], "overMlp": [16]},
        "data": {
            "format": "synthetic",
            "shuffle": "after-first",
            "synthetic": {
                "examples": EXAMPLES,
                "tableSizes": sizes,
                "numDense": 5,
                "multiHot": 3 if setting.jagged else 1,
            },
        },
        "embedding": {"dim": 8, "optimizer": OPTIMIZERS[setting.optimizer]},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batchSize": BATCH,
        "steps": 30,
        "lookahead": setting.lookahead,
        "cacheRows": "auto" if setting.cache == "ample" else barely(setting),
        "prefetchDepth": setting.depth,
        "transport": {"packFloats": setting.pack_floats},
        "seed": 5,
        "logEvery": 1,
        "servers": {"replicas": setting.servers, "storage": "memory"},
        "trainers": {"replicas": setting.trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


@cache
def barely(setting: Setting) -> int:
    """Rows of the step that uses most of them on one trainer: the smallest cache that will do."""
    most = 0
    for batch in itertools.islice(batches_of(setting), 30):
        n = batch.num_examples
        block = batch.sparse[0]
        per_example = np.full(n, 4) if block.lengths_BT is None else block.lengths_BT.sum(axis=1)
        ends = np.concatenate(([0], np.cumsum(per_example)))
        for rank in range(setting.trainers):
            begin, end = rank * n // setting.trainers, (rank + 1) * n // setting.trainers
            most = max(most, np.unique(block.keys_N[ends[begin] : ends[end]]).size)
    return most


def batches_of(setting: Setting) -> Any:
    job = job_of(setting._replace(cache="ample"))
    return dataset_of(job).train_batches(BATCH)


def dataset_of(job: Job) -> Any:
    return open_dataset(job.spec.data, job.spec.embedding, seed=job.spec.seed, work_dir=Path("/nonexistent"))


@cache
def reference(trainers: int, optimizer: str, jagged: bool) -> ReferenceRun:
    setting = Setting(trainers, optimizer, jagged, 1, 0, "ample", 1, "never")
    job = job_of(setting)
    data = dataset_of(job)
    batches = itertools.islice(data.train_batches(BATCH), 30)
    return train_reference(batches, data.layout, job.spec, num_dense=data.num_dense, world_size=trainers)


def assert_equal(run: ThreadedRun, expected: ReferenceRun) -> None:
    """Losses, rows with their state, and dense weights, bit for bit."""
    assert differences(run, expected) == []


@pytest.mark.parametrize("setting", GRID, ids=lambda s: "-".join(map(str, s)))
def test_equals_the_uncached_reference(setting: Setting, tmp_path: Path) -> None:
    """Losses, rows, state and dense weights are the reference's, whatever cache, servers and timing (X1)."""
    run = run_in_threads(job_of(setting), tmp_path / "run")
    assert_equal(run, reference(setting.trainers, setting.optimizer, setting.jagged))
    if setting.cache == "barely":
        assert run.report["plan"]["peakRows"] == [barely(setting)]


def test_the_reference_has_the_trainers_threads() -> None:
    """Sums in matrix products depend on the threads: it takes the job's number, and gives the process its own back."""
    before = torch.get_num_threads()
    expected = reference.__wrapped__(2, "momentum", False)
    try:
        torch.set_num_threads(3)
        again = reference.__wrapped__(2, "momentum", False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert again.losses == expected.losses
    assert all(again.dense[name].equal(weights) for name, weights in expected.dense.items())


@pytest.mark.parametrize("trial", range(3))
def test_any_timing(trial: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every message held back for a random time, nothing changes (X1)."""
    monkeypatch.setenv(DELAY_SECONDS, "0.02")
    setting = Setting(
        3, ("adagrad", "adam", "momentum")[trial], True, 1 + trial, (2, 8, 64)[trial], "barely", 4, "always"
    )
    run = run_in_threads(job_of(setting, checkpoint={"every": 7}), tmp_path / "run")
    assert_equal(run, reference(3, setting.optimizer, True))


def test_trainers_differ_by_rounding_only(tmp_path: Path) -> None:
    """Another number of trainers adds in another order, and that is all (X2)."""
    losses = [reference(trainers, "sgd", False).losses for trainers in (1, 2, 3)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=2e-5)


@pytest.mark.parametrize(("servers", "resumed_servers", "trainers"), [(3, 1, 2), (3, 2, 1), (1, 3, 3)])
def test_resumed_runs_end_the_same(servers: int, resumed_servers: int, trainers: int, tmp_path: Path) -> None:
    """A checkpoint of 3 servers loads on 1 and on 2, and training goes on as if nothing had happened (X3)."""
    setting = Setting(trainers, "adam", True, servers, 8, "ample", 4, "auto")
    run_in_threads(job_of(setting, steps=17, checkpoint={"every": 10}), tmp_path / "run")
    resumed = setting._replace(servers=resumed_servers)
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of(resumed), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert_equal(run, reference(trainers, "adam", True))
