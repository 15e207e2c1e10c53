"""Modules in the current folder never stand for Python's own, and models of your own are still found."""

import os
import subprocess
import sys
from pathlib import Path

from bagpipe.config.load import parse_job
from bagpipe.local.commands import Attempt, role_commands
from bagpipe.local.policy import RoleId

ASK = "import queue, sys, mine; print(queue.__file__, mine.__file__)"
CODE = f"from bagpipe.local.user_modules import offer_user_modules; offer_user_modules(); {ASK}"


def asked(folder: Path, beside: Path) -> list[str]:
    """Which files `queue` and `mine` are, for a role started in `folder`."""
    environment = os.environ | {"BAGPIPE_MODULE_FOLDERS": str(beside)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_standard_modules_win_and_users_are_found(tmp_path: Path) -> None:
    """`queue.py` in the way is passed by; `mine.py` is found beside the job file before the current folder."""
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "queue.py").write_text("")
        (folder / "mine.py").write_text("")
    assert asked(here, tmp_path / "none")[1] == str(here / "mine.py")
    queue, mine = asked(here, beside)
    assert Path(queue).parent == Path(os.__file__).parent
    assert mine == str(beside / "mine.py")


def test_python_m_bagpipe_is_safe_too(tmp_path: Path) -> None:
    """The command itself, started with `python -m`, is not led astray by names in the current folder."""
    for name in ("queue", "typer", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemError('shadowed')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "bagpipe", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_roles_are_started_safely(tmp_path: Path) -> None:
    """The command line of a role is not led astray even by names that Python loads before the package does."""
    for name in ("queue", "typing", "typer", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemError('shadowed')")
    job = parse_job("spec:\n  data: {format: synthetic}\n", "job.yaml")
    attempt = Attempt(0, None, "tcp://127.0.0.1:1", ("tcp://127.0.0.1:2",))
    command = list(role_commands(job, tmp_path / "job.yaml", tmp_path)(RoleId("trainer", 0), attempt))
    start = command[: command.index("trainer") + 1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [*start, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
