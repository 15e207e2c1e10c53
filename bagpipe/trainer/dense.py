"""The dense weights: reduced over trainers in rank order, updated by torch.optim, saved without pickle.

DDP overlaps the reduction with backward; its communication hook here sums each bucket in rank order,
rank 0 first, and divides by the world size. A plain all-reduce adds in the order of its ring, which
differs from element to element with their place in a bucket, and DDP moves them between buckets after
its first step: with three or more ranks the bits would depend on layout and on where a run began.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.config import DenseOptimizer
from bagpipe.errors import CheckpointError

WEIGHTS = "dense.safetensors"
STATE = "dense_optimizer.safetensors"
SCALARS = "dense_optimizer.json"


def wrap_dense(model: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """The model as every trainer runs it: with its gradients averaged over `group`; None: alone."""
    if group is None or not any(p.requires_grad for p in model.parameters()):
        return model
    parallel = DistributedDataParallel(model, process_group=group)
    parallel.register_comm_hook(group, _mean_in_rank_order)
    return parallel


def _mean_in_rank_order(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A DDP communication hook: ((rank 0 + rank 1) + rank 2 ...) / world size.

    Two ranks add alike in either order, so they take the all-reduce, which moves no more than it must.
    """
    world, buffer = group.size(), bucket.buffer()
    if world == 2:
        return group.allreduce([buffer]).get_future().then(lambda done: done.value()[0].div_(world))
    parts = [torch.empty_like(buffer) for _ in range(world)]

    def total(done: torch.futures.Future[Any]) -> torch.Tensor:
        done.value()
        for part in parts[1:]:
            parts[0].add_(part)
        return parts[0].div_(world)

    return group.allgather([parts], [buffer]).get_future().then(total)


def dense_optimizer(config: DenseOptimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch optimizer that the job names."""
    kinds: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=config.lr, weight_decay=config.weight_decay),
        "adam": lambda p: torch.optim.Adam(p, lr=config.lr, weight_decay=config.weight_decay),
        "adamw": lambda p: torch.optim.AdamW(p, lr=config.lr, weight_decay=config.weight_decay),
    }
    made: torch.optim.Optimizer = kinds[config.name](list(parameters))
    return made


def save_dense(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> list[str]:
    """Write weights by name and optimizer state by parameter; returns the files' names."""
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{number}.{name}"] = value
    safetensors.torch.save_file(weights, directory / WEIGHTS)
    safetensors.torch.save_file(tensors, directory / STATE)
    (directory / SCALARS).write_text(json.dumps(scalars))
    return [WEIGHTS, STATE, SCALARS]


def load_dense(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Bring back what `save_dense` wrote, bit for bit.

    Raises:
        CheckpointError: the weights are of another model.
    """
    try:
        weights = safetensors.torch.load_file(directory / WEIGHTS)
        tensors = safetensors.torch.load_file(directory / STATE)
        scalars = json.loads((directory / SCALARS).read_text())
        model.load_state_dict(weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{directory}: cannot read dense weights ({error}); use another checkpoint") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{directory}: dense weights are of another model: {reason}") from None
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
