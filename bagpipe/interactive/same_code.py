"""Whether a text is still that of a class or function which the program has.

The file of a script may have been edited since it was started, a cell of a notebook may have failed before it reached
its definition, and a program may give a class another method: then the text trains something else than what is there.
"""

import __future__

import ast
import functools
import inspect
import operator
from collections.abc import Iterator
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any

from bagpipe.interactive.class_body import mangled, stated_in

_FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_COMPARED = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_kwonlyargcount")
_LITERALS = (bool, int, float, complex, str, bytes, type(None))
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_text_of(text: str, value: Any, around: str = "", *, attributes: bool = True) -> bool:
    """Whether the functions that the text defines are those of `value`, instruction by instruction.

    Defaults of arguments and attributes of a class are compared too, where the text has literals for them. What a
    decorator of the text has put into the place of a function, so that the function cannot be found, is taken for the
    same.

    Args:
        text: a definition at the top of a module, with the name of `value`.
        value: a class or function.
        around: the file or cell in which the text stands. Python calls what the same module imports in another way,
            and IPython compiles each statement of a cell by itself, so both ways are the text's.
        attributes: whether a class must have the attributes that its text says, not only the functions.
    """
    try:
        definition = _definition_in(ast.parse(text), value)
        if definition is None or (attributes and not _attributes_agree(definition, value)):
            return False
        return any(_is_compiled(definition, imports + text, value) for imports in ("", _imports_of(around)))
    except (SyntaxError, ValueError):
        return False


def _definition_in(tree: ast.Module, value: Any) -> Definition | None:
    """The last definition of this name, if it is of the kind of `value`."""
    named = (node for node in reversed(tree.body) if isinstance(node, Definition) and node.name == value.__name__)
    found = next(named, None)
    return None if found is None or isinstance(found, ast.ClassDef) != inspect.isclass(value) else found


def _is_compiled(definition: Definition, text: str, value: Any) -> bool:
    """Whether Python makes of this text what `value` is."""
    name = value.__name__
    functions = _functions(value) if inspect.isclass(value) else {name: _function(value)}
    flags = functools.reduce(operator.or_, (f.__code__.co_flags & _FUTURES for f in functions.values() if f), 0)
    module = compile(text, "<text>", "exec", flags, dont_inherit=True)
    made = [code for code in _defined(module) if code.co_name == name]
    if not isinstance(definition, ast.ClassDef):
        decorated = bool(definition.decorator_list)
        return _defaults_agree(definition, functions) and _agrees(functions[name], made, name, decorated=decorated)
    methods = [code for body in made for code in _defined(body) if code.co_qualname == f"{name}.{code.co_name}"]
    remade = bool(definition.decorator_list) or type(value) is not type  # A metaclass of an enumeration moves methods.
    return _defaults_agree(definition, functions) and _methods_agree(definition, functions, methods, remade=remade)


def _imports_of(around: str) -> str:
    """The imports of a module itself, of none of its functions."""
    found, nodes = [], list(ast.parse(around).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__"):
            found.append(ast.unparse(node) + "\n")
        elif not isinstance(node, Definition):
            nodes += [inner for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)]
    return "".join(found)


def _methods_agree(
    definition: ast.ClassDef, functions: dict[str, FunctionType | None], methods: list[CodeType], *, remade: bool
) -> bool:
    """Whether a class has the methods of its definition, and no other of its own."""
    name = definition.name
    inner = [node for node in ast.walk(definition) if isinstance(node, Definition)]
    decorated = {node.name for node in inner if node.decorator_list}
    classes = {node.name for node in inner if isinstance(node, ast.ClassDef)}
    named = {code.co_name for code in methods if not code.co_name.startswith("<")} - classes
    own = {f.__code__.co_name for f in functions.values() if f and f.__code__.co_qualname.rpartition(".")[0] == name}
    return own <= named and all(
        _agrees(
            functions.get(mangled(name, known)),
            [code for code in methods if code.co_name == known],
            f"{name}.{known}",
            decorated=remade or known in decorated,
        )
        for known in named
    )


