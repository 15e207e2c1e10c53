"""The command line as forks of one process that has loaded everything: for tests that run many short jobs.

Three quarters of a short run is the start of interpreters that import torch. Here one process, the starter, does that
once; each command is a fork of it, and each role that a command starts is a fork of that command
(`forked_child.py`). They are processes of their own with their own logs, signals and exit codes, as in `bagpipe run`.
What a start itself does is tested with commands that are started as users start them.
"""

import atexit
import functools
import importlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from bagpipe.local.policy import RoleId
from bagpipe.local.process import Child
from bagpipe.local.supervisor import Supervisor

START_SECONDS = 120
"""Until the starter has loaded everything and a command has its pid."""


class WarmCommand:
    """A command that was started: as much of `subprocess.Popen` as tests need."""

    def __init__(self, pid: int, code: "Future[int]") -> None:
        self.pid, self._code = pid, code

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal), else None."""
        return self._code.result() if self._code.done() else None

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            TimeoutExpired: it runs for longer than `timeout` seconds.
        """
        try:
            return self._code.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(["bagpipe"], timeout or 0.0) from None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmStarter:
    """The starter, seen from a test."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._lock = threading.Lock()
        self._started: list[Future[int]] = []
        self._ended: dict[int, Future[int]] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self.close)

    def start(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        output: Path | None = None,
        errors: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> WarmCommand:
        """Start `bagpipe ARGUMENTS` in `folder` with these variables added to the environment.

        Args:
            output: the file that stdout is added to; None: it is dropped.
            errors: the same of stderr.
        """
        begun: Future[int] = Future()
        asked = {
            "arguments": list(arguments),
            "folder": str(folder or Path.cwd()),
            "files": [str(output or os.devnull), str(errors or os.devnull)],
            "environment": os.environ | dict(environment),
        }
        with self._lock:
            self._started.append(begun)
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(asked).decode() + "\n")
            self._process.stdin.flush()
        pid = begun.result(START_SECONDS)
        return WarmCommand(pid, self._ended[pid])

    def close(self) -> None:
        """End the starter, and with it whatever still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = msgspec.json.decode(line)
            if "code" in told:
                self._ended[told["pid"]].set_result(told["code"])
            else:
                self._ended[told["pid"]] = Future()
                with self._lock:
                    begun = self._started.pop(0)
                begun.set_result(told["pid"])
        with self._lock:
            left = [*self._started, *(code for code in self._ended.values() if not code.done())]
        for one in left:  # Else whoever waits for them would wait for ever.
            one.set_exception(RuntimeError("the starter has ended; its stderr says why"))


@functools.cache
def warm_starter() -> WarmStarter:
    """The one starter of this process; it ends when this process does."""
    return WarmStarter()


def run_warm(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `bagpipe ARGUMENTS` in `folder`, once it has ended."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        files = {"output": output, "errors": errors}
        code = warm_starter().start(arguments, folder=folder, environment=environment, **files).wait()
        return code, output.read_text(), errors.read_text()


class WarmRole(Child):
    """A running role that the starter forks: for tests whose own process has threads, so that it must not fork."""

    def __init__(
        self, role: RoleId, command: Sequence[str], log: Path, *, heading: str, environment: Mapping[str, str]
    ) -> None:
        self.role, self.log = role, log
        with log.open("a", encoding="utf-8") as output:
            output.write(f"── {heading}\n")
        arguments = list(command[command.index("bagpipe") + 1 :])
        self._process = warm_starter().start(arguments, output=log, errors=log, environment=environment)


@contextmanager
def warm_roles() -> Iterator[None]:
    """Every supervisor that is made meanwhile in this process has its roles started by the starter."""
    defaults = Supervisor.__init__.__kwdefaults__
    assert defaults is not None
    before = defaults["child"]
    defaults["child"] = WarmRole
    try:
        yield
    finally:
        defaults["child"] = before


def serve() -> None:
    """Fork a command for each line of stdin, and tell on stdout what was started and what has ended.

    It ends with stdin.
    """
    from bagpipe.testing.forked_child import preload

    preload()
    running: dict[int, int] = {}  # pidfd -> pid
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    unread = b""
    while True:
        for descriptor, _ in poll.poll():
            if descriptor:
                poll.unregister(descriptor)
                os.close(descriptor)
                pid = running.pop(descriptor)
                _, status = os.waitpid(pid, 0)
                _tell({"pid": pid, "code": os.waitstatus_to_exitcode(status)})
                continue
            read = os.read(0, 1 << 16)
            if not read:
                return
            *lines, unread = (unread + read).split(b"\n")
            for line in lines:
                pid = _fork(msgspec.json.decode(line))
                running[pidfd := os.pidfd_open(pid)] = pid
                poll.register(pidfd, select.POLLIN)
                _tell({"pid": pid})


def _tell(what: Mapping[str, Any]) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")


def _fork(asked: Mapping[str, Any]) -> int:
    """Start the command; returns its pid."""
    from bagpipe.testing.forked_child import end_with

    parent = os.getpid()
    pid = os.fork()
    if pid:
        with suppress(OSError):  # It has done so itself, and has ended.
            os.setpgid(pid, pid)
        return pid
    os.setpgid(0, 0)  # Here and there: whichever is first, it has a group of its own before anybody knows of it.
    end_with(parent)
    code = 70
    try:
        code = _become(asked)
    finally:
        os._exit(code)


def _become(asked: Mapping[str, Any]) -> int:
    """Run the command in this process, as if an interpreter had been started for it; returns its exit code."""
    from bagpipe.testing.forked_child import ForkedChild

    for descriptor, place in enumerate([os.devnull, *asked["files"]]):
        opened = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if os.environ.get("PYTHONWARNINGS") == "default":  # An interpreter would have read it when it started.
        warnings.simplefilter("default")
    sys.argv = ["bagpipe", *asked["arguments"]]
    given = asked["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in given if place and place not in sys.path]
    (Supervisor.__init__.__kwdefaults__ or {})["child"] = ForkedChild
    # By its name: it is the program that the command line would start.
    code: int = importlib.import_module("bagpipe.cli.main").run_command(asked["arguments"])
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    serve()
