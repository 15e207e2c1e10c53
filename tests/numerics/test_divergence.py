"""A loss or gradient that is not finite ends the run at its step, says where it came from, and spoils no checkpoint."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from msgspec import structs
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.manifest import FILE_NAME
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import Job
from bagpipe.errors import BagpipeError
from bagpipe.testing.threads import run_in_threads

BROKEN_STEP = 7


class Breaks(nn.Module):
    """Linear, and broken in one way: at one step, or at the first one at which a file is there."""

    def __init__(self, num_dense: int, way: str = "", after: str = "") -> None:
        super().__init__()
        self.linear, self.way, self.after, self.step = nn.Linear(num_dense + 4, 1), way, after, 0

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        rows = sparse["C2"]
        self.step += self.training
        broken = Path(self.after).exists() if self.after else self.step == BROKEN_STEP
        if broken and self.way == "weight":
            with torch.no_grad():
                self.linear.weight.fill_(float("inf"))
        if broken and self.way == "row gradient":
            rows = rows + _Gradient.apply(rows, float("nan"))
        if broken and self.way in GRADIENTS:
            dense_BF = dense_BF + _Gradient.apply(self.linear.bias, GRADIENTS[self.way])
        out_BL = self.linear(torch.cat([dense_BF, rows], 1))
        return out_BL * float("nan") if broken and self.way == "output" else out_BL


GRADIENTS = {"dense gradient": float("nan"), "great update": 3e38}


class _Gradient(torch.autograd.Function):
    """Zeros with this gradient."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gradient: float) -> torch.Tensor:
        ctx.shape, ctx.gradient = values.shape, gradient
        return torch.zeros_like(values)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.full(ctx.shape, ctx.gradient), None


def job_of(way: str, trainers: int, **more: Any) -> Job:
    spec = {
        "model": {"entrypoint": f"{__name__}:Breaks", "args": {"way": way}},
        "data": {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": [40, 20], "numDense": 3}},
        "embedding": {"dim": 4, "optimizer": {"name": "sgd", "lr": 0.05}},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "batchSize": 30,
        "steps": 2000,
        "lookahead": 4,
        "checkpoint": {"every": 1000, "keep": 1},
        "servers": {"storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


def newest_step(run_dir: Path) -> int | None:
    newest = newest_complete(run_dir / "checkpoints")
    return None if newest is None else open_checkpoint(newest).manifest.step


WAYS = {
    "output": "the output of Breaks",
    "weight": "dense weight linear.weight",
    "row gradient": "the gradient of a row of feature C2",
    "dense gradient": "the gradient of dense weight linear.bias",
}


@pytest.mark.parametrize("trainers", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_the_step_and_the_first_tensor_are_named(way: str, trainers: int, tmp_path: Path) -> None:
    """The run ends at that step, and not as a run that might do better next time."""
    with pytest.raises(BagpipeError, match=f"step {BROKEN_STEP}: .*{WAYS[way]}") as caught:
        run_in_threads(job_of(way, trainers), tmp_path)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("way", ["output", "weight"])
def test_the_last_good_checkpoint_is_kept(way: str, tmp_path: Path) -> None:
    """With one checkpoint kept and a new one every third step, what is left is finite."""
    first = tmp_path / "checkpoints" / "step-00000003" / FILE_NAME
    job = job_of(way, 1, checkpoint={"every": 3, "keep": 1})
    model = structs.replace(job.spec.model, args={"way": way, "after": str(first)})
    with pytest.raises(BagpipeError):
        run_in_threads(structs.replace(job, spec=structs.replace(job.spec, model=model)), tmp_path)
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None
    weights = safetensors.numpy.load_file(newest / "dense.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())


def test_weights_that_an_update_makes_infinite_are_not_saved(tmp_path: Path) -> None:
    """Finite gradients and a rate that is too great: the checkpoint of that very step is not taken."""
    job = job_of("great update", 1, optimizer={"name": "sgd", "lr": 10.0}, checkpoint={"every": BROKEN_STEP})
    with pytest.raises(
        BagpipeError, match=f"step {BROKEN_STEP}: dense weight linear.bias is not finite after the update"
    ):
        run_in_threads(job, tmp_path)
    assert newest_complete(tmp_path / "checkpoints") is None


def test_training_goes_on_where_that_is_asked_for(tmp_path: Path) -> None:
    """`notFinite: continue` trains to the end, and weights that are NaN push no checkpoint out."""
    run_in_threads(job_of("output", 1, notFinite="continue", steps=12, checkpoint={"every": 3}), tmp_path)
    assert newest_step(tmp_path) == 6


def test_looking_changes_no_bit(tmp_path: Path) -> None:
    """A run that nothing is wrong with ends alike whether it would stop or not."""
    digests = []
    for policy in ("stop", "continue"):
        run_in_threads(job_of("", 3, notFinite=policy, steps=12), tmp_path / policy)
        newest = newest_complete(tmp_path / policy / "checkpoints")
        assert newest is not None
        digests.append(model_digest(newest))
    assert digests[0] == digests[1]
