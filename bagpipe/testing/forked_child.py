"""Starts roles as forks of this process, which has loaded everything already: for sweeps of very many short runs.

A role is a process of its own as in `bagpipe run`, with its own log, signals and exit code; it only saves the seconds
in which an interpreter starts and imports torch. Use it from a program that does nothing else: a fork inherits
everything that is open, so this process must have no sockets and must not have used torch.
"""

import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from bagpipe.local.child import PR_SET_PDEATHSIG
from bagpipe.local.policy import RoleId
from bagpipe.local.process import Child

PR_SET_NAME = 15
LOADED = (
    "bagpipe.oracle.service.main",
    "bagpipe.embedding.server",
    "bagpipe.trainer.loop",
    "bagpipe.models.dlrm",
    "bagpipe.cli.main",
    "bagpipe.cli.oracle",
    "bagpipe.cli.server",
    "bagpipe.cli.trainer",
    "bagpipe.local.role_process",
    # What these import no sooner than they need it.
    "bagpipe.lowlevel.torch_compiler",
    "_cffi_backend",
    "numba.typed",
    "numpy.ctypeslib",
    "numpy.ma",
    "pydantic.type_adapter",
    "pydantic.types",
    "typer._adapters",
    "zoneinfo",
)


def preload() -> None:
    """Import what the roles import and load their compiled kernels: three quarters of a short run's work."""
    for name in LOADED:
        importlib.import_module(name)
    _load_kernels()
    gc.collect()
    gc.freeze()


def _load_kernels() -> None:
    """Every kernel that an earlier process has compiled and kept; others are compiled where they are called.

    numba returns a kept kernel for given types, but has no public way to list the types for which it has kept one.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("bagpipe.")]
    for kernel in {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}:
        index = getattr(vars(kernel)["_cache"], "_cache_file", None)
        for types, *_ in [] if index is None else list(index._load_index()):  # noqa: SLF001  # no other way to ask
            kernel.compile(types)


def end_with(parent: int) -> None:
    """Have the kernel kill this process, a fork of `parent`, when that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before the kernel knew whom to watch.
        os._exit(int(signal.SIGKILL) + 128)


class ForkedChild(Child):
    """A running role, by a fork."""

    def __init__(
        self, role: RoleId, command: Sequence[str], log: Path, *, heading: str, environment: Mapping[str, str]
    ) -> None:
        self.role, self.log = role, log
        self._code: int | None = None
        arguments = list(command[command.index("bagpipe") + 1 :])
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            end_with(parent)
            _become(arguments, log, heading, environment)

    def __repr__(self) -> str:
        return f"ForkedChild({self.role}, pid {self.pid}, {self._code})"

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal), else None."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, and wait until it is gone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)


def _become(arguments: Sequence[str], log: Path, heading: str, environment: Mapping[str, str]) -> None:
    """Run the role's command in this process, and end it with the command's exit code."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        if sys.platform == "linux":  # So that tests, `top` and `ps -o comm` tell forks apart.
            ctypes.CDLL(None).prctl(PR_SET_NAME, arguments[0].encode())
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        _close_inherited()
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
        print(f"── {heading}", flush=True)
        os.environ.update(environment)
        # By its name: it is the program that the command line would start.
        code = importlib.import_module("bagpipe.cli.main").run_command(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _close_inherited() -> None:
    """What a command that is started by a user does not inherit either: the supervisor's lock of its run, above all.

    A lock is held until the last copy of its descriptor is closed, which may be after the supervisor has been killed.
    Files that nobody refers to any more are closed first: later they would close what has their numbers by then.
    """
    gc.collect()
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        if int(name) > 2:
            with suppress(OSError):  # The one that was open while the folder was listed.
                os.close(int(name))


def known_to(pids: dict[str, int], groups: Mapping[str, int] | None = None) -> type[ForkedChild]:
    """A class of forked children that put their pid into `pids`, by their role's name.

    Args:
        groups: by the role's name, the group (`setegid`) whose its sockets are, by which the kernel's packet filter
            knows them; needs root. None: they have this process's own.
    """

    class Known(ForkedChild):
        def __init__(
            self, role: RoleId, command: Sequence[str], log: Path, *, heading: str, environment: Mapping[str, str]
        ) -> None:
            ours = os.getegid()
            os.setegid((groups or {}).get(str(role), ours))
            try:
                super().__init__(role, command, log, heading=heading, environment=environment)
            finally:
                os.setegid(ours)
            pids[str(role)] = self.pid

    return Known
