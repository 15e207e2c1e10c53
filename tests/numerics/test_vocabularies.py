"""Runs over text with a vocabulary are resumed and spread over other numbers of servers and trainers, exactly."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.data.transform import load_transform
from bagpipe.testing.small_job import small_job
from bagpipe.testing.threads import ThreadedRun, run_in_threads

ROWS, BATCH, STEPS = 480, 32, 20


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, lists of text, and values that only the last rows have."""
    rng, path = random.Random(5), tmp_path_factory.mktemp("log") / "log.csv"
    lines = ["y,user,history,price"]
    for row in range(ROWS):
        history = "|".join(f"i{int(rng.paretovariate(0.7)) % 90}" for _ in range(rng.randrange(4)))
        user = f"u{rng.randrange(60)}" if row < ROWS * 3 // 4 else f"late{rng.randrange(30)}"
        lines.append(f"{rng.randrange(2)},{user},{history},{rng.randrange(100)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def job_of(log: Path, servers: int, trainers: int, **spec: Any) -> Job:
    columns = {
        "labels": [{"name": "y"}],
        "dense": [{"name": "price", "standardise": True}],
        "sparse": [{"name": "user"}, {"name": "history", "separator": "|"}],
    }
    data = {
        "path": str(log), "columns": columns, "testFraction": 0.2, "minCount": 2, "oov": {"user": 7, "history": 2},
        "shuffle": "always", "shuffleWindow": 64,
    }  # fmt: skip
    stated: dict[str, Any] = {
        "batchSize": BATCH,
        "steps": STEPS,
        "servers": {"replicas": servers, "storage": "memory"},
        "trainers": {"replicas": trainers},
    }
    return small_job({"name": "dlrm", "bottomMlp": [4], "overMlp": [4]}, data, **(stated | spec))


def digest(run_dir: Path) -> str:
    newest = newest_complete(run_dir / "checkpoints")
    assert newest is not None and newest.name == f"step-{STEPS:08d}"
    return model_digest(newest)


def whole(log: Path, run_dir: Path, servers: int, trainers: int) -> ThreadedRun:
    return run_in_threads(job_of(log, servers, trainers), run_dir)


@pytest.mark.parametrize(("servers", "later"), [(1, 3), (3, 2)])
def test_resumed_on_other_servers_it_ends_the_same(servers: int, later: int, log: Path, tmp_path: Path) -> None:
    """What was prepared is gone, too, and is made again with the vocabulary that the checkpoint keeps."""
    expected = whole(log, tmp_path / "whole", 1, 2)
    first = run_in_threads(job_of(log, servers, 2, steps=9), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "data")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    second = run_in_threads(job_of(log, later, 2), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    assert (first.losses + second.losses)[-STEPS:] == expected.losses
    assert second.report["evaluation"] == expected.report["evaluation"]


def test_other_trainers_read_the_same_rows(log: Path, tmp_path: Path) -> None:
    """Three trainers learn the vocabulary that one does, and differ by the order of additions only."""
    runs = [whole(log, tmp_path / str(n), 2, n) for n in (1, 3)]
    kept = [load_transform(tmp_path / str(n) / "checkpoints" / "transform").digest for n in (1, 3)]
    assert kept[0] == kept[1]
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=2e-5)
