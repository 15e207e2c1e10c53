"""What the source of a model shows before anything starts."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bagpipe.config.model import ModelConfig
from bagpipe.errors import BagpipeError
from bagpipe.local.model_source import check_model_source
from bagpipe.local.user_modules import FOLDERS, note_folders, noted_folders, offer_beside

HEAD = "from torch import nn\n"
GOOD = """
class Good(nn.Module):
    def __init__(self, layout, num_dense, hidden, depth=2):
        super().__init__()

    def forward(self, dense, sparse):
        return dense


class Derived(Good):
    pass


class Bare(nn.Module):
    def forward(self, *inputs):
        return inputs[0]


def make(num_dense, *, width=3):
    return Good(None, num_dense, width)


Other = make if True else Good
"""

Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check a class of a module with this text, which lies where the roles are told to look."""
    monkeypatch.setenv(FOLDERS, str(tmp_path))

    def run(name: str, text: str = GOOD, head: str = HEAD, **args: Any) -> None:
        (tmp_path / "their.py").write_text(head + text)
        check_model_source(ModelConfig(entrypoint=f"their:{name}", args=args))

    return run


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Good", {"hidden": 1}),
        ("Derived", {"hidden": 1, "depth": 3}),
        ("Bare", {}),
        ("make", {"width": 2}),
        ("Other", {}),
    ],
)
def test_a_model_that_can_be_built_passes(check: Check, name: str, args: dict[str, Any]) -> None:
    """Classes, classes derived from them, functions, and names whose value the text does not tell."""
    check(name, **args)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("Goood", {}, "has no class 'Goood'; did you mean 'Good'?"),
        ("Quite", {}, "has no class 'Quite'; it has Good, Derived, Bare"),
        ("Good", {}, "their.py:4 (Good): missing a required argument: 'hidden'; set it in model.args"),
        ("Derived", {"hiden": 1}, "their.py:4 (Derived): no argument 'hiden' (model.args); did you mean 'hidden'?"),
        ("Good", {"hidden": 1, "layout": 2}, "model.args.layout is set by the job itself; remove it"),
        ("Bare", {"hidden": 1}, "their.py:15 (Bare): no argument 'hidden' (model.args); it has no __init__"),
        ("make", {"depth": 1}, "their.py:20 (make): no argument 'depth' (model.args); did you mean 'width'?"),
    ],
)
def test_what_no_trainer_could_build_is_refused(check: Check, name: str, args: dict[str, Any], message: str) -> None:
    """One line with the file, the line and what to do."""
    with pytest.raises(BagpipeError) as refused:
        check(name, **args)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert refused.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class M(nn.Module):\n    def forward(self, dense):\n        pass\n",
            ":3 (M.forward): expected forward(self, dense, sp",
        ),
        ("class M(nn.Module):\n    def forward(self, a, b, c):\n        pass\n", "found forward(self, a, b, c)"),
        ("class M(nn.Module):\n    pass\n", ":2 (M): it has no forward(self, dense, sparse)"),
        ("class M:\n    pass\n", ":2 (M): expected a torch.nn.Module, found a class without that base"),
        ("class M(nn.Module)\n    pass\n", ":2: SyntaxError: expected ':'"),
    ],
)
def test_a_class_that_is_no_model_is_refused(check: Check, text: str, message: str) -> None:
    """With the line of its file that is wrong."""
    with pytest.raises(BagpipeError) as refused:
        check("M", text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "from elsewhere import *\n",
        "def __getattr__(name):\n    return None\n",
        "globals()['M'] = nn.Linear\n",
        "import functools\n@functools.cache\ndef M():\n    pass\n",
        "class M(Elsewhere):\n    pass\n",
        "class M(nn.Module):\n    def __init__(self, **more):\n        self.forward = lambda dense, sparse: dense\n",
        "class M(nn.Module):\n    def __new__(cls, **more):\n        pass\n",
        "if nn:\n    class M(nn.Module):\n        pass\n",
        "try:\n    from quick import M\nexcept ImportError:\n    M = None\n",
        "M = type('M', (nn.Module,), {})\n",
    ],
)
def test_what_the_text_does_not_tell_is_left_to_the_trainer(check: Check, text: str) -> None:
    """Nothing that might work is refused."""
    check("M", text, anything=1)


def test_modules_are_found_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a package on the way nor the module itself is imported; one that is nowhere is named."""
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemError\n")
    (package / "inner" / "models.py").write_text(HEAD + GOOD)
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    check_model_source(ModelConfig(entrypoint="package.inner.models:Bare"))
    assert "package" not in sys.modules
    for wrong, named in (("package.inner.model:Bare", "package.inner.model"), ("pakage.inner:Bare", "pakage")):
        with pytest.raises(BagpipeError, match=f"cannot find '{named}'; expected it beside the job file"):
            check_model_source(ModelConfig(entrypoint=wrong))
    (package / "__init__.py").write_text("import sys\nsys.modules['package.made'] = sys\n")
    check_model_source(ModelConfig(entrypoint="package.made:Bare"))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """Where no installed package brings models of its own."""
    check_model_source(ModelConfig(name="dcnv2"))
    with pytest.raises(BagpipeError, match="found 'dlmr'; did you mean 'dlrm'"):
        check_model_source(ModelConfig(name="dlmr"))


def test_a_run_notes_where_its_modules_were_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in another folder finds the run's modules: the run has noted where its first command found them."""
    beside, run, elsewhere = (tmp_path / name for name in ("beside", "run", "elsewhere"))
    for folder in (beside, run, elsewhere):
        folder.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(FOLDERS, "")
    monkeypatch.chdir(beside)
    offer_beside(beside / "job.yaml")
    note_folders(run)
    assert noted_folders(run) == [str(beside)] and noted_folders(elsewhere) == []
    monkeypatch.chdir(elsewhere)
    offer_beside(run / "job.yaml")
    assert os.environ[FOLDERS].split(os.pathsep) == [str(run), str(beside)]
    (run / "module-folders.json").write_text("{")
    assert noted_folders(run) == []
