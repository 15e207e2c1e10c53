"""A folder has one owner, whose name the second one is told; a dead owner keeps nothing."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.errors import ConfigError, StorageError
from bagpipe.lowlevel import lease
from bagpipe.lowlevel.lease import FILE_NAME, LEASE_SECONDS, Free, Lease, Owner, Taken, judge

US = Owner("run b in /b", "here", 2, "2026-01-02T03:04:05", "boot")
THEM = Owner("run a in /a", "there", 1, "2026-01-02T03:04:05", "boot")

HOLD = """
import sys
from datetime import datetime
from pathlib import Path
from bagpipe.lowlevel.lease import Lease, Owner
held = Lease.take(Path(sys.argv[1]), "here", Owner.here("run first in /first", datetime.now()))
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """Another process that owns a folder until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


HOLD_AND_FORK = """
import os
if os.fork():
    os._exit(0)
assert not held.still_ours() and "fork" in held.lost
held.close()
print("left", flush=True)
sys.stdin.read()
"""


def second(folder: Path) -> Lease:
    return Lease.take(folder, "spec.checkpoint.path", Owner.here("run second in /second", datetime.now()))


HERE = replace(THEM, host="here")


@given(
    st.sampled_from([None, THEM, HERE, replace(HERE, boot="another")]),
    st.sampled_from([True, False, None]),
    st.floats(-10, 10 * LEASE_SECONDS, allow_nan=False),
)
def test_only_the_dead_are_succeeded(found: Owner | None, locked: bool | None, age: float) -> None:
    """A lock that is held refuses; one that would be seen and is not held frees; otherwise the mark must be old."""
    verdict = judge(found, US, locked=locked, age_seconds=age)
    if locked:
        assert verdict == Taken(found, None)
    elif found is None or age > LEASE_SECONDS or (found is HERE and locked is False):
        assert verdict == Free(found)
    else:
        assert isinstance(verdict, Taken) and verdict.free_in_seconds is not None
        assert 0 <= verdict.free_in_seconds <= LEASE_SECONDS


def test_a_disk_without_locks_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked, a fresh mark refuses the second, also on the same machine."""

    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lease.fcntl, "flock", refuses)
    with second(tmp_path), pytest.raises(ConfigError, match="in use by run second"):
        second(tmp_path)


def test_a_folder_that_another_took_and_left_is_lost(tmp_path: Path) -> None:
    """The folder stays lost to its first run although the run that took it meanwhile has removed its mark again."""
    with second(tmp_path) as held:
        (tmp_path / FILE_NAME).unlink()
        assert not held.still_ours() and "by another run, which has ended" in held.lost
        with second(tmp_path):
            held.close()
            assert (tmp_path / FILE_NAME).exists()


def test_the_second_is_refused_by_the_firsts_name(tmp_path: Path) -> None:
    """While another process owns a folder, the second is told its name, host, process and time; then it is free."""
    process = holder(tmp_path)
    with pytest.raises(ConfigError) as refused:
        second(tmp_path)
    for part in ("spec.checkpoint.path", "run first in /first", f"pid {process.pid}", "since 20", os.uname().nodename):
        assert part in str(refused.value)
    process.communicate(b"")
    second(tmp_path).close()
    process.stdin = process.stdout = None


