"""An evaluation that fails is not a run that fails, and what can be known of it is known before the first update."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.errors import BagpipeError
from bagpipe.testing.threads import run_in_threads

ONE = {"replicas": 1, "device": "cpu", "threads": 1}


class Odd(nn.Module):
    """Linear; `way` says what is odd about it. Its loss takes the first output."""

    def __init__(self, num_dense: int, way: str) -> None:
        super().__init__()
        self.linear, self.way = nn.Linear(num_dense + 4, 1), way
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        out_B1 = self.linear(torch.cat([dense_BF, sparse["C2"]], 1))
        self.calls += self.training
        late = "late" in self.way and self.calls < 2
        if self.way.startswith("raises") and not self.training and not late:
            raise ValueError("no evaluation today")
        if self.way == "no feature in evaluation" and not self.training:
            sparse["C9"]
        if self.way == "bfloat16":
            return out_B1.to(torch.bfloat16)
        now = "training" if self.training else "evaluation"
        twice = not late and (self.way == "always two" or self.way.startswith(f"two in {now}"))
        return torch.cat([out_B1, out_B1], 1) if twice else out_B1

    def loss(self, outputs: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(outputs[:, :1].float(), labels_BL)


def job_of(way: str, **more: Any) -> Job:
    spec = {
        "model": {"entrypoint": f"{__name__}:Odd", "args": {"way": way}},
        "data": {
            "format": "synthetic",
            "synthetic": {"examples": 400, "tableSizes": [40, 20], "numDense": 3},
            "testFraction": 0.2,
        },
        "embedding": {"dim": 4},
        "batchSize": 32,
        "servers": {"storage": "memory"},
        "trainers": {"replicas": 2, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


def evaluation_of(run_dir: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads((run_dir / "report.json").read_text())["evaluation"]
    return found


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("raises late", r"test_failed_evaluation.py:\d+ \(forward\): ValueError: no evaluation today"),
        ("two in evaluation, late", r"test_failed_evaluation.py:\d+ \(Odd\): forward gives \[16, 2\] for .* \[16, 1\]"),
    ],
)
def test_the_model_is_kept_and_the_reason_told(way: str, said: str, tmp_path: Path) -> None:
    """The run ends well with its last checkpoint, and its report has the reason instead of figures."""
    run_in_threads(job_of(way), tmp_path)
    evaluation = evaluation_of(tmp_path)
    assert evaluation is not None
    assert list(evaluation) == ["failed"]
    assert re.search(said, evaluation["failed"])
    assert newest_complete(tmp_path / "checkpoints") is not None


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("raises", r"test_failed_evaluation.py:\d+ \(forward\): ValueError: no evaluation today; .*evaluate: false"),
        ("no feature in evaluation", r"test_failed_evaluation.py:\d+ \(forward\): expected one of .*, found 'C9'; "),
        ("two in evaluation", "evaluation needs one output for each example and label"),
        ("always two", "evaluation needs one output for each example and label"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused_before_the_first_update(
    way: str, said: str, tmp_path: Path
) -> None:
    """Nothing is trained, so nothing is lost."""
    with pytest.raises(BagpipeError, match=said) as caught:
        run_in_threads(job_of(way), tmp_path)
    assert caught.value.exit_code == 78
    assert newest_complete(tmp_path / "checkpoints") is None


def test_without_an_evaluation_outputs_are_the_models_own_affair(tmp_path: Path) -> None:
    """Its loss takes them; nobody else asks."""
    run_in_threads(job_of("always two", evaluate=False), tmp_path)
    assert newest_complete(tmp_path / "checkpoints") is not None


@pytest.mark.parametrize("way", ["two in training", "bfloat16"])
def test_what_evaluation_gets_is_what_counts(way: str, tmp_path: Path) -> None:
    """More outputs in training, or outputs of half precision, are evaluated."""
    run_in_threads(job_of(way), tmp_path)
    evaluation = evaluation_of(tmp_path)
    assert evaluation is not None
    assert evaluation["examples"] == 80
    assert 0 < evaluation["auc"] < 1


class Counts(Odd):
    """Gives NaN at the 4th call of all its instances, which its class counts."""

    calls_of_all = 0

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        Counts.calls_of_all += 1
        return super().forward(dense_BF, sparse) * (float("nan") if Counts.calls_of_all == 4 else 1.0)


def test_the_tried_evaluation_is_no_call_that_a_class_has_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that the user's own counter means is the one at which the run ends."""
    monkeypatch.setattr(Counts, "calls_of_all", 0)
    job = job_of("plain", model={"entrypoint": f"{__name__}:Counts", "args": {"way": "plain"}}, trainers=ONE)
    with pytest.raises(BagpipeError, match="step 4: the loss is nan"):
        run_in_threads(job, tmp_path)
