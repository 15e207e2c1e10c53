"""Hands models and functions of a Python program to the roles by their import paths, never by a pickle.

A class or function of an importable module is named as `package.module:Class`. One defined in the program itself (a
notebook's cell, the script that calls `fit`) has no module that roles could import without running the program once
more. So its source is written into the run directory as a module of its own, with the imports, constants, functions and
classes that it uses. What cannot be written like this is refused, with the name of the object that prevents it, before
anything starts.
"""

import ast
import builtins
import hashlib
import inspect
import keyword
import os
import re
import symtable
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bagpipe.errors import ConfigError
from bagpipe.interactive.assigned import assigned_since, other_base, read_by_the_body
from bagpipe.interactive.imported import unlike_its_file
from bagpipe.interactive.same_code import is_text_of
from bagpipe.interactive.texts import cells, definitions, file_text
from bagpipe.interactive.written import written
from bagpipe.local.user_modules import FOLDERS, noted_folders
from bagpipe.lowlevel.atomic_files import write_whole

MAIN = "__main__"
OF_PROGRAM = (MAIN, "__mp_main__")
"""What modules of the program itself are called; the latter in a process that multiprocessing has spawned."""
_OF_EVERY_MODULE = frozenset({*dir(builtins), "__class__", "__name__"})
"""Names that mean something in each module without being defined there."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model as a job names it."""

    section: Mapping[str, Any]
    """`spec.model`, in the document's own names."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Texts by name of the modules that were made of this program's own classes and functions."""

    def place(self, run_dir: Path) -> None:
        """Write the modules into the run directory.

        Raises:
            StorageError: one cannot be written.
        """
        place_modules(self.modules, run_dir)

    def beside(self, modules: Mapping[str, str]) -> "NamedModel":
        """The same model, with modules of functions that other settings name."""
        return NamedModel(self.section, {**self.modules, **modules})


def place_modules(modules: Mapping[str, str], folder: Path) -> None:
    """Write modules into a folder from which roles import them.

    Raises:
        StorageError: one cannot be written.
    """
    for name, text in modules.items():
        write_whole(folder / f"{name}.py", text.encode())


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Inside, child processes can import what this process can import, and modules in `folders`."""
    before = os.environ.get(FOLDERS)
    ours = [place or os.getcwd() for place in sys.path]
    noted = [place for folder in folders for place in noted_folders(folder)]
    os.environ[FOLDERS] = os.pathsep.join([*map(str, folders), *noted, *filter(None, [before]), *ours])
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDERS]
        else:
            os.environ[FOLDERS] = before


def name_model(model: Any, arguments: Mapping[str, Any]) -> NamedModel:
    """A job's `model` section for what the caller gave.

    Args:
        model: a name such as `dlrm`, an entrypoint `package.module:Class`, or a class or function that makes the model.
        arguments: keyword arguments of its constructor, beside those that the job offers.

    Raises:
        ConfigError: it has no name by which another process could import it; says what to give instead.
    """
    given = {"args": dict(arguments)} if arguments else {}
    if isinstance(model, str):
        return NamedModel({("entrypoint" if ":" in model else "name"): model, **given})
    if not callable(model) or not hasattr(model, "__qualname__"):
        raise ConfigError(_what_instead(model))
    path, modules = _import_path(model, Wanted("model", "class"))
    return NamedModel({"entrypoint": path, **given}, modules)


def name_function(function: Any, place: str) -> tuple[str, Mapping[str, str]]:
    """The import path of a function that a setting takes, and texts by name of the modules that this needs.

    Args:
        place: the setting, for messages.

    Raises:
        ConfigError: it has no name by which another process could import it; says what to give instead.
    """
    if not hasattr(function, "__qualname__"):
        raise ConfigError(
            f"{place}: a {type(function).__name__} has no name that other processes could import; write a function "
            "with def, and give that"
        )
    return _import_path(function, Wanted(place, "function"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a setting takes from the program."""

    place: str
    kind: str
    """`class` or `function`."""

    def __str__(self) -> str:
        return self.place


