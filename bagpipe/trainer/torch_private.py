"""Everything of torch that has no public name and that trainers need all the same, in one place.

A new version of torch may rename any of it. `check_torch` says so in one line, before training starts.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from bagpipe.errors import ConfigError

DenseStore = TCPStore

OLDEST = (2, 6)
"""`ProcessGroup._set_default_backend` came with it."""


def check_torch() -> None:
    """Raises ConfigError if this torch lacks what trainers need."""
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


def tcp_store(host: str, port: int, world_size: int, *, own: bool, timeout: timedelta) -> DenseStore:
    """The store through which a process group forms: held by this process (port 0: any free one), or by another."""
    return TCPStore(host, port, world_size, is_master=own, timeout=timeout, wait_for_workers=False)


def process_group(
    store: Store, rank: int, world_size: int, device: torch.device, timeout: timedelta
) -> dist.ProcessGroup:
    """A group outside torch's registry: gloo on CPUs, NCCL on GPUs.

    torch's default group is one per process and belongs to whoever embeds us; building the group from
    its backend leaves it alone, and lets several trainers live in one process (the tests' way).
    """
    group = dist.ProcessGroup(store, rank, world_size)
    prefixed = PrefixStore("dense", store)
    backend: Any
    if device.type == "cuda":
        kind = dist.ProcessGroup.BackendType.NCCL
        backend = dist.ProcessGroupNCCL(prefixed, rank, world_size, dist.ProcessGroupNCCL.Options())
    else:
        kind = dist.ProcessGroup.BackendType.GLOO
        backend = dist.ProcessGroupGloo(prefixed, rank, world_size, timeout)
    # What `new_group` itself calls.
    group._set_default_backend(kind)  # noqa: SLF001  # no public name
    group._register_backend(device, kind, backend)  # noqa: SLF001  # no public name
    return group
