"""The texts in which a program's classes and functions are defined: files as they are now, and cells of a notebook."""

import ast
import inspect
import linecache
import sys
from collections.abc import Iterator
from typing import Any


def file_text(value: Any) -> str:
    """The file of a class or function as it is now; empty: there is none."""
    try:
        file = inspect.getsourcefile(value)
    except (OSError, TypeError):
        return ""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file)) if file else ""


def cells() -> list[str] | None:
    """Python source of the cells that were run in this notebook or IPython session; None: this is neither."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    shell = get()
    if shell is None:
        return None
    return [shell.transform_cell(_under_magic(cell)) for cell in shell.user_ns.get("In", ())]


def _under_magic(cell: str) -> str:
    """What stands below a magic such as `%%time`, which IPython keeps as a text in a call; else the cell itself."""
    try:
        match ast.parse(cell).body:
            case [ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [_, _, ast.Constant(str() as body)]))]:
                return body
    except SyntaxError:
        pass
    return cell


def definitions(unit: str, name: str) -> Iterator[str]:
    """What defines a name in a file or cell, outside of other definitions; the last one first."""
    try:
        nodes = list(_outer(ast.parse(unit)))
    except (SyntaxError, ValueError):
        return
    lines = unit.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # As Python counts them, not at form feeds.
    for node in reversed(nodes):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            yield _at_the_margin(node, lines)


def _at_the_margin(node: ast.ClassDef | ast.FunctionDef, lines: list[str]) -> str:
    """The text of a definition without its indentation; what its strings hold stays as it is.

    Args:
        lines: those of the whole file or cell.
    """
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    numbers = range(first, (node.end_lineno or first) + 1)
    indentation, kept = lines[node.lineno - 1][: node.col_offset], set(_inside_strings(node))
    text = [lines[n - 1] if n in kept else lines[n - 1].removeprefix(indentation) for n in numbers]
    return "\n".join(text) + "\n"


def _inside_strings(node: ast.AST) -> Iterator[int]:
    """Numbers of the lines that begin inside of a string."""
    nodes = [node]
    while nodes:
        part = nodes.pop()
        if isinstance(part, ast.Constant | ast.JoinedStr):
            yield from range(part.lineno + 1, (part.end_lineno or 0) + 1)
        else:  # Not for parts of a formatted string: before Python 3.12 their line numbers are other ones.
            nodes += ast.iter_child_nodes(part)


def _outer(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that are in no function and no class, such as those below an `if`."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr):
            yield from _outer(child)
