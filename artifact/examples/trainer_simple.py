"""The smallest user of the API: two trainers of a model of your own, started here (docs/artifact.md).

Without flags it is the paper's example. It ends by itself: `steps` tells the job when, and leaving `with bp`
writes everything back, so that the model is saved and no process remains.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: N817

sys.path.append("..")

from BagPipe import BagCache, init_cache

LN_EMB = [
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
]


class SimpleModel(nn.Module):
    """Two MLPs around the embeddings that the cache hands out."""

    def __init__(self, ln_emb_len: int, device: str, bp: BagCache) -> None:
        super().__init__()
        self.device = device
        self.bp = bp
        self.bot_mlp = nn.Sequential(nn.Linear(13, 64), nn.Linear(64, 48), nn.ReLU()).to(device)
        self.top_mlp = nn.Sequential(nn.Linear((ln_emb_len + 1) * 48, 256), nn.Linear(256, 1), nn.Sigmoid()).to(device)
        self.loss_fn = nn.BCELoss(reduction="mean").to(device)

    def forward(self, dense_x: torch.Tensor, ls_i: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.bot_mlp(dense_x)
        ly = self.bp.get_emb(ls_i)
        z = torch.cat([x, *ly], dim=1)
        p = self.top_mlp(z)
        loss: torch.Tensor = self.loss_fn(p, target)
        return loss


def main(rank: int, rank_d: int, size: int, size_d: int, arguments: argparse.Namespace) -> None:
    """One trainer."""
    os.environ["MASTER_ADDR"] = arguments.ip
    os.environ["MASTER_PORT"] = str(arguments.master_port)
    torch.manual_seed(0)  # both trainers begin with the same weights, also without DDP's broadcast
    ln_emb = sizes(arguments.emb_info_file)
    bp = init_cache(
        emb_size=48,
        ln_emb=ln_emb,
        cache_size=arguments.cache_size,
        device=arguments.device,
        cleanup_batch_proportion=0.25,
        worker_id=rank,
        world_size=size,
        training_worker_id=rank_d,
        trainer_world_size=size_d,
        emb_optim=optim.SGD,
        emb_optim_params={"lr": 0.01},
        steps=arguments.stop_iter,
    )
    with bp:
        model = SimpleModel(ln_emb_len=len(ln_emb), device=arguments.device, bp=bp)
        dist.init_process_group(
            backend="gloo",
            init_method=f"tcp://{arguments.ip}:{arguments.master_port_ccom}",
            world_size=size_d,
            rank=rank_d,
        )
        optimizer = optim.SGD([{"params": model.top_mlp.parameters()}, {"params": model.bot_mlp.parameters()}], lr=0.01)
        # What is saved; by itself, because a model in DDP has other names.
        bp.attach(nn.ModuleDict({"bot_mlp": model.bot_mlp, "top_mlp": model.top_mlp}), optimizer)
        model.top_mlp = DDP(model.top_mlp)
        model.bot_mlp = DDP(model.bot_mlp)
        for number, train_example in enumerate(bp):
            loss = model(
                train_example["dense_x"].to(model.device),
                train_example["sparse_vector"],
                train_example["target"].to(model.device),
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            print(f"trainer {rank_d} iteration {number} loss {loss.item()}", flush=True)
        dist.destroy_process_group()


def sizes(file: Path | None) -> list[int]:
    """Rows of each table: of the paper's data, or as the file says."""
    return LN_EMB if file is None else [int(line) for line in file.read_text().split()]


def flags() -> argparse.Namespace:
    """Everything that the paper's example fixes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu", help="cpu or cuda:k")
    parser.add_argument("--ip", default="127.0.0.1", help="host of the oracle and of trainer 0")
    parser.add_argument("--master-port", type=int, default=18000, help="port of the oracle")
    parser.add_argument("--master-port-ccom", type=int, default=9988, help="port for dense gradients")
    parser.add_argument("--cache-size", type=int, default=5_000_000, help="rows each trainer may hold")
    parser.add_argument("--emb-info-file", type=Path, default=None, help="file with one table size a line")
    parser.add_argument("--stop-iter", type=int, default=100, help="iterations")
    return parser.parse_args()


if __name__ == "__main__":
    size = 4
    size_d = 2
    given = flags()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    mp.set_start_method("spawn")
    trainers = [mp.Process(target=main, args=(rank_d + 1, rank_d, size, size_d, given)) for rank_d in range(size_d)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join()
    sys.exit(max(abs(trainer.exitcode or 0) for trainer in trainers))
