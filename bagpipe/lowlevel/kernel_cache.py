"""Chooses where compiled kernels are kept, so that a process compiles only what no other has compiled before it.

numba keeps them in `$NUMBA_CACHE_DIR`, else beside the source, else in the user's cache, and refuses to compile where
it can write to none of these. Two cases need help:

- An image cannot be written to, so it brings its kernels in `$BAGPIPE_KERNELS` and each container copies them once, a
  few megabytes; without them every role compiles for up to half a minute at its first step.
- An installation that this user may not write to, and no home: then they are kept in a folder below the system's
  temporary one, or in memory where that cannot be written to either. The folder belongs to this user alone, because
  the files in it are code that is run.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder below it belongs to this user alone
"""Where the system's temporary folder cannot be written to either, as in a container that is read-only."""
SOURCE, TARGET = "BAGPIPE_KERNELS", "NUMBA_CACHE_DIR"
PACKAGE = Path(__file__).parent


def unpack_kernels(environment: MutableMapping[str, str] = os.environ) -> None:
    """Copy `$BAGPIPE_KERNELS` to `$NUMBA_CACHE_DIR` if that does not exist yet; if it fails, kernels are compiled."""
    source, target = environment.get(SOURCE), environment.get(TARGET)
    if not source or not target or Path(target).exists():
        return
    try:
        # Under another name first: a second process of the container must not see half of it.
        part = Path(f"{target}.{os.getpid()}")
        shutil.copytree(source, part)
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)


def choose_cache(environment: MutableMapping[str, str] = os.environ, package: Path = PACKAGE) -> None:
    """Name a folder in `$NUMBA_CACHE_DIR` where numba would find none by itself; called before numba is imported.

    Processes that this one starts inherit it. Where no folder at all can be written to, numba raises an error.
    """
    if environment.get(TARGET) or _writable(package) or _writable(_home_cache(environment)):
        return
    for place in (tempfile.gettempdir, lambda: SHARED_MEMORY):
        try:
            environment[TARGET] = str(_own_folder(Path(place())))
        except OSError:
            continue
        return


def _writable(folder: Path | None) -> bool:
    return folder is not None and os.access(folder, os.W_OK | os.X_OK)


def _home_cache(environment: MutableMapping[str, str]) -> Path | None:
    """The user's cache, made if it is missing; None without a home."""
    cache = Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # Path's raises
    if not cache.is_absolute():  # A user without a home, of whom the system knows nothing.
        return None
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return cache


def _own_folder(temporary: Path) -> Path:
    """A folder that this user alone may write to: that of an earlier process, or a new one."""
    folder = temporary / f"bagpipe-kernels-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        return folder if ours else Path(tempfile.mkdtemp(prefix="bagpipe-kernels-", dir=temporary))
    return folder
