"""An imported class that is no longer what its file says: trainers import the file, so the program is told."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bagpipe.interactive.texts import definitions, file_text
from bagpipe.interactive.user_model import name_function, name_model

TEXT = '''
import dataclasses
import functools

from torch import nn

WIDTH = 3


def twice(function):
    @functools.wraps(function)
    def called(*given):
        return 2 * function(*given)

    return called


class Base(nn.Module):
    size = 4

    def head(self):
        return 1


@dataclasses.dataclass
class Settings:
    width: int = 2


class Net(Base):
    hidden = 32
    wide = 2 * WIDTH
    seen = []
    calls = 0
    settings = Settings()

    def __init__(self, depth=2):
        super().__init__()
        self.depth = depth

    @twice
    def forward(self):
        type(self).seen.append(self.depth)
        return self.hidden

    if WIDTH > 2:
        def tail(self):
            return 1
    else:
        def tail(self):
            return 2

    alias = tail
    stop = {8, 0, 16, 24, 1}
    layers = 1
    layers += 1
    broad = 1
    if WIDTH > 2:
        broad = 8
    first, second = 0, 0
    first, second = 1, 2
    last = 0
    for last in range(3):
        pass


try:
    class Below(Net):
        """Several lines,
            some of them further right,
at the margin,
        SPACES
        """

        made = 0
        per_name = {"": 1}
        note = f"""{
    WIDTH}
        and
SPACES
    """

        def __init__(self):
            """In methods
            too."""
            super().__init__()
            Below.made += 1
            type(self).last = cls = self.__class__
            self.per_name[""] += 1
            cls.__own, cls.hidden = 1, 2
            setattr(cls, "first", 1)
            self.stop = None
finally:
    WIDTH = WIDTH


class Leaf(Below):
    pass


def rate(step):
    return 0.1 * step
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "net_of_user.py").write_text(TEXT.replace("SPACES", "      "))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("net_of_user")
    del sys.modules["net_of_user"]


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in told]


def test_what_is_as_in_its_file_is_not_mentioned(module: Any) -> None:
    module.Net.seen.append(1)  # What a program fills is no other setting.
    assert said(lambda: name_model(module.Net, {})) == []
    assert said(lambda: name_model(module.Settings, {})) == []
    assert said(lambda: name_model(module.Below, {})) == []
    assert said(lambda: name_function(module.rate, "optimizer.schedule")) == []


def test_what_a_class_counts_by_itself_is_not_mentioned(module: Any) -> None:
    """In attributes of its own, of a base's and of a class that extends it."""
    module.Below(), module.Leaf()
    assert (module.Below.made, module.Leaf.last, module.Below.per_name) == (2, module.Leaf, {"": 3})
    assert said(lambda: name_model(module.Leaf, {})) == []
    module.Below.stop = module.Leaf.extra = 1  # The methods assign the former to an object, and the latter not at all.
    told = said(lambda: name_model(module.Leaf, {}))
    assert [words.split(" here")[0] for words in told] == [
        "model: net_of_user.Leaf has another extra",
        "model: net_of_user.Below has another stop",
    ]


def test_a_definition_below_another_statement_keeps_its_strings(module: Any) -> None:
    """Its text, which is also what a notebook's class is written as, is moved to the margin; its strings are not."""
    (text,) = definitions(file_text(module.Below), "Below")
    names = dict(vars(module))
    exec(text, names)
    assert names["Below"] is not module.Below and text.startswith("class Below(Net):\n    ")
    assert (names["Below"].__doc__, names["Below"].note) == (module.Below.__doc__, module.Below.note)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m.Net, "hidden", 64), "net_of_user.Net has another hidden here"),
        (lambda m: setattr(m.Net, "extra", 5), "net_of_user.Net has another extra here"),
        (lambda m: setattr(m.Base, "size", 5), "net_of_user.Base has another size here"),
        (lambda m: setattr(m.Net, "tail", m.rate), "net_of_user.Net is not what"),
        (lambda m: setattr(m.Base, "head", lambda self: 2), "net_of_user.Base is not what"),
    ],
    ids=["number", "new", "base", "method", "method of a base"],
)
def test_what_was_assigned_since_is_said(module: Any, change: Callable[[Any], None], words: str) -> None:
    change(module)
    (told,) = said(lambda: name_model(module.Net, {}))
    assert told.startswith(f"model: {words}") and "net_of_user.py" in told and "trainers import the file" in told


@pytest.mark.parametrize(("old", "new"), [("return self.hidden", "return 2 * self.hidden"), ("depth=2", "depth=3")])
def test_an_edited_file_is_said(module: Any, old: str, new: str) -> None:
    file = Path(module.__file__)
    file.write_text(TEXT.replace(old, new))
    os.utime(file, (os.stat(file).st_atime, os.stat(file).st_mtime + 10))  # Bytecode is known by seconds and size.
    (told,) = said(lambda: name_model(module.Net, {}))
    assert "the file was edited since it was imported" in told and "importlib.reload" in told
    importlib.invalidate_caches()
    assert said(lambda: name_model(importlib.reload(module).Net, {})) == []


def test_an_edited_function_is_said(module: Any) -> None:
    Path(module.__file__).write_text(TEXT.replace("0.1 * step", "0.2 * step"))
    (told,) = said(lambda: name_function(module.rate, "optimizer.schedule"))
    assert told.startswith("optimizer.schedule: net_of_user.rate is not what")


def test_installed_classes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    monkeypatch.setattr(nn.Linear, "extra", 1, raising=False)
    assert said(lambda: name_model(nn.Linear, {})) == []