def _import_path(value: Any, wanted: Wanted) -> tuple[str, Mapping[str, str]]:
    name, module = value.__qualname__, value.__module__
    if "<lambda>" in name:
        raise ConfigError(
            f"{wanted}: a lambda has no name that other processes could import; write a {wanted.kind} with "
            f"{'class' if wanted.kind == 'class' else 'def'}, and give that"
        )
    if "." in name:
        raise ConfigError(
            f"{wanted}: {name} is defined inside {name.rpartition('.')[0]}; move it to the top of its file"
        )
    if module in OF_PROGRAM:
        text = own_module(value, wanted)
        own = f"{'model' if wanted.kind == 'class' else 'function'}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return f"{own}:{name}", {own: text}
    if getattr(sys.modules.get(module), "__file__", None) is None:
        raise ConfigError(
            f"{wanted}: {name} belongs to {module}, which has no file; put the {wanted.kind} into a file of its own"
        )
    for difference in unlike_its_file(value):
        warnings.warn(f"{wanted}: {difference}", stacklevel=5)
    return f"{module}:{name}", {}


def _what_instead(model: Any) -> str:
    kind = type(model)
    if hasattr(model, "named_parameters"):
        return (
            f"model: an instance of {kind.__name__} was given, but every trainer builds its own: give the class, "
            f"model={kind.__name__}, and the arguments of its constructor in model_args={{...}}"
        )
    return f"model: expected a name, 'package.module:Class', or a class, found {kind.__name__}"


# ── a class or function of the program itself ─────────────────────


def own_module(value: Callable[..., Any], wanted: Wanted) -> str:
    """Source of a module that defines `value` as it is in this program now, with everything that it uses.

    Raises:
        ConfigError: a part of it has no source, or a value that cannot be written down.
    """
    found = _Collected(vars(sys.modules[MAIN]), wanted)
    found.add(value.__name__, value, f"the {'model' if wanted.kind == 'class' else 'function'}")
    parts = [*found.imports, "", *found.values, "", *(f"\n{text}" for text in found.definitions)]
    what = "model" if wanted.kind == "class" else "function"
    heading = f'"""Written by `bagpipe.fit`: a {what} that was defined in the program that called it."""\n'
    return heading + "\n".join(parts).strip("\n") + "\n"


@dataclass(slots=True)
class _Collected:
    """The parts of the module that is written; each name once, and before the definitions that use it."""

    names: Mapping[str, Any]
    wanted: Wanted
    imports: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def add(self, name: str, value: Any, user: str) -> None:
        """One global name of the program.

        Raises:
            ConfigError: it cannot be written down; `user` says who needs it.
        """
        if name in self._seen:
            return
        self._seen.add(name)
        if isinstance(value, ModuleType):
            self.imports.append(f"import {value.__name__} as {name}")
        elif inspect.isclass(value) or inspect.isfunction(value):
            self._define(name, value, user)
        elif (own := _importable(value)) is not None:
            self.imports.append(f"from {own[0]} import {own[1]} as {name}")
        elif (text := written(value)) is not None:
            self.values.append(f"{name} = {text}")
        else:
            model = self.wanted.kind == "class"
            instead = "pass what it needs as model_args={...}, or put the model into" if model else "put it into"
            raise ConfigError(
                f"{self.wanted}: {user} uses {name}, an object of this program (of type {type(value).__name__}), which "
                f"no {'trainer' if model else 'role'} has; {instead} a file of its own"
            )

    def _define(self, name: str, value: Any, user: str) -> None:
        if value.__module__ not in OF_PROGRAM:
            self.imports.append(f"from {value.__module__} import {value.__qualname__} as {name}")
            return
        if value.__name__ != name or "." in value.__qualname__ or getattr(value, "__closure__", None):
            raise ConfigError(
                f"{self.wanted}: {user} uses {name}, which is {value.__qualname__} under another name or inside a "
                "function; define it at the top, under this name"
            )
        source = source_of(value, self.wanted)
        since = list(self._since(name, value, source)) if inspect.isclass(value) else []
        for used in sorted(_globals_of(source)):
            if used in self.names and used != "__name__":
                self.add(used, self.names[used], name)
            elif used not in _OF_EVERY_MODULE:
                raise ConfigError(f"{self.wanted}: {name} uses {used}, which this program does not define")
        self.definitions.append(source)
        self.definitions += [_assignment(name, attribute, text) for attribute, text in since]

    def _since(self, name: str, value: type, source: str) -> Iterator[tuple[str, str]]:
        """The attributes that the class has otherwise than by its text, and the source of each.

        Raises:
            ConfigError: one cannot be written down, or the text would use another in its place.
        """
        if (base := other_base(source, value, self.names)) is not None:
            raise ConfigError(
                f"{self.wanted}: {name} was made of another {base} than this program has now; run the cell that "
                f"defines {name} again"
            )
        found = dict(assigned_since(source, value, self.names))
        changed = read_by_the_body(source, set(found))
        for attribute, now in found.items():
            text = written(now) or self._named(_alias(name, attribute), now, name)
            if text is None or attribute in changed:
                why = "and other lines of the class read it" if text else f"of type {type(now).__name__}"
                raise ConfigError(
                    f"{self.wanted}: {name}.{attribute} is not what the text of {name} says: it was assigned since, "
                    f"{why}; write it into the class, and run that again"
                )
            yield attribute, text

    def _named(self, alias: str, value: Any, user: str) -> str | None:
        """The name by which the module has a function or class; None: it has none."""
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            return None
        own = value.__module__ in OF_PROGRAM
        if self.names.get(value.__name__) is not value if own else _importable(value) is None:
            return None
        self.add(value.__name__ if own else alias, value, user)
        return value.__name__ if own else alias


