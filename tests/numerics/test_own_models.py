"""Models that people write train exactly: no dense weights, weights that a step does not use, several towers.

Cached equals uncached bit for bit on one trainer and on three (X1), three follow one (X2), and one equals plain
PyTorch: `nn.Embedding` tables and torch.optim, in a loop that anybody would write.
"""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import Job
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.models.base import build_model
from bagpipe.rows.initial import initial_rows
from bagpipe.testing.compare import differences
from bagpipe.testing.reference import ReferenceRun, train_reference
from bagpipe.testing.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

STEPS, BATCH, DIM, SIZES = 12, 31, 4, [40, 60, 7]
"""Batches of 31 on three trainers: slices of 10, 10 and 11 examples."""
LARGE = 2.5


class Factorised(nn.Module):
    """Matrix factorisation: rows and nothing else."""

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        return (sparse["C1"] * sparse["C2"]).sum(1, keepdim=True) + sparse["C3"][:, :1]


class Sometimes(nn.Module):
    """One layer is never used, and one only in slices that have an example whose first dense feature is large."""

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.never, self.large = (nn.Linear(num_dense, 1) for _ in range(2))
        self.always = nn.Linear(2 * DIM, 1)

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        logits = self.always(torch.cat([sparse["C1"], sparse["C2"]], 1))
        chosen = dense[:, 0] > LARGE
        return logits + torch.where(chosen[:, None], self.large(dense), 0.0) if chosen.any() else logits


class Towers(nn.Module):
    """Three towers of different depth, one of them frozen; a tied weight serves two."""

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.dense = nn.Linear(num_dense, DIM)
        self.one, self.two = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.two.weight = self.one.weight
        self.frozen = nn.Linear(DIM, DIM).requires_grad_(False)

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        user = torch.relu(self.one(sparse["C1"])) + self.dense(dense)
        item = self.two(torch.relu(self.two(sparse["C2"])))
        return ((user * item) + self.frozen(sparse["C3"])).sum(1, keepdim=True)


MODELS = {"factorised": Factorised, "sometimes": Sometimes, "towers": Towers}


def job_of(model: str, trainers: int = 1, **more: Any) -> Job:
    spec = {
        "model": {"entrypoint": f"{__name__}:{MODELS[model].__name__}"},
        "data": {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": SIZES, "numDense": 3}},
        "embedding": {"dim": DIM, "optimizer": {"name": "sgd", "lr": 0.5}},
        "optimizer": {"name": "adamw", "lr": 0.02, "weightDecay": 0.1},
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": 4,
        "seed": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


def data_of(job: Job) -> Dataset:
    return open_dataset(job.spec.data, job.spec.embedding, seed=job.spec.seed, work_dir=Path("/nonexistent"))


@cache
def reference(model: str, trainers: int) -> ReferenceRun:
    job = job_of(model, trainers)
    data = data_of(job)
    batches = itertools.islice(data.train_batches(BATCH), STEPS)
    return train_reference(batches, data.layout, job.spec, num_dense=data.num_dense, world_size=trainers)


@pytest.mark.parametrize("trainers", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_equals_the_uncached_reference(model: str, trainers: int, tmp_path: Path) -> None:
    """Losses, rows, state and dense weights, bit for bit (X1)."""
    run = run_in_threads(job_of(model, trainers), tmp_path / "run")
    assert differences(run, reference(model, trainers)) == []


@pytest.mark.parametrize("model", MODELS)
def test_trainers_differ_by_rounding_only(model: str) -> None:
    """Three trainers follow one, whichever weights each of them used (X2)."""
    one, three = reference(model, 1), reference(model, 3)
    np.testing.assert_allclose(three.losses, one.losses, rtol=1e-4)
    for name, weights in one.dense.items():
        torch.testing.assert_close(three.dense[name], weights, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_one_trainer_is_plain_pytorch(model: str) -> None:
    """Tables as `nn.Embedding`, SGD for them and AdamW for the rest, whose gradients are zeroed and not dropped."""
    job = job_of(model)
    data = data_of(job)
    network = build_model(job.spec.model, data.layout, data.num_dense, 1, job.spec.seed)
    first = [initial_rows(3, n, range(rows), DIM, rows**-0.5) for n, rows in enumerate(SIZES)]
    tables = [nn.Embedding.from_pretrained(torch.from_numpy(rows), freeze=False) for rows in first]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD([t.weight for t in tables], lr=0.5)]
    weights = [p for p in network.parameters() if p.requires_grad]
    if weights:
        optimizers.append(torch.optim.AdamW(weights, lr=0.02, weight_decay=0.1))
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    losses = []
    for batch in itertools.islice(data.train_batches(BATCH), STEPS):
        ids = torch.from_numpy(batch.sparse[0].keys_N.reshape(-1, 3) - np.array(data.layout.groups[0].offsets))
        rows = {f"C{n + 1}": table(ids[:, n]) for n, table in enumerate(tables)}
        logits = network(torch.from_numpy(batch.dense_BF), Rows(rows))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels_BL))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    expected = reference(model, 1)
    np.testing.assert_allclose(expected.losses, losses, rtol=1e-5)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(expected.dense[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    for (table, row), record in expected.records.items():
        plain = tables[int(table.removeprefix("C")) - 1].weight[row].detach().numpy()
        np.testing.assert_allclose(record[:DIM], plain, rtol=1e-3, atol=1e-5)


class Rows(dict[str, torch.Tensor]):
    """What these models read of a batch."""

    @property
    def num_examples(self) -> int:
        return len(self["C1"])


def test_weights_that_no_step_uses_decay_alike() -> None:
    """`never` has only lost to weight decay, and `large` was used by some trainers and steps and not by others."""
    batches = itertools.islice(data_of(job_of("sometimes")).train_batches(BATCH), STEPS)
    uses = [[bool((part[:, 0] > LARGE).any()) for part in np.array_split(b.dense_BF, 3)] for b in batches]
    assert {any(one) for one in uses} == {True, False} and any(len(set(one)) == 2 for one in uses)
    first = build_model(job_of("sometimes").spec.model, data_of(job_of("sometimes")).layout, 3, 1, 3).state_dict()
    for trainers in (1, 3):
        after = reference("sometimes", trainers).dense
        torch.testing.assert_close(after["never.weight"], first["never.weight"] * (1 - 0.02 * 0.1) ** STEPS)
        assert not torch.allclose(after["large.weight"], first["large.weight"], atol=1e-3)
