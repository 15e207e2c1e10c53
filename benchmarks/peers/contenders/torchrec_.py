"""TorchRec: tables split over the trainers, pooled rows and their gradients exchanged by all-to-all (gloo).

`torchrec-table`: whole tables; `torchrec-row`: every table by rows (its CPU sharder offers that only when told);
`torchrec-pipeline`: table-wise with its sparse pipeline, which sends the next batch's ids ahead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.streamable import Pipelineable

from peers import workload
from peers.worker import Pooled, Slice, Worker, main

FEATURES = [f"C{i}" for i in range(1, len(workload.TABLE_ROWS) + 1)]


@dataclass
class Examples(Pipelineable):
    """A batch as TorchRec's pipeline wants it."""

    dense_BF: torch.Tensor
    sparse: KeyedJaggedTensor
    labels_B1: torch.Tensor

    @classmethod
    def of(cls, part: Slice) -> "Examples":
        values = part.rows_TB.flatten()
        lengths = torch.ones(values.numel(), dtype=torch.int32)
        return cls(part.dense_BF, KeyedJaggedTensor(FEATURES, values, lengths=lengths), part.labels_B1)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Examples":
        return self

    def record_stream(self, stream: torch.Stream) -> None:
        """There are no streams on a CPU."""

    def pin_memory(self) -> "Examples":
        return self


class DenseWithLoss(nn.Module):
    """All that needs no table; a module of its own, which TorchRec's tracer leaves whole."""

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.dense, self.loss_function = dense, nn.BCEWithLogitsLoss()

    def forward(self, dense_BF: torch.Tensor, pooled: torch.Tensor, labels_B1: torch.Tensor) -> torch.Tensor:
        pooled_BTD = pooled.view(dense_BF.shape[0], len(FEATURES), -1)
        return self.loss_function(self.dense(dense_BF, Pooled(pooled_BTD)), labels_B1)


class Whole(nn.Module):
    """Tables, dense model and loss."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(name=f, embedding_dim=worker.setting.dim, num_embeddings=n, feature_names=[f])
            for f, n in zip(FEATURES, workload.TABLE_ROWS, strict=True)
        ]
        self.tables = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.over = DenseWithLoss(worker.dense_model())

    def forward(self, batch: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.over(batch.dense_BF, self.tables(batch.sparse).values(), batch.labels_B1)
        return loss, loss.detach()


class RowWiseToo(EmbeddingBagCollectionSharder):
    """The CPU can do it; the stock sharder only does not say so."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [*super().sharding_types(compute_device_type), "row_wise"]


def sharded(worker: Worker) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model over the trainers, tables with fused SGD; and the optimizer of the rest."""
    model = Whole(worker)
    apply_optimizer_in_backward(torch.optim.SGD, model.tables.parameters(), {"lr": worker.setting.lr})
    by_rows = worker.setting.contender == "torchrec-row"
    placement = {f: row_wise() if by_rows else table_wise(rank=i % worker.world) for i, f in enumerate(FEATURES)}
    sharder = RowWiseToo()
    plan = construct_module_sharding_plan(
        model.tables, placement, sharder, local_size=worker.world, world_size=worker.world, device_type="cpu"
    )
    parallel = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"tables": plan}), sharders=[sharder]
    )
    rest = dict(in_backward_optimizer_filter(parallel.named_parameters()))
    return parallel, torch.optim.SGD(rest.values(), lr=worker.setting.lr)


def run(worker: Worker) -> None:
    worker.join_trainers()
    model, optimizer = sharded(worker)
    examples = [Examples.of(part) for part in worker.slices]
    if worker.setting.contender == "torchrec-pipeline":
        pipeline = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"))
        stream: Iterator[Examples] = iter(examples)
        worker.train(lambda part: pipeline.progress(stream))
        return

    def step(part: Slice) -> None:
        optimizer.zero_grad()
        loss, _ = model(examples[part.step])
        loss.backward()
        optimizer.step()

    worker.train(step)


if __name__ == "__main__":
    main(run)
