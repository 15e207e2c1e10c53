"""Gives a folder one owner: a run directory, or a folder of checkpoints. A second owner is refused, and told the first.

The owner writes `.owner.json`, its mark, into the folder, holds a lock on it (`flock`) and renews the file's time. A
dead owner does not block the folder. On the same machine the kernel releases its lock. Where locks may not reach, from
another machine that shares the disk or on a disk without locks, its mark expires when it has not been renewed for
`LEASE_SECONDS`. Ages are taken from the disk's own clock. Host names do not tell machines apart (pods, `localhost`), so
the mark also names the host's boot.

`judge` decides; `Lease` opens, locks and writes.
"""

import fcntl
import json
import os
import socket
import tempfile
import threading
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from bagpipe.errors import ConfigError
from bagpipe.lowlevel.atomic_files import NOT_ALLOWED, cannot_write
from bagpipe.lowlevel.strict_json import encode

FILE_NAME = ".owner.json"
RENEW_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""An owner whose lock could not be seen, and that has not renewed its mark for so long, is dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a folder, for people and for comparison."""

    name: str
    """For example `run demo in /x/runs/demo`."""
    host: str
    pid: int
    started: str
    """Local time, ISO 8601."""
    boot: str
    """Identifier of the host's boot: after a reboot, a process with the same pid is another one."""

    @classmethod
    def here(cls, name: str, now: datetime) -> "Owner":
        return cls(name, socket.gethostname(), os.getpid(), now.isoformat(timespec="seconds"), _boot_id())

    def __str__(self) -> str:
        return f"{self.name} (host {self.host}, pid {self.pid}, since {self.started})"


@dataclass(frozen=True, slots=True)
class Taken:
    """The folder has another owner, which is alive as far as can be told."""

    owner: Owner | None
    """None: locked, but its mark cannot be read."""
    free_in_seconds: float | None
    """When the owner counts as dead if it does not renew its mark until then; None: as soon as it ends."""


@dataclass(frozen=True, slots=True)
class Free:
    """The folder may be taken; `left_by` died without releasing it."""

    left_by: Owner | None


def judge(found: Owner | None, us: Owner, *, locked: bool | None, age_seconds: float) -> Taken | Free:
    """Whether a folder may be taken. Pure.

    Args:
        found: the owner that its mark names.
        locked: whether another process holds the lock; None: the disk has no locks.
        age_seconds: since the mark was renewed.
    """
    if locked:
        return Taken(found, None)
    if found is None:
        return Free(None)
    # On a disk with locks, those of this machine's processes are visible: an owner on this machine without one is dead.
    seen = locked is not None and (found.host, found.boot) == (us.host, us.boot)
    if seen or age_seconds > LEASE_SECONDS:
        return Free(found)
    return Taken(found, LEASE_SECONDS - max(age_seconds, 0.0))


