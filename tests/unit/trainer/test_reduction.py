"""Dense gradients over ranks, bit for bit: in a process group, and on the trainers' own sockets."""

import copy
import socket
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
from bagpipe.net.listener import Listener
from bagpipe.net.sockets import Context
from bagpipe.testing.open_door import OpenDoor
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.peer_group import PeerGroup
from bagpipe.trainer.peer_reducer import PeerReducer
from bagpipe.trainer.reduction import dense_reduction, wrap_dense

NUM_STEPS = 4


def model() -> nn.Module:
    """About 3.4 MB of weights: several of DDP's buckets, none of a size that three or four divide."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((31, 701), (701, 703), (703, 501), (501, 1)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


MODEL = model()


def batch(rank: int, step: int) -> torch.Tensor:
    return torch.randn(7, 31, generator=torch.Generator().manual_seed(100 * step + rank))


def gloo_group(rank: int, world: int, port: int) -> dist.ProcessGroup:
    limit = timedelta(seconds=30)
    store = dist.TCPStore("127.0.0.1", port, world, is_master=rank == 0, timeout=limit, wait_for_workers=False)
    group = dist.ProcessGroup(store, rank, world)
    backend = dist.ProcessGroupGloo(dist.PrefixStore("dense", store), rank, world, limit)
    group._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
    group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
    return group


def gradients(parameters: Any) -> list[torch.Tensor]:
    return [p.grad.detach().clone() for p in parameters]


def train_rank(
    rank: int, world: int, port: int, group: PeerGroup | None = None, reducer: PeerReducer | None = None
) -> list[list[torch.Tensor]]:
    """Averaged gradients of every step, and SGD between the steps."""
    plain = copy.deepcopy(MODEL)
    parallel = wrap_dense(plain, group or gloo_group(rank, world, port), reducer)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    seen = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad(set_to_none=False)
        if group is not None:
            group.at_step(step)
        with dense_reduction(rank, step):
            parallel(batch(rank, step)).square().mean().backward()
        seen.append(gradients(plain.parameters()))
        optimizer.step()
    return seen


class Sockets:
    """Every rank's own sockets, as trainers have them."""

    def __init__(
        self, world: int, *, packed: bool = False, reduces: bool = True, deadline_seconds: float = 30.0
    ) -> None:
        self.reduces = reduces
        """Whether gradients travel on their own, or as collectives of the group like those that are not float32."""
        self.world, self.packed, self.deadline_seconds = world, packed, deadline_seconds
        self.endpoints: list[str] = [""] * world
        self.bound = threading.Barrier(world, timeout=30)

    def train(self, rank: int, world: int, port: int) -> list[list[torch.Tensor]]:
        with Context(TransportConfig()) as context:
            exchange = self.exchange(context, context.listen("tcp://127.0.0.1:0", OpenDoor()), rank)
            group = PeerGroup(exchange, rank=rank, world_size=world, step=0)
            reducer = PeerReducer(exchange, rank=rank, world_size=world, first_step=0) if self.reduces else None
            seen = train_rank(rank, world, port, group, reducer)
            self.bound.wait()  # nobody leaves while another waits
            return seen

    def exchange(self, context: Context, listener: Listener, rank: int) -> PeerExchange:
        self.endpoints[rank] = listener.endpoint
        self.bound.wait()
        connections = [
            None if peer == rank else context.connect(endpoint, peer=f"trainer {peer}")
            for peer, endpoint in enumerate(self.endpoints)
        ]
        return PeerExchange(
            listener,
            connections,
            rank=rank,
            attempt=0,
            deadline_seconds=self.deadline_seconds,
            packed=lambda: self.packed,
        )


def train_in_rank_order(world: int) -> list[list[torch.Tensor]]:
    """The definition: one process, gradients added rank after rank, then divided."""
    plain = model()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    seen = []
    for step in range(NUM_STEPS):
        total: list[torch.Tensor] = []
        for rank in range(world):
            plain.zero_grad()
            plain(batch(rank, step)).square().mean().backward()
            own = gradients(plain.parameters())
            total = [t + g for t, g in zip(total, own, strict=True)] if total else own
        for parameter, value in zip(plain.parameters(), total, strict=True):
            parameter.grad = value / world
        seen.append(gradients(plain.parameters()))
        optimizer.step()
    return seen


def in_threads(world: int, run: Callable[[int, int, int], Any], timeout: float = 60.0) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: list[Any] = [None] * world

    def one(rank: int) -> None:
        results[rank] = run(rank, world, port)

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert None not in results, "a rank failed; its error is among the warnings"
    return results


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("through", ["group", "sockets", "packed", "collectives"])
def test_gradients_are_summed_in_rank_order_at_every_step(world: int, through: str) -> None:
    """Every rank gets ((g0 + g1) + g2 ...) / W, before and after DDP rebuilds its buckets, however they travel."""
    sockets = Sockets(world, packed=through == "packed", reduces=through != "collectives")
    run = train_rank if through == "group" else sockets.train
    expected = train_in_rank_order(world)
    for rank, seen in enumerate(in_threads(world, run)):
        for step in range(NUM_STEPS):
            for ours, theirs in zip(seen[step], expected[step], strict=True):
                assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32)), (rank, step)


@pytest.mark.parametrize("world", [2, 3])
def test_a_silent_peer_is_named(world: int) -> None:
    """Rank 1 never sends a gradient: the others say who waited for whom, at which step, when the deadline is over."""
    sockets = Sockets(world, packed=False, deadline_seconds=1.0)
    over = threading.Event()

    def run(rank: int, world: int, port: int) -> str:
        if rank != 1:
            try:
                sockets.train(rank, world, port)
            except PeerLost as error:
                over.set()
                return str(error)
            return "nothing was missed"
        with Context(TransportConfig()) as context:
            exchange = sockets.exchange(context, context.listen("tcp://127.0.0.1:0", OpenDoor()), rank)
            wrap_dense(copy.deepcopy(MODEL), PeerGroup(exchange, rank=rank, world_size=world, step=0))
            over.wait(30)
            return "silent"

    told = in_threads(world, run)
    assert "trainer 0: waited for dense of trainer 1 at step 0; nothing came for 1 s" in told[0]


def test_a_plain_all_reduce_would_not_do() -> None:
    """The order matters on this model: adding the ranks backwards gives other bits."""
    plain, totals = model(), []
    for ranks in ((0, 1, 2), (2, 1, 0)):
        total = torch.zeros(())
        for rank in ranks:
            plain.zero_grad()
            plain(batch(rank, 0)).square().mean().backward()
            total = total + torch.cat([g.flatten() for g in gradients(plain.parameters())])
        totals.append(total)
    assert not torch.equal(*totals)


def test_alone_there_is_no_wrapper() -> None:
    """One trainer trains the model itself."""
    plain = model()
    assert wrap_dense(plain, None) is plain


def test_a_lost_peer_is_named_and_other_errors_pass() -> None:
    """gloo's errors become PeerLost with rank and step; an error of the model stays what it is."""
    with pytest.raises(PeerLost, match="trainer 1: the dense model was not reduced at step 7"), dense_reduction(1, 7):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), dense_reduction(1, 7):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
