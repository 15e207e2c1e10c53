"""Averages dense gradients over the trainers' own sockets: a bucket is sent as soon as the backward pass has filled it.

This is a DDP communication hook. Two ranks send each other whole buckets and both add (a + b = b + a): the bytes of an
all-reduce in one trip instead of two. With more ranks each gets its part of every bucket from the others, sums it in
rank order and sends the mean to all. Rows travel on the same connections, and a connection keeps its order: what is
sent first is not delayed by what is sent later (docs/decisions/0012).
"""

import numpy as np
import torch
import torch.distributed as dist

from bagpipe.batch import Floats
from bagpipe.net.array_forms import Form
from bagpipe.trainer.delivery import Kind
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.torch_private import at_the_end


class PeerReducer:
    """The mean of every float32 gradient over the ranks, summed in their order. One backward pass is one step.

    Args:
        first_step: of the next backward pass.
    """

    def __init__(self, peers: PeerExchange, *, rank: int, world_size: int, first_step: int) -> None:
        self._peers, self._rank, self._world, self._step = peers, rank, world_size, first_step
        self._others = [peer for peer in range(world_size) if peer != rank]
        self._shared = world_size > 2
        """Whether each rank sums a part for all, not everything for itself."""
        self._unsummed: list[_Bucket] = []
        self._summed: list[_Bucket] = []

    def __repr__(self) -> str:
        return f"PeerReducer(world={self._world}, step={self._step}, pending={len(self._unsummed) + len(self._summed)})"

    def reduce(
        self,
        bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's types do not know it
    ) -> torch.futures.Future[torch.Tensor]:
        """Send the bucket's gradients; DDP gets their mean where the backward pass ends."""
        begun = _Bucket(bucket.index(), bucket.buffer(), self._world if self._shared else 1)
        for peer in self._others:
            # Copied: a slow peer may get it only after the next backward pass has filled the bucket anew.
            self._peers.send(peer, self._step, "dense", [begun.own[begun.part(peer)]], begun.index, copied=True)
        self._unsummed.append(begun)
        while self._unsummed and self._has_arrived(self._unsummed[0]):
            self._sum(self._unsummed.pop(0))
        if self._shared and begun.index == 0:
            at_the_end(self._sum_all)
        if bucket.is_last():
            at_the_end(self._hand_over)
        return begun.future

    def _has_arrived(self, bucket: "_Bucket") -> bool:
        return all(self._peers.arrived(peer, self._step, "dense", bucket.index) for peer in self._others)

    def _sum_all(self) -> None:
        """Nothing is left to compute, and the others wait for this rank's sums; its rows are exchanged meanwhile."""
        while self._unsummed:
            self._sum(self._unsummed.pop(0))

    def _sum(self, bucket: "_Bucket") -> None:
        """This rank's part, in rank order; its mean goes to the ranks that need it."""
        part = bucket.part(self._rank)
        gradients = [
            bucket.own[part] if rank == self._rank else self._received(rank, "dense", bucket, part)
            for rank in range(self._world)
        ]
        total = bucket.mean.numpy()[part]
        np.add(gradients[0], gradients[1], out=total)
        for gradient in gradients[2:]:
            np.add(total, gradient, out=total)
        np.divide(total, np.float32(self._world), out=total)
        if self._shared:
            self._peers.send_to_all(self._step, "dense_means", [total], bucket.index)
        self._summed.append(bucket)

    def _received(self, peer: int, kind: Kind, bucket: "_Bucket", part: slice) -> Floats:
        """What another rank sent of this part of the bucket."""
        form = Form(bucket.own.dtype, (part.stop - part.start,))
        found: Floats = self._peers.receive(peer, self._step, kind, [form], bucket.index)[0]
        return found

    def _hand_over(self) -> None:
        """Every mean is needed now. DDP waits for its buckets in a callback behind this one."""
        self._sum_all()
        summed, self._summed = self._summed, []
        for bucket in summed:
            if self._shared:
                for peer in self._others:
                    part = bucket.part(peer)
                    bucket.mean.numpy()[part] = self._received(peer, "dense_means", bucket, part)
            bucket.future.set_result(bucket.mean)
        self._step += 1


class _Bucket:
    """Gradients under way.

    Args:
        gradients: this rank's; DDP's own memory.
        parts: how many ranks sum a part each; 1: everybody sums everything.
    """

    def __init__(self, index: int, gradients: torch.Tensor, parts: int) -> None:
        self.index = index
        self.own: Floats = gradients.numpy()
        self.mean = torch.empty_like(gradients)
        self.future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        self._parts = parts

    def part(self, rank: int) -> slice:
        """What this rank sums."""
        number, size = rank % self._parts, self.own.size
        return slice(size * number // self._parts, size * (number + 1) // self._parts)
