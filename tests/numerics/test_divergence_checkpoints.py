"""A run that diverges keeps every good checkpoint, also one that is under way at that moment on any trainer."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.errors import BagpipeError
from bagpipe.models.base import register_model
from bagpipe.testing.threads import run_in_threads

BATCH, BATCHES, BAD, BAD_STEP = 24, 10, 20, 7
"""Step 7 holds an example, the last trainer's, on which the output is not finite."""
TABLES = [{"name": "users", "numEmbeddings": 12, "embeddingDim": 4, "featureNames": ["C1"]}]


@register_model("breaks-on-one-example")
class BreaksOnOneExample(nn.Module):
    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_dense, 1)

    def forward(self, dense: torch.Tensor, sparse: Any) -> torch.Tensor:
        out: torch.Tensor = self.linear(dense.clamp(max=1.0)) + sparse["C1"].sum(1, keepdim=True)
        return out * torch.where(dense[:, :1] > 1e5, torch.nan, 1.0)


@register_model("breaks-its-weights")
class BreaksItsWeights(BreaksOnOneExample):
    def forward(self, dense: torch.Tensor, sparse: Any) -> torch.Tensor:
        if bool((dense[:, 0] > 1e5).any()):
            with torch.no_grad():
                self.linear.weight.fill_(torch.inf)
        return super().forward(dense, sparse)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(2)
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    with path.open("w") as file:
        for number in range(BATCH * BATCHES):
            dense = 1e6 if number == (BAD_STEP - 1) * BATCH + BAD else draw.random()
            row = {"label": draw.randrange(2), "dense": [dense, 0.5], "sparse": [draw.randrange(12)]}
            file.write(json.dumps(row) + "\n")
    return path


def job_of(rows: Path, trainers: int, every: int, model: str = "breaks-on-one-example") -> Job:
    spec = {
        "model": {"name": model},
        "data": {"path": str(rows), "format": "criteo-json"},
        "embedding": {"tables": TABLES},
        "batchSize": BATCH,
        "lookahead": 3,
        "checkpoint": {"every": every, "keep": 1},
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec}, Job)


@pytest.mark.parametrize("every", [2, 5])
@pytest.mark.parametrize("trainers", [1, 3])
def test_a_checkpoint_under_way_becomes_complete(trainers: int, every: int, rows: Path, tmp_path: Path) -> None:
    """Steps take milliseconds here, less than a checkpoint: the good one before the bad step is there all the same."""
    with pytest.raises(BagpipeError, match=rf"trainer {trainers - 1}: step {BAD_STEP}: .*the output of Breaks") as end:
        run_in_threads(job_of(rows, trainers, every), tmp_path)
    assert end.value.exit_code == 65
    kept = newest_complete(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.name == f"step-{6 if every == 2 else 5:08d}"


def test_the_checkpoint_before_broken_weights_is_not_trusted(rows: Path, tmp_path: Path) -> None:
    """The step found its weights broken, so the checkpoint right before it may be broken too; the one before stays."""
    with pytest.raises(BagpipeError, match=r"dense weight linear\.weight"):
        run_in_threads(job_of(rows, 1, 2, "breaks-its-weights"), tmp_path)
    kept = newest_complete(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.name == "step-00000004"
