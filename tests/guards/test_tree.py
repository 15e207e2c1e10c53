"""Does the tree keep the promises that no type checker sees? Imports, shadowing, pickle, sleeping, torch-free roles."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "bagpipe").rglob("*.py"))

UNSAFE = {
    "pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "torch.load", "torch.save", "numpy.load", "numpy.save",
}  # fmt: skip
"""What reads or writes pickles, or may; torch's and numpy's only where they are told not to."""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code from the repository's root, where a careless folder could shadow the standard library."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_operator_is_a_folder_and_never_a_package() -> None:
    """`operator/__init__.py` would break the interpreter wherever it is started in the repository's root."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "tests" / "operator").exists()
    shadowed = _python("import enum, collections, operator; print(operator.add(1, 2))")
    assert shadowed.stdout.strip() == "3", shadowed.stderr


WARM = "bagpipe/testing/warm_commands.py"


def test_no_program_starts_its_work_when_asked_for_help() -> None:
    """What runs by itself reads its arguments with a parser, which answers --help."""
    places = ("tools", "benchmarks", "bagpipe", "operator")
    found = {path: path.read_text(encoding="utf-8") for place in places for path in (ROOT / place).rglob("*.py")}
    programs = {path.relative_to(ROOT).as_posix() for path, text in found.items() if '__name__ == "__main__"' in text}
    assert {"tools/fuzz.py", "benchmarks/data_read.py", "bagpipe/cli/reference.py"} <= programs
    reads = re.compile(r"\bparse_args\(|\bparser\(\)|\bparse\(\)|^from peers\.worker import .*\bmain$", re.MULTILINE)
    without = {name for name in programs if not reads.search(found[ROOT / name])}
    # typer's; and what only a program of ours starts, by arguments that stand for a command to run.
    assert without <= {"bagpipe/__main__.py", "bagpipe/cli/main.py", "bagpipe/local/child.py", WARM}


@pytest.mark.parametrize("module", ["bagpipe.cli.reference", "bagpipe_operator.reasons"])
def test_a_program_that_writes_a_page_prints_help_instead(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stays as it is, to its time."""
    page = ROOT / "docs" / "settings.md"
    before = page.stat().st_mtime_ns
    monkeypatch.setattr("sys.argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    assert page.stat().st_mtime_ns == before


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.sh")), ids=lambda path: path.name)
def test_no_script_of_the_shell_starts_its_work_when_asked_for_help(path: Path, tmp_path: Path) -> None:
    """It finds no program but sed here, so that it can begin nothing."""
    (tmp_path / "sed").symlink_to(str(shutil.which("sed")))
    bash = str(shutil.which("bash"))
    asked = subprocess.run(
        [bash, str(path), "--help"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.returncode, asked.stderr) == (0, "") and asked.stdout.splitlines()[0] in path.read_text()
    assert [found.name for found in tmp_path.iterdir()] == ["sed"]


def test_tests_are_no_packages() -> None:
    """A test tree with `__init__.py` puts its folders on the path, before the modules they are named after."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        ("bagpipe.oracle.service.main, bagpipe.cli.oracle, bagpipe.local.role_process", "torch"),
        ("bagpipe.embedding.server, bagpipe.cli.server, bagpipe.local.role_process", "torch"),
        ("bagpipe.cli.main", "torch numba numpy pyarrow zmq"),
        ("bagpipe.local.run", "torch"),
        ("bagpipe.paper.oracle, bagpipe.paper.server, bagpipe.paper.log_parser", "torch"),
    ],
)
def test_light_processes_stay_light(modules: str, banned: str) -> None:
    """The oracle and the servers run without torch, and `bagpipe --help` loads nothing heavy."""
    loaded = _python(f"import sys, {modules}; print(*[m for m in {banned.split()} if m in sys.modules])")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == ""


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported module and every dotted name that is used, with its line; np stands for numpy."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield node.lineno, module
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                yield node.lineno, f"{'numpy' if name == 'np' else name}.{attribute}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled_and_nobody_sleeps(path: Path) -> None:
    """No source can load a pickle, and every wait is on something; the one clock is handed in (`lowlevel/clock.py`)."""
    banned = UNSAFE if path.name == "clock.py" else UNSAFE | {"time.sleep"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = [(line, name) for line, name in _names(tree) if name in banned or name.split(".")[0] in banned]
    assert used == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_json_leaves_through_the_strict_encoder(path: Path) -> None:
    """Python's own encoder writes NaN, which no other parser reads: only `lowlevel/strict_json.py` may call it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = [(line, name) for line, name in _names(tree) if name in {"json.dump", "json.dumps", "json.JSONEncoder"}]
    assert used == [] or path.name == "strict_json.py"


LONGEST_FILE, LONGEST_BODY = 400, 60
"""Lines. A function's are those of its body: a command's options stand one on a line, however many it has."""


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[ast.get_docstring(function) is not None and len(function.body) > 1]
    return (function.end_lineno or 0) - first.lineno + 1


def _lengths() -> Iterator[tuple[str, int, int]]:
    """Every file and function with its lines, and the most that it may have."""
    for path in [*SOURCES, *sorted((ROOT / "operator").rglob("*.py"))]:
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        yield name, len(text.splitlines()), LONGEST_FILE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}::{node.name}", _body_lines(node), LONGEST_BODY


def test_no_source_is_too_long_to_read() -> None:
    """A file answers one question and a function fits on a screen: beyond these lines they do two things."""
    assert {name: f"{lines} lines, at most {most}" for name, lines, most in _lengths() if lines > most} == {}


def test_nobody_waits_on_an_event_that_nobody_can_set() -> None:
    """`Event().wait(seconds)` is a sleep by another name: an event that has no name has nobody who sets it."""
    waits = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "wait"
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).rpartition(".")[2] == "Event"
    ]
    assert waits == []
