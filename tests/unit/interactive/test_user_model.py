"""A model that a program defines reaches other processes as text, or is refused by name."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torch import nn

from bagpipe.errors import ConfigError
from bagpipe.interactive.user_model import name_model
from bagpipe.models.dlrm import DLRM

PROGRAM = """
import math, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from collections import OrderedDict as Ordered
from torch import nn
from bagpipe.errors import BagpipeError
from bagpipe.interactive.user_model import name_model

WIDTH = 4
LIMITS = {{"low": -1.5, "high": math.inf, "names": ("a", None)}}
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

{more}

if __name__ == "__main__":
    try:
        named = name_model({model}, {{"hidden": 2}})
    except BagpipeError as error:
        print(error)
    else:
        named.place(Path(sys.argv[1]))
        print(named.section["entrypoint"])
"""
USE = """
import sys, importlib, torch
sys.path.insert(0, sys.argv[1])
module, name = sys.argv[2].split(":")
net = getattr(importlib.import_module(module), name)(num_dense=3, hidden=2)
print(net.mark, tuple(net(torch.ones(5, 3), None).shape), "frame" in vars(importlib.import_module(module)))
"""


def run(tmp_path: Path, model: str, more: str = "") -> str:
    """The program's last line."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(model=model, more=textwrap.dedent(more)))
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_class_of_the_program_is_a_module_of_its_own(tmp_path: Path) -> None:
    """Its bases, functions, constants and imports go with it, nothing else, and it runs elsewhere."""
    entrypoint = run(tmp_path, "Net")
    assert entrypoint.startswith("model_") and entrypoint.endswith(":Net")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), entrypoint], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "True (5, 2) False"
    assert run(tmp_path, "Net") == entrypoint
    assert run(tmp_path, "Net", "WIDTH = 5") != entrypoint


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("Uses", "class Uses(Net):\n    def forward(self, d, s): return self.layer(frame)",
         "model: Uses uses frame, an object of this program (of type object), which no trainer has; pass"),
        ("Lost", "class Lost(Net):\n    def forward(self, d, s): return missing",
         "model: Lost uses missing, which this program does not define"),
        ("inner()", "def inner():\n    class In(Net): pass\n    return In",
         "model: inner.<locals>.In is defined inside inner.<locals>; move it to the top of its file"),
        ("lambda: Net(3)", "", "model: a lambda has no name that trainers could import"),
        ("Net(3)", "", "model: an instance of Net was given, but every trainer builds its own: give the class, model="),
        ("5", "", "model: expected a name, 'package.module:Class', or a class, found int"),
    ],
)  # fmt: skip
def test_what_no_trainer_could_have_is_refused_by_name(tmp_path: Path, model: str, more: str, message: str) -> None:
    """One line that says which name is in the way, and what to give instead."""
    assert run(tmp_path, model, more).startswith(message)


def test_without_a_source_there_is_no_model() -> None:
    """A program that Python was given as text has no lines to show."""
    code = "from torch import nn\nclass Net(nn.Module): pass\nfrom bagpipe.interactive.user_model import name_model\n"
    code += "try: name_model(Net, {})\nexcept Exception as error: print(error)"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("model: the source of Net cannot be found")


def test_importable_models_are_named() -> None:
    """A name, an entrypoint and a class of a module are what they are in a job."""
    assert name_model("dlrm", {}).section == {"name": "dlrm"}
    assert name_model("a.b:C", {"x": 1}).section == {"entrypoint": "a.b:C", "args": {"x": 1}}
    assert name_model(DLRM, {}).section == {"entrypoint": "bagpipe.models.dlrm:DLRM"}
    with pytest.raises(ConfigError, match="an instance of Linear was given"):
        name_model(nn.Linear(2, 2), {})
