"""The dense model across trainers: gradients are averaged in rank order, so that the result is exact.

DDP averages by an all-reduce, and an all-reduce adds in the order of its ring: with three or more ranks
each part of a bucket is added in another order, which changes when DDP rebuilds its buckets after the
first step, and so after a resume. Contract X1 needs one order. A communication hook gives it: every
element is the sum over ranks 0, 1, 2, ... divided by their number, wherever it lies in a bucket.

On CPUs gradients travel on the trainers' own sockets, as rows do, in the order in which they are waited for
(`PeerReducer`); on GPUs, and where the caller brought a process group, in that group. There, two ranks need nothing
special, because a + b = b + a; more than two exchange parts (each rank sums one part of every bucket in order) and
gather the sums: the traffic of a ring all-reduce.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.errors import PeerLost
from bagpipe.trainer.backward import at_the_end
from bagpipe.trainer.peer_reducer import PeerReducer

BUCKET_MIB = 0.5
"""Gradients reduced together. DDP's own 25 MiB hold a whole recommendation model: nothing would leave before the end of
the backward pass. A bucket costs some tenths of a millisecond, half a MiB travels for 4 ms at 1 Gbit/s."""


# ── wrapping ─────────────────────────────────────────────────────────────────────────────────────


def wrap_dense(
    model: nn.Module, process_group: dist.ProcessGroup | None, reducer: PeerReducer | None = None
) -> nn.Module:
    """The model whose backward pass averages gradients over the group in rank order.

    Alone, or with nothing to train, it is the model itself.

    Buffers that training changes (running means) are rank 0's at every step, as DDP does it.

    Args:
        reducer: reduces instead of the group, if all gradients are float32 on the host.
    """
    if process_group is None or process_group.size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    # Buffers that are not saved are constants (index tables); broadcasting them would cost every step.
    saved = model.state_dict().keys()
    constants = [name for name, _ in model.named_buffers() if name not in saved]
    set_ignored: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001  # DDP's only way
    set_ignored(model, constants)
    parallel = DistributedDataParallel(model, process_group=process_group, bucket_cap_mb=BUCKET_MIB)
    if reducer is not None and all(p.dtype == torch.float32 for p in model.parameters()):
        parallel.register_comm_hook(reducer, PeerReducer.reduce)
    elif process_group.size() == 2:
        parallel.register_comm_hook(process_group, _average_two)
    else:
        parallel.register_comm_hook(RankOrderReducer(process_group), RankOrderReducer.reduce)
    return parallel


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
    """Around a backward pass: a broken or silent peer becomes PeerLost; other errors stay as they are."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            reason = str(error).splitlines()[0]
            raise PeerLost(f"trainer {rank}: dense gradients of step {step} were not reduced: {reason}") from error
        raise


# DDP checks that a hook's annotation is `dist.GradBucket`, which torch's types do not know.
def _average_two(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    work = group.allreduce([bucket.buffer()], dist.AllreduceOptions())

    def average(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        return future.value()[0].div_(2)

    averaged: torch.futures.Future[torch.Tensor] = work.get_future().then(average)
    return averaged


class RankOrderReducer:
    """A DDP communication hook for three or more ranks.

    Parts are exchanged as soon as a bucket is full, under the rest of the backward pass. When that has nothing left to
    compute, the sums start to be gathered; rows are exchanged meanwhile, and DDP gets its gradients last (callbacks run
    in the order they were asked for). Ranks start collectives in the same order, because DDP reduces buckets by index
    and everything else happens at the end.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._world = group, group.size()
        self._exchanging: list[_Bucket] = []
        self._gathering: list[_Bucket] = []

    def __repr__(self) -> str:
        under_way = len(self._exchanging) + len(self._gathering)
        return f"RankOrderReducer(world={self._world}, pending={under_way})"

    def reduce(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        buffer = bucket.buffer()
        padded = buffer
        if buffer.numel() % self._world:
            padded = buffer.new_zeros(-(-buffer.numel() // self._world) * self._world)
            padded[: buffer.numel()] = buffer
        parts = torch.empty_like(padded)
        work = self._group.alltoall_base(parts, padded, [], [])
        devices = [] if buffer.device.type == "cpu" else [buffer.device]
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
        self._exchanging.append(_Bucket(future, buffer.numel(), padded, parts, work))
        if bucket.index() == 0:
            at_the_end(self._gather)
        if bucket.is_last():
            at_the_end(self._hand_over)
        return future

    def _gather(self) -> None:
        """Sum this rank's part of every bucket and send it to the others."""
        self._gathering, self._exchanging = self._exchanging, []
        for bucket in self._gathering:
            bucket.work.wait()
            total, *others = bucket.parts.view(self._world, -1)
            for other in others:
                total.add_(other)
            total.div_(self._world)
            bucket.work = self._group.allgather([list(bucket.padded.view(self._world, -1))], [total])

    def _hand_over(self) -> None:
        gathering, self._gathering = self._gathering, []
        for bucket in gathering:
            bucket.work.wait()
            bucket.future.set_result(bucket.padded[: bucket.count])


@dataclass(slots=True)
class _Bucket:
    """Gradients under way. The tensors are kept because a collective reads and writes them until its work is done."""

    future: torch.futures.Future[torch.Tensor]
    count: int
    """Numbers in the bucket, without the padding."""
    padded: torch.Tensor
    """First this rank's gradients, in the end everybody's sums."""
    parts: torch.Tensor
    """This rank's part, from every rank."""
    work: dist.Work
