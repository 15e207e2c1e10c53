"""The published Bagpipe policy on plain torch: replicated rows, gradients all-reduced; see `peers.replication`.

Rows come from and go to the same RPC servers as the parameter server's. Fetches are asked for well ahead and
write-backs are not waited for: what is left on the critical path is the all-reduce that the policy puts there.
"""

from collections import deque

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from bagpipe.cache.lookup import lookup
from peers import workload
from peers.contenders import rpc_tables
from peers.replication import StepPlan, Summed, plan_replication
from peers.worker import Pooled, Slice, Worker, main

DEPTH = 8
STORES_UNDER_WAY = 6


class ReplicatedCache:
    """This trainer's rows, and their sums with the other trainers."""

    def __init__(self, worker: Worker, slots: int) -> None:
        self.rows = torch.zeros((slots, worker.setting.dim))
        self._world, self._servers = worker.world, worker.setting.servers
        self._factor = -worker.setting.lr / worker.world
        self._group = dist.new_group(backend="gloo") if worker.world > 1 else None
        self._deferred: tuple[StepPlan, torch.Tensor, dist.Work | None] | None = None
        self._fetches: dict[int, tuple[rpc_tables.Split, list[rpc_tables.Future]]] = {}
        self._stores: deque[list[rpc_tables.Future]] = deque()

    def request(self, step: int, plan: StepPlan) -> None:
        split = rpc_tables.Split.of(torch.from_numpy(plan.fetch_keys), self._servers)
        self._fetches[step] = split, rpc_tables.fetch(split)

    def load(self, step: int, plan: StepPlan) -> None:
        split, asked = self._fetches.pop(step)
        rpc_tables.collect(split, asked, self.rows, torch.from_numpy(plan.fetch_slots))

    def finish(self, plan: StepPlan, gradients: torch.Tensor) -> None:
        """After backward of a step: the last one's deferred sum, this one's urgent sum; then defer the rest."""
        self.settle()
        block = self._block(plan.now, gradients)
        if self._group is not None:
            dist.all_reduce(block, group=self._group)
        self._apply(plan.now, block)
        self._apply(plan.alone, self._block(plan.alone, gradients))
        block = self._block(plan.later, gradients)
        work = dist.all_reduce(block, group=self._group, async_op=True) if self._group is not None else None
        self._deferred = plan, block, work

    def settle(self) -> None:
        """Apply what travelled under this step; its rows that leave go to the servers."""
        if self._deferred is None:
            return
        plan, block, work = self._deferred
        if work is not None:
            work.wait()
        self._apply(plan.later, block)
        split = rpc_tables.Split.of(torch.from_numpy(plan.leave_keys), self._servers)
        self._stores.append(rpc_tables.store(split, self.rows[torch.from_numpy(plan.leave_slots)]))
        while len(self._stores) > STORES_UNDER_WAY:
            for answer in self._stores.popleft():
                answer.wait()

    def _block(self, summed: Summed, gradients: torch.Tensor) -> torch.Tensor:
        """This trainer's share of a sum; zeros for rows that it does not use."""
        block = torch.zeros((summed.slots.size, self.rows.shape[1]))
        block[torch.from_numpy(summed.places)] = gradients[torch.from_numpy(summed.own)]
        return block

    def _apply(self, summed: Summed, block: torch.Tensor) -> None:
        self.rows.index_add_(0, torch.from_numpy(summed.slots), block, alpha=self._factor)


def run(worker: Worker) -> None:
    rpc_tables.join(worker)
    if worker.role == "server":
        rpc_tables.serve()
    worker.join_trainers()
    setting = worker.setting
    depth = max(1, min(DEPTH, setting.lookahead // 2))
    stream = [workload.global_batch(setting, step).keys() for step in range(setting.stream_steps)]
    plans, slots = plan_replication(
        stream,
        rank=worker.number,
        world=worker.world,
        lookahead=setting.lookahead,
        num_rows=workload.NUM_ROWS,
    )
    del stream
    model = worker.data_parallel(worker.dense_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    loss_function = nn.BCEWithLogitsLoss()
    cache = ReplicatedCache(worker, slots)
    for step in range(depth):
        cache.request(step, plans[step])
    pooling = ("sum",) * len(workload.TABLE_ROWS)

    def run_step(part: Slice) -> None:
        plan = plans[part.step]
        cache.request(part.step + depth, plans[part.step + depth])
        cache.load(part.step, plan)
        rows = cache.rows[torch.from_numpy(plan.own_slots)].requires_grad_()
        pooled_BTD, _ = lookup(rows, np.ascontiguousarray(plan.inverse), None, pooling)
        loss = loss_function(model(part.dense_BF, Pooled(pooled_BTD)), part.labels_B1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        cache.finish(plan, rows.grad)

    worker.train(run_step)


if __name__ == "__main__":
    main(run)
