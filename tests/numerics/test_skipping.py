"""A step whose loss or gradient is not finite is passed over by all trainers, and changes nothing (`notFinite: skip`).

The reference (`bagpipe.testing.reference`) computes every trainer's part of a step, looks at all of it, and only then
updates anything.
"""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.data.dataset import open_dataset
from bagpipe.errors import BagpipeError
from bagpipe.plan import BatchPlan
from bagpipe.testing.compare import checkpoint_differences
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import ThreadedRun, run_in_threads
from bagpipe.trainer.finite import FiniteCheck
from bagpipe.trainer.skipping import Skipping

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BATCH, EXAMPLES, STEPS, STOP = 30, 400, 17, 6
LIMIT, BROKEN = 2.9, [5, 6, 8, 10]
"""Examples with a first dense feature above the limit break the model; the steps (from 1) that have one."""


class Breaks(nn.Module):
    """Running means and a linear layer. An example whose first dense feature is too great breaks it in one way."""

    def __init__(self, num_dense: int, way: str) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(num_dense + 4), nn.Linear(num_dense + 4, 1)
        self.way = way

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        broken_B1 = dense_BF[:, :1] > LIMIT
        rows_BD = sparse["C2"]
        if self.way == "weight" and bool(broken_B1.any()):
            with torch.no_grad():
                self.linear.weight.fill_(torch.nan)
        if self.way == "row gradient":
            rows_BD = rows_BD + _Broken.apply(rows_BD, broken_B1)
        inputs = torch.cat([dense_BF.clamp(max=LIMIT), rows_BD], 1)
        if self.way == "running means":
            inputs = torch.where(broken_B1, torch.inf, inputs)
        out_B1 = self.linear(self.norm(inputs) if inputs.shape[0] > 1 else inputs)
        if self.way == "dense gradient":
            out_B1 = out_B1 + _Broken.apply(self.linear.bias.expand_as(out_B1), broken_B1)
        return torch.where(broken_B1, torch.inf, out_B1) if self.way == "output" else out_B1


class _Broken(torch.autograd.Function):
    """Zeros, with a gradient that is NaN where this is so."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(where)
        return torch.zeros_like(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (where,) = ctx.saved_tensors
        return torch.where(where, torch.nan, torch.zeros_like(gradients[0])), None


def job_of(way: str, trainers: int, **more: Any) -> Job:
    synthetic = {"examples": EXAMPLES, "tableSizes": [40, 200], "numDense": 3}
    spec = {
        "model": {"entrypoint": f"{__name__}:Breaks", "args": {"way": way}},
        "data": {"format": "synthetic", "synthetic": synthetic},
        "embedding": {"dim": 4, "optimizer": {"name": "adam", "lr": 0.05}},
        "optimizer": {
            "name": "adam",
            "lr": 0.01,
            "schedule": {"name": "step", "every": 3, "gamma": 0.7, "warmupSteps": 4},
            "average": {"decay": 0.8},
        },
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": 4,
        "seed": 3,
        "logEvery": 1,
        "notFinite": "skip",
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


def plain(job: Job) -> ReferenceRun:
    spec = job.spec
    data = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))
    batches = itertools.islice(data.train_batches(BATCH), STEPS)
    return train_reference(batches, data.layout, spec, num_dense=data.num_dense, world_size=spec.trainers.replicas)


def differences(run: ThreadedRun, expected: ReferenceRun) -> list[str]:
    """As `bagpipe.testing.compare`, where a loss that is not finite is told as none."""
    newest = newest_complete(run.run_dir / "checkpoints")
    assert newest is not None
    losses = [loss if math.isfinite(loss) else None for loss in expected.losses]
    found = [] if run.losses == losses else ["losses"]
    return found + [name for name in checkpoint_differences(newest, [], expected) if name != "losses"]


def skipped(run: ThreadedRun) -> dict[int, list[str]]:
    """Reasons of all trainers, by the step that they passed over."""
    records = map(json.loads, (run.run_dir / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["reasons"] for record in records if record.get("event") == "skipped"}


def told_at_the_end(run: ThreadedRun) -> int:
    skipped_steps: int = json.loads((run.run_dir / "report.json").read_text())["skippedSteps"]
    return skipped_steps


WAYS = {
    "output": "the loss is inf; the first tensor that is not finite: the output of Breaks",
    "running means": "the loss is nan; the first tensor that is not finite: the output of Breaks",
    "row gradient": "the gradient of a row of feature C2 is not finite",
    "dense gradient": "the gradient of dense weight linear.bias is not finite",
}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("output", 1, {}),
    ("output", 3, {"lookahead": 0}),
    ("output", 2, {"microBatches": 3}),
    ("running means", 1, {"microBatches": 2}),
    ("running means", 3, {}),
    ("row gradient", 1, {"lookahead": 0}),
    ("row gradient", 3, {"checkpoint": {"every": 1, "keep": 2}}),
    ("dense gradient", 1, {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "clipNorm": 0.5}}),
    ("dense gradient", 3, {"microBatches": 2, "prefetchDepth": 1}),
]


@pytest.mark.parametrize(("way", "trainers", "more"), CASES, ids=[f"{way}-{n}-{'-'.join(m)}" for way, n, m in CASES])
def test_a_skipped_step_changes_nothing(way: str, trainers: int, more: dict[str, Any], tmp_path: Path) -> None:
    """Rows, weights, state, averages and running means are a plain loop's; each such step is told with its reason."""
    job = job_of(way, trainers, **more)
    run = run_in_threads(job, tmp_path / "run")
    assert differences(run, plain(job)) == []
    reasons = skipped(run)
    assert sorted(reasons) == BROKEN
    assert told_at_the_end(run) == len(BROKEN)
    for step, told in reasons.items():
        assert len(told) == trainers
        assert any(f"step {step}: {WAYS[way]}" in reason for reason in told)


