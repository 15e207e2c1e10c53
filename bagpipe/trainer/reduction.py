"""The dense model across trainers: gradients are averaged in rank order, so that the result is exact.

DDP averages by an all-reduce, and an all-reduce adds in the order of its ring: with three or more ranks
each part of a bucket is added in another order, which changes when DDP rebuilds its buckets after the
first step, and so after a resume. Contract X1 needs one order. A communication hook gives it: every
element is the sum over ranks 0, 1, 2, ... divided by their number, wherever it lies in a bucket.

On CPUs gradients travel on the trainers' own sockets, as rows do, in the order in which they are waited for
(`peer_reducer.py`); on GPUs, and where the caller brought a process group, in that group (`group_reducer.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.errors import PeerLost
from bagpipe.trainer.group_reducer import GroupReducer, average_two
from bagpipe.trainer.peer_reducer import PeerReducer
from bagpipe.trainer.torch_private import compile_whole_models, ignore_in_ddp

BUCKET_MIB = 0.5
"""Gradients reduced together. DDP's own 25 MiB hold a whole recommendation model: nothing would leave before the end of
the backward pass. A bucket costs some tenths of a millisecond, half a MiB travels for 4 ms at 1 Gbit/s."""


# ── wrapping ─────────────────────────────────────────────────────────────────────────────────────


def wrap_dense(
    model: nn.Module, process_group: dist.ProcessGroup | None, reducer: PeerReducer | None = None
) -> nn.Module:
    """The model whose backward pass averages gradients over the group in rank order.

    Alone, or with nothing to train, it is the model itself.

    Buffers that training changes (running means) are rank 0's at every step, as DDP does it. A weight that a step does
    not use has the gradient zero, as any other that a rank's slice did not use.

    Args:
        reducer: reduces instead of the group, if all gradients are float32 on the host.
    """
    if process_group is None or process_group.size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    # Buffers that are not saved are constants (index tables); broadcasting them would cost every step.
    saved = model.state_dict().keys()
    constants = [name for name, _ in model.named_buffers() if name not in saved]
    ignore_in_ddp(model, constants)
    compile_whole_models()
    parallel = DistributedDataParallel(model, process_group=process_group, bucket_cap_mb=BUCKET_MIB)
    parallel.register_forward_hook(_reach_every_weight)
    if reducer is not None and all(p.dtype == torch.float32 for p in model.parameters()):
        parallel.register_comm_hook(reducer, PeerReducer.reduce)
    elif process_group.size() == 2:
        parallel.register_comm_hook(process_group, average_two)
    else:
        parallel.register_comm_hook(GroupReducer(process_group), GroupReducer.reduce)
    return parallel


def _reach_every_weight(parallel: nn.Module, _: object, output: object) -> object:
    """The same output, from which backward reaches every weight: DDP waits for all of them.

    DDP's own way (`find_unused_parameters`) walks the graph and reduces one more tensor at every step.
    """
    # An output without a gradient stays one: backward then says so, as it does for a trainer that is alone.
    if not isinstance(output, torch.Tensor) or (torch.is_grad_enabled() and not output.requires_grad):
        return output
    weights = [p for p in parallel.parameters() if p.requires_grad]
    return _Reach.apply(output, *weights)  # type: ignore[no-untyped-call]  # torch has not annotated it


class _Reach(torch.autograd.Function):
    """Returns its first input; backward gives the other inputs no gradient, but runs their hooks."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        ctx.weights = len(weights)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (grads[0], *(None,) * ctx.weights)


def share_buffers(model: nn.Module, process_group: dist.ProcessGroup | None) -> None:
    """Give every rank the buffers of rank 0, as DDP does before a training step: all evaluate one model.

    Raises:
        PeerLost: a peer is gone or silent.
    """
    if process_group is None or process_group.size() == 1:
        return
    saved = model.state_dict().keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
    try:
        for buffer in buffers:
            process_group.broadcast([buffer]).wait()
    except RuntimeError as error:
        raise PeerLost(f"buffers were not shared before evaluation: {str(error).splitlines()[0]}") from error


@contextmanager
def dense_reduction(rank: int, step: int) -> Iterator[None]:
    """Turn DDP's error about a broken or silent trainer into PeerLost; any other error stays as it is.

    DDP talks to them in the backward pass, in the forward pass of a model with running means, and when it is made.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            reason = str(error).splitlines()[0]
            raise PeerLost(f"trainer {rank}: the dense model was not reduced at step {step}: {reason}") from error
        raise
