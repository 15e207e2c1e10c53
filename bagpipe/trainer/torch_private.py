"""Every name of torch that trainers need and that is not public, in one place.

A new version of torch may rename any of it. `check_torch` says so in one line, before training starts.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C import _distributed_c10d as distributed_c10d
from torch.nn.parallel import DistributedDataParallel

from bagpipe.errors import ConfigError

Store: Any = dist.Store  # type: ignore[attr-defined]  # torch has no types for it

CREATE_WORK = "_create_work_from_future"
OLDEST = (2, 6)
"""`ProcessGroup._set_default_backend` came with it."""


def check_torch() -> None:
    """Check that the installed torch has what trainers need.

    Raises:
        ConfigError: it is too old, or lacks a name.
    """
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < OLDEST:
        raise ConfigError(
            f"trainers need torch {OLDEST[0]}.{OLDEST[1]} or newer, found {torch.__version__}; install a newer one"
        )
    missing = [name for owner, name in _needed() if not hasattr(owner, name)]
    if missing:
        raise ConfigError(
            f"torch {torch.__version__} lacks {', '.join(missing)}, which trainers use; install the version of torch "
            "that requirements/constraints.txt names"
        )


def _needed() -> list[tuple[object, str]]:
    engine: Any = getattr(torch.autograd.Variable, "_execution_engine", None)
    return [
        (engine, "queue_callback"),
        (DistributedDataParallel, "_set_params_and_buffers_to_ignore_for_model"),
        (distributed_c10d, CREATE_WORK),
        (dist.ProcessGroup, "_set_default_backend"),
        (dist.ProcessGroup, "_register_backend"),
    ]


def at_the_end(callback: Callable[[], None]) -> None:
    """Run this when the backward pass in progress has nothing left to compute; several run in the order asked for.

    Torch's own DDP and FSDP ask the engine too.
    """
    engine: Any = torch.autograd.Variable._execution_engine  # noqa: SLF001  # it has no public name
    engine.queue_callback(callback)


def ignore_in_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Parameters and buffers of a model that DDP neither broadcasts nor reduces."""
    set_ignored: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001  # DDP's only way
    set_ignored(model, list(names))


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor has been written to in place; autograd counts it."""
    return tensor._version  # noqa: SLF001  # its only name


def compile_whole_models() -> None:
    """Let `torch.compile` compile a model under DDP as it would alone.

    Its own cutting at DDP's buckets asserts that the first bucket is the smallest, and ours are all small. Where
    nothing was compiled the compiler is not loaded either (`bagpipe.lowlevel.torch_compiler`).
    """
    compiler: Any = sys.modules.get("torch._dynamo")
    settings = vars(compiler).get("config") if compiler is not None else None
    if settings is not None:
        settings.optimize_ddp = False


def ended_work(tensors: Sequence[torch.Tensor]) -> dist.Work:
    """The return value of a collective that has ended, with these results."""
    future: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future()
    future.set_result(list(tensors))
    create: Any = getattr(distributed_c10d, CREATE_WORK)
    work: dist.Work = create(future)
    return work


def nccl_group(store: Any, rank: int, world_size: int, device: torch.device) -> dist.ProcessGroup:
    """A group of GPUs outside torch's registry.

    torch's default group is one per process and belongs to the program that embeds us; building the group from
    its backend leaves it alone, and lets several trainers live in one process (the tests' way).
    """
    group = dist.ProcessGroup(store, rank, world_size)
    kind = dist.ProcessGroup.BackendType.NCCL
    backend: Any = dist.ProcessGroupNCCL(store, rank, world_size, dist.ProcessGroupNCCL.Options())
    # What `new_group` itself calls.
    group._set_default_backend(kind)  # noqa: SLF001  # no public name
    group._register_backend(device, kind, backend)  # noqa: SLF001  # no public name
    return group
