"""The TorchRec baseline: the same DLRM on the same examples, tables sharded over the trainers, plain SGD.

    torchrun --nproc-per-node 2 train.py --dataset kaggle_criteo_weekly.txt --batch-size 512 --iter 100 --device cpu

One process for each trainer, started by torchrun; `--batch-size` is a trainer's share (16,384 on 8 trainers: 2,048).
It needs TorchRec's environment (setup.sh) and nothing of Bagpipe. The log ends with the time of an iteration.
"""

import argparse
import datetime as dt
import logging
import os
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from data import read_batches
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.datasets.utils import Batch
from torchrec.distributed import DistributedModelParallel, TrainPipelineSparseDist
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import KeyedOptimizerWrapper

log = logging.getLogger()
"""The root, as in the original's logs."""
KAGGLE_TABLES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description="TorchRec's DLRM on the paper's data.")
    made.add_argument("--dataset", type=Path, required=True, help="JSON lines, or a folder of part_0.txt, ...")
    made.add_argument("--iter", type=int, default=2000, help="iterations")
    made.add_argument("--batch-size", type=int, default=2048, help="examples of one iteration on THIS trainer")
    made.add_argument("--emb-size", type=int, default=48, help="width of every table")
    made.add_argument("--emb-info-file", type=Path, help="one table size a line; none: Criteo Kaggle's")
    made.add_argument("--arch-mlp-bot", default="13-512-256-64-48", help="dense features, bottom MLP, --emb-size")
    made.add_argument("--arch-mlp-top", default="1024-1024-1024-256-128-1", help="top MLP, 1 at the end")
    made.add_argument("--learning-rate", type=float, default=0.01, help="of rows and dense weights")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    made.add_argument("--backend", choices=("gloo", "nccl"), default=None, help="none: what the device needs")
    made.add_argument("--warm-up", type=int, default=10, help="iterations that do not count")
    made.add_argument("--logging-prefix", default="TorchRec", help="part of the log file's name")
    made.add_argument("--log-dir", type=Path, default=Path(), help="folder of the log file")
    return made.parse_args(argv)


def main() -> None:
    arguments = parse()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.iter <= arguments.warm_up:
        raise SystemExit(f"error: --iter {arguments.iter}: expected more than --warm-up {arguments.warm_up}")
    now = f"{dt.datetime.now():%H:%M_%B_%d_%Y}"
    path = arguments.log_dir / f"training_worker_{rank}_{now}_{arguments.logging_prefix}_torchrec.log"
    logging.basicConfig(filename=path, level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s", force=True)
    log.info(arguments)
    device = torch.device(arguments.device, *([int(os.environ.get("LOCAL_RANK", "0"))] * (arguments.device == "cuda")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    backend = arguments.backend or ("nccl" if device.type == "cuda" else "gloo")
    dist.init_process_group(backend, timeout=dt.timedelta(minutes=10))
    try:
        train(arguments, rank, world, device)
    finally:
        dist.destroy_process_group()
    print(f"log: {path}")


def table_sizes(arguments: argparse.Namespace) -> tuple[int, ...]:
    if arguments.emb_info_file is None:
        return KAGGLE_TABLES
    return tuple(int(line) for line in arguments.emb_info_file.read_text().split())


def build(arguments: argparse.Namespace, sizes: tuple[int, ...], device: torch.device) -> torch.nn.Module:
    """The model, its tables' update fused into their backward pass."""
    bottom = [int(w) for w in arguments.arch_mlp_bot.split("-")]
    top = [int(w) for w in arguments.arch_mlp_top.split("-")]
    tables = [
        EmbeddingBagConfig(
            name=f"t_{i}",
            embedding_dim=arguments.emb_size,
            num_embeddings=size,
            feature_names=[f"C{i + 1}"],
            init_fn=lambda rows, size=size: torch.nn.init.uniform_(rows, -(size**-0.5), size**-0.5),
        )
        for i, size in enumerate(sizes)
    ]
    embeddings = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    model = DLRMTrain(DLRM(embeddings, bottom[0], bottom[1:], top, dense_device=device))
    apply_optimizer_in_backward(torch.optim.SGD, model.model.sparse_arch.parameters(), {"lr": arguments.learning_rate})
    return DistributedModelParallel(module=model, device=device)


def train(arguments: argparse.Namespace, rank: int, world: int, device: torch.device) -> None:
    sizes = table_sizes(arguments)
    torch.manual_seed(0)
    model = build(arguments, sizes, device)
    dense = KeyedOptimizerWrapper(
        {name: p for name, p in model.named_parameters() if not hasattr(p, "_in_backward_optimizers")},
        lambda parameters: torch.optim.SGD(parameters, lr=arguments.learning_rate),
    )
    pipeline = TrainPipelineSparseDist(model, dense, device)
    names = [f"C{i + 1}" for i in range(len(sizes))]
    parsed = read_batches(
        arguments.dataset, batch_size=arguments.batch_size, rank=rank, world_size=world, count=arguments.iter
    )
    if parsed[0][1].shape[1] != len(sizes):
        raise SystemExit(f"error: {arguments.dataset}: {parsed[0][1].shape[1]} ids a line for {len(sizes)} tables")
    batches = iter([_batch(names, *parts) for parts in parsed])
    dist.barrier()
    times = []
    for number in range(arguments.iter):
        begun = time.perf_counter()
        loss = pipeline.progress(batches)[0]  # then logits and labels
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1000.0)
        log.info("Current Iter: %d", number)
        log.info("Loss: %s", float(loss.sum()))
        log.info("Iteration Time: %.3fms", times[-1])
    counted = times[arguments.warm_up :]
    total, mean = len(counted), statistics.mean(counted)
    log.info("Total Time of %d iterations: %.3fms", total, sum(counted))
    log.info(
        "For a total of %d iterations, torchrec takes on average %.3f ms with batch size of %d",
        total, mean, arguments.batch_size,
    )  # fmt: skip
    log.info("Standard deviation: %.3f ms", statistics.stdev(counted) if total > 1 else 0.0)
    if rank == 0:
        print(f"For a total of {total} iterations, torchrec takes on average {mean:.3f} ms")


def _batch(names: list[str], dense: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    lengths = torch.ones(ids.numel(), dtype=torch.int32)
    sparse = KeyedJaggedTensor(keys=names, values=ids.T.contiguous().view(-1), lengths=lengths)
    return Batch(dense_features=dense, sparse_features=sparse, labels=labels.to(torch.int32))


if __name__ == "__main__":
    main()
