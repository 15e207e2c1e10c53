"""What a model computes on starts at a 64-byte boundary, wherever its bytes came from."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import Job
from bagpipe.models.base import register_model
from bagpipe.tables import TableLayout
from bagpipe.testing.threads import run_in_threads


@pytest.mark.parametrize("offset", [4, 8, 16, 32, 60])
def test_a_copy_is_aligned(offset):
    """From any offset of a received frame: the same numbers, in torch's memory, at a 64-byte boundary."""
    frame = bytearray(4096 + 128)
    start = offset - np.frombuffer(frame, np.uint8).ctypes.data % 64 + 64
    array = np.frombuffer(frame, np.float32, 1000, start).reshape(100, 10)
    array[:] = np.random.default_rng(0).random((100, 10), np.float32)
    copy = aligned(array)
    assert copy.data_ptr() % 64 == 0
    assert torch.equal(copy, torch.tensor(array))


WHERE: list[int] = []
"""Addresses of the features and labels that the witness was given, modulo 64."""


@register_model("witness-of-alignment")
class Witness(nn.Module):
    def __init__(self, layout: TableLayout, num_dense: int) -> None:
        super().__init__()
        self.top = nn.Linear(num_dense, 1)
        self.features = [name for table in layout.tables for name in table.feature_names]

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        WHERE.append(dense.data_ptr() % 64)
        return self.top(dense) + sum(sparse[f].sum(dim=1, keepdim=True) for f in self.features)

    def loss(self, found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        WHERE.append(labels.data_ptr() % 64)
        return nn.functional.mse_loss(found, labels)


def test_a_model_and_its_loss_get_batches_through_it(tmp_path):
    """Features and labels of a plan are never used where they lie: a run would differ in its bits from the next."""
    data = {"format": "synthetic", "synthetic": {"examples": 210, "tableSizes": [20, 7], "numDense": 3}}
    spec = {"model": {"name": "witness-of-alignment"}, "data": data, "embedding": {"dim": 4}, "batchSize": 7}
    run_in_threads(msgspec.convert({"spec": spec | {"trainers": {"device": "cpu"}}}, Job), tmp_path / "run")
    assert len(WHERE) >= 60 and set(WHERE) == {0}
