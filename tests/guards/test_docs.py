"""Do the pages point at things that exist? Links between pages, paths of the tree, tests named as proof."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import bagpipe
from bagpipe.cli.main import app
from bagpipe.config.load import parse_job

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page is a file."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t and not t.startswith("mailto:")]
    assert [t for t in local if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_tests_exist(page: Path) -> None:
    """A page that cites `tests/...::test_x` as proof cites a test that is there."""
    missing = []
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        path = ROOT / file
        if not path.is_file() or (name and f"def {name}(" not in path.read_text(encoding="utf-8")):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_capability_names_the_test_that_proves_it() -> None:
    """Each "yes" of `docs/capabilities.md` stands beside the name of its test, or "same" as the row above."""
    page = (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    claimed = [row for row in rows if row[1].startswith("**yes**")]
    proved = [row for row in claimed if row[2] == "same" or re.search(r"`tests/[\w/]+\.py::test_\w+`", row[2])]
    assert len(claimed) > 30 and [row[0] for row in claimed if row not in proved] == []


def test_the_page_of_a_step_is_current() -> None:
    """Table and picture of `docs/step.md` are those of the code; `make docs` rewrites them."""
    command = [sys.executable, "tools/draw_step.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_public_names_is_current() -> None:
    """`docs/api.md` says what the docstrings say, and names all that `bagpipe` exports; `make docs` writes it."""
    command = [sys.executable, "tools/generate_api.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    public = set(bagpipe.__all__) - {"__version__"}
    assert {name for name in public if f"bagpipe.{name}" not in page} == set()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import bagpipe` and the list of its names cost no torch, numpy or pyarrow: a name is loaded when used."""
    code = "import sys, bagpipe; dir(bagpipe); print(*{'torch', 'numpy', 'pyarrow', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_decisions_are_numbered_without_gaps() -> None:
    """A decision's number is its name for good."""
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def _blocks(language: str) -> list[str]:
    """The README's examples in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_job_is_one() -> None:
    """Every job document that the README shows is accepted, and so is every override that it suggests."""
    (job,) = _blocks("yaml")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    overrides = re.findall(r"--set (\w[\w.]*=\w+)", text)
    assert overrides
    for override in overrides:
        parse_job(job, "README.md", [override])


def test_the_readmes_commands_exist() -> None:
    """`bagpipe ...` and `make ...` as the README shows them are commands and targets; files that others take exist."""
    lines = [line.removeprefix("$ ").split("#")[0].split() for b in _blocks("console") for line in b.splitlines()]
    known = typer.main.get_command(app).commands
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, command, *rest in lines:
        if program in ("helm", "kubectl"):
            assert all((ROOT / word).exists() for word in rest if "/" in word), rest
        else:
            assert command in (known if program == "bagpipe" else targets), (program, command)


def test_make_help_lists_targets_with_what_they_do() -> None:
    """A line for each target that says what it does, whichever file it is in."""
    command = ["make", "--no-print-directory", "help"]  # `make test` runs this within another make.
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = [re.fullmatch(r"  make ([a-z0-9-]+) +\S.*", line) for line in shown.splitlines()]
    files = [ROOT / "Makefile", *sorted((ROOT / "make").glob("*.mk"))]
    said = re.findall(r"^([a-z0-9-]+):.*## ", "\n".join(f.read_text(encoding="utf-8") for f in files), re.MULTILINE)
    assert sorted(m[1] if m else "" for m in listed) == sorted(said)


@pytest.mark.parametrize(("function", "file"), [("init_cache", "api.py"), ("fit", "interactive/fit.py")])
def test_the_readmes_code_is_python(function: str, file: str) -> None:
    """The examples compile, and call `fit` and `init_cache` with arguments that they have."""
    tree = ast.parse((ROOT / "bagpipe" / file).read_text(encoding="utf-8"))
    (signature,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    calls = [
        node
        for code in _blocks("python")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == function
    ]
    used = {k.arg for call in calls for k in call.keywords}
    assert used
    assert used <= {a.arg for a in signature.args.kwonlyargs}


def test_no_file_cites_pages_outside_the_repository() -> None:
    """A reason stands where it is needed or on a page that every reader has, not in notes on the original design."""
    notes = re.compile(r"\b(design|style|brief)\.md\b")
    folders = (
        "bagpipe",
        "operator",
        "tests",
        "docs",
        "tools",
        "benchmarks",
        "images",
        "charts",
        "examples",
        "artifact",
    )
    files = [*ROOT.glob("*.*"), *(p for folder in folders for p in (ROOT / folder).rglob("*"))]
    texts = [p for p in files if p.suffix in (".py", ".md", ".toml", ".yaml", ".mk", ".sh")]
    assert [str(p.relative_to(ROOT)) for p in texts if notes.search(p.read_text(encoding="utf-8"))] == []


def test_the_pictures_of_the_plan_are_current() -> None:
    """`docs/plan.md` shows what the reference planner decides now; `make docs` draws it again."""
    spec = importlib.util.spec_from_file_location("draw_plan", ROOT / "tools" / "draw_plan.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules["draw_plan"] = tool  # dataclasses look their module up
    spec.loader.exec_module(tool)
    assert [path.name for path, text in tool.files().items() if path.read_text(encoding="utf-8") != text] == []


def test_the_readers_walk_names_what_is_there() -> None:
    """Each hop of the walk links a function, class or method to the file that defines it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = page.partition("## A reader's walk")[2].partition("\n## ")[0]
    hops = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", walk)
    assert len(hops) > 30
    assert [f"{name} in {file}" for name, file in hops if not _defines(ROOT / "docs" / file, name.split("."))] == []


def _defines(file: Path, names: list[str]) -> bool:
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    for name in names:
        inside = [child for node in nodes for child in ast.iter_child_nodes(node)]
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [child for child in inside if isinstance(child, kinds) and child.name == name]
    return bool(nodes)


def test_every_room_is_in_the_picture() -> None:
    """`docs/rooms.svg` shows each module and package directly in `bagpipe/`; `make docs` draws it again."""
    picture = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    here = (ROOT / "bagpipe").iterdir()
    rooms = {p.stem for p in here if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}
    assert set(re.findall(r">(\w+)</text>", picture)) == rooms
