"""The bound: forward, backward and dense all-reduce of the same model, with no row travelling or updated.

Each step's distinct rows are simply there, and the lookup and its gradient are computed as ours computes them.
"""

import numpy as np
import torch
from torch import nn

from bagpipe.cache.lookup import lookup
from peers.worker import Pooled, Slice, Worker, main


def run(worker: Worker) -> None:
    worker.join_trainers()
    model = worker.data_parallel(worker.dense_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=worker.setting.lr)
    loss_function = nn.BCEWithLogitsLoss()
    inverse, most = [], 0
    for part in worker.slices:
        keys, where = np.unique(part.keys_BT.numpy(), return_inverse=True)
        inverse.append(where.ravel().astype(np.int32))
        most = max(most, keys.size)
    table = torch.rand((most, worker.setting.dim)) * 0.01
    pooling = ("sum",) * len(worker.slices[0].rows_TB)

    def step(part: Slice) -> None:
        where = inverse[part.step]
        rows_KD = table[: where.max() + 1].detach().requires_grad_()
        pooled_BTD, _ = lookup(rows_KD, where, None, pooling)
        loss = loss_function(model(part.dense_BF, Pooled(pooled_BTD)), part.labels_B1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    worker.train(step)


if __name__ == "__main__":
    main(run)
