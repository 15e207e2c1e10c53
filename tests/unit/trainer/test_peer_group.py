"""Collectives and keys over the trainers' own sockets: equal to their definitions, and no listener beside ours."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bagpipe.config.document import TransportConfig
from bagpipe.errors import PeerLost
from bagpipe.net.sockets import Context
from bagpipe.testing.open_door import OpenDoor
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.peer_group import PeerGroup
from bagpipe.trainer.peer_store import PeerStore
from bagpipe.trainer.reduction import wrap_dense

WORLD = 3
PATIENCE = 100.0
"""Seconds, far above what any wait here takes: a rank that waits so long waits for ever."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool)


def with_exchanges(
    world: int, run: Callable[[int, PeerExchange], Any], *, deadline_seconds: float = PATIENCE
) -> list[Any]:
    """What `run(rank, exchange)` returned or raised, for every rank, each in a thread."""
    endpoints = [""] * world
    bound, over = threading.Barrier(world, timeout=PATIENCE), threading.Barrier(world, timeout=PATIENCE)
    results: list[Any] = [None] * world

    def one(rank: int) -> None:
        with Context(TransportConfig()) as context:
            listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
            endpoints[rank] = listener.endpoint
            bound.wait()
            connections = [
                None if peer == rank else context.connect(endpoint, peer=f"trainer {peer}")
                for peer, endpoint in enumerate(endpoints)
            ]
            exchange = PeerExchange(
                listener, connections, rank=rank, attempt=0, deadline_seconds=deadline_seconds, packed=lambda: False
            )
            try:
                results[rank] = run(rank, exchange)
            except PeerLost as error:
                results[rank] = error
            over.wait()

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not [thread.name for thread in threads if thread.is_alive()]
    return results


def tensor(rank: int, dtype: torch.dtype, size: int = 6) -> torch.Tensor:
    made = torch.randn(size, generator=torch.Generator().manual_seed(rank)) * 100
    return (made > 0) if dtype is torch.bool else made.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_collectives_are_their_definitions(dtype: torch.dtype) -> None:
    """Every rank ends with what the words say, for every element type, for scalars and for views with gaps."""

    def run(rank: int, exchange: PeerExchange) -> list[torch.Tensor]:
        group = PeerGroup(exchange, rank=rank, world_size=WORLD, step=0)
        copied, scalar = tensor(rank, dtype), tensor(rank, dtype, 1)[0].clone()
        group.broadcast([copied, scalar])
        group.at_step(1)
        gathered = [torch.zeros(3, dtype=dtype) for _ in range(WORLD)]
        group.allgather([gathered], [tensor(rank, dtype)[::2]])
        parts = torch.zeros(6, dtype=dtype)
        group.alltoall_base(parts, tensor(rank, dtype), [], [])
        total = tensor(rank, dtype)
        group.allreduce([total])
        return [copied, scalar, *gathered, parts, total]

    whole = [tensor(rank, dtype) for rank in range(WORLD)]
    for rank, found in enumerate(with_exchanges(WORLD, run)):
        expected = [
            whole[0],
            tensor(0, dtype, 1)[0],
            *(one[::2] for one in whole),
            torch.cat([one[2 * rank : 2 * rank + 2] for one in whole]),
            whole[0] + whole[1] + whole[2],
        ]
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_a_model_with_running_means_is_one_model() -> None:
    """DDP itself, with weights of rank 0, buffers at every step and float64 gradients, through the group alone."""

    def run(rank: int, exchange: PeerExchange) -> list[torch.Tensor]:
        group = PeerGroup(exchange, rank=rank, world_size=WORLD, step=0)
        torch.manual_seed(rank)
        model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1)).double()
        parallel = wrap_dense(model, group)
        for step in range(3):
            group.at_step(step)
            inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(rank)).double()
            parallel(inputs).square().mean().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        return [p.detach().clone() for p in model.parameters()]

    first, *others = with_exchanges(WORLD, run)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_silent_rank_is_named() -> None:
    """A collective that a rank does not join ends after the deadline, with who waited for whom."""

    def run(rank: int, exchange: PeerExchange) -> None:
        if rank != 1:
            wrap_dense(nn.Linear(2, 2), PeerGroup(exchange, rank=rank, world_size=WORLD, step=4))

    told = with_exchanges(WORLD, run, deadline_seconds=0.5)
    assert isinstance(told[0], PeerLost) and "trainer 0: waited for collective of trainer 1 at step 4" in str(told[0])


def test_torchs_own_backend_finds_its_ranks_through_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo, which sets and gets keys from C++ as NCCL does, forms a group and reduces in it."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def run(rank: int, exchange: PeerExchange) -> torch.Tensor:
        store = PeerStore(exchange, others=[peer for peer in range(WORLD) if peer != rank], step=0)
        group = dist.ProcessGroupGloo(store, rank, WORLD, timedelta(seconds=PATIENCE))
        total = torch.full((3,), float(rank + 1))
        group.allreduce([total]).wait()
        return total

    for total in with_exchanges(WORLD, run):
        assert torch.equal(total, torch.full((3,), 6.0))


def test_a_key_that_nobody_sets_is_named() -> None:
    """Waiting for a key ends after the deadline and says which."""

    def run(rank: int, exchange: PeerExchange) -> None:
        PeerStore(exchange, others=[1 - rank], step=0).get("never")

    told = with_exchanges(2, run, deadline_seconds=0.5)
    assert isinstance(told[0], PeerLost) and "waited for the keys never" in str(told[0])


def test_another_thread_reads_its_own_copy() -> None:
    """What a watchdog's thread sets stays in its process, and what it asks for is answered without the sockets."""

    def run(rank: int, exchange: PeerExchange) -> list[Any]:
        store = PeerStore(exchange, others=[1 - rank], step=0)
        seen: list[Any] = []

        def watchdog() -> None:
            store.set(f"mine {rank}", b"x")
            seen.append(store.check([f"mine {1 - rank}"]))

        thread = threading.Thread(target=watchdog)
        thread.start()
        thread.join()
        refused: list[BaseException] = []

        def asks() -> None:
            try:
                store.get("never")
            except (PeerLost, KeyError) as error:
                refused.append(error)

        thread = threading.Thread(target=asks)
        thread.start()
        thread.join()
        assert isinstance(refused[0], PeerLost) and "the key never is not set" in str(refused[0])
        return [*seen, store.check([f"mine {rank}"]), store.add("n", 2), store.add("n", 3), store.num_keys()]

    assert with_exchanges(2, run) == [[False, True, 2, 5, 2]] * 2
