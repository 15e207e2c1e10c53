"""State of the dense model and its optimizer survives a file bit for bit; what does not belong is refused."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from bagpipe.config.document import DenseOptimizer
from bagpipe.config.recipe import DenseOverride
from bagpipe.errors import CheckpointError, ConfigError, StorageError
from bagpipe.trainer.dense import dense_optimizer, load_dense, save_dense
from bagpipe.trainer.dense_update import DenseUpdate

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


def batch(step: int) -> torch.Tensor:
    return torch.randn(7, 31, generator=torch.Generator().manual_seed(step))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        net(batch(step)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda c: f"{c.name}-{c.momentum}")
def test_a_loaded_run_continues_bit_for_bit(config: DenseOptimizer, tmp_path: Path) -> None:
    """Saved after three steps and loaded into a fresh model, training ends in the same bits."""
    whole = small(0)
    optimizer = dense_optimizer(config, whole)
    train(whole, optimizer, 0, 3)
    files = save_dense(whole, optimizer, tmp_path)
    assert sorted(files) == sorted(p.name for p in tmp_path.iterdir())
    train(whole, optimizer, 3, 6)

    resumed = small(1)
    fresh = dense_optimizer(config, resumed)
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
    save_dense(net, dense_optimizer(OPTIMIZERS[3], net), tmp_path)
    other = small(1)
    load_dense(other, dense_optimizer(OPTIMIZERS[3], other), tmp_path)
    assert torch.equal(net[0].weight, other[0].weight)


def test_what_does_not_belong_is_refused_by_name(tmp_path: Path) -> None:
    """Another model, another optimizer, a truncated and a missing file."""
    net = small(0)
    adam = dense_optimizer(OPTIMIZERS[3], net)
    train(net, adam, 0, 1)
    save_dense(net, adam, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds Adam .* this job has SGD"):
        load_dense(net, dense_optimizer(OPTIMIZERS[0], net), tmp_path)
    wider = nn.Sequential(nn.Linear(31, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    with pytest.raises(CheckpointError, match=r"weight 0.bias: expected \[6\], found \[5\]"):
        load_dense(wider, dense_optimizer(OPTIMIZERS[3], wider), tmp_path)
    path = tmp_path / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"dense.safetensors: cannot be read"):
        load_dense(net, adam, tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"dense.safetensors: cannot be read"):
        load_dense(net, adam, tmp_path)


@pytest.mark.parametrize("name", ["dense.safetensors", "dense_optimizer.safetensors", "dense_optimizer.json"])
def test_a_limit_of_open_files_says_nothing_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another checkpoint would meet it too."""
    net = small(0)
    adam = dense_optimizer(OPTIMIZERS[3], net)
    save_dense(net, adam, tmp_path)
    read = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    with pytest.raises(StorageError, match=rf"{name}: cannot be read: .*; raise the limit .*ulimit -n") as told:
        load_dense(net, adam, tmp_path)
    assert told.value.exit_code == 78


def test_overrides_make_groups_and_freeze() -> None:
    """Weights of one rate and decay form a group; frozen ones are in none and want no gradient."""
    net = small(0)
    overrides = (
        DenseOverride(("0.*",), lr=0.5),
        DenseOverride(("*.bias",), weight_decay=0.25),
        DenseOverride(("2.*",), frozen=True),
    )
    optimizer = dense_optimizer(DenseOptimizer(name="adamw", lr=0.1, overrides=overrides), net)
    assert optimizer is not None
    names = {id(p): name for name, p in net.named_parameters()}
    found = {(g["lr"], g["weight_decay"]): [names[id(p)] for p in g["params"]] for g in optimizer.param_groups}
    assert found == {
        (0.5, 0.0): ["0.weight"],
        (0.5, 0.25): ["0.bias"],
        (0.1, 0.0): ["1.weight"],
        (0.1, 0.25): ["1.bias"],
    }
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["2.weight", "2.bias"]


def test_a_pattern_that_matches_no_weight_is_refused_by_name() -> None:
    """The pattern, and the weights that there are."""
    config = DenseOptimizer(overrides=(DenseOverride(("0.*", "tower.*"), lr=0.5),))
    with pytest.raises(
        ConfigError, match=r"overrides\[0\].parameters: 'tower.\*' matches no dense weight; the model has 0.w"
    ):
        dense_optimizer(config, small(0))


def test_a_model_with_nothing_to_train_has_no_optimizer(tmp_path: Path) -> None:
    """Without weights, or with all of them frozen, a step changes nothing, and the weights are saved all the same."""
    frozen = DenseOptimizer(clip_norm=1.0, overrides=(DenseOverride(("*",), frozen=True),))
    for net, config in ((nn.Identity(), DenseOptimizer()), (small(0), frozen)):
        update = DenseUpdate(config, net)
        update.apply(0)
        assert update.optimizer is None
        assert save_dense(net, None, tmp_path) == ["dense.safetensors"]
        load_dense(net, None, tmp_path)
