"""A process ends at once, and nothing that it said or had begun is lost; while modules load, nothing is collected."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command
from bagpipe.local import child
from bagpipe.lowlevel.process_life import current_folder, loading
from bagpipe.standalone import score

CODE = """
import sys, threading, time
from bagpipe.lowlevel.process_life import leave

class Costly:
    def __del__(self):
        print("taken apart")

costly = Costly()
costly.itself = costly
print("said", end="")
begun = threading.Event()
threading.Thread(target=lambda: begun.wait(60) and print(" and done", end="")).start()
threading.Thread(target=begun.set).start()
leave(int(sys.argv[1]))
"""


def ended(code: int, **to: object) -> "subprocess.CompletedProcess[str]":
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", CODE, str(code)], env=buffered, text=True, check=False, **to)


def test_a_process_leaves_with_everything_said_and_nothing_taken_apart() -> None:
    """Buffered output arrives, threads end first, the code is the one given, and no object is destroyed."""
    left = ended(65, capture_output=True)
    assert (left.returncode, left.stdout, left.stderr) == (65, "said and done", "")


@pytest.mark.parametrize(("code", "expected"), [(0, 75), (78, 78)])
def test_output_that_cannot_be_written_is_no_success(code: int, expected: int) -> None:
    """On a full disk the command says so, and only success becomes a failure of the disk."""
    with Path("/dev/full").open("w") as full:
        left = ended(code, stdout=full, stderr=subprocess.PIPE)
    assert left.returncode == expected
    assert left.stderr == "error: standard output cannot be written: No space left on device\n"


LOGS_AND_LEAVES = """
import logging, sys
from bagpipe.lowlevel.process_life import leave
from bagpipe.local.role_process import log_to_stderr
log_to_stderr("trainer 0")
sys.stdout.close()
sys.stderr.close()
logging.getLogger("x").info("lost")
leave(0)
"""


def test_a_role_whose_model_closed_its_output_ends_as_it_would() -> None:
    """What it logs from then on is lost, and is no error of the role."""
    assert subprocess.run([sys.executable, "-c", LOGS_AND_LEAVES], check=False).returncode == 0


def test_nothing_is_collected_while_modules_load() -> None:
    """It is on again afterwards, also where an import failed, and stays off where it was off before."""
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        import bagpipe.nothing  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


CLOSED = """
import os, sys
from bagpipe.lowlevel.process_life import occupy_standard_descriptors
occupy_standard_descriptors()
with open(sys.argv[1], "wb") as file:
    os.write(2, b"what a library prints")
    file.write(b"content")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_goes_into_no_file(closed: str, tmp_path: Path) -> None:
    """A file that is opened where standard descriptors were closed does not get the number of one of them."""
    command = [sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    subprocess.run(["sh", "-c", f'exec {closed}; exec "$@"', "sh", *command], check=True)
    assert (tmp_path / "file").read_bytes() == b"content"


TOLD = """
import os, signal, sys
from pathlib import Path
from bagpipe.lowlevel.atomic_files import replacing_file
from bagpipe.lowlevel.process_life import Ended, ending_in_order
number = getattr(signal, sys.argv[2])
try:
    with ending_in_order(), replacing_file(Path(sys.argv[1])) as draft:
        draft.write(b"half")
        os.kill(os.getpid(), number)
except Ended as told:
    print(told.name)
    sys.exit(told.exit_code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_process_that_is_told_to_end_leaves_no_draft(name: str, code: int, tmp_path: Path) -> None:
    """The file that it was writing is neither there nor half there, and its exit code names the signal."""
    command = [sys.executable, "-c", TOLD, str(tmp_path / "file"), name]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (code, f"{name}\n", "")
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_respected(tmp_path: Path) -> None:
    """A hangup that the process was started to ignore ends nothing."""
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    command = [sys.executable, "-c", ignored + TOLD, str(tmp_path / "file"), "SIGHUP"]
    subprocess.run(command, check=True)
    assert (tmp_path / "file").read_bytes() == b"half"


def test_a_current_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, and no error: a command that needs no relative path runs there."""
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    assert current_folder() == str(gone)
    gone.rmdir()
    assert current_folder() is None


def test_where_torch_cannot_compute_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that is gone its mathematics library ends the process by itself: commands that need it refuse in one
    line, `score.py` too, and a role, which is given whole paths only, begins in another folder.
    """
    run, rows, out = (str(tmp_path / name) for name in ("run", "rows.csv", "scores.parquet"))
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = "error: the current folder has been removed; change to one that exists\n"
    for command in (["evaluate", run], ["export", run, out], ["predict", "../run", "--data", rows, "--out", out]):
        assert (run_command(command), capsys.readouterr().err) == (78, said), command
    monkeypatch.setattr("sys.argv", ["score.py", rows, out])
    assert (score.main(), capsys.readouterr().err) == (78, said)
    started = [sys.executable, "-S", "-E", child.__file__, str(os.getpid()), "/bin/pwd"]
    assert subprocess.run(started, capture_output=True, text=True, check=True).stdout == "/\n"
