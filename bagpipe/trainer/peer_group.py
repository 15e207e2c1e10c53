"""A process group whose collectives travel on the trainers' own sockets: what DDP needs of one, on CPUs.

DDP compares the shapes of its parameters when it is made (all-gather), gives every rank the weights of rank 0
(broadcast), and later its buffers and the order of its buckets. A group of torch's own would open listeners for that,
and a key-value store to find them: without the job's token, its keys or its deadlines. Here the same bytes go where
everything else goes.

Each collective is carried out where it is called, and has ended when the call returns.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from bagpipe.net.array_forms import UINT8, Form
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.torch_private import ended_work

Tensors = Sequence[torch.Tensor]


class PeerGroup(dist.ProcessGroup):
    """The process group of one attempt's trainers. Used by one thread; all ranks call collectives in the same order.

    Tensors lie on the host, of any element type. A collective raises `PeerLost` where a peer is gone or silent.

    Args:
        step: the step in which the next collectives take place; `at_step` changes it.
    """

    def __init__(self, peers: PeerExchange, *, rank: int, world_size: int, step: int) -> None:
        super().__init__(rank, world_size)  # type: ignore[call-arg]  # torch's types know only the group with a store
        self._peers, self._rank, self._world, self._step = peers, rank, world_size, step
        self._others = [peer for peer in range(world_size) if peer != rank]
        self._number = 0
        """Of the next collective in this step."""

    def __repr__(self) -> str:
        return f"PeerGroup(rank={self._rank}, world={self._world}, step={self._step})"

    def at_step(self, step: int) -> None:
        """A step begins: the messages of collectives from here on belong to it."""
        if step != self._step:
            self._step, self._number = step, 0

    # ── what torch asks a group ───────────────────────────────────────────────────────────────────

    def getBackendName(self) -> str:  # noqa: N802  # torch's name
        return "bagpipe"

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._world

    # ── collectives ───────────────────────────────────────────────────────────────────────────────

    def broadcast(  # type: ignore[override]  # of torch's overloads the one that torch itself calls; so below
        self, tensors: Tensors, opts: dist.BroadcastOptions | None = None
    ) -> dist.Work:
        """Rank `rootRank`'s tensors to everybody."""
        root = 0 if opts is None else opts.rootRank
        number = self._next()
        if self._rank == root:
            for peer in self._others:
                self._send(peer, number, tensors)
        else:
            self._receive(root, number, tensors)
        return ended_work(tensors)

    def allgather(  # type: ignore[override]
        self, output_tensors: Sequence[Tensors], input_tensors: Tensors, opts: object = None
    ) -> dist.Work:
        """Every rank's tensor to everybody: `output_tensors[i][rank]` is `input_tensors[i]` of that rank."""
        number = self._next()
        for peer in self._others:
            self._send(peer, number, input_tensors)
        for rank in range(self._world):
            gathered = [outputs[rank] for outputs in output_tensors]
            if rank == self._rank:
                for output, own in zip(gathered, input_tensors, strict=True):
                    output.copy_(own)
            else:
                self._receive(rank, number, gathered)
        return ended_work([output for outputs in output_tensors for output in outputs])

    def allreduce(  # type: ignore[override]
        self, tensors: Tensors, opts: dist.AllreduceOptions | None = None
    ) -> dist.Work:
        """The sum over all ranks, in their order, to everybody."""
        if opts is not None and opts.reduceOp != dist.ReduceOp(dist.ReduceOp.SUM):
            raise NotImplementedError(f"{self!r} adds; it cannot {opts.reduceOp}")
        parts = [[torch.empty_like(tensor) for _ in range(self._world)] for tensor in tensors]
        self.allgather(parts, tensors)
        for tensor, (first, *others) in zip(tensors, parts, strict=True):
            tensor.copy_(first)
            for other in others:
                tensor.add_(other)
        return ended_work(tensors)

    def alltoall_base(
        self,
        output: torch.Tensor,
        input: torch.Tensor,  # noqa: A002  # torch's name
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: object = None,
    ) -> dist.Work:
        """Part r of `input` to rank r, and what every rank has for this one into `output`; all parts are equal."""
        if output_split_sizes or input_split_sizes:
            raise NotImplementedError(f"{self!r} exchanges equal parts only")
        number = self._next()
        outgoing, incoming = input.view(self._world, -1), output.view(self._world, -1)
        for peer in self._others:
            self._send(peer, number, [outgoing[peer]])
        incoming[self._rank].copy_(outgoing[self._rank])
        for peer in self._others:
            self._receive(peer, number, [incoming[peer]])
        return ended_work([output])

    # ── how ───────────────────────────────────────────────────────────────────────────────────────

    def _next(self) -> int:
        number, self._number = self._number, self._number + 1
        return number

    def _send(self, peer: int, number: int, tensors: Tensors) -> None:
        arrays = [_bytes(tensor.detach().contiguous()).numpy() for tensor in tensors]
        self._peers.send(peer, self._step, "collective", arrays, number, copied=True)

    def _receive(self, peer: int, number: int, tensors: Tensors) -> None:
        """Into these tensors, which have the sender's shapes and types."""
        expected = [Form(UINT8, (tensor.numel() * tensor.element_size(),)) for tensor in tensors]
        arrays = self._peers.receive(peer, self._step, "collective", expected, number)
        for tensor, array in zip(tensors, arrays, strict=True):
            found = torch.empty(tensor.shape, dtype=tensor.dtype)
            _bytes(found).numpy()[:] = array
            with torch.no_grad():
                tensor.copy_(found)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, byte by byte."""
    return tensor.reshape(-1).view(torch.uint8)
