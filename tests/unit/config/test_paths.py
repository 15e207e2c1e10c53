"""Paths of a job: what is expanded, what is not and says so, and how they stand in messages."""

import os
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command
from bagpipe.config import paths
from bagpipe.config.load import load_local_job, parse_job
from bagpipe.errors import ConfigError


def local_data(tmp_path: Path, given: str) -> object:
    job = tmp_path / "job.yaml"
    job.write_text("spec:\n  data: {path: x}\n")
    return load_local_job(job, [f"data.path={given}"]).spec.data.path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_expanded(here: Path) -> None:
    """`~/` is the home folder, relative paths are relative to the current folder, URLs stay."""
    assert local_data(here, "~/a.tsv") == "/home/me/a.tsv"
    assert local_data(here, "sub/a.tsv") == str(here / "sub" / "a.tsv")
    assert local_data(here, "s3://b/a #1?x=%20") == "s3://b/a #1?x=%20"


@pytest.mark.parametrize("name", ["a #2", "100%", "~good.json", "with space", "*.tsv", "a?b", "ünïcode", "a:b", "a$"])
def test_names_are_names(here: Path, name: str) -> None:
    """Nothing in a name has a meaning for `--set`: not `#`, `%`, `*`, `:` or a tilde that is not a folder's."""
    assert local_data(here, name) == str(here / name)


@pytest.mark.parametrize("setting", ["checkpoint.path", "initFrom.run"])
def test_only_data_is_at_a_url(here: Path, setting: str) -> None:
    """A checkpoint "at" `s3://` would be in a folder of that name, and gone with the pod that wrote it."""
    job = "spec:\n  data: {format: synthetic}\n"
    with pytest.raises(ConfigError, match=rf"spec\.{setting}: s3://b/x is a URL, at which only data can be; expected"):
        parse_job(job, "job.yaml", [f"{setting}=s3://b/x"])


def test_what_this_machine_reads_and_writes_is_at_no_url(here: Path) -> None:
    """Run directories, outputs and job files: no folder `s3:` is made where the command runs."""
    with pytest.raises(ConfigError, match="s3://b/runs: a URL; expected the path of a file or folder on this machine"):
        paths.local("s3://b/runs")
    assert run_command(["run", "job.yaml", "--run-dir", "s3://b/runs"]) == 78
    assert run_command(["predict", "run", "--data", "s3://b/x.csv", "--out", "s3://b/scores.parquet"]) == 78
    assert list(here.iterdir()) == []


def test_variables_are_not_expanded_and_this_is_said(here: Path) -> None:
    """A variable in a path is an error with the way to have it expanded; a file of that very name is that file."""
    with pytest.raises(ConfigError, match=r"^spec\.data\.path: \$DATA/a: \$DATA is not expanded in a job; .* shell"):
        local_data(here, "$DATA/a")
    (here / "$DATA").write_text("")
    assert local_data(here, "$DATA") == str(here / "$DATA")


def test_a_user_without_a_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` that stands for nothing is an error, not a folder called `~`."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="no home folder"):
        local_data(here, "~/a")


def test_bytes_that_are_no_text(here: Path) -> None:
    """A job is stored and sent as UTF-8: such a path is refused before anything starts, shown by its bytes."""
    with pytest.raises(ConfigError, match=r"U\+DCFF is half a character or a byte that is not UTF-8"):
        local_data(here, "r\udcff")
    with pytest.raises(ConfigError, match=r"^--run-dir: r\\xff: the path has bytes that are not UTF-8"):
        paths.as_text(Path("r\udcff"), "--run-dir")


def test_how_a_path_is_shown() -> None:
    """Printable characters as they are; others escaped, so that a message stays one line."""
    assert paths.shown("a b\n\x1b\udcffü") == "a b\\n\\x1b\\xffü"


def test_without_this_machine_nothing_is_expanded() -> None:
    """A job that is sent elsewhere keeps its paths as they were written."""
    assert parse_job("spec:\n  data: {path: ~/a}\n", "x").spec.data.path == "~/a"
