"""The notebooks in `examples/`, each run from its first cell to its last by a Jupyter kernel of its own."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
CELL_SECONDS = 600
"""After so long a cell that hangs is interrupted; a whole notebook takes some ten seconds where nothing else runs."""
KIBIBYTES = 40
SHOWN = ("execute_result", "display_data")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> list[tuple[str, list[str]]]:
    """What a cell shows beside printed lines: the kinds of its outputs and the forms that each is there in."""
    return [(output.output_type, sorted(output.data)) for output in cell.outputs if output.output_type in SHOWN]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """Every cell runs and every assertion in it holds; each shows the same kinds of output as the cell in the file."""
    kept, run = read(path), read(path)
    for cell in code_of(run):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(run, timeout=CELL_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [shown(cell) for cell in code_of(run)] == [shown(cell) for cell in code_of(kept)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_without_running_it(path: Path) -> None:
    """The file keeps the outputs of one run from top to bottom, is small, and names no folder of that machine."""
    cells = code_of(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(shown(cell) for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < KIBIBYTES * 1024
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/[^\"\\ ]*", path.read_text(encoding="utf-8"))


def test_every_notebook_is_linked() -> None:
    """The page about Python names every notebook, and there are three."""
    page = (EXAMPLES.parent / "docs" / "python.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    assert [path.name for path in NOTEBOOKS if f"(../examples/{path.name})" not in page] == []
