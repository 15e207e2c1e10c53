"""Joining a job as a trainer: sockets to the oracle, the servers and the peers, and the process group."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from msgspec import structs

from bagpipe.config.document import Job
from bagpipe.config.rules import fixed_lookahead
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.lowlevel.available_memory import available_bytes
from bagpipe.net.admission import Admission
from bagpipe.net.messages import CacheMemory, Hello, InitCacheArguments, Topology
from bagpipe.net.register import register
from bagpipe.net.sockets import Connection, Context
from bagpipe.rows.record import record_width
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.torch_private import DenseStore, check_torch, process_group, tcp_store

CACHE_SHARE = 4
"""`cacheRows: auto` takes one part in so many of the memory that is free when a trainer begins."""


@dataclass(frozen=True, slots=True)
class Membership:
    """One trainer's place in a running job, and everything it talks through."""

    job: Job
    rank: int
    attempt: int
    topology: Topology
    hello: Hello
    oracle: Connection
    servers: EmbeddingClient
    peers: PeerExchange
    packing: Packing
    """Of everything this trainer sends, or has servers send."""
    process_group: dist.ProcessGroup | None
    """None with one trainer, which has nothing to reduce, and for the Python API."""

    @property
    def world_size(self) -> int:
        return len(self.topology.trainers)


@contextmanager
def join(
    job: Job,
    *,
    oracle: str,
    bind: str,
    advertise: str | None,
    rank: int,
    attempt: int,
    device: torch.device,
    stop: Callable[[], bool],
    init_cache: InitCacheArguments | None = None,
) -> Iterator[Membership]:
    """Register with the oracle and connect to everyone; leaving the context closes every socket."""
    check_torch()
    with ExitStack() as stack:
        context = stack.enter_context(Context(job.spec.transport))
        listener = stack.enter_context(context.listen(bind))
        trainers = job.spec.trainers.replicas
        listener.admission = Admission("trainer", job.metadata.name, attempt, context.token, trainers)
        to_oracle = stack.enter_context(context.connect(oracle, peer="oracle"))
        endpoint = advertise or listener.endpoint
        # Who uses the Python API brings a process group of their own.
        store = _dense_store(job, rank, endpoint) if init_cache is None else None
        greeting = Hello(job=job.metadata.name, attempt=attempt, role="trainer", index=rank, endpoint=endpoint)
        hello = structs.replace(
            greeting,
            dense_endpoint=f"{_host(endpoint)}:{store.port}" if store is not None else "",
            cache=_cache_memory(device),
            init_cache=init_cache,
        )
        topology = register(to_oracle, hello, startup_seconds=job.spec.transport.startup_seconds, stop=stop)
        servers = [_greet(stack, context, a, f"server {n}", greeting) for n, a in enumerate(topology.servers)]
        peers = [
            None if number == rank else _greet(stack, context, address, f"trainer {number}", greeting)
            for number, address in enumerate(topology.trainers)
        ]
        packing = Packing(topology.spec.transport.pack_floats, fixed_lookahead(topology.spec))
        exchange = PeerExchange(
            listener,
            peers,
            rank=rank,
            attempt=attempt,
            deadline_seconds=job.spec.transport.step_seconds,
            packed=lambda: packing.on,
        )
        yield Membership(
            job=job,
            rank=rank,
            attempt=attempt,
            topology=topology,
            hello=hello,
            oracle=to_oracle,
            servers=EmbeddingClient(
                servers,
                rank=rank,
                widths=[
                    (record_width(topology.spec.embedding.optimizer, g.embedding_dim), g.embedding_dim)
                    for g in topology.layout.groups
                ],
                deadline_seconds=job.spec.transport.deadline_seconds,
                packed=lambda: packing.on,
            ),
            peers=exchange,
            packing=packing,
            process_group=_process_group(topology, store, rank, device, job) if init_cache is None else None,
        )


def _greet(stack: ExitStack, context: Context, address: str, peer: str, greeting: Hello) -> Connection:
    """A connection to a role, closed with the stack, on which this trainer has said who it is."""
    connection = stack.enter_context(context.connect(address, peer=peer))
    connection.send(greeting)
    return connection


def _cache_memory(device: torch.device) -> CacheMemory:
    """A quarter of the memory where this trainer computes; the oracle divides it by the trainers that share it."""
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device).uuid
        return CacheMemory(memory=f"GPU {gpu}", num_bytes=int(torch.cuda.mem_get_info(device)[0]) // CACHE_SHARE)
    return CacheMemory(memory=socket.gethostname(), num_bytes=available_bytes() // CACHE_SHARE)


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0]


def _dense_store(job: Job, rank: int, endpoint: str) -> DenseStore | None:
    """Rank 0 holds the store through which the process group forms."""
    if job.spec.trainers.replicas == 1 or rank != 0:
        return None
    world = job.spec.trainers.replicas
    return tcp_store(_host(endpoint), 0, world, own=True, timeout=_timeout(job))


def _timeout(job: Job) -> timedelta:
    return timedelta(seconds=job.spec.transport.step_seconds)


def _process_group(
    topology: Topology, store: DenseStore | None, rank: int, device: torch.device, job: Job
) -> dist.ProcessGroup | None:
    """A group of the trainers' own, through rank 0's store; None where one trainer is all."""
    world = len(topology.trainers)
    if world == 1:
        return None
    host, _, port = topology.dense_endpoint.rpartition(":")
    if host.startswith("127."):
        # gloo otherwise listens on whatever address the host's name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if store is None:
        store = tcp_store(host, int(port), world, own=False, timeout=_timeout(job))
    return process_group(store, rank, world, device, _timeout(job))
