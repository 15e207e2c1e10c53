"""A text is that of a class or function only while the program has what it says."""

import ast
from typing import Any

import pytest

from bagpipe.interactive.same_code import is_text_of, same_constant

MODULE = """
import functools
import math
from dataclasses import dataclass

def unnamed(function):
    return lambda *args: function(*args)

class Net:
    width: int = 4
    mark = None
    if math.pi > 3:
        def chosen(self): return 1
    else:
        def chosen(self): return 2
    def forward(self, x, scale=2.0):
        "A docstring."
        return [math.floor(v) * scale for v in x if v > (lambda: 0.5)()]
    def __hidden(self): return self.width
    @property
    def size(self) -> "list[int]": return [self.width]
    @size.setter
    def size(self, value): self.width = value
    @staticmethod
    def of(x): return super
    @functools.cache
    def kept(self): return math.inf
    @unnamed
    def lost(self): return 7
    class Inner:
        def forward(self): return 0
"""
TEXT = MODULE[MODULE.index("class Net") :]


def net(module: str = MODULE) -> Any:
    names: dict[str, Any] = {"__name__": "net"}
    exec(compile(module, "<net>", "exec", dont_inherit=True), names)
    return names["Net"]


def test_a_class_and_a_function_have_their_own_text() -> None:
    """Also with properties, private names, decorators, branches, nested classes and calls of imported modules."""
    found = net()
    decorated = MODULE.replace("class Net", "@dataclass\nclass Net")
    assert is_text_of("@dataclass\n" + TEXT, net(decorated), decorated)
    assert is_text_of(TEXT, found, MODULE)
    assert is_text_of(TEXT.replace('"A docstring."', '"A docstring."\n\n        # a comment'), found, MODULE)
    function = "def unnamed(function):\n    return lambda *args: function(*args)\n"
    assert is_text_of(function, found.forward.__globals__["unnamed"], MODULE)
    assert not is_text_of(function.replace("*args)", "*args, 1)"), found.forward.__globals__["unnamed"], MODULE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("* scale", "+ scale"),
        ("0.5", "0.25"),
        ("math.floor", "math.ceil"),
        ("(self, x,", "(self, y,"),
        ("return self.width", "return -self.width"),
        ("return [self.width]", "return self.width"),
        ("math.inf", "math.nan"),
        ("int = 4", "int = 5"),
        ("mark = None", "mark = True"),
        ("    def __hidden(self): return self.width\n", ""),
        ("    mark = None\n", "    mark = None\n    def loss(self, a, b): return 0\n"),
        ("class Net", "class Other"),
        ("* scale", "* scale]"),
    ],
)
def test_what_was_edited_is_another(before: str, after: str) -> None:
    """A method, its names, its constants, an attribute, one method more or less, and what is no Python at all."""
    assert before in TEXT
    assert not is_text_of(TEXT.replace(before, after), net(), MODULE)


def test_a_cell_is_compiled_statement_by_statement() -> None:
    """As IPython does it: a call of what the cell imports is then compiled as any other call is."""
    cell = "import math\n\n\ndef root(x):\n    return math.sqrt(x)\n"
    text = cell[cell.index("def") :]
    names: dict[str, Any] = {"__name__": "cell"}
    for statement in ast.parse(cell).body:
        exec(compile(ast.Module([statement], []), "<cell>", "exec", dont_inherit=True), names)
    assert is_text_of(text, names["root"], cell)
    assert not is_text_of(text.replace("sqrt", "cbrt"), names["root"], cell)
    exec(compile(cell, "<script>", "exec", dont_inherit=True), names)
    assert is_text_of(text, names["root"], cell)


def test_what_was_assigned_is_another() -> None:
    """A method or attribute that the program has put into the class is not in its text."""
    for name, value in (("forward", lambda _self, _x: None), ("mark", "a"), ("width", 8)):
        found = net()
        setattr(found, name, value)
        assert not is_text_of(TEXT, found, MODULE)


def test_constants_are_the_same_in_type_and_value() -> None:
    """Also in what they hold, whatever the order of a set, and with numbers that are not equal to themselves."""
    for text in ("{8, 0, 16, 24, 1}", "[{8, 0, 16, 24, 1}]", "(float('nan'), -0.0)", "{'a': [1j, ...]}", "1 << 99999"):
        assert same_constant(eval(text), ast.literal_eval(text) if "8" in text else eval(text))
    for one, other in (
        ({1}, {True}),
        ({1: {2}}, {1: {2.0}}),
        ((0.0,), (-0.0,)),
        ([1], [1, 2]),
        ({1, 2}, {1, 3}),
        ({1}, frozenset({1})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ):
        assert not same_constant(one, other) and not same_constant(other, one)