def _agrees(live: FunctionType | None, made: list[CodeType], qualname: str, *, decorated: bool) -> bool:
    if live is None or live.__code__.co_qualname != qualname:
        return decorated
    return any(_equal(live.__code__, code) for code in made)


def _defaults_agree(definition: Definition, functions: dict[str, FunctionType | None]) -> bool:
    """Whether functions have the defaults of arguments that are written in the text: they are in no function's code."""
    one = not isinstance(definition, ast.ClassDef)
    by_name: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
    for node in [definition] if one else definition.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            by_name.setdefault(node.name, []).append(node)
    around = set() if one else {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and _is_stored(n)}
    for name, nodes in by_name.items():
        live = functions.get(mangled(definition.name, name))
        if live is None or live.__code__.co_name != name:  # What a decorator has put into its place.
            continue
        if not any(_has_defaults(node.args, live, around) for node in nodes):
            return False
    return True


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _has_defaults(stated: ast.arguments, live: FunctionType, around: set[str]) -> bool:
    """Whether a function has these defaults, as far as they are literals or names of the program's constants.

    Args:
        around: names that the class may have made itself.
    """
    named = live.__kwdefaults__ or {}
    pairs = [*zip(stated.defaults, live.__defaults__ or (), strict=False)]
    pairs += [
        (node, named[arg.arg])
        for arg, node in zip(stated.kwonlyargs, stated.kw_defaults, strict=True)
        if node is not None and arg.arg in named
    ]
    return len(stated.defaults) == len(live.__defaults__ or ()) and all(
        _is_default(node, found, {} if isinstance(node, ast.Name) and node.id in around else live.__globals__)
        for node, found in pairs
    )


def _is_default(node: ast.expr, found: Any, names: dict[str, Any]) -> bool:
    try:
        said = names.get(node.id, found) if isinstance(node, ast.Name) else ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return True
    if type(said) not in (*_LITERALS, tuple, list, dict, set):
        return True
    emptied = not said and type(said) is type(found)  # A default that the program fills, such as a list to count in.
    return emptied or same_constant(said, found)


def same_constant(one: Any, other: Any) -> bool:
    """Whether two constants, and all that they hold, have the same types and values: NaN is NaN, 0.0 is not -0.0.

    The order counts in a dict. In a set it does not: two equal ones can be iterated over in different orders.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same_constant([*one.items()], [*other.items()])
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same_constant, one, other))
    if isinstance(one, set | frozenset):
        parts = [{(type(part), repr(part)) for part in values} for values in (one, other)]
        return len(one) == len(other) and parts[0] == parts[1]
    return bool(one == other) if isinstance(one, int | str | bytes) else repr(one) == repr(other)


def _attributes_agree(definition: Definition, value: Any) -> bool:
    """Whether a class has the numbers and texts that its text gives its attributes."""
    for name, node in stated_in(definition).items() if isinstance(definition, ast.ClassDef) else ():
        if isinstance(node, ast.Constant):
            found = vars(value).get(name, node.value)
            if type(found) in _LITERALS and repr(found) != repr(node.value):
                return False
    return True


def _functions(value: type) -> dict[str, FunctionType | None]:
    """What stands in a class, by name; None: no function."""
    return {name: _function(found) for name, found in vars(value).items()}


def _function(found: Any) -> FunctionType | None:
    """The function below a decorator of Python's own, or below one that says what it wraps."""
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, cached_property):
        found = found.func
    if callable(found) and not inspect.isclass(found):
        found = inspect.unwrap(found)
    return found if isinstance(found, FunctionType) else None


def _defined(code: CodeType) -> Iterator[CodeType]:
    """The functions and classes that code defines, also generic ones, which Python puts into functions of their own."""
    for constant in code.co_consts:
        if not isinstance(constant, CodeType):
            continue
        if constant.co_name.startswith("<generic parameters"):
            yield from _defined(constant)
        else:
            yield constant


def _equal(one: CodeType, other: CodeType) -> bool:
    if len(one.co_consts) != len(other.co_consts):
        return False
    return all(getattr(one, part) == getattr(other, part) for part in _COMPARED) and all(
        _equal(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else same_constant(a, b)
        for a, b in zip(one.co_consts, other.co_consts, strict=True)
    )
