"""A model that a program defines reaches other processes as text, or is refused by name."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from bagpipe.errors import ConfigError
from bagpipe.interactive.user_model import Wanted, name_model, source_of
from bagpipe.models.dlrm import DLRM

MODEL = Wanted("model", "class")
PROGRAM = """
import logging, math, sys
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from collections import OrderedDict as Ordered
from torch import nn
from bagpipe.errors import BagpipeError
from bagpipe.interactive.user_model import name_model

WIDTH = 4
LIMITS = {{"low": -1.5, "high": math.inf, "names": ("a", None)}}
FOUND = [np.int64(3), np.float32(0.25), torch.bfloat16, torch.device("cuda", 1), Path("weights") / "a.pt"]
frame = object()

def scale(x):
    return F.relu(x) * WIDTH

def marked(cls):
    cls.mark = True
    return cls

class Base(nn.Module):
    frame = None  # a name of the program that means something else here

    def forward(self, dense, sparse):
        frame = sparse
        return scale(self.layer(dense)).clamp(LIMITS["low"], LIMITS["high"])

@marked
class Net(Base):
    def __init__(self, num_dense: int, hidden: int = WIDTH):
        super().__init__()
        self.layer = nn.Linear(num_dense, hidden)
        self.kept = Ordered(a=len([1]))
        self.found = FOUND
        self.log = logging.getLogger(__name__)

{more}

if __name__ == "__main__":
    for model in [{models}]:
        try:
            named = name_model(model, {{"hidden": 2}})
        except BagpipeError as error:
            print(error)
        else:
            named.place(Path(sys.argv[1]))
            print(named.section["entrypoint"])
"""
FOUND = "[np.int64(3), np.float32(0.25), torch.bfloat16, device(type='cuda', index=1), PosixPath('weights/a.pt')] int64"
USE = """
import sys, importlib, torch
sys.path.insert(0, sys.argv[1])
module, name = sys.argv[2].split(":")
net = getattr(importlib.import_module(module), name)(num_dense=3, hidden=2)
print(net.mark, tuple(net(torch.ones(5, 3), None).shape), "frame" in vars(importlib.import_module(module)))
print(net.found, type(net.found[0]).__name__)
print(net.log.name == type(net).__module__ == module)
"""


def run(folder: Path, models: str, more: str = "") -> list[str]:
    """What the program prints, a line for each of `models`."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(models=models, more=more))
    done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_class_of_the_program_is_a_module_of_its_own(tmp_path: Path) -> None:
    """Its bases, functions, constants and imports go with it, nothing else, and it runs elsewhere."""
    entrypoint, again = run(tmp_path, "Net, Net")
    assert entrypoint.startswith("model_") and entrypoint.endswith(":Net")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), entrypoint], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True (5, 2) False", FOUND, "True"]
    assert again == entrypoint
    (other,) = run(tmp_path, "Net", "LIMITS['low'] = 5")
    assert other.startswith("model_") and other != entrypoint


REFUSED = [
    ("Uses", "class Uses(Net):\n    def forward(self, d, s): return self.layer(frame)\n",
     "model: Uses uses frame, an object of this program (of type object), which no trainer has; pass"),
    ("Lost", "class Lost(Net):\n    def forward(self, d, s): return missing\n",
     "model: Lost uses missing, which this program does not define"),
    ("inner()", "def inner():\n    class In(Net): pass\n    return In\n",
     "model: inner.<locals>.In is defined inside inner.<locals>; move it to the top of its file"),
    ("lambda: Net(3)", "", "model: a lambda has no name that other processes could import; write a class with class"),
    ("Net(3)", "", "model: an instance of Net was given, but every trainer builds its own: give the class, model="),
    ("5", "", "model: expected a name, 'package.module:Class', or a class, found int"),
]  # fmt: skip
"""A model, what the program defines for it, and how the refusal begins."""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One program tries them all: a start takes more than a second."""
    models, definitions, _ = zip(*REFUSED, strict=True)
    return run(tmp_path_factory.mktemp("refused"), ", ".join(models), "".join(definitions))


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[model for model, *_ in REFUSED])
def test_what_no_trainer_could_have_is_refused_by_name(refusals: list[str], number: int) -> None:
    """One line that says which name is in the way, and what to give instead."""
    assert len(refusals) == len(REFUSED)
    assert refusals[number].startswith(REFUSED[number][2])


def test_without_a_source_there_is_no_model() -> None:
    """A program that Python was given as text has no lines to show."""
    code = "from torch import nn\nclass Net(nn.Module): pass\nfrom bagpipe.interactive.user_model import name_model\n"
    code += "try: name_model(Net, {})\nexcept Exception as error: print(error)"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("model: the source of Net cannot be found")


def test_a_cell_below_a_magic_defines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython keeps such a cell as a call with a text; a class in it was one whose source could not be found."""
    kept = ["get_ipython().run_cell_magic('time', '', 'import torch\\n\\nclass Net:\\n    pass\\n')\n"]
    shell = SimpleNamespace(user_ns={"In": kept}, transform_cell=lambda cell: cell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert source_of(type("Net", (), {}), MODEL) == "class Net:\n    pass\n"


def test_a_file_that_was_edited_since_is_no_source(tmp_path: Path) -> None:
    """The class that the program has is trained, or none: another one was in silence, or there was a traceback."""
    file, text = tmp_path / "edited.py", "class Net:\n    def forward(self, d, s):\n        return d\n"
    file.write_text(f"{text}\n\n{text.replace('return d', 'return s')}")
    spec = importlib.util.spec_from_file_location("edited", file)
    assert spec is not None and spec.loader is not None
    edited = importlib.util.module_from_spec(spec)
    sys.modules["edited"] = edited
    try:
        spec.loader.exec_module(edited)
        assert source_of(edited.Net, MODEL) == text.replace("return d", "return s")  # The later one is what there is.
        for now in (text, text + "    )"):
            file.write_text(now)
            with pytest.raises(ConfigError, match="model: the text of Net is no longer what the program has"):
                source_of(edited.Net, MODEL)
    finally:
        del sys.modules["edited"]


def test_a_cell_that_failed_defines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program has comes from an earlier cell; the text of the newest one was trained instead."""
    cells = ["class Net:\n    def forward(self): return 1\n", "1 / 0\nclass Net:\n    def forward(self): return 2\n"]
    names: dict[str, Any] = {}
    exec(cells[0], names)
    shell = SimpleNamespace(user_ns={"In": cells}, transform_cell=lambda cell: cell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert source_of(names["Net"], MODEL) == cells[0]
    names["Net"].forward = lambda self: self
    with pytest.raises(ConfigError, match=r"something was assigned to Net; run .* the cell that defines Net, again"):
        source_of(names["Net"], MODEL)


def test_importable_models_are_named() -> None:
    """A name, an entrypoint and a class of a module are what they are in a job."""
    assert name_model("dlrm", {}).section == {"name": "dlrm"}
    assert name_model("a.b:C", {"x": 1}).section == {"entrypoint": "a.b:C", "args": {"x": 1}}
    assert name_model(DLRM, {}).section == {"entrypoint": "bagpipe.models.dlrm:DLRM"}
    with pytest.raises(ConfigError, match="an instance of Linear was given"):
        name_model(nn.Linear(2, 2), {})
