"""Library, operator, chart, images and rendered manifests bear one version, that of `bagpipe/__init__.py`."""

import re
from pathlib import Path

import pytest

import bagpipe

ROOT = Path(__file__).parent.parent.parent
FILES = {
    "Dockerfile.server": 1,
    "Dockerfile.trainer": 3,
    "images/operator/Dockerfile": 1,
    "operator/pyproject.toml": 1,
    "operator/bagpipe_operator/settings.py": 2,
    "charts/bagpipe/Chart.yaml": 2,
    "charts/bagpipe/values.yaml": 2,
    "manifests/install.yaml": 20,
    "manifests/samples/own-data/job.yaml": 1,
}
"""Every file that names the version, and how often it does at least."""
NAMED = re.compile(
    r"""(?:\b(?:bagpipe(?:-\w+)?[:-])|^(?:app)?[vV]ersion: "?|^version = "|/version: "?)(\d+\.\d+\.\d+)""", re.MULTILINE
)


@pytest.mark.parametrize(("name", "least"), FILES.items())
def test_one_version(name: str, least: int) -> None:
    """No file names another version, and none has stopped naming it."""
    found = NAMED.findall((ROOT / name).read_text(encoding="utf-8"))
    assert len(found) >= least
    assert set(found) == {bagpipe.__version__}


def test_no_other_file_names_it() -> None:
    """A file that names the version and is not in the list would be forgotten at the next release."""
    folders = ("charts", "make", "images", "manifests", "operator", "tools", ".github")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and "egg-info" not in str(p)]
    files += [p for p in ROOT.iterdir() if p.name.startswith("Dockerfile")]
    naming = {str(p.relative_to(ROOT)) for p in files if p.suffix != ".pyc" and NAMED.search(_text(p))}
    assert naming == set(FILES)


def test_the_changelog_has_a_place_for_it() -> None:
    """What users get is either not released, or has its section."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text or f"## [{bagpipe.__version__}]" in text


def test_types_are_shipped() -> None:
    """Both packages tell type checkers that they have types."""
    for package in ("bagpipe", "operator/bagpipe_operator"):
        assert (ROOT / package / "py.typed").is_file()
    assert 'bagpipe = ["py.typed"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
