"""Checks by its source that a job's model exists and takes the job's arguments, before any role starts.

The supervisor loads neither torch nor the user's code, so it only reads the file and refuses what the text alone shows
to be wrong. Where a decorator, a base class from another file or names defined at run time could matter, it leaves the
check to the trainer, which builds the model.
"""

import ast
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from bagpipe.config.model import MODEL_SETTINGS, ModelConfig
from bagpipe.errors import ConfigError, UserCodeError
from bagpipe.local.user_modules import told_folders

OFFERED = ("layout", "num_dense", "num_labels")
"""Arguments of a constructor that the job itself gives."""
CALLED_WITH = ("dense", "sparse")
"""What `forward` is called with."""
ENTRY_POINTS = "bagpipe.models"
FILLS_ITSELF = ("__getattr__", "globals", "exec", "setattr", "__path__")
"""Names whose use may give a module attributes that its text does not define."""

Definition = ast.ClassDef | ast.FunctionDef


def check_model_source(model: ModelConfig, *, elsewhere: bool = False) -> None:
    """Refuse a model that no trainer could build.

    Args:
        elsewhere: trainers run on another machine, where a module may be installed that is not here; it is not checked.

    Raises:
        ConfigError: there is no such model, module or class, or it does not take `model.args`.
        UserCodeError: its file is no Python.
    """
    if model.entrypoint is None:
        _check_name(model.name)
        return
    module, _, name = model.entrypoint.partition(":")
    if elsewhere and _top(module.partition(".")[0]) is None:
        return
    file = _source_of(module)
    if file is None:
        return
    source = _Source(file, _parsed(file))
    found = source.define(name, model.entrypoint)
    if found is not None:
        _check_arguments(source, found, model)
        _check_forward(source, found)


def _check_name(name: str) -> None:
    if name in MODEL_SETTINGS or tuple(entry_points(group=ENTRY_POINTS)):
        return
    near = difflib.get_close_matches(name, MODEL_SETTINGS, 1)
    hint = f"did you mean {near[0]!r}?" if near else "or give model.entrypoint"
    raise ConfigError(f"model.name: expected one of {', '.join(MODEL_SETTINGS)}, found {name!r}; {hint}")


# ── where it lies ─────────────────────────────────────────────────


def _source_of(module: str) -> Path | None:
    """The file of a module, found without running any of its packages; None: it has no source to read.

    Raises:
        ConfigError: there is no such module.
    """
    path, *rest = module.split(".")
    found = _top(path)
    for part in rest:
        if found is None or found.fills_itself:
            break
        path, found = f"{path}.{part}", _below(found.folders, part)
    if found is None:
        raise ConfigError(
            f"model.entrypoint: cannot find {path!r}; expected it beside the job file, in the current folder, on "
            "PYTHONPATH or installed"
        )
    return found.file if path == module else None


@dataclass(frozen=True, slots=True)
class _Found:
    """A module or package."""

    file: Path | None
    """Its source; None: it has none, as a folder alone or compiled code."""
    folders: Sequence[Path] = ()
    """Where its own modules lie."""

    @property
    def fills_itself(self) -> bool:
        """Whether it may have submodules that lie in none of its folders."""
        text = "" if self.file is None else self.file.read_text(encoding="utf-8", errors="replace")
        return "__path__" in text or "sys.modules" in text


def _top(name: str) -> _Found | None:
    """A module at the top, as a role would find it."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    spec = spec or PathFinder.find_spec(name, told_folders())
    if spec is None:
        return None
    origin = Path(spec.origin) if spec.origin else None
    source = origin if origin is not None and origin.suffix == ".py" and origin.is_file() else None
    return _Found(source, [Path(folder) for folder in spec.submodule_search_locations or ()])


def _below(folders: Sequence[Path], part: str) -> _Found | None:
    """A module of a package, whose folders these are."""
    for folder in folders:
        for file, inside in ((folder / part / "__init__.py", [folder / part]), (folder / f"{part}.py", [])):
            if file.is_file():
                return _Found(file, inside)
        if any(folder.glob(f"{part}.*")):
            return _Found(None)
    inside = [folder / part for folder in folders if (folder / part).is_dir()]
    return _Found(None, inside) if inside else None


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise UserCodeError(f"{file}:{error.lineno}: SyntaxError: {error.msg}") from None
    except (ValueError, OSError) as error:
        raise UserCodeError(f"{file}: cannot be read as Python: {error}") from None


# ── what it says ──────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Source:
    """One module's text."""

    file: Path
    tree: ast.Module

    def define(self, name: str, entrypoint: str) -> Definition | None:
        """The one definition of a name at the top; None: the text alone does not tell.

        Raises:
            ConfigError: nothing of that name is there.
        """
        bound: list[tuple[str, ast.stmt]] = []
        for statement in _top_level(self.tree.body):
            bound += [(given, statement) for given in _bound(statement)]
        found = [statement for given, statement in bound if given == name]
        if found:
            only = found[0] if len(found) == 1 and found[0] in self.tree.body else None
            return only if isinstance(only, Definition) and not only.decorator_list else None
        if "." in name or any(given == "*" for given, _ in bound) or _uses(self.tree, FILLS_ITSELF):
            return None
        classes = [given for given, statement in bound if isinstance(statement, ast.ClassDef)]
        near = difflib.get_close_matches(name, [given for given, _ in bound], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(classes[:5]) or 'no classes'}"
        raise ConfigError(f"model.entrypoint {entrypoint}: {self.file} has no class {name!r}; {hint}")

    def line(self, node: Definition) -> str:
        return f"{self.file}:{node.lineno} ({node.name})"

    def line_of_classes(self, node: ast.ClassDef) -> list[ast.ClassDef] | None:
        """A class and its bases of this file, up to torch's Module; None: some of it is elsewhere.

        Raises:
            ConfigError: it ends in no base at all, and so is no module.
        """
        line, seen = [node], {node.name}
        while True:
            node = line[-1]
            if node.keywords or len(node.bases) > 1:
                return None
            if not node.bases:
                raise ConfigError(
                    f"{self.line(line[0])}: expected a torch.nn.Module, found a class without that base; derive it "
                    "from nn.Module"
                )
            base = ast.unparse(node.bases[0])
            if base in ("nn.Module", "torch.nn.Module", "Module"):
                return line
            above = [n for n in self.tree.body if isinstance(n, ast.ClassDef) and n.name == base]
            if len(above) != 1 or base in seen or above[0].decorator_list:
                return None
            seen.add(base)
            line.append(above[0])


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, those in its ifs and tries too."""
    for statement in body:
        yield statement
        if not isinstance(statement, Definition | ast.AsyncFunctionDef):
            for inside in ast.iter_child_nodes(statement):
                if isinstance(inside, ast.stmt):
                    yield from _top_level([inside])
                elif isinstance(inside, ast.ExceptHandler | ast.match_case):
                    yield from _top_level(inside.body)


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement gives to something."""
    if isinstance(statement, Definition | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return [] if isinstance(statement, ast.If | ast.Try | ast.With) else [n.id for n in stored]


def _uses(tree: ast.AST, names: Sequence[str]) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, Definition) and node.name in names)
        for node in ast.walk(tree)
    )


