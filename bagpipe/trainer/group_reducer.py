"""Averages dense gradients in a process group: on GPUs, whose gradients stay there, and in a group of the caller's.

Two ranks need nothing special, because a + b = b + a. More than two exchange parts (each rank sums one part of every
bucket in order) and gather the sums: the traffic of a ring all-reduce.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from bagpipe.trainer.torch_private import at_the_end


def average_two(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's types do not know it
) -> torch.futures.Future[torch.Tensor]:
    """A DDP communication hook for two ranks: the mean by an all-reduce, whose order does not matter."""
    work = group.allreduce([bucket.buffer()], dist.AllreduceOptions())

    def average(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        return future.value()[0].div_(2)

    averaged: torch.futures.Future[torch.Tensor] = work.get_future().then(average)
    return averaged


class GroupReducer:
    """A DDP communication hook for three or more ranks: the mean, summed in their order.

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
        return f"GroupReducer(world={self._world}, pending={under_way})"

    def reduce(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's types do not know it
    ) -> torch.futures.Future[torch.Tensor]:
        """Send the bucket's gradients; DDP gets their mean where the backward pass ends."""
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