class Lease:
    """A folder that this process owns until it is closed, or ends. A fork of the process owns nothing."""

    def __init__(self, folder: Path, owner: Owner, descriptor: int, left_by: Owner | None) -> None:
        self.folder, self.owner, self.left_by = folder, owner, left_by
        self.lost = ""
        """Why the folder is not ours any more; empty: it is."""
        self._descriptor = descriptor
        # Open, so that no folder that is made in its place is taken for it.
        self._opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            os.close(self._opened)
            raise
        _held.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def take(cls, folder: Path, what: str, owner: Owner) -> "Lease":
        """Own this folder.

        Args:
            what: how the user named it, for the message: `spec.checkpoint.path`.

        Raises:
            ConfigError: it has another owner, which is named; or its mark may not be written.
            StorageError: its mark cannot be written now.
        """
        path = folder / FILE_NAME
        try:
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    verdict = _look(descriptor, path, owner)
                    if verdict is None:  # its owner has released it meanwhile
                        os.close(descriptor)
                        continue
                    if isinstance(verdict, Free):
                        _write(descriptor, owner)
                        return cls(folder, owner, descriptor, verdict.left_by)
                except BaseException:
                    _forsake(descriptor, path, owner)
                    raise
                os.close(descriptor)
                raise ConfigError(f"{what}: {folder} is in use by {_in_words(verdict)}")
        except OSError as error:
            if error.errno in NOT_ALLOWED:
                raise ConfigError(
                    f"{what}: {path}: cannot be used: {error.strerror}; correct that, or choose another folder"
                ) from None
            raise cannot_write(path, error) from None

    def still_ours(self) -> bool:
        """Whether no other owner has taken the folder since, even if it has released it again."""
        if self._descriptor < 0:
            return not self.lost
        path = self.folder / FILE_NAME
        try:
            same_file = os.stat(path).st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            same_file = False
        except OSError:  # A disk that refuses now may answer the next time.
            return not self.lost
        found = _read(path)
        if same_file and (found is None or found == self.owner):
            return not self.lost
        if not self._is_in_place():
            self.lost = f"{self.folder} was removed or renamed while this run used it; this run ends"
            return False
        other = found is not None and found != self.owner
        by = f"by {found}, which goes on" if other else "by another run, which has ended"
        self.lost = f"{self.folder} was taken {by}, because this run gave no sign of life for too long; this run ends"
        return False

    def _is_in_place(self) -> bool:
        """Whether the folder that was taken still has its name."""
        try:
            return os.path.samestat(os.stat(self.folder), os.fstat(self._opened))
        except OSError:
            return False

    def close(self) -> None:
        """Release the folder, and remove the mark. Closing again does nothing, nor does closing it in a fork."""
        if self._descriptor < 0 or self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        if self.still_ours():
            with suppress(OSError):
                os.unlink(self.folder / FILE_NAME)
        _held.discard(self)
        os.close(self._descriptor)
        os.close(self._opened)

    def leave_to_parent(self) -> None:
        """This process is a fork of the owner: give back what it inherited, so that its life prolongs no lock."""
        self.lost = f"{self.folder} belongs to the process of which this one is a fork"
        os.close(self._descriptor)
        os.close(self._opened)
        self._descriptor = -1

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            if not self.still_ours():
                return
            with suppress(OSError):  # A disk that refuses now may take the next one.
                os.utime(self._descriptor)


_held: weakref.WeakSet[Lease] = weakref.WeakSet()
"""The leases of this process that are not closed."""


def _leave_all_to_parent() -> None:
    for lease in list(_held):
        lease.leave_to_parent()
    _held.clear()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def _look(descriptor: int, path: Path, us: Owner) -> Taken | Free | None:
    """None: the file is not the one at `path` any more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked: bool | None = False
    except BlockingIOError:
        locked = True
    except OSError:  # A disk without locks: its mark's age decides.
        locked = None
    try:
        if os.stat(path).st_ino != os.fstat(descriptor).st_ino:
            return None
    except FileNotFoundError:
        return None
    found, age = _read(path), 0.0
    if found is not None and not locked:
        age = _disk_time(path.parent) - os.fstat(descriptor).st_mtime
        if age < 0.0:  # The clock was set back since. A mark that is dated ahead would not expire for so long.
            os.utime(descriptor)
    return judge(found, us, locked=locked, age_seconds=age)


def _forsake(descriptor: int, path: Path, us: Owner) -> None:
    """Close the mark of a folder that could not be taken; remove it if it names nobody but us, and nobody holds it."""
    with suppress(OSError):
        if _read(path) != us:  # On a disk without locks, our own name is proof enough.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(descriptor).st_size == 0 or _read(path) == us
        if ours and os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()
    os.close(descriptor)


def _disk_time(folder: Path) -> float:
    """The present time by the clock of this folder's disk, which may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
        probe.write(b"x")
        probe.flush()
        return os.fstat(probe.fileno()).st_mtime


def _write(descriptor: int, owner: Owner) -> None:
    content = encode(asdict(owner), indent=1).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.fsync(descriptor)


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _in_words(taken: Taken) -> str:
    who = str(taken.owner) if taken.owner is not None else "another run"
    if taken.free_in_seconds is None:
        return f"{who}; wait for its end or choose another"
    left = f"{taken.free_in_seconds:.0f} s"
    return f"{who}; if that is dead, the folder is free in {left}; wait for its end or choose another"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