def test_a_killed_owner_keeps_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves a mark; the next one takes the folder at once, says whose it was, and leaves no mark itself."""
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with second(tmp_path) as taken:
        assert taken.left_by is not None and taken.left_by.pid == process.pid
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert list(tmp_path.iterdir()) == []


def test_a_fork_of_the_owner_owns_nothing(tmp_path: Path) -> None:
    """It neither releases the folder, nor keeps it from the next one when the owner has ended before it."""
    program = HOLD.replace("sys.stdin.read()\n", HOLD_AND_FORK)
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.wait(60) == 0
        assert [process.stdout.readline() for _ in range(2)] == [b"held\n", b"left\n"]
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
        with second(tmp_path) as taken:
            assert taken.left_by is not None and taken.left_by.pid == process.pid


def test_an_owner_on_another_host_lives_as_long_as_it_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock cannot be seen from here: a fresh mark refuses, and one that was not renewed for a while does not."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 3600.0)  # It would renew between the two lines that age its mark.
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(lease.socket, "gethostname", lambda: "elsewhere")
        first = Lease.take(tmp_path, "here", Owner.here("run first in /first", datetime.now()))
    lease.fcntl.flock(first._descriptor, lease.fcntl.LOCK_UN)
    with pytest.raises(ConfigError, match=r"run first in /first \(host elsewhere.*free in \d+ s"):
        second(tmp_path)
    old = os.stat(tmp_path / FILE_NAME).st_mtime - LEASE_SECONDS - 1
    os.utime(tmp_path / FILE_NAME, (old, old))
    with second(tmp_path):
        first.close()  # the first one's end takes nothing from the second
        assert (tmp_path / FILE_NAME).exists()


def test_a_mark_from_the_future_expires_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead owner's mark, left before the clock was set back by hours, keeps the folder for a minute."""
    (tmp_path / FILE_NAME).write_text(lease.encode(lease.asdict(THEM)))
    ahead = os.stat(tmp_path / FILE_NAME).st_mtime + 5 * 3600
    os.utime(tmp_path / FILE_NAME, (ahead, ahead))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"host there.*; if that is dead, the folder is free in 60 s"):
            second(tmp_path)
    assert os.stat(tmp_path / FILE_NAME).st_mtime < ahead - 4 * 3600
    now = lease._disk_time
    monkeypatch.setattr(lease, "_disk_time", lambda folder: now(folder) + LEASE_SECONDS + 1)
    second(tmp_path).close()


@pytest.mark.parametrize("content", [b"", b'{"name": "run a in', b"[]", b"\xff\x00", b'{"name": 1}'])
def test_a_mark_that_cannot_be_read_names_nobody(tmp_path: Path, content: bytes) -> None:
    """After half a mark of a machine that lost its power the next run takes the folder at once."""
    (tmp_path / FILE_NAME).write_bytes(content)
    second(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_mark_that_may_not_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    """A folder in its place: one line with the path, and exit code 78, for trying again changes nothing."""
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match=r"spec.checkpoint.path: .*\.owner\.json: cannot be used: Is a directory; "):
        second(tmp_path)


def test_a_full_disk_leaves_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is removed, and the next one finds an empty folder."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease.os, "pwrite", full)
    with pytest.raises(StorageError, match=r"No space left on device( \(.* free\))?; free some space"):
        second(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("locks", [True, False])
def test_an_owner_that_cannot_renew_its_mark_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    """Where no thread can be started: the mark would keep the next run out for a minute on a disk without locks."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    before = len(os.listdir("/proc/self/fd"))
    if not locks:
        monkeypatch.setattr(lease.fcntl, "flock", no_locks)
    with monkeypatch.context() as patched:
        patched.setattr(lease.threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            second(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    second(tmp_path).close()


@pytest.mark.parametrize("made_again", [True, False])
def test_a_folder_that_is_removed_is_not_said_to_be_taken(tmp_path: Path, made_again: bool) -> None:
    """A run whose directory was deleted under it does not speak of another run, also if a role has made it again."""
    (folder := tmp_path / "run").mkdir()
    with second(folder) as held:
        (folder / FILE_NAME).unlink()
        folder.rmdir()
        if made_again:
            folder.mkdir()
        assert not held.still_ours()
        assert held.lost == f"{folder} was removed or renamed while this run used it; this run ends"


def test_a_run_that_was_succeeded_learns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that gave no sign for too long finds another name in its folder, and does not go on."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    with second(tmp_path) as held:
        assert held.lost == ""
        descriptor = os.open(tmp_path / FILE_NAME, os.O_RDWR)
        lease._write(descriptor, THEM)
        os.close(descriptor)
        held._thread.join(10)
        assert "was taken by run a in /a" in held.lost


@pytest.mark.parametrize("mark", [b"", b"{", b"[]", b"\xff\xfe", bytes(4096), b"[" * 200_000, b'{"name": 1}'])
def test_a_mark_that_a_disk_has_damaged_blocks_nobody(tmp_path: Path, mark: bytes) -> None:
    """It names nobody, and nobody holds its lock: the folder is free, whatever the bytes are."""
    (tmp_path / FILE_NAME).write_bytes(mark)
    with second(tmp_path) as held:
        assert held.left_by is None and held.still_ours()
    assert not (tmp_path / FILE_NAME).exists()
