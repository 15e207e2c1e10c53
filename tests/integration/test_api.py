"""The paper's trainer API: a user's own model, plain DDP, real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.recipe import Schedule
from bagpipe.errors import ConfigError
from bagpipe.local.ports import free_ports
from bagpipe.trainer.row_optimizers import row_optimizer

SCRIPT = Path(__file__).with_name("simple_trainer.py")
JOB = """
spec:
  data:
    format: synthetic
    synthetic: {{examples: 3000, tableSizes: [50, 400, 7, 90]}}
  embedding: {{dim: 8}}
  batchSize: 100
  lookahead: {lookahead}
  seed: 4
  trainers: {{replicas: 2}}
"""


@contextmanager
def started(arguments: list[str], **extra: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the test at the latest."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | extra
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def train(directory: Path, lookahead: int) -> tuple[list[dict[str, Any]], str]:
    """Oracle, server and two trainers; what the trainers printed, and the digest of the tables."""
    directory.mkdir()
    job = directory / "job.yaml"
    job.write_text(JOB.format(lookahead=lookahead))
    port = free_ports(1)[0]
    roles = ["--job", str(job), "--run-dir", str(directory)]
    with ExitStack() as stack:
        oracle, server = (
            stack.enter_context(started(["-m", "bagpipe.cli.main", *words, *roles]))
            for words in (
                ["oracle", "--bind", f"tcp://127.0.0.1:{port}"],
                ["server", "--oracle", f"tcp://127.0.0.1:{port}", "--shard", "0"],
            )
        )
        trainers = [
            stack.enter_context(
                started(
                    [str(SCRIPT), str(rank), "2", str(directory / "store")],
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
            )
            for rank in range(2)
        ]
        outputs = [json.loads(t.communicate()[0].splitlines()[-1]) for t in trainers]
        assert [p.wait() for p in (*trainers, oracle, server)] == [0, 0, 0, 0]
    newest = newest_complete(directory / "checkpoints")
    assert newest is not None
    return outputs, model_digest(newest)


def test_the_papers_model_trains(tmp_path: Path) -> None:
    """SimpleModel trains to the end of the data, exactly as without a cache, and every process ends by itself."""
    (first, second), cached = train(tmp_path / "cached", lookahead=8)
    assert len(first["losses"]) == 30
    assert np.mean(first["losses"][-8:]) < np.mean(first["losses"][:4])
    assert first["weights"] == second["weights"]
    (uncached, _), digest = train(tmp_path / "uncached", lookahead=0)
    assert uncached == first
    assert digest == cached


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}, {"name": "sgd", "lr": 0.5, "momentum": 0.9}),
        (torch.optim.Adagrad, {}, {"name": "adagrad", "lr": 0.01, "eps": 1e-10}),
        (
            torch.optim.Adam,
            {"betas": (0.8, 0.9)},
            {"name": "adam", "lr": 0.001, "beta1": 0.8, "beta2": 0.9, "eps": 1e-8},
        ),
        (
            torch.optim.SGD,
            {"schedule": {"name": "step", "every": 3}},
            {"name": "sgd", "schedule": Schedule(name="step", every=3)},
        ),
    ],
)
def test_optimizers_map_to_their_sparse_form(kind: type, options: dict[str, Any], expected: dict[str, Any]) -> None:
    """A torch.optim class and its options become the row optimizer that equals it."""
    found = row_optimizer(kind, options)
    assert {name: getattr(found, name) for name in expected} == expected


def test_unknown_optimizers_and_options_are_refused() -> None:
    """What has no sparse form is a ConfigError that names what there is."""
    with pytest.raises(ConfigError, match="RMSprop has no sparse form here; use one of SGD"):
        row_optimizer(torch.optim.RMSprop, {})
    with pytest.raises(ConfigError, match="not 'nesterov'"):
        row_optimizer(torch.optim.SGD, {"nesterov": True})
    with pytest.raises(ConfigError, match="either every or milestones"):
        row_optimizer(torch.optim.SGD, {"schedule": {"name": "step"}})
