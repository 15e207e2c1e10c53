"""What an exception becomes: one line, one exit code, and no traceback where the input was at fault."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from bagpipe.cli import main as cli
from bagpipe.cli.failures import failure_of
from bagpipe.errors import ConfigError

PATHS = [
    (errno.ENOENT, 78, "correct the path"),
    (errno.EISDIR, 78, "this is a folder where a file is expected"),
    (errno.ENOTDIR, 78, "a part of this path is a file where a folder is expected"),
    (errno.EACCES, 78, "give this user the right"),
    (errno.EROFS, 78, "choose a path that can be written"),
    (errno.ENOSPC, 75, "free some space and try again"),
    (errno.EDQUOT, 75, "free some of the quota and try again"),
    (errno.EFBIG, 78, "its disk holds no file of that size"),
    (errno.EMFILE, 78, "raise the limit of open files (ulimit -n)"),
    (errno.ENOMEM, 78, "use smaller tables or more embedding servers"),
    (errno.ENFILE, 75, "every program of this machine together has too many files open"),
    (errno.EIO, 75, "correct the path, or choose another"),
]


@pytest.mark.parametrize(("number", "code", "remedy"), PATHS, ids=[errno.errorcode[p[0]] for p in PATHS])
def test_an_error_of_a_path(number: int, code: int, remedy: str) -> None:
    """The path, what the system says, and what to do; 75 only where trying again can help."""
    failure = failure_of(OSError(number, "as the system says", "da\udcffta\n.txt"))
    assert failure.code == code
    assert failure.message.startswith("da\\xffta\\n.txt: as the system says; ")
    assert remedy in failure.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_a_disk_that_refuses_a_file_that_is_open(number: int) -> None:
    """Python knows no name for it: it is no bug all the same, and may pass; a limit of a file's size does not."""
    failure = failure_of(OSError(number, "as the system says"))
    assert failure.code == (78 if number == errno.EFBIG else 75)
    assert failure.message.startswith("a file that is written at ") and ": as the system says; " in failure.message


def test_too_little_memory_is_the_jobs_sizes() -> None:
    """numpy's refusal of terabytes is one line that names the remedy, and is not tried again."""
    failure = failure_of(MemoryError("Unable to allocate 3.99 TiB"))
    assert failure.code == 78
    assert failure.message == (
        "not enough memory (Unable to allocate 3.99 TiB); lower the job's sizes or use a larger machine"
    )


def test_memory_that_the_system_does_not_map_is_no_bug() -> None:
    """`mmap` knows no name; whatever it was for, the next attempt finds no more."""
    failure = failure_of(OSError(errno.ENOMEM, "Cannot allocate memory"), role="server")
    assert failure.code == 78
    assert failure.message.startswith("at ") and "vm.max_map_count" in failure.message


def test_too_few_threads_are_the_machines_limit() -> None:
    """What a container's limit of processes refuses is no bug, and may pass."""
    failure = failure_of(RuntimeError("can't start new thread"))
    assert failure.code == 75 and failure.message.startswith("no more threads can be started here; raise the limit")


def fail() -> None:
    raise KeyError("x")


def test_a_bug_is_one_line_and_its_traceback_a_file(monkeypatch, capsys, tmp_path) -> None:
    """The line has type, message, file and line number, and names the file with the traceback, for a report."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("bagpipe.local.run.start_run", lambda *a: fail())
    assert cli.run_command(["run", "job.yaml"]) == 70
    line = capsys.readouterr().err
    found = re.fullmatch(
        r"error: a bug in Bagpipe: KeyError: 'x', at bagpipe/cli/run\.py:\d+; please report it; "
        r"the traceback is in (\S+)\n",
        line,
    )
    assert found, line
    assert "Traceback" in Path(found[1]).read_text()
    assert "in fail" in Path(found[1]).read_text()


def test_a_role_leaves_its_traceback_in_its_log(monkeypatch, capsys) -> None:
    """A role's stderr is its log: the traceback is there, and the last line is still one sentence."""
    monkeypatch.setattr("bagpipe.local.role_process.load_role", lambda *a: fail())
    arguments = ["--job", "j", "--run-dir", "d", "--oracle", "h:1", "--shard", "0"]
    monkeypatch.setattr("bagpipe.local.role_process.yield_to_trainers", lambda: None)
    assert cli.run_command(["server", *arguments]) == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("error: a bug in Bagpipe: KeyError: 'x', at bagpipe/cli/server.py:")
    assert lines[-1].endswith("the traceback stands above in this log")


def test_control_characters_do_not_reach_the_terminal(monkeypatch, capsys) -> None:
    """Names with escapes and line ends are shown escaped, on one line."""

    def refuse(*_: object) -> None:
        raise ConfigError("a\x1b[31m b\nc \udcff")

    monkeypatch.setattr("bagpipe.local.run.start_run", refuse)
    assert cli.run_command(["run", "job.yaml"]) == 78
    assert capsys.readouterr().err == "error: a\\x1b[31m b c \\xff\n"


def test_ctrl_c_is_130(monkeypatch, capsys) -> None:
    """An interrupted command says nothing and ends as shells expect."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bagpipe.local.run.start_run", interrupt)
    assert cli.run_command(["run", "job.yaml"]) == 130
    assert capsys.readouterr().err == ""


OUTLIVE = """
import os, sys
from bagpipe.cli.output import outlive_reader
outlive_reader()
os.read(0, 1)          # the reader is gone
for n in range(10_000):
    print("line", n)
