"""Models by name and by entrypoint, and what is refused."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.base import build_model, register_model
from bagpipe.models.dlrm import DLRM
from bagpipe.tables import Table, TableLayout

LAYOUT = TableLayout.of([Table("a", 5, 4, ("a",)), Table("b", 5, 4, ("b",))])

SOURCE = """
import random

import numpy as np
import torch
from torch import nn

class Tower(nn.Module):
    def __init__(self, layout, width, depth=1):
        super().__init__()
        self.seen = (len(layout.tables), width, depth)
        self.layer = nn.Linear(width, 1)

def not_a_module(layout):
    return 7

class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.normal(size=3) + random.random()))

class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

NUMBER = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_towers.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "user_towers", raising=False)
    return "user_towers"


def build(config: ModelConfig, seed: int = 0) -> nn.Module:
    return build_model(config, LAYOUT, 3, 1, seed)


def test_first_weights_that_numpy_or_python_draws_depend_on_the_seed_alone(user_module: str) -> None:
    """Each trainer, and a run that is started again, would have others; the program's own numbers go on as before."""
    drawn = ModelConfig(entrypoint=f"{user_module}:Drawn")
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    expected = (np.random.random(), random.random())  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    weights = [build(drawn, seed).state_dict()["weight"] for seed in (4, 4, 5)]
    assert (np.random.random(), random.random()) == expected  # noqa: NPY002
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_models_own_way_to_be_trained_is_asked(user_module: str) -> None:
    """`train` of a class that keeps a layer in evaluation mode; plain loops call it before the first step."""
    held = build(ModelConfig(entrypoint=f"{user_module}:Held"))
    assert held.training and not held.norm.training


def test_the_default_is_dlrm_with_the_jobs_widths() -> None:
    """`model: {}` is DLRM, whose widths are `bottomMlp` and `overMlp`."""
    model = build(ModelConfig(bottom_mlp=(7,), over_mlp=(5, 6)))
    assert isinstance(model, DLRM)
    assert [p.shape[0] for n, p in model.named_parameters() if n.endswith("bias")] == [7, 4, 5, 6, 1]


def test_first_weights_depend_on_the_seed_alone() -> None:
    """Same seed, same weights, whatever was drawn before; and what is drawn after does not shift."""
    torch.manual_seed(1)
    expected_draw = torch.rand(3)
    torch.manual_seed(1)
    first = build(ModelConfig(), seed=4).state_dict()
    assert torch.equal(torch.rand(3), expected_draw)
    second, other = build(ModelConfig(), seed=4).state_dict(), build(ModelConfig(), seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_users_class_gets_what_it_declares(user_module: str) -> None:
    """An entrypoint receives the offered arguments that it declares, and `args`."""
    model = build(ModelConfig(entrypoint=f"{user_module}:Tower", args={"width": 9}))
    assert model.seen == (2, 9, 1)


def test_registered_models_are_found_by_name() -> None:
    """`register_model` makes a class known; the same name for another class is refused."""

    @register_model("test-known")
    class Known(nn.Module):
        def __init__(self, num_dense: int) -> None:
            super().__init__()
            self.num_dense = num_dense

    assert build(ModelConfig(name="test-known")).num_dense == 3
    with pytest.raises(ConfigError, match=r"'dlrm' is taken by bagpipe.models.dlrm"):
        register_model("dlrm")(Known)


@pytest.mark.parametrize(("module", "found"), [("user_registry", True), ("user_nothing", False)])
def test_an_installed_package_brings_models_by_name(
    module: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module under the entry point group `bagpipe.models` is imported when its name is asked for."""
    (tmp_path / "user_registry.py").write_text(
        "from bagpipe.models.base import register_model\n"
        + SOURCE.replace("class T", '@register_model("tower")\nclass T')
    )
    metadata = tmp_path / "user_models-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: user-models\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[bagpipe.models]\ntower = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if found:
        assert build(ModelConfig(name="tower", args={"width": 4})).seen == (2, 4, 1)
    else:
        with pytest.raises(
            ConfigError, match=r"package user-models, entry point tower = 'user_nothing'.*cannot be imported"
        ):
            build(ModelConfig(name="towers"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "dlmr"},
            "expected one of autoint, .*caser, dcn, dcnv2, deepfm, .*found 'dlmr'; did you mean 'dlrm'",
        ),
        ({"name": "zzz"}, "found 'zzz'; or give model.entrypoint"),
        ({"entrypoint": "user_towers"}, "expected `package.module:Class`"),
        ({"entrypoint": "no_such_package.x:Y"}, "cannot import 'no_such_package.x'.*PYTHONPATH"),
        ({"entrypoint": "user_towers:Towers"}, "no class 'Towers'; did you mean 'Tower'"),
        ({"entrypoint": "user_towers:NUMBER"}, "no class 'NUMBER'"),
        ({"entrypoint": "user_towers:Tower"}, "missing a required argument: 'width'; set it in model.args"),
        ({"entrypoint": "user_towers:Tower", "args": {"width": 1, "dept": 2}}, "no argument 'dept'.*'depth'"),
        ({"entrypoint": "user_towers:Tower", "args": {"layout": 1}}, "args.layout is set by the job itself"),
        ({"entrypoint": "user_towers:not_a_module"}, "expected a torch.nn.Module, found int"),
        ({"args": {"dropuot": 0.1}}, "model.name dlrm: no argument 'dropuot'"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(user_module: str, config: dict[str, Any], message: str) -> None:
    """One line that names the field, what was found and what to do."""
    with pytest.raises(ConfigError, match=message) as refused:
        build(ModelConfig(**config))
    assert "\n" not in str(refused.value)
