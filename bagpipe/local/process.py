"""One role as a child process: its log, its exit code, and the error in its log."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from bagpipe.errors import ExitCode
from bagpipe.local.policy import RoleId
from bagpipe.lowlevel.atomic_files import NOT_ALLOWED, cannot_write, refused

LAUNCHER = Path(__file__).with_name("child.py")
LAST_BYTES = 64 * 1024
LAST_LINES = 1000
ERROR = "error: "
TRACEBACK = "Traceback (most recent call last)"
_PROGRESS = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ \w+( \d+)? (DEBUG|INFO) ")
"""How a log's line of what went well begins (`log_to_stderr` in role_process.py)."""
_FRAME = re.compile(r'  File "(.+)", line (\d+)')


class Process(Protocol):
    """What a child needs of its process, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Child:
    """A running role. It has a process group of its own: Ctrl-C on the terminal reaches only the supervisor."""

    def __init__(
        self, role: RoleId, command: Sequence[str], log: Path, *, heading: str, environment: Mapping[str, str]
    ) -> None:
        self.role, self.log = role, log
        self._process: Process
        try:
            with log.open("a", encoding="utf-8") as output:
                output.write(f"── {heading}\n")
                output.flush()
                self._process = _start(role, command, output, environment)
        except OSError as error:
            found = cannot_write(log, error)
            if error.errno in NOT_ALLOWED:
                found.exit_code = ExitCode.BAD_CONFIG
            raise found from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.role}, pid {self.pid}, {self.poll()})"

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal), else None."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended.

        Raises:
            TimeoutExpired: it runs longer.
        """
        return self._process.wait(seconds)

    def terminate(self) -> None:
        """Ask it to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass  # it ended between the question and the signal


def _start(role: RoleId, command: Sequence[str], output: TextIO, environment: Mapping[str, str]) -> Process:
    """A process of this command that writes to `output`."""
    try:
        return subprocess.Popen(
            [sys.executable, "-S", "-E", str(LAUNCHER), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
        )
    except OSError as error:
        raise refused(f"cannot start {role}: {sys.executable}", error) from None


def last_lines(log: Path, count: int) -> list[str]:
    """The end of a log, since the role was last started."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LAST_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    headings = [number for number, line in enumerate(lines) if line.startswith("── ")]
    return lines[headings[-1] + 1 :][-count:] if headings else lines[-count:]


def last_error(log: Path) -> str | None:
    """The error that ended the role, by its log (see `error_in`); None: the log names none."""
    return error_in(last_lines(log, LAST_LINES))


def tells_progress(line: str) -> bool:
    """Whether a line of a log says what went well, and so never why its role ended."""
    return _PROGRESS.match(line) is not None


def error_in(lines: Sequence[str]) -> str | None:
    """The last line `error: ...` without that word; else the exception of the last traceback, in one line.

    Of an exception whose text has many lines the first is returned, because it says most.
    """
    said = [line for line in lines if line.startswith(ERROR)]
    if said:
        return said[-1].removeprefix(ERROR)
    begins = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    if not begins:
        return None
    place, exception = "", ""
    for line in lines[begins[-1] + 1 :]:
        if match := _FRAME.match(line):
            place = f"{match[1]}:{match[2]}"
        elif line and not line.startswith(" "):
            exception = line.strip()
            break
    return f"{place}: {exception}" if exception else None
