"""What was assigned to a class of the program, or counted in it, travels with its text, or is refused by name."""

import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.errors import ConfigError
from bagpipe.interactive.same_code import is_text_of
from bagpipe.interactive.user_model import Wanted, name_model, own_module
from bagpipe.interactive.written import MOST_ELEMENTS, written

MODEL = Wanted("model", "class")
PROGRAM = """
import math
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import nn

WIDTH = 3

class Mode(IntEnum):
    FAST = 1

class Pair(NamedTuple):
    first: int = 1

@dataclass(frozen=True, slots=True)
class Settings:
    width: int = 2
    names: list = field(default_factory=list)

class Base(nn.Module):
    steps = 0

class Net(Base):
    calls, hidden = 0, [8]
    seen = Counter()
    rates = torch.zeros(2, 1)
    mode = Mode.FAST
    act = nn.ReLU
    layer = nn.ReLU()
    half = 4
    whole = 2 * half
    stop = {8, 0, 16, 24, 1}  # Python has these in another order than a set that is made of the text.
    many = 2 * len(stop)
    turn = 1j
    make = nn.Embedding.from_pretrained
    pick = {"a": 1}.get
    note: str
    __own = 1
    depth = 2
    depth += 1
    broad = 1
    if WIDTH > 2:
        broad = 8
    after = broad * depth

    def __init__(self, width=WIDTH, kept=[]):
        super().__init__()
        self.parts = Pair, Settings

    def forward(self, dense, sparse):
        Net.calls += 1
        return dense

def loss(self, logits, labels):
    return (logits - labels).abs().mean()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a script, which has run."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    module = ModuleType("__main__")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(PROGRAM, str(file), "exec", dont_inherit=True), vars(module))
    return module


def remade(program: Any) -> Any:
    """The class of another process, which has the text alone."""
    names: dict[str, Any] = {"__name__": "model_of_a_run"}
    exec(compile(own_module(program.Net, MODEL), "<model>", "exec", dont_inherit=True), names)
    return names["Net"]


def test_what_a_program_counts_and_assigns_goes_with_its_class(program: Any) -> None:
    """A class whose counter had moved was refused; a list, an attribute or a loss of its own was lost in silence."""
    ours = program.Net
    before = own_module(ours, MODEL)
    assert remade(program).calls == 0 and own_module(ours, MODEL) == before
    ours()(torch.ones(1), None)
    program.Base.steps += 7
    ours.hidden.append(64)
    ours.seen["a"] += 2
    ours.rates[1] = 0.1
    ours.act, ours.extra, ours._Net__own, ours.loss = nn.GELU, (1.5, None), 2, program.loss
    odd = {"a-b": 1, "class": nn.GELU, "a b": nn.ReLU, "\ufb01": 2, "'\n": 3}
    for name, value in odd.items():
        setattr(ours, name, value)
    theirs = remade(program)
    assert (theirs.calls, theirs.steps, theirs.hidden) == (1, 7, [8, 64])
    assert (theirs.depth, theirs.broad, theirs.after) == (3, 8, 24)
    assert (theirs.extra, theirs._Net__own, theirs.whole, theirs.mode) == ((1.5, None), 2, 8, 1)
    assert {name: getattr(theirs, name) for name in odd} == odd and not hasattr(theirs, "fi")
    assert theirs.stop == ours.stop and theirs.make == ours.make
    assert theirs.seen == ours.seen and type(theirs.seen) is type(ours.seen)
    assert torch.equal(theirs.rates, ours.rates) and theirs.rates.dtype == torch.float32
    assert theirs.act is nn.GELU and theirs.loss.__code__.co_code == program.loss.__code__.co_code


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Net.half = 5", "Net.half is not what the text of Net says: it was assigned since, and other lines of the"),
        ("Net.stop = {8, 0, 16, 24}", "Net.stop is not what the text of Net says: it was assigned since, and other"),
        ("Net.turn = 2j", "Net.turn is not what the text of Net says: it was assigned since, of type complex"),
        ("Net.make = nn.EmbeddingBag.from_pretrained", "Net.make is not what the text of Net says: it was assigned"),
        ("Net.layer = nn.GELU()", "Net.layer is not what the text of Net says: it was assigned since, of type GELU"),
        ("Net.frame = object()", "Net.frame is not what the text of Net says: it was assigned since, of type object"),
        ("Net.loss = lambda self, a, b: a.mean()", "Net.loss is not what the text of Net says"),
        ("class Base(nn.Module): pass", "Net was made of another Base than this program has now; run the cell that"),
        ("WIDTH = 4", "the text of Net is no longer what the program has"),
        ("Net.__init__.__defaults__ = (3, None)", "the text of Net is no longer what the program has"),
    ],
)
def test_what_another_process_would_not_have_is_refused(program: Any, line: str, said: str) -> None:
    """Of what the text of the class would be made otherwise than the class of the program, and what has no text."""
    exec(line, vars(program))
    with pytest.raises(ConfigError, match=f"^model: {said}"):
        name_model(program.Net, {})


def test_defaults_of_arguments_are_compared() -> None:
    """An edited default is in no function's code: the edited text was trained in silence."""
    names: dict[str, Any] = {}
    text = (
        "class Net:\n    def forward(self, x, rate=0.5, *, sizes=(1, 2), kept=[], stop={8, 0, 16, 24, 1}): return x\n"
    )
    exec(text, names)
    names["Net"].forward.__kwdefaults__["kept"].append(1)  # What a program collects in a default is no other code.
    assert is_text_of(text, names["Net"])
    for before, after in (("0.5", "0.25"), ("(1, 2)", "(1, 3)"), ("rate=0.5", "rate"), ("24, 1", "24, 2")):
        assert not is_text_of(text.replace(before, after), names["Net"])


def test_equal_sets_of_texts_are_written_alike() -> None:
    """Each start of Python has them in another order, and the module's name is made of its text."""
    pairs = itertools.combinations([f"name{number}" for number in range(99)], 2)
    one, other = next((a, b) for a, b in pairs if [*{a, b}] != [*{b, a}])
    for maker in (set, frozenset):
        assert written(maker([one, other])) == written(maker([other, one]))
    assert eval(written({(one, 1), None}) or "") == {(one, 1), None} and written({one, object()}) is None
    # A model may make layers in this order. It is made here: Python keeps constant sets in bytecode in another order.
    layers = set(map(int, ("8", "0", "16")))
    assert [*eval(written(layers) or "")] == [*layers] == [8, 0, 16]


def test_numbers_are_written_to_the_bit() -> None:
    """Small tensors and arrays of any plain type and shape; not those of which something is learned, nor large ones."""
    for value in (
        torch.tensor([0.1, float("nan"), -0.0]),
        torch.tensor(1.1, dtype=torch.bfloat16),
        torch.zeros(2, 0, 3, dtype=torch.int64),
        torch.tensor([[True], [False]]),
        np.array([[2**64 - 1]], np.uint64),
        np.array([0.1, np.inf], np.float16),
        np.zeros((0, 2)),
    ):
        again = eval(written(value) or "None")
        assert type(again) is type(value) and again.dtype == value.dtype and again.shape == value.shape
        bits = [v.float().numpy() if isinstance(v, torch.Tensor) else v for v in (value, again)]
        assert bits[0].tobytes() == bits[1].tobytes()
    weight = nn.Parameter(torch.ones(1))
    for value in (weight, weight * 1, torch.zeros(MOST_ELEMENTS + 1), np.zeros(MOST_ELEMENTS + 1), np.array(["a"])):
        assert written(value) is None