def test_buffers_that_forward_replaces_are_put_back() -> None:
    """By another tensor, and one of another shape: it is the old value that the next step and a checkpoint find."""
    model = nn.BatchNorm1d(2)
    asked: list[dict[int, torch.Tensor]] = []

    def reason(plan: object, rows: object, before: dict[int, torch.Tensor]) -> str:
        asked.append(before)
        return "the loss is nan"

    finite = cast("FiniteCheck", SimpleNamespace(reason_to_skip=reason))
    skipping = Skipping(model, finite, None, torch.device("cpu"))
    skipping.begin()
    mean = model.running_mean = torch.full((2,), torch.nan)
    model.running_var = torch.ones(3)
    assert skipping.reason(cast("BatchPlan", None), []) == "the loss is nan"
    assert asked[0][id(mean)].tolist() == [0.0, 0.0]
    assert {name: buffer.tolist() for name, buffer in model.named_buffers()} == {
        "running_mean": [0.0, 0.0],
        "running_var": [1.0, 1.0],
        "num_batches_tracked": 0,
    }


def test_a_run_that_ends_with_a_skipped_step_is_resumed(tmp_path: Path) -> None:
    """What the next step begins with is what the last good one left, also from a checkpoint in between."""
    run_in_threads(job_of("output", 3, steps=STOP, checkpoint={"every": STOP}), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run = run_in_threads(job_of("output", 3), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert differences(run, plain(job_of("output", 3))) == []
    assert sorted(skipped(run)) == BROKEN
    assert told_at_the_end(run) == len(BROKEN)


@pytest.mark.parametrize("trainers", [1, 3])
def test_weights_that_are_not_finite_end_the_run(trainers: int, tmp_path: Path) -> None:
    """Every later step would be passed over too, so the first one says which weight, and the run is not tried again."""
    found = r"step 5: .*dense weight linear\.weight; .*no later step can be better"
    with pytest.raises(BagpipeError, match=found) as error:
        run_in_threads(job_of("weight", trainers), tmp_path)
    assert error.value.exit_code == 65


@pytest.mark.parametrize("trainers", [1, 3])
def test_where_nothing_is_broken_nothing_changes(trainers: int, tmp_path: Path) -> None:
    """The model is that of a run which would stop."""
    digests = []
    for policy in ("stop", "skip"):
        run_in_threads(job_of("", trainers, notFinite=policy), tmp_path / policy)
        newest = newest_complete(tmp_path / policy / "checkpoints")
        assert newest is not None
        digests.append(model_digest(newest))
    assert digests[0] == digests[1]
