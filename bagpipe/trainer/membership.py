"""Joining a job as a trainer: sockets to the oracle, the servers and the peers, and the process group."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from msgspec import structs

from bagpipe.config.document import Job
from bagpipe.config.rules import fixed_lookahead
from bagpipe.embedding.client import EmbeddingClient
from bagpipe.lowlevel.available_memory import available_bytes
from bagpipe.net.admission import Admission
from bagpipe.net.connection import Connection
from bagpipe.net.endpoints import parse_endpoint
from bagpipe.net.messages import CacheMemory, Hello, InitCacheArguments, Topology
from bagpipe.net.register import Impatience, process_name, register
from bagpipe.net.sockets import Context
from bagpipe.rows.record import group_record_width
from bagpipe.trainer.delivery import MOST_HERE_BYTES
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.peer_group import PeerGroup
from bagpipe.trainer.peer_store import PeerStore
from bagpipe.trainer.torch_private import check_torch, nccl_group

CACHE_SHARE = 4
"""`cacheRows: auto` takes this fraction (one part in so many) of the memory that is free when a trainer begins."""
WAITING_SHARE = 4
"""Messages of other trainers that came early may take this fraction of it, each peer's an equal part."""


@dataclass(frozen=True, slots=True)
class Membership:
    """One trainer's place in a running job, and its connections."""

    job: Job
    rank: int
    attempt: int
    topology: Topology
    hello: Hello
    oracle: Connection
    servers: EmbeddingClient
    peers: PeerExchange
    packing: Packing
    """Whether floats are packed in what this trainer sends, or has servers send."""
    process_group: dist.ProcessGroup | None
    """None with one trainer, which has nothing to reduce, and for the Python API."""

    @property
    def world_size(self) -> int:
        return len(self.topology.trainers)

    def at_step(self, step: int) -> None:
        """A step begins: DDP's messages from here on belong to it."""
        if isinstance(self.process_group, PeerGroup):
            self.process_group.at_step(step)


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
    impatience: Impatience | None = None,
) -> Iterator[Membership]:
    """Register with the oracle and connect to everyone; leaving the context closes every socket."""
    check_torch()
    with ExitStack() as stack:
        context = stack.enter_context(Context(job.spec.transport))
        trainers = job.spec.trainers.replicas
        admission = Admission("trainer", job.metadata.name, attempt, context.token, trainers)
        listener = stack.enter_context(context.listen(bind, admission))
        to_oracle = stack.enter_context(context.connect(oracle, peer="oracle"))
        endpoint = advertise or listener.endpoint
        greeting = Hello(
            job=job.metadata.name,
            attempt=attempt,
            role="trainer",
            index=rank,
            endpoint=endpoint,
            process=process_name(),
        )
        hello = structs.replace(
            greeting,
            cache=_cache_memory(device),
            init_cache=init_cache,
        )
        startup = job.spec.transport.startup_seconds
        topology = register(to_oracle, hello, startup_seconds=startup, stop=stop, impatience=impatience)
        admission.begin(topology.trainer_processes)
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
            most_bytes=max(MOST_HERE_BYTES, available_bytes() // WAITING_SHARE // max(1, len(peers) - 1)),
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
                    (group_record_width(topology.spec.embedding, g), g.embedding_dim) for g in topology.layout.groups
                ],
                deadline_seconds=job.spec.transport.deadline_seconds,
                packed=lambda: packing.on,
            ),
            peers=exchange,
            packing=packing,
            # A user's own loop (`init_cache`) brings its own process group, if it needs one.
            process_group=_group(exchange, topology, rank, device, endpoint) if init_cache is None else None,
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


def _group(
    peers: PeerExchange, topology: Topology, rank: int, device: torch.device, endpoint: str
) -> dist.ProcessGroup | None:
    """What DDP talks through; None where one trainer is all.

    On CPUs all of the group's messages travel on the trainers' own sockets. On GPUs NCCL opens connections of its own,
    which neither the job's token nor its keys protect: docs/transport.md.
    """
    world, step = len(topology.trainers), topology.first_step
    if world == 1:
        return None
    if device.type != "cuda":
        return PeerGroup(peers, rank=rank, world_size=world, step=step)
    if parse_endpoint(endpoint, listening=True).is_loopback:
        # NCCL otherwise listens on the first interface that it finds.
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "=lo")
    others = [peer for peer in range(world) if peer != rank]
    return nccl_group(PeerStore(peers, others=others, step=step), rank, world, device)
