"""Plain PyTorch: every table on every trainer, DDP with sparse gradients."""

import torch
from torch import nn

from peers import workload
from peers.worker import Pooled, Slice, Worker, main


class Whole(nn.Module):
    """Tables and dense model as one module."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        dim = worker.setting.dim
        self.tables = nn.ModuleList(nn.EmbeddingBag(n, dim, mode="sum", sparse=True) for n in workload.TABLE_ROWS)
        self.dense = worker.dense_model()

    def forward(self, dense_BF: torch.Tensor, rows_TB: torch.Tensor) -> torch.Tensor:
        pooled = [table(rows.unsqueeze(1)) for table, rows in zip(self.tables, rows_TB, strict=True)]
        return self.dense(dense_BF, Pooled(torch.stack(pooled, dim=1)))


def run(worker: Worker) -> None:
    worker.join_trainers()
    model = worker.data_parallel(Whole(worker))
    optimizer = torch.optim.SGD(model.parameters(), lr=worker.setting.lr)
    loss_function = nn.BCEWithLogitsLoss()

    def step(part: Slice) -> None:
        loss = loss_function(model(part.dense_BF, part.rows_TB), part.labels_B1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    worker.train(step)


if __name__ == "__main__":
    main(run)