def _assignment(owner: str, attribute: str, text: str) -> str:
    """The line that gives a class an attribute, whatever name `setattr` has given that."""
    return f"{owner}.{attribute} = {text}\n" if _is_plain(attribute) else f"setattr({owner}, {attribute!r}, {text})\n"


def _alias(owner: str, attribute: str) -> str:
    """A name of the module for what an attribute of a class holds."""
    return f"_{owner}_{attribute if _is_plain(attribute) else attribute.encode(errors='surrogatepass').hex()}"


def _is_plain(attribute: str) -> bool:
    """Whether a name can stand after a dot; not so in other alphabets, of which Python changes some letters there."""
    return attribute.isascii() and attribute.isidentifier() and not keyword.iskeyword(attribute)


def _importable(value: Any) -> tuple[str, str] | None:
    """Module and name of something that a module other than the program has under its own name, such as a built-in."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module in OF_PROGRAM:
        return None
    return (module, name) if getattr(sys.modules.get(module), name, None) is value else None


def _globals_of(source: str) -> set[str]:
    """Names that a definition takes from its module, by Python's own rules of scope."""
    found: set[str] = set()
    tables = [symtable.symtable(source, "<model>", "exec")]
    while tables:
        table = tables.pop()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or (top and not symbol.is_assigned())):
                found.add(symbol.get_name())
        tables += table.get_children()
    return found - {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def source_of(value: Any, wanted: Wanted) -> str:
    """The text of a class or function of this program: of a script from its file, of a notebook from its cells.

    Where several define the name, it is the last one whose functions and attributes are those of `value`, or else whose
    functions are.

    Raises:
        ConfigError: there is none, or none that is still what the program has.
    """
    name, file = value.__name__, file_text(value)
    units = [*reversed(cells() or ()), file]
    found = [(text, unit) for unit in units for text in definitions(unit, name)]
    for attributes in (True, False):
        for text, unit in found:
            if is_text_of(text, value, unit, attributes=attributes):
                return text
    if found or re.search(
        rf"^\s*(class|def)\s+{name}\b", file, re.MULTILINE
    ):  # The latter in a file that is no Python.
        raise ConfigError(
            f"{wanted}: the text of {name} is no longer what the program has: its file or cell was edited since, its "
            f"cell ended in an error, or something was assigned to {name}; run the program, or the cell that defines "
            f"{name}, again"
        )
    raise ConfigError(
        f"{wanted}: the source of {name} cannot be found, so other processes cannot have it; put it into "
        f"a file, and give the {wanted.kind} of that file's module"
    )
