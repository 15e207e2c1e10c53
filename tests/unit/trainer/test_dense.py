"""The dense model: gradients over ranks bit for bit, and state that survives a file bit for bit."""

import copy
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bagpipe.config import DenseOptimizer
from bagpipe.errors import CheckpointError, PeerLost
from bagpipe.trainer.dense import dense_optimizer, dense_reduction, load_dense, save_dense, wrap_dense

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


def train_rank(rank: int, world: int, port: int) -> list[list[torch.Tensor]]:
    """Averaged gradients of every step, and SGD between the steps."""
    plain = copy.deepcopy(MODEL)
    parallel = wrap_dense(plain, gloo_group(rank, world, port))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    seen = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad(set_to_none=False)
        parallel(batch(rank, step)).square().mean().backward()
        seen.append(gradients(plain.parameters()))
        optimizer.step()
    return seen


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
def test_gradients_are_summed_in_rank_order_at_every_step(world: int) -> None:
    """Every rank gets ((g0 + g1) + g2 ...) / W, before and after DDP rebuilds its buckets."""
    expected = train_in_rank_order(world)
    for rank, seen in enumerate(in_threads(world, train_rank)):
        for step in range(NUM_STEPS):
            for ours, theirs in zip(seen[step], expected[step], strict=True):
                assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32)), (rank, step)


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
    with pytest.raises(PeerLost, match="trainer 1: dense gradients of step 7"), dense_reduction(1, 7):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), dense_reduction(1, 7):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


OPTIMIZERS = [
    DenseOptimizer(name="sgd", lr=0.1),
    DenseOptimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    DenseOptimizer(name="adagrad", lr=0.1),
    DenseOptimizer(name="adam", lr=0.003),
    DenseOptimizer(name="adamw", lr=0.003, weight_decay=0.1),
]


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(31, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        net(batch(0, step)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda c: f"{c.name}-{c.momentum}")
def test_a_loaded_run_continues_bit_for_bit(config: DenseOptimizer, tmp_path: Path) -> None:
    """Saved after three steps and loaded into a fresh model, training ends in the same bits."""
    whole = small(0)
    optimizer = dense_optimizer(config, whole.parameters())
    train(whole, optimizer, 0, 3)
    files = save_dense(whole, optimizer, tmp_path)
    assert sorted(files) == sorted(p.name for p in tmp_path.iterdir())
    train(whole, optimizer, 3, 6)

    resumed = small(1)
    fresh = dense_optimizer(config, resumed.parameters())
    load_dense(resumed, fresh, tmp_path)
    train(resumed, fresh, 3, 6)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    ours, theirs = fresh.state_dict(), optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, entries in theirs["state"].items():
        assert {k: str(v) for k, v in entries.items()} == {k: str(ours["state"][number][k]) for k in entries}


def test_before_the_first_step_there_is_no_state_to_lose(tmp_path: Path) -> None:
    """A checkpoint of an untrained model loads."""
    net = small(0)
    save_dense(net, dense_optimizer(OPTIMIZERS[3], net.parameters()), tmp_path)
    other = small(1)
    load_dense(other, dense_optimizer(OPTIMIZERS[3], other.parameters()), tmp_path)
    assert torch.equal(net[0].weight, other[0].weight)


def test_what_does_not_belong_is_refused_by_name(tmp_path: Path) -> None:
    """Another model, another optimizer, a truncated and a missing file."""
    net = small(0)
    adam = dense_optimizer(OPTIMIZERS[3], net.parameters())
    train(net, adam, 0, 1)
    save_dense(net, adam, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds Adam .* this job has SGD"):
        load_dense(net, dense_optimizer(OPTIMIZERS[0], net.parameters()), tmp_path)
    wider = nn.Sequential(nn.Linear(31, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    with pytest.raises(CheckpointError, match=r"weight 0.bias: expected \[6\], found \[5\]"):
        load_dense(wider, dense_optimizer(OPTIMIZERS[3], wider.parameters()), tmp_path)
    path = tmp_path / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"dense.safetensors: cannot be read"):
        load_dense(net, adam, tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"dense.safetensors: cannot be read"):
        load_dense(net, adam, tmp_path)
