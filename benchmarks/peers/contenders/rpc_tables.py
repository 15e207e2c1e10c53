"""Tables on parameter servers behind torch.distributed.rpc: what runs on a server, and how a trainer calls it.

TCP only (`uv`, `basic`): TensorPipe's default between processes of one machine is shared memory, which no link limits.
A row lives on server `key % servers`.
"""

import threading
from dataclasses import dataclass

import torch
from torch.distributed import rpc

from peers import workload
from peers.worker import DEADLINE, RPC_PORT, Worker

_shard: dict[str, torch.Tensor] = {}
Future = torch.futures.Future[torch.Tensor]


def join(worker: Worker) -> None:
    """Servers first, then trainers, in one RPC world."""
    servers = worker.setting.servers
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4,
        rpc_timeout=DEADLINE.total_seconds(),
        init_method=f"tcp://{worker.addresses['server 0']}:{RPC_PORT}",
        _transports=["uv"],
        _channels=["basic"],
    )
    rank = worker.number + (servers if worker.role == "trainer" else 0)
    if worker.role == "server":
        rows = -(-workload.NUM_ROWS // servers)
        _shard["rows"] = torch.rand((rows, worker.setting.dim)) * 0.01
    rpc.init_rpc(
        f"{worker.role}{worker.number}", rank=rank, world_size=servers + worker.world, rpc_backend_options=options
    )


def serve() -> None:
    """Requests are answered by rpc's own threads; the benchmark ends this process."""
    threading.Event().wait()


# ── on a server ───────────────────────────────────────────────────────────────────────────────────


def _fetch(places: torch.Tensor) -> torch.Tensor:
    return _shard["rows"].index_select(0, places)


def _update(places: torch.Tensor, gradients: torch.Tensor, lr: float) -> None:
    _shard["rows"].index_add_(0, places, gradients, alpha=-lr)


def _store(places: torch.Tensor, values: torch.Tensor) -> None:
    _shard["rows"].index_copy_(0, places, values)


# ── on a trainer ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Split:
    """Which of some keys live where: positions among the keys, and places on the server."""

    positions: tuple[torch.Tensor, ...]
    places: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, keys: torch.Tensor, servers: int) -> "Split":
        home = keys % servers
        positions = tuple((home == server).nonzero().squeeze(1) for server in range(servers))
        return cls(positions, tuple(keys[p] // servers for p in positions))


def fetch(split: Split) -> list[Future]:
    """Ask every server for its rows."""
    return [
        rpc.rpc_async(f"server{server}", _fetch, args=(places,))
        for server, places in enumerate(split.places)
        if places.numel()
    ]


def collect(split: Split, asked: list[Future], into: torch.Tensor, slots: torch.Tensor | None = None) -> None:
    """Wait for the rows and put each where its key stands (or into its slot)."""
    answers = iter(asked)
    for positions in split.positions:
        if positions.numel():
            into.index_copy_(0, positions if slots is None else slots[positions], next(answers).wait())


def update(split: Split, gradients: torch.Tensor, lr: float) -> list[Future]:
    """Send gradients; the servers apply them."""
    return _send(_update, split, gradients, lr)


def store(split: Split, values: torch.Tensor) -> list[Future]:
    """Send values; the servers keep them."""
    return _send(_store, split, values)


def _send(function, split: Split, rows: torch.Tensor, *more: float) -> list[Future]:
    return [
        rpc.rpc_async(f"server{server}", function, args=(places, rows[positions], *more))
        for server, (positions, places) in enumerate(zip(split.positions, split.places, strict=True))
        if positions.numel()
    ]
