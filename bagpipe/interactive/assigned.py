"""Attributes of a program's class that differ from its text: those assigned after its definition, and its counters.

A class is what the program has now, like a constant of the program: `Net.hidden = 64` after the definition changes the
model, and a counter goes on from where it is.
"""

import ast
import inspect
import symtable
from collections.abc import Collection, Iterator, Mapping
from enum import EnumMeta
from types import BuiltinMethodType, MethodType, MethodWrapperType
from typing import Any

from bagpipe.interactive.class_body import mangled, stated_in
from bagpipe.interactive.same_code import same_constant
from bagpipe.interactive.written import written

_UNKNOWN = object()
_BOUND = (MethodType, BuiltinMethodType, MethodWrapperType)


def assigned_since(text: str, value: type, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of each attribute that the class may have otherwise than by its text.

    The text does not give it to the class at all, or it gives another value, or nobody can tell which value it gives.
    Not among them are the methods of the text, which `same_code` compares, and an object whose line in the text calls
    a class, as long as it is of that class.

    Args:
        text: the definition of the class.
        names: the program's globals.
    """
    definition = _definition(text)
    if isinstance(value, EnumMeta):
        return
    stated, bound = stated_in(definition), {mangled(definition.name, name) for name in _scope(text, "is_assigned")}
    remade = _remade(definition, value, names)
    for name, found in list(vars(value).items()):
        dunder = name.startswith("__") and name.endswith("__")
        if dunder or inspect.ismemberdescriptor(found) or _is_stated(stated.get(name), found, names):
            continue
        if written(found) is None and (remade or (name in bound and name not in stated)):
            continue  # A method, a nested class, what a loop of the class has made, or what a decorator puts there.
        if remade and name not in bound and name.startswith("_"):
            continue  # Metaclasses keep such things, in the other process too.
        yield name, found


def surely_assigned(text: str, value: type, names: Mapping[str, Any]) -> list[str]:
    """Names of attributes that the class surely has otherwise than by its text.

    A list, dict or set that is empty in the text and has elements now is not among them: programs fill such ones.
    Arguments as of `assigned_since`.
    """
    definition = _definition(text)
    stated, bound = stated_in(definition), {mangled(definition.name, name) for name in _scope(text, "is_assigned")}
    remade = _remade(definition, value, names)
    return [
        name
        for name, found in assigned_since(text, value, names)
        if (not remade if name not in bound else _is_other(stated.get(name), found))
    ]


def _is_other(node: ast.expr | None, found: Any) -> bool:
    """Whether a literal gives another value than the one that was found, which is not what has filled an empty one."""
    literal = _literal(node)
    empty = not literal and isinstance(literal, list | dict | set)
    return literal is not _UNKNOWN and not (empty and type(literal) is type(found))


def assigned_by_methods(text: str, classes: Collection[str]) -> set[str]:
    """Names of attributes that methods assign to a class, as in `Net.made += 1` or `type(self).made = 1`.

    Also those of whose value they assign an element, as in `self.seen[key] += 1`.

    Args:
        text: a definition.
        classes: names of the class and of those that it extends.
    """
    (definition,) = ast.parse(text).body
    found: set[str] = set()
    for node in ast.walk(definition):
        match node:
            case ast.Attribute(owner, str(name), ast.Store()) if _is_class(owner, classes):
                found.add(name)
            case ast.Subscript(ast.Attribute(owner, str(name)), _, ast.Store()) if _is_class(owner, {*classes, "self"}):
                found.add(name)
            case ast.Call(ast.Name("setattr"), [owner, ast.Constant(str(name)), _]) if _is_class(owner, classes):
                found.add(name)
    return {mangled(getattr(definition, "name", ""), name) for name in found}


def _is_class(node: ast.expr, classes: Collection[str]) -> bool:
    """Whether an expression in a method stands for its class, or for one of these names."""
    match node:
        case ast.Name(name):
            return name in {*classes, "cls", "__class__"}
        case ast.Call(ast.Name("type"), [_]) | ast.Attribute(attr="__class__"):
            return True
    return False


def read_by_the_body(text: str, names: set[str]) -> set[str]:
    """Which attributes that the text gives a literal are read while the class is made, as in `size = 2 * width`.

    If one of them is changed, nobody can tell whether the text was edited, so that `size` is another one too.
    """
    definition = _definition(text)
    read = {mangled(definition.name, name) for name in _scope(text, "is_referenced")}
    return {name for name in names & read if _literal(stated_in(definition).get(name)) is not _UNKNOWN}


def other_base(text: str, value: type, names: Mapping[str, Any]) -> str | None:
    """A base by whose name the program has another class by now; None: there is none."""
    for node in _definition(text).bases:
        found = _found(node, names)
        if inspect.isclass(found) and found not in value.__bases__:
            return ast.unparse(node)
    return None


def _definition(text: str) -> ast.ClassDef:
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    return node


def _scope(text: str, asked: str) -> set[str]:
    """Names in the scope of a class, those that its methods use not included."""
    tables = [symtable.symtable(text, "<class>", "exec")]
    while tables:  # A generic class stands in a scope of its parameters.
        table = tables.pop(0)
        if table.get_type() == "class":
            return {symbol.get_name() for symbol in table.get_symbols() if getattr(symbol, asked)()}
        tables += table.get_children()
    return set()


def _is_stated(node: ast.expr | None, found: Any, names: Mapping[str, Any]) -> bool:
    """Whether an expression gives the value that was found, as far as this can be told without evaluating it."""
    if node is None:
        return False
    if (literal := _literal(node)) is not _UNKNOWN:
        return same_constant(literal, found)
    if isinstance(node, ast.Name | ast.Attribute) and (known := _found(node, names)) is not _UNKNOWN:
        # A method of an object or class is a new object each time that it is asked for.
        return known is found or (isinstance(known, _BOUND) and isinstance(found, _BOUND) and known == found)
    if written(found) is not None:
        return False
    maker = _found(node.func, names) if isinstance(node, ast.Call) else _UNKNOWN
    return not inspect.isclass(maker) or isinstance(found, maker)


def _literal(node: ast.expr | None) -> Any:
    """What a literal gives; `_UNKNOWN`: it is none."""
    try:
        return _UNKNOWN if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return _UNKNOWN


def _found(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What a name, or a name of something in it, stands for in the program."""
    if isinstance(node, ast.Name):
        return names.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute) and (owner := _found(node.value, names)) is not _UNKNOWN:
        return getattr(owner, node.attr, _UNKNOWN)
    return _UNKNOWN


def _remade(definition: ast.ClassDef, value: type, names: Mapping[str, Any]) -> bool:
    """Whether something other than the class's own body puts attributes into it."""
    told = getattr(value.__init_subclass__, "__func__", None) is not None
    made = any(_found(base, names) not in value.__bases__ for base in definition.bases)  # Such as NamedTuple's.
    return bool(definition.decorator_list) or type(value) is not type or told or made
