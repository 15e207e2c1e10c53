"""A parameter server without a cache: fetch the step's rows, push its gradients, every step, in the critical path.

`rpc-unique` asks once for each distinct row, `rpc-all` for every lookup as it comes.
"""

import torch
from torch import nn

from bagpipe.cache.lookup import lookup
from peers.contenders import rpc_tables
from peers.worker import Pooled, Slice, Worker, main


def run(worker: Worker) -> None:
    rpc_tables.join(worker)
    if worker.role == "server":
        rpc_tables.serve()
    worker.join_trainers()
    setting, unique = worker.setting, worker.setting.contender == "rpc-unique"
    model = worker.data_parallel(worker.dense_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    loss_function = nn.BCEWithLogitsLoss()
    pooling = ("sum",) * len(worker.slices[0].rows_TB)
    row_lr = setting.lr / worker.world

    def step(part: Slice) -> None:
        keys = part.keys_BT.flatten()
        if unique:
            keys, inverse = torch.unique(keys, return_inverse=True)
        split = rpc_tables.Split.of(keys, setting.servers)
        rows = torch.empty((keys.numel(), setting.dim))
        rpc_tables.collect(split, rpc_tables.fetch(split), rows)
        rows.requires_grad_()
        if unique:
            pooled_BTD, _ = lookup(rows, inverse.to(torch.int32).numpy(), None, pooling)
        else:
            pooled_BTD = rows.view(*part.keys_BT.shape, setting.dim)
        loss = loss_function(model(part.dense_BF, Pooled(pooled_BTD)), part.labels_B1)
        loss.backward()
        sent = rpc_tables.update(split, rows.grad, row_lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        for answer in sent:
            answer.wait()

    worker.train(step)


if __name__ == "__main__":
    main(run)
