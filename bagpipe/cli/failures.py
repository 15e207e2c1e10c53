"""Turns an exception at the top of a command into one line and an exit code. No other file decides this.

- `BagpipeError`: its own line and its own code.
- `OSError` of a path: one line with the path; 75 where trying again can help (a full or failing disk), else 78.
- A refusal of the system without a path (a disk, open files, memory), an `OSError` or a socket's: one line with the
  place in the code, and 75; 78 for a limit, which the next attempt would meet too.
- `FileNotFoundError` of no path: the current folder has been removed, or there is no temporary one.
- A thread that cannot be started: one line and 75. No place for compiled kernels: one line and 78.
- `MemoryError`: one line and 78, because the job's sizes do not fit into memory.
- Anything else is a bug of Bagpipe: 70 and one line with type, message and place; the traceback goes to a file, or, for
  a role, to its log.
"""

import errno
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import bagpipe
from bagpipe.config.paths import shown
from bagpipe.errors import BagpipeError, ExitCode
from bagpipe.lowlevel.atomic_files import how_to_mend, refused
from bagpipe.lowlevel.process_life import current_folder
from bagpipe.lowlevel.wording import text_of

INTERRUPTED = 130
RETRY = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENFILE, errno.EAGAIN))
"""Errors of the system that may pass."""
OF_DISKS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG))
"""What a disk says to a write into an open file, whose name Python does not know any more."""
OF_LIMITS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""What the system says to whoever opens a file or a socket, or maps memory, without a name."""
REMEDIES = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a part of this path is a file where a folder is expected; correct it",
    errno.EISDIR: "this is a folder where a file is expected; correct the path",
    errno.EACCES: "give this user the right, or choose another path",
    errno.EPERM: "give this user the right, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links form a circle; correct them",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A line for stderr, without its `error: `, and the exit code."""

    message: str
    code: int


def failure_of(error: BaseException, role: str | None = None) -> Failure:
    """The line and the exit code for an exception.

    Args:
        role: the command is a role of a job, whose stderr is its log; None for every other command.
    """
    if isinstance(error, BagpipeError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return _of_path(error)
    number = getattr(error, "errno", None)  # A socket's error has one too, and is no OSError.
    if number in OF_DISKS or number in OF_LIMITS:
        return _of_no_path(error, number)
    if isinstance(error, FileNotFoundError) and current_folder() is None:
        return Failure("the current folder has been removed; change to one that exists", ExitCode.BAD_CONFIG)
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # Python's own words
        return Failure("no temporary folder can be written to; name one in $TMPDIR", ExitCode.BAD_CONFIG)
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # Python's own words
        return Failure(
            "no more threads can be started here; raise the limit of processes (ulimit -u, or that of the container)",
            ExitCode.TRANSIENT,
        )
    if isinstance(error, RuntimeError) and str(error).startswith("cannot cache function"):  # numba's own words
        return Failure(
            "no folder can be written to for compiled kernels; name one in $NUMBA_CACHE_DIR", ExitCode.BAD_CONFIG
        )
    if isinstance(error, MemoryError):
        return Failure(
            f"not enough memory ({str(error) or 'nothing is left'}); lower the job's sizes or use a larger machine",
            ExitCode.BAD_CONFIG,
        )
    return _bug(error, role)


def _of_path(error: OSError) -> Failure:
    assert error.errno is not None
    path = error.filename2 if error.filename2 is not None else error.filename
    name = f"file descriptor {path}" if isinstance(path, int) else shown(os.fsdecode(path))
    code = ExitCode.TRANSIENT if error.errno in RETRY else ExitCode.BAD_CONFIG
    remedy = how_to_mend(error) or REMEDIES.get(error.errno, "correct the path, or choose another")
    return Failure(f"{name}: {error.strerror}; {remedy}", code)


def _of_no_path(error: BaseException, number: int) -> Failure:
    """What the system has refused without the name of a file."""
    where = f"{'a file that is written ' if number in OF_DISKS else ''}at {_place(error)}"
    otherwise = REMEDIES.get(number, "check the disks that this command uses")
    told = error if isinstance(error, OSError) else OSError(number, os.strerror(number))
    found = refused(where, told, otherwise)
    return Failure(str(found), found.exit_code)


def _bug(error: BaseException, role: str | None) -> Failure:
    text = "".join(traceback.format_exception(error))
    said = " ".join(text_of(error).split())
    what = (
        f"{type(error).__name__}: {said if len(said) <= 300 else said[:297] + '...'}" if said else type(error).__name__
    )
    if role is None:
        where = _written(text)
    else:
        sys.stderr.write(text)
        where = "stands above in this log"
    return Failure(
        f"a bug in Bagpipe: {what}, at {_place(error)}; please report it; the traceback {where}", ExitCode.SOFTWARE
    )


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is ours, else of the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    package = Path(bagpipe.__file__).parent
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    frame = (ours or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(package.parent) if path.is_relative_to(package) else path
    return f"{name}:{frame.lineno}"


def _written(text: str) -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="bagpipe-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError as error:
        return f"could not be written ({error.strerror})"
    return f"is in {file.name}"
