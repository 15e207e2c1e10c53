"""What the body of a class assigns to the attributes of the class, as far as its text tells."""

import ast


def stated_in(definition: ast.ClassDef) -> dict[str, ast.expr]:
    """By name, what the last assignment of the class's body gives an attribute, if no statement after it may differ.

    After `size += 1`, or an assignment below an `if` or in a loop, nobody can tell what the name stands for.
    """
    found: dict[str, ast.expr] = {}
    for node in definition.body:
        found = {name: given for name, given in found.items() if name not in _bound_by(node, definition.name)}
        match node:
            case ast.Assign(targets, given):
                found |= {mangled(definition.name, t.id): given for t in targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as given):
                found[mangled(definition.name, name)] = given
    return found


def _bound_by(statement: ast.stmt, owner: str) -> set[str]:
    """Attributes that a statement of a class's body may assign, delete, import or define."""
    found: set[str] = set()
    nodes: list[ast.AST] = [statement]
    while nodes:
        match node := nodes.pop():
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                found.add(name)
                continue  # What stands in it is its own.
            case ast.Name(name, ast.Store() | ast.Del()):
                found.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
                found.add(name)
            case ast.alias(name, other):
                found.add(other or name.partition(".")[0])
        nodes += ast.iter_child_nodes(node)
    return {mangled(owner, name) for name in found}


def mangled(owner: str, name: str) -> str:
    """A name as a class keeps it: Python puts the class's before a private one."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{owner.lstrip('_')}{name}" if private else name
