"""The average is torch's, takes the weights' place and gives it back, and survives a file."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bagpipe.config.document import DenseOptimizer
from bagpipe.config.recipe import Average, DenseOverride
from bagpipe.errors import CheckpointError
from bagpipe.trainer.dense_update import DenseUpdate

CONFIG = DenseOptimizer(
    name="sgd", lr=0.1, average=Average(decay=0.75), overrides=(DenseOverride(("0.bias",), frozen=True),)
)


def made(seed: int) -> tuple[nn.Module, DenseUpdate]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return net, DenseUpdate(CONFIG, net)


def train(net: nn.Module, update: DenseUpdate, first: int, last: int) -> None:
    for step in range(first, last):
        net(torch.randn(5, 3, generator=torch.Generator().manual_seed(step))).exp().sum().backward()
        update.apply(step)


def values(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_it_is_torchs_average_in_the_models_place() -> None:
    """Of trained weights AveragedModel's, of all else the model's own; the model is itself again outside."""
    net, update = made(0)
    plain = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for step in range(6):
        train(net, update, step, step + 1)
        plain.update_parameters(net)
    before, averaged = values(net), dict(plain.module.named_parameters())
    with update.evaluated():
        inside = values(net)
    assert all(torch.equal(value, averaged.get(name, before[name])) for name, value in inside.items())
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in values(net).items())


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """Saved after three steps and loaded elsewhere, it ends in the same bits; a file of another model is refused."""
    net, update = made(0)
    train(net, update, 0, 3)
    assert update.average is not None
    assert update.average.save(tmp_path) == ["dense_average.safetensors"]
    other, resumed = made(1)
    other.load_state_dict(net.state_dict())
    assert resumed.average is not None
    resumed.average.load(tmp_path)
    for model, its in ((net, update), (other, resumed)):
        train(model, its, 3, 5)
    with update.evaluated(), resumed.evaluated():
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    wide = nn.Linear(7, 2)
    average = DenseUpdate(DenseOptimizer(average=Average()), wide).average
    assert average is not None
    with pytest.raises(
        CheckpointError, match=r"dense_average.safetensors: weight 0.bias: expected nothing, found \[4\]"
    ):
        average.load(tmp_path)
