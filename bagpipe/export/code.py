"""The source code that travels with an export: the scorer, the model's class, and what these import.

Modules are copied as files. An import of a copied module becomes a relative one, so that an export's code is a package
of its own: it needs no Bagpipe, and it does not meddle with one that is installed. A few modules of the library that
need numba or msgspec have a stand-in in `bagpipe.standalone`.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bagpipe.errors import ConfigError

SCORER = "bagpipe.standalone.model"
STAND_INS = {
    "bagpipe.cache.lookup": "bagpipe.standalone.embeddings",
    "bagpipe.config.column_rules": "bagpipe.standalone.column_settings",
    "bagpipe.config.columns": "bagpipe.standalone.column_settings",
    "bagpipe.data.column_kernels": "bagpipe.standalone.plain_kernels",
    "bagpipe.data.transform": "bagpipe.standalone.column_settings",
    "bagpipe.models.base": "bagpipe.standalone.registry",
    "bagpipe.tables": "bagpipe.standalone.layout",
}
PROVIDED = frozenset({"numpy", "pyarrow", "torch"})
"""Packages that every export needs."""


@dataclass(slots=True)
class Code:
    """What is copied."""

    files: dict[str, str] = field(default_factory=dict)
    """Content by path."""
    requires: set[str] = field(default_factory=set)
    """Further packages that the model's own code imports; they must be installed where it scores."""


def code_for(model_module: str) -> Code:
    """The code of an export whose model's class is defined in `model_module`.

    Raises:
        ConfigError: a module has no source file, or needs what an export cannot hold.
    """
    return _Collector(model_module).collect()


class _Collector:
    def __init__(self, model_module: str) -> None:
        self._roots = (SCORER, model_module)
        self._top = model_module.partition(".")[0]
        self._beside = _source_of(model_module).parent
        self._code = Code()
        self._done: set[str] = set()

    def collect(self) -> Code:
        waiting = list(self._roots)
        while waiting:
            module = waiting.pop()
            if module not in self._done:
                self._done.add(module)
                waiting += self._copy(module)
        return self._code

    def _copy(self, module: str) -> list[str]:
        """Add one module's file; returns the modules that it imports and that are copied too."""
        if module in STAND_INS:
            stand_in = STAND_INS[module]
            dots = "." * (module.count(".") + 1)
            self._code.files[f"{module.replace('.', '/')}.py"] = f"from {dots}{stand_in} import *  # noqa: F403\n"
            return [stand_in]
        source = _source_of(module)
        is_package = source.name == "__init__.py"
        name = f"{module.replace('.', '/')}/__init__.py" if is_package else f"{module.replace('.', '/')}.py"
        text, found = self._relative(source, module, is_package=is_package)
        self._code.files[name] = text
        if not module.startswith("bagpipe."):
            parts = module.split(".")
            found += [".".join(parts[:n]) for n in range(1, len(parts))]
        return found

    def _relative(self, source: Path, module: str, *, is_package: bool) -> tuple[str, list[str]]:
        text = source.read_text("utf-8")
        dots = "." * (module.count(".") + (2 if is_package else 1))
        lines = text.encode().splitlines(keepends=True)
        found: list[str] = []
        for node in sorted(_imports(ast.parse(text)), key=lambda n: (n.lineno, n.col_offset), reverse=True):
            statements = self._statements(node, module, dots, found, is_package=is_package)
            if statements is None:
                continue
            last = (node.end_lineno or node.lineno) - 1
            before, after = lines[node.lineno - 1][: node.col_offset], lines[last][node.end_col_offset or 0 :]
            lines[node.lineno - 1 : last + 1] = [before + "; ".join(statements).encode() + after]
        return b"".join(lines).decode(), found

    def _statements(
        self, node: ast.Import | ast.ImportFrom, module: str, dots: str, found: list[str], *, is_package: bool
    ) -> list[str] | None:
        """An import statement as relative ones; None: it stays as it is. Copied modules are added to `found`."""
        if isinstance(node, ast.Import):
            out = [self._plain_import(alias, module, dots, found) for alias in node.names]
            return out if any(self._is_copied(alias.name, module) for alias in node.names) else None
        if node.level:
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        else:
            base = node.module or ""
        if not self._is_copied(base, module):
            return None
        out = []
        for alias in node.names:
            home = _home(base, alias.name)
            if _is_module(f"{home}.{alias.name}"):
                found.append(f"{home}.{alias.name}")
                if home != "bagpipe" and not home.startswith("bagpipe."):
                    found.append(home)
            else:
                found.append(home)
            renamed = f" as {alias.asname}" if alias.asname else ""
            out.append(f"from {dots}{home} import {alias.name}{renamed}")
        return out

    def _plain_import(self, alias: ast.alias, module: str, dots: str, found: list[str]) -> str:
        if not self._is_copied(alias.name, module):
            return ast.unparse(ast.Import([alias]))
        found.append(alias.name)
        parent, _, last = alias.name.rpartition(".")
        if alias.asname:
            return f"from {dots}{parent} import {last} as {alias.asname}"
        top = alias.name.partition(".")[0]
        loaded = f"from {dots}{parent} import {last} as _{last}; " if parent else ""
        return f"{loaded}from {dots} import {top}"

    def _is_copied(self, name: str, importer: str) -> bool:
        """Whether a module travels with the export.

        Raises:
            ConfigError: it is needed by the library's own code and cannot.
        """
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in PROVIDED:
            return False
        if top in ("bagpipe", self._top) or self._is_beside(top):
            return True
        if importer.startswith("bagpipe."):
            raise ConfigError(
                f"export: the model uses {importer}, which needs {top}; an export has numpy, pyarrow and torch only. "
                "Import from bagpipe.cache.lookup, bagpipe.models.layers, bagpipe.nn or bagpipe.tables"
            )
        self._code.requires.add(top)
        return False

    def _is_beside(self, top: str) -> bool:
        """A module of the user's own, in the folder of the model's file."""
        if "site-packages" in self._beside.parts:
            return False
        return (self._beside / f"{top}.py").is_file() or (self._beside / top).is_dir()


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports but those for type checkers only, and `__future__`."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        for other in tree.orelse:
            yield from _imports(other)
        return
    if isinstance(tree, ast.Import) or (isinstance(tree, ast.ImportFrom) and tree.module != "__future__"):
        yield tree
    for child in ast.iter_child_nodes(tree):
        yield from _imports(child)


def _home(base: str, name: str) -> str:
    """The module that `from base import name` is to name: `bagpipe` itself only passes on what others define."""
    if base != "bagpipe" or _is_module(f"bagpipe.{name}"):
        return base
    value: Any = getattr(importlib.import_module("bagpipe"), name, None)
    home = getattr(value, "__module__", None)
    if not isinstance(home, str):
        raise ConfigError(f"export: the model imports {name} from bagpipe, which an export cannot hold")
    return home


def _is_module(name: str) -> bool:
    if name in sys.modules:
        return isinstance(sys.modules[name], ModuleType)
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _source_of(module: str) -> Path:
    found = sys.modules.get(module)
    origin = getattr(found, "__file__", None)
    if origin is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        origin = spec.origin if spec is not None else None
    if module == "__main__" or origin is None or not origin.endswith(".py"):
        raise ConfigError(f"export: the code of {module} is no Python file that can be copied; put the model into one")
    return Path(origin)
