"""Disks that fail and clocks that jump under a run whose roles are forks of this process (`forked_child.py`).

    full        the run directory, a disk of its own, is filled to the last byte
    read-only   a part of the run directory becomes read-only for every file that is not open yet
    torn        no file of a role grows beyond so many bytes: the write that crosses them is cut there and refused
    slow        every flush, rename and reservation of a role's files takes a second longer
    clock       `time.time` of a role jumps

The first two are mounts in a namespace of this process's own and need root; `torn` is the kernel's limit of a file's
size. For the last two the functions are replaced before the roles are forked.
"""

import errno
import mmap
import os
import resource
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from typing import Any

from bagpipe.lowlevel.clock import SYSTEM_CLOCK

CLONE_NEWNS = 0x00020000
ON_A_DISK = ("full", "read-only")
OF_THE_MACHINE = (*ON_A_DISK, "torn", "slow", "clock")
EVERYONE = "every role"
DISK_MIB = 16
SLOW_SECONDS = 1.0
FILLER = "filler"


class Switch:
    """A number that this process sets and its forks see: of one of them, or of all."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def turn(self, number: float, pid: int) -> None:
        """Set it for the fork with this pid; 0: for all processes."""
        struct.pack_into("dq", self._memory, 0, number, pid)

    def here(self) -> float:
        """What it is for this process."""
        number, pid = struct.unpack_from("dq", self._memory)
        return float(number) if pid in (0, os.getpid()) else 0.0


class Machine:
    """The disk and the clock of one run, and what becomes of them.

    Args:
        what, where: the fault, and the role or the folder that it happens to.
        seconds: after how long a disk is as before; 0: never. Of `clock`: by how much it jumps.
        num_bytes: of `torn`.
    """

    def __init__(self, what: str, where: str, folder: Path, *, seconds: float, num_bytes: int) -> None:
        self._what, self._where, self._folder = what, where, folder
        self._seconds, self._num_bytes = seconds, num_bytes
        self._switch = Switch()
        self._undoing: subprocess.Popen[bytes] | None = None
        """Makes the disk as before, in time."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Around the run: what the fault needs is there before the first role is forked."""
        self._switch.turn(0.0, 0)
        if self._what in ON_A_DISK:
            enter_own_mounts()
            self._folder.mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(self._folder))
        replaced = self._replacements()
        before = {(place, name): getattr(place, name) for place, name in replaced}
        for (place, name), function in replaced.items():
            setattr(place, name, function)
        try:
            yield
        finally:
            for (place, name), function in before.items():
                setattr(place, name, function)

    def begin(self, pids: Mapping[str, int]) -> None:
        """The fault happens now; `pids` by role."""
        match self._what:
            case "full":
                fill(self._folder / FILLER)
            case "read-only":
                place = str(self._place)
                _run("mount", "--bind", place, place)
                _run("mount", "-o", "remount,bind,ro", place)
            case "torn":
                limit = (self._num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
                resource.prlimit(pids[self._where], resource.RLIMIT_FSIZE, limit)
            case "slow":
                self._switch.turn(SLOW_SECONDS, pids.get(self._where, 0))
            case _:
                self._switch.turn(self._seconds, pids.get(self._where, 0))
        if self._what in ON_A_DISK and self._seconds:
            later = ["sh", "-c", f'sleep {self._seconds}; exec "$@"', "sh"]
            self._undoing = subprocess.Popen([*later, *self._undo()])

    def end(self) -> None:
        """The disk is as before, if need be after what is left of the fault's seconds."""
        if self._undoing is not None:
            self._undoing.wait()
        elif self._what in ON_A_DISK:
            _run(*self._undo())

    def leave(self) -> None:
        """Remove the disk and all that is on it."""
        if self._undoing is not None:
            self._undoing.kill()
            self._undoing.wait()
        if self._what in ON_A_DISK:  # What became read-only is mounted once more, over it.
            _run("sh", "-c", 'while umount --lazy "$1" 2>/dev/null; do :; done', "sh", str(self._folder))

    @property
    def _place(self) -> Path:
        return self._folder / self._where if self._where == "checkpoints" else self._folder

    def _undo(self) -> list[str]:
        return ["rm", str(self._folder / FILLER)] if self._what == "full" else ["umount", "--lazy", str(self._place)]

    def _replacements(self) -> dict[tuple[Any, str], Callable[..., Any]]:
        if self._what == "clock":
            now = time.time
            return {(time, "time"): lambda: now() + self._switch.here()}
        if self._what == "slow":
            return {(os, name): self._later(getattr(os, name)) for name in ("fsync", "replace", "posix_fallocate")}
        return {}

    def _later(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if seconds := self._switch.here():
                SYSTEM_CLOCK.pause(seconds)
            return call(*arguments, **named)

        return called


def enter_own_mounts() -> None:
    """What this process and those it starts mount from now on is seen by no other (Linux, root)."""
    if CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise PermissionError("expected the right to mount disks (root)")
    _run("mount", "--make-rprivate", "/")


def fill(path: Path) -> None:
    """Write a file until its disk has no room for one more page."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(mmap.PAGESIZE))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