sys.stdout.flush()
print("done", file=sys.stderr)
"""


def test_a_reader_that_goes_away_ends_nothing() -> None:
    """What prints while it works goes on when its pipe is closed, and ends with 0."""
    child = subprocess.Popen(
        [sys.executable, "-c", OUTLIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    _, said = child.communicate(b"x", timeout=60)
    assert (child.returncode, said) == (0, b"done\n")


def test_a_log_on_a_full_disk_ends_nothing() -> None:
    """It is told once, on standard error, and the command goes on."""
    with open("/dev/full", "wb") as full:
        child = subprocess.run(
            [sys.executable, "-c", OUTLIVE], input=b"x", stdout=full, stderr=subprocess.PIPE, check=False
        )
    told = b"standard output cannot be written: No space left on device; the run goes on without it\ndone\n"
    assert (child.returncode, child.stderr) == (0, told)


def test_a_terminal_that_is_closed_ends_nothing() -> None:
    """Neither what is printed nor an error has anywhere to go; the code is that of the command."""
    ours, theirs = os.openpty()
    child = subprocess.Popen([sys.executable, "-c", OUTLIVE], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    child.communicate(b"x", timeout=60)
    assert child.returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_on_a_full_disk_is_named(unbuffered: str) -> None:
    """By a command that does nothing but print: one line and 75, whether its output is buffered or not."""
    command = [sys.executable, "-m", "bagpipe", "version"]
    with open("/dev/full", "wb") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        child = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    told = b"error: standard output: No space left on device; free some space and try again\n"
    assert (child.returncode, child.stderr) == (75, told)


def test_a_command_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    """What needs no relative path runs; what does says so in one line."""
    (tmp_path / "gone").mkdir()
    for arguments, expected in (("version", (0, "")), ("run x.yaml --check", (78, "error: the current folder has "))):
        command = f'rmdir ../gone; "{sys.executable}" -m bagpipe {arguments}; code=$?; mkdir ../gone; exit $code'
        child = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
        )
        assert child.returncode == expected[0] and child.stderr.startswith(expected[1])
        assert child.stderr.count("\n") == bool(expected[1])


def test_scores_under_a_name_of_another_form_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file called q.csv that holds Parquet would be opened by what reads CSV."""
    out = tmp_path / "q.csv"
    assert cli.run_command(["predict", str(tmp_path), "--data", "rows.csv", "--out", str(out)]) == 78
    assert capsys.readouterr().err == f"error: {out}: scores are written as Parquet; name it {tmp_path / 'q.parquet'}\n"
    assert not out.exists()
    assert cli.run_command(["predict", str(tmp_path), "--data", "rows.csv", "--out", "-"]) == 78
    assert capsys.readouterr().err.startswith("error: --out -: scores are written as a Parquet file; name one")
    assert cli.run_command(["export", str(tmp_path), "--table", "item", "--to", str(out)]) == 78
    assert capsys.readouterr().err == f"error: {out}: rows are written as Parquet; name it {tmp_path / 'q.parquet'}\n"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("init rows.csv --out {}", "job.yaml"),
        ("predict run --data rows.csv --out {}", "scores"),
        ("export run --table item --to {}", "items"),
        ("experiment six-models --models wdl,dcn --write-jobs {}/..", "dcn.yaml"),
    ],
)
def test_no_command_replaces_a_file_unless_it_is_allowed_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    """The file is as it was, and the line names what allows it; then the command goes on."""
    (tmp_path / "jobs").mkdir()
    theirs = tmp_path / ("jobs" if "jobs" in command else "") / name
    theirs.write_text("theirs")
    given = command.replace("{}/..", str(theirs.parent)).replace("{}", str(theirs)).split()
    assert cli.run_command(given) == 78
    told = capsys.readouterr().err
    assert told.startswith(f"error: {theirs}: exists already; choose another name") and told.count("\n") == 1
    assert told.endswith("or allow --overwrite\n") and theirs.read_text() == "theirs"
    assert [path.name for path in theirs.parent.iterdir() if path.is_file()] == [name]
    code = cli.run_command([*given, "--overwrite"])
    assert "exists already" not in capsys.readouterr().err
    assert (code == 0) == (theirs.read_text() != "theirs")


def test_what_is_replaced_must_have_been_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--overwrite` beside what it has no effect on."""
    assert cli.run_command(["export", str(tmp_path), str(tmp_path / "model"), "--overwrite"]) == 78
    assert capsys.readouterr().err.startswith("error: --overwrite: is for --table")
    assert cli.run_command(["experiment", "six-models", "--overwrite"]) == 78
    assert capsys.readouterr().err.startswith("error: --overwrite: is for --write-jobs")


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), zmq.ZMQError(errno.EMFILE)], ids=["a map", "a socket"]
)
def test_a_limit_of_open_files_is_named_whoever_meets_it(error: Exception) -> None:
    failure = failure_of(error, role="server")
    assert failure.code == 78  # The next attempt has the same limit.
    assert re.search(
        r"^at .*: Too many open files; raise the limit of open files \(ulimit -n\), [\d,]+ here$", failure.message
    )


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("ascii", b"\\u732b"), ("latin-1:surrogateescape", b"\\u732b"), ("utf-8:strict", "猫".encode())],
)
def test_a_letter_that_the_terminal_lacks_is_printed_escaped(encoding: str, printed: bytes) -> None:
    """A log line or a name may hold any letter; where standard output's encoding lacks it, that was "a bug"."""
    code = "from bagpipe.cli.output import name_stdout; name_stdout(); print('\\u732b')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout.strip() == printed
