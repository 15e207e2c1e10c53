"""Output folders that appear whole or not at all, and replace nothing that Bagpipe did not write.

What may be replaced bears our mark: Parquet by its metadata, other files by `_bagpipe.json` beside them, which lists
what was written. `--overwrite` never deletes a file of anybody else, nor the data that is being read.
"""

import errno
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.config.paths import is_url
from bagpipe.data.prepared import FIRST_PART, METADATA_KEY, OLD_TABLES_FILE, OLD_TRANSFORM_FOLDER
from bagpipe.data.transform_names import INFO_FILE, VOCABULARY_FILE
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.atomic_files import cannot_write
from bagpipe.lowlevel.lease import Lease, Owner

MARK = "_bagpipe.json"
DRAFT = ".draft"
OLD_VOCABULARY_FILE = "_vocabulary.parquet"


class _Mark(msgspec.Struct, frozen=True):
    """The content of `_bagpipe.json`."""

    wrote: tuple[str, ...]
    """Names of everything that lies in the folder, but the mark itself."""


def check_output(out: Path, sources: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output folder that may not be written, before anything is read or changed.

    Raises:
        ConfigError: it exists and may not be replaced, or holds something that Bagpipe did not write.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: is a file; choose a folder that does not exist yet")
    if not overwrite:
        raise ConfigError(
            f"{out}: expected a folder that does not exist yet, and it exists already; choose another, or replace it "
            "with --overwrite"
        )
    inside = next((s for s in sources if not is_url(s) and Path(s).resolve().is_relative_to(out.resolve())), None)
    if inside is not None:
        raise ConfigError(f"{out}: holds {inside}, which is being read; choose another folder. Nothing was changed")
    strange = _not_ours(out)
    if strange is not None:
        raise ConfigError(
            f"{out}: holds {strange}, which bagpipe did not write; choose another folder, or delete this one yourself. "
            "Nothing was changed"
        )


def _not_ours(folder: Path) -> str | None:
    """The first entry of the folder that does not bear our mark."""
    try:
        wrote = msgspec.json.decode((folder / MARK).read_bytes(), type=_Mark).wrote
    except (OSError, ValueError):
        wrote = ()
    return next((p.name for p in sorted(folder.iterdir()) if p.name not in (*wrote, MARK) and not _marked(p)), None)


def _marked(path: Path) -> bool:
    """Whether a file or folder was written by `bagpipe data prepare`."""
    if path.name == OLD_TRANSFORM_FOLDER:
        return all(inner.name in (INFO_FILE, VOCABULARY_FILE) for inner in path.iterdir())
    if path.name in (OLD_TABLES_FILE, OLD_VOCABULARY_FILE):
        first = path.with_name(FIRST_PART)
        return first.is_file() and _marked(first)
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(out, error) from error


@contextmanager
def made_once(folder: Path, part: str) -> Iterator[Path | None]:
    """A draft that takes the name `folder` when the body has made it; None where the folder is there already.

    Any number of processes may make it at once: that of the first stays, and the others use it as if they had found it.

    Args:
        part: a file in it, by which a whole folder is known.

    Raises:
        DataError: that file was deleted, and others are there still.
        StorageError: the folder cannot be made.
    """
    if (folder / part).exists():
        yield None
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: {part} is missing; put it back, or delete the folder, and it is made again")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        with _writing(folder):
            try:
                draft.rename(folder)
            except OSError:
                if not (folder / part).exists():
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _place_of(out: Path) -> Path:
    """Where a folder is made. A link stays one: what it points to is made or replaced."""
    return Path(os.path.realpath(out) if out.is_symlink() else os.path.abspath(out))


@contextmanager
def replacing(out: Path, *, overwrite: bool, mark: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name if the body succeeds, and vanishes if not.

    `check_output` has allowed it. What `out` held before is there until the new folder is whole. `mark` leaves the list
    of what was written, for files that cannot bear a mark themselves.
    """
    out = _place_of(out)
    made: list[Path] = []
    try:
        with _writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            made.append(temporary)
            yield temporary
            if mark:
                wrote = _Mark(tuple(sorted(os.listdir(temporary))))
                (temporary / MARK).write_bytes(msgspec.json.encode(wrote))
            _take_name(temporary, out, overwrite=overwrite)
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def _take_name(whole: Path, out: Path, *, overwrite: bool) -> None:
    """Give a whole folder its name; what had the name before vanishes, if that is allowed.

    Raises:
        ConfigError: something has taken the name since it was checked, and may not be replaced.
    """
    whole.chmod(0o755)
    if not overwrite or not out.exists():
        try:
            whole.rename(out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise ConfigError(
                f"{out}: was made by another process meanwhile, and is left as it is; choose another folder"
            ) from None
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    before = old / out.name
    try:
        out.rename(before)
        whole.rename(out)
    finally:  # Decided by what is there: an interruption may come between any two lines.
        if before.exists() and not out.exists():
            with suppress(OSError):
                before.rename(out)
        if out.exists():  # Else the only copy of what was there lies in `old`.
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def going_on(out: Path, digest: str, *, overwrite: bool) -> Iterator[Path]:
    """As `replacing`, but if the process is killed or interrupted in the body, the next one finds the folder again.

    Args:
        digest: of all that the content depends on; drafts of other content are removed.

    Raises:
        ConfigError: another process is writing this output; it is named.
    """
    out = _place_of(out)
    folder = out.with_name(f".{out.name}.{digest}{DRAFT}")
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        us = Owner.here("bagpipe data prepare", datetime.now().astimezone())
        for other in out.parent.glob(f".{glob.escape(out.name)}.*{DRAFT}"):
            if other != folder:
                Lease.take(other, str(out), us).close()
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        with Lease.take(folder, str(out), us) as lease:
            try:
                yield folder
                lease.close()
                _take_name(folder, out, overwrite=overwrite)
            except Exception:  # not an interruption: a second try would meet the same
                lease.close()
                shutil.rmtree(folder, ignore_errors=True)
                raise
