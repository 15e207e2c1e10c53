"""The paper's SimpleModel and training loop, as a user of the Python API would write them.

Only what the machine dictates differs from the seed document: sizes, device, and the end: instead of a
fixed number of iterations and a `pkill`, the loop runs to the end of the data and closes the cache.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel

from bagpipe import BagCache, init_cache

SIZES = [50, 400, 7, 90]
DIM = 8


class SimpleModel(nn.Module):
    def __init__(self, num_tables: int, cache: BagCache) -> None:
        super().__init__()
        self.cache = cache
        self.bot_mlp = nn.Sequential(nn.Linear(13, 16), nn.Linear(16, DIM), nn.ReLU())
        self.top_mlp = nn.Sequential(nn.Linear((num_tables + 1) * DIM, 16), nn.Linear(16, 1), nn.Sigmoid())
        self.loss_fn = nn.BCELoss(reduction="mean")

    def forward(self, dense_x: torch.Tensor, ls_i: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.bot_mlp(dense_x)
        z = torch.cat([x, *self.cache.get_emb(ls_i)], dim=1)
        loss: torch.Tensor = self.loss_fn(self.top_mlp(z), target)
        return loss


def main(rank: int, world: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cache = init_cache(
        emb_size=DIM,
        ln_emb=SIZES,
        cache_size=600,
        device="cpu",
        cleanup_batch_proportion=0.25,
        worker_id=rank + 1,
        world_size=world + 2,
        training_worker_id=rank,
        trainer_world_size=world,
        emb_optim=optim.SGD,
        emb_optim_params={"lr": 0.1},
    )
    model = SimpleModel(len(SIZES), cache)
    dist.init_process_group("gloo", init_method=f"file://{store}", world_size=world, rank=rank)
    model.top_mlp = DistributedDataParallel(model.top_mlp)
    model.bot_mlp = DistributedDataParallel(model.bot_mlp)
    optimizer = optim.SGD([{"params": model.top_mlp.parameters()}, {"params": model.bot_mlp.parameters()}], lr=0.1)
    losses = []
    with cache:
        for train_example in cache:
            loss = model(train_example["dense_x"], train_example["sparse_vector"], train_example["target"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    dist.destroy_process_group()
    weights = [float(p.double().sum()) for p in model.parameters()]
    print(json.dumps({"losses": losses, "weights": weights}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