# ── what it takes ─────────────────────────────────────────────────


def _check_arguments(source: _Source, model: Definition, config: ModelConfig) -> None:
    """Check `model.args` against the constructor's parameters, where the text shows them."""
    constructor: ast.FunctionDef | None = model if isinstance(model, ast.FunctionDef) else None
    bare = False
    if isinstance(model, ast.ClassDef):
        line = source.line_of_classes(model)
        if line is None or any(_method(cls, "__new__") for cls in line):
            return
        constructor = next((found for cls in line if (found := _method(cls, "__init__"))), None)
        bare = constructor is None
    if constructor is not None and (constructor.decorator_list or constructor.args.posonlyargs):
        return
    parameters, required = ([], []) if constructor is None else _parameters(constructor, bound=model is not constructor)
    if constructor is not None and constructor.args.kwarg is not None:
        parameters += list(config.args)
    where = f"{source.file}:{(constructor or model).lineno} ({model.name})"
    for name in config.args:
        if name in OFFERED:
            raise ConfigError(f"{where}: model.args.{name} is set by the job itself; remove it")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, 1)
            takes = "it has no __init__" if bare else f"it takes {', '.join(parameters) or 'none'}"
            raise ConfigError(
                f"{where}: no argument {name!r} (model.args); {f'did you mean {near[0]!r}?' if near else takes}"
            )
    for name in required:
        if name not in OFFERED and name not in config.args:
            raise ConfigError(f"{where}: missing a required argument: {name!r}; set it in model.args")


def _check_forward(source: _Source, model: Definition) -> None:
    """Check that `forward` exists and takes the arguments that it is called with."""
    if not isinstance(model, ast.ClassDef):
        return
    line = source.line_of_classes(model)
    if line is None or any(_method(cls, "__new__") for cls in line):
        return
    forward = next((found for cls in line if (found := _method(cls, "forward"))), None)
    if forward is None:
        if not any(_uses_attribute(cls, "forward") for cls in line):
            raise ConfigError(f"{source.line(model)}: it has no forward(self, dense, sparse); write one")
        return
    given = forward.args
    positional, optional = len(given.posonlyargs) + len(given.args) - 1, len(given.defaults)
    enough = given.vararg is not None or positional >= len(CALLED_WITH)
    keyword_only = [a.arg for a, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None]
    if forward.decorator_list or (enough and positional - optional <= len(CALLED_WITH) and not keyword_only):
        return
    raise ConfigError(
        f"{source.file}:{forward.lineno} ({model.name}.forward): expected forward(self, dense, sparse), found "
        f"forward({ast.unparse(given)}); it is called with the dense features and the embeddings"
    )


def _method(cls: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((n for n in reversed(cls.body) if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _uses_attribute(cls: ast.ClassDef, name: str) -> bool:
    """Whether a class mentions the name: it may set the method itself."""
    mentioned = (n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", None) for n in ast.walk(cls))
    return name in mentioned


def _parameters(function: ast.FunctionDef, *, bound: bool) -> tuple[list[str], list[str]]:
    """Names that can be given by keyword, and those that must be; without `self` of a method."""
    given = function.args
    names = [a.arg for a in given.args][1 if bound else 0 :]
    required = names[: len(names) - len(given.defaults)] if given.defaults else list(names)
    required += [a.arg for a, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None]
    return names + [a.arg for a in given.kwonlyargs], required
