"""Atomic file replacement: a reader finds the old content or the new one, never a part of it.

The content is written to a draft beside the file, flushed to the disk, and renamed; then the folder is flushed,
so that a rename that was seen survives a crash of the machine. A failure removes the draft.
"""

import errno
import fcntl
import os
import re
import resource
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bagpipe.errors import ConfigError, ExitCode, StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.wording import space

NOT_ALLOWED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
)
"""Errors of a place that the user has chosen wrongly. Trying again does not help before it is changed."""
_FOR_GOOD = frozenset(
    {
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENOMEM,
    }
)
"""A file where a folder is expected, or the reverse, or a limit of this process: no later attempt does better."""
_NOT_THE_FILE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM}
)
"""Errors that say nothing of the file that was to be read."""
_MORE_MEMORY = (
    "use smaller tables or more embedding servers, "
    "or raise the limit (the container's memory, vm.max_map_count, ulimit -v)"
)


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by a file of this content.

    Raises:
        StorageError: it cannot be written; an older file of that name is as it was.
    """
    with replacing_file(path, needs=len(content)) as draft:
        draft.write(content)


@contextmanager
def replacing_file(path: Path, *, needs: int | None = None) -> Iterator[BinaryIO]:
    """A draft that the body fills and that takes the name `path` when the body ends without an error.

    A link stays one: what it points to is replaced, or made.

    Args:
        needs: bytes of the whole file, for the message that a disk has no room for it; None: not known before.

    Raises:
        StorageError: an OSError of the body or of the replacement; an older file of that name is as it was. Or there is
            a device or a pipe of that name, which is never replaced by a file.
    """
    asked, path = path, Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        # Where `/dev/stdout` leads may have no name. Before the body, which may take hours.
        _check_is_a_file(path if path.exists() else asked)
        crash_points.passed(f"draft of {path.suffix or path.name}")
        draft, file = _open_draft(path)
        with file:  # Its lock is held until the draft has become the file, or is gone.
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                crash_points.passed(f"rename to {path.suffix or path.name}")
                os.replace(draft, path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        crash_points.passed(f"flush of {path.suffix or path.name}")
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needs=needs) from None


def _check_is_a_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            refused = StorageError(f"{path}: a device or a pipe, which no file ever replaces; choose another name")
            refused.exit_code = ExitCode.BAD_CONFIG
            raise refused


def _open_draft(path: Path) -> tuple[Path, BinaryIO]:
    """An empty draft that no other process writes, and its name.

    The name is the same each time, so that the draft of a process that was killed is used again; where another process
    is writing the same file now, it is a name of this one's own.
    """
    draft = path.with_name(f".{path.name}.tmp")
    while True:
        # Not emptied yet: it may be another process's, which is known only once it is open.
        file = os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "w+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            continue
        except OSError:  # A disk without locks: a first writer is not seen.
            pass
        if _is_at(file, draft):
            file.truncate()
            return draft, file
        file.close()  # It has become the file of another process meanwhile.


def refuse_existing(path: Path, *, overwrite: bool, option: str = "") -> None:
    """Refuse to replace a file that is there, before anything is done.

    Args:
        overwrite: whether the user has allowed it.
        option: by which the file was named, where there is a name that nobody gave.

    Raises:
        ConfigError: it is there, and may not be replaced.
    """
    if path.exists() and not overwrite:
        another = f"choose another name with {option}" if option else "choose another name"
        raise ConfigError(f"{path}: exists already; {another}, or allow --overwrite")


def drafts_of(files: str) -> re.Pattern[str]:
    """Matches the names that `replacing_file` gives drafts of the files whose names match `files`, and no others.

    Other programs name their own drafts `.something.tmp` too, so a pattern for those of any file would take theirs.
    """
    return re.compile(rf"\.(?:{files})(?:\.[0-9a-f]{{8}})?\.tmp")


def remove_drafts(folder: Path, files: str) -> None:
    """Remove the drafts that killed processes have left of the files whose names match `files`, a regular expression.

    One that a process is writing now stays, and so does one that cannot be removed.
    """
    pattern = drafts_of(files)
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if pattern.fullmatch(path.name)]:
            with suppress(OSError):
                _remove_unless_written(path)


def _remove_unless_written(draft: Path) -> None:
    """Raises:
    OSError: it is being written, is no file, or may not be removed.
    """
    if not stat.S_ISREG(draft.lstat().st_mode):
        return
    with os.fdopen(os.open(draft, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # A disk without locks: the name says enough, for the folder is the caller's.
            pass
        if _is_at(file, draft):
            draft.unlink()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        StorageError: it cannot be made, or a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError, *, needs: int | None = None) -> StorageError:
    """What the user is told when the system refuses to write `path`; its exit code is 78 where no retry can help.

    Args:
        needs: bytes that were to be written, where they are known.
    """
    room = _room(path, error, needs)
    return refused(f"{path}: cannot be written", error, "check the folder and its permissions", room=room)


def cannot_read(path: Path | str, error: OSError, *, then: str = "") -> StorageError:
    """What the user is told when the system refuses to read `path`; its exit code is 78 where no retry can help.

    Args:
        then: how the run goes on by itself; left out where no retry can help.
    """
    return refused(f"{path}: cannot be read", error, "mend that and try again", then=then)


def raise_unless_file_at_fault(path: Path, error: BaseException) -> None:
    """Let an error pass that may mean that the file is damaged or missing, and refuse one that says nothing of it.

    A sound file must not count as damaged because the system did not let this process read it.

    Raises:
        StorageError: the error is about this process, its rights or the machine; with exit code 78 for rights and
            limits, because no retry gives them.
    """
    if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
        found = cannot_read(path, error)
        if error.errno in NOT_ALLOWED:
            found.exit_code = ExitCode.BAD_CONFIG
        raise found from None


def refused(what: str, error: OSError, otherwise: str = "", *, then: str = "", room: str = "") -> StorageError:
    """`what: the system's words; what to do`, with exit code 78 where no later attempt does better.

    Args:
        otherwise: what to do where `how_to_mend` does not know it.
        then: what the run does by itself instead; left out where that cannot help.
        room: follows the system's words, such as ` (12 KiB needed, 4 KiB free)`.
    """
    for_good = error.errno in _FOR_GOOD
    then = "" if for_good else then
    remedy = how_to_mend(error) or ("" if then else otherwise)
    found = StorageError("; ".join(filter(None, (f"{what}: {error.strerror or error}{room}", remedy, then))))
    if for_good:
        found.exit_code = ExitCode.BAD_CONFIG
    return found


def how_to_mend(error: OSError) -> str:
    """What to do about a refusal for want of room, descriptors or memory; empty: it has another reason.

    A limit of this process (`ulimit`) is one of the next attempt too, so it is named with its value.
    """
    match error.errno:
        case errno.ENOSPC:
            return "free some space and try again"
        case errno.EDQUOT:
            return "free some of the quota and try again"
        case errno.EMFILE:
            return f"raise the limit of open files (ulimit -n), {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} here"
        case errno.ENFILE:
            return "every program of this machine together has too many files open; end some, or raise fs.file-max"
        case errno.ENOMEM:
            return _MORE_MEMORY
        case errno.EFBIG if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
            return f"raise the limit of a file's size (ulimit -f), {space(limit)} here"
        case errno.EFBIG:
            return "its disk holds no file of that size; choose a folder on another one"
        case _:
            return ""


def _room(path: Path, error: OSError, needs: int | None) -> str:
    """` (12 KiB needed, 4 KiB free)`; empty where the disk is not full, or does not tell."""
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    free = free_bytes(there) if error.errno == errno.ENOSPC and there is not None else None
    if free is None:
        return ""
    return f" ({space(needs)} needed, {space(free)} free)" if needs is not None else f" ({space(free)} free)"


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may still write on the folder's disk; None where the system does not tell."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_files and not found.f_favail:
        return 0  # There is room, but for no further file.
    return found.f_bavail * found.f_frsize


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
