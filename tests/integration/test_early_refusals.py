"""A model that cannot be built is refused before any role starts, wherever it is asked for."""

import re
from pathlib import Path
from typing import Any

import pytest

import bagpipe
from bagpipe.cli.main import run_command
from bagpipe.config.load import load_job
from bagpipe.errors import BagpipeError
from bagpipe.testing.threads import run_in_threads
from bagpipe.testing.warm_commands import run_warm

JOB = """
spec:
  model: {entrypoint: "their_own:Net", args: {hidden: 4}}
  data: {format: synthetic, synthetic: {examples: 60, tableSizes: [9], numDense: 2}, testFraction: 0.2}
  embedding: {dim: 4}
  batchSize: 20
  trainers: {device: cpu}
"""
NET = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_dense, hidden):
        super().__init__()
        self.out = nn.Sequential(nn.Linear(num_dense + 4, hidden), nn.Linear(hidden, 1))

    def forward(self, dense, sparse):
        return self.out(torch.cat([dense, sparse.concatenated()], 1))
"""
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("their_own:Nett", {}, "has no class 'Nett'; did you mean 'Net'?"),
    ("nowhere:Net", {}, "cannot find 'nowhere'"),
    ("their_own:Net", {}, "their_own.py:5 (Net): missing a required argument: 'hidden'"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_own.py").write_text(NET)
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("entrypoint", "args", "message"), WRONG)
@pytest.mark.parametrize("how", ["run", "check", "fit", "local"])
def test_it_is_refused_with_nothing_begun(
    folder: Path, capsys: pytest.CaptureFixture[str], how: str, entrypoint: str, args: dict[str, Any], message: str
) -> None:
    """One line, exit code 78, no run directory; from the command line, and from Python."""
    if how in ("run", "check"):
        chosen = ["--set", f"model={{entrypoint: '{entrypoint}'}}", "--run-dir", "out"]
        assert run_command(["run", "job.yaml", *chosen, *(["--check"] if how == "check" else [])]) == 78
        told = capsys.readouterr().err.strip()
    else:
        given: dict[str, Any] = {"model": entrypoint, "model_args": args, "run_dir": "out", "progress": False}
        data = {"format": "synthetic", "synthetic": {"examples": 60}}
        # A session begins with its `with`; whatever else begins has been refused before that.
        with pytest.raises(BagpipeError) as refused, getattr(bagpipe, how)(data=data, **given):
            pytest.fail("it has begun")
        assert refused.value.exit_code == 78
        told = str(refused.value)
    if (how, entrypoint) == ("local", "nowhere:Net"):
        message = "cannot import 'nowhere'"  # The model is to be in this process, which imports it.
    if how == "local":
        message = message.removeprefix("their_own.py:5 (Net): ")
    assert message in told and "\n" not in told
    assert not (folder / "out").exists()


def test_whatever_a_role_wrote_is_a_run_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Roles that are started by hand leave checkpoints and no job file: every command takes that directory."""
    run = run_in_threads(load_job(folder / "job.yaml"), folder / "by-hand").run_dir
    assert not (run / "job.yaml").exists()
    for command in (["checkpoint", "ls"], ["checkpoint", "show"], ["checkpoint", "verify"]):
        assert run_command([*command, str(run)]) == 0, command
    assert "step-00000003" in capsys.readouterr().out
    assert run_command(["export", str(run), str(folder / "model")]) == 0
    score = folder / "model" / "score.py"
    assert score.is_file()
    assert f"to score with it: python {score} new.csv scores.parquet\n" in capsys.readouterr().out
    assert bagpipe.Run(run).checkpoint.name == "step-00000003"


def test_what_a_constructor_raises_is_one_line(folder: Path) -> None:
    """A check builds the model too; what its log would have is not printed."""
    (folder / "their_own.py").write_text(NET + "\nclass Broken(Net):\n    def __init__(self):\n        self.nothing\n")
    arguments = ("run", "job.yaml", "--check", "--set", "model={entrypoint: 'their_own:Broken'}")
    code, printed, told = run_warm(folder, *arguments, PYTHONPATH=str(folder))
    assert (code, printed) == (78, "")
    line = len(NET.splitlines()) + 4
    assert re.fullmatch(rf"error: \S*their_own.py:{line} \(__init__\): AttributeError: .*'nothing'\n", told), told
