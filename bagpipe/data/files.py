"""Which files a `data.path` names, and how their bytes are read: local or remote, plain or compressed.

A path is a file, a folder, a glob or an object-store URL, or a list of these. Files of a folder or a
glob come in natural order (`part_2` before `part_10`), because file order is example order (contract
X5). Text leaves this module as blocks of whole lines; what a line means is decided elsewhere.
"""

import glob
import importlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

from bagpipe.config.paths import is_url
from bagpipe.data.compressed import decompressed
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.atomic_files import refused

BLOCK_BYTES = 4 << 20
LONGEST_LINE = 64 << 20
_NO_DATA = re.compile(
    r"[._].*|readme(\..*)?|licen[cs]e(\..*)?|(md5|sha\d+)sums?(\.txt)?|checksums?(\..*)?|tables\.json|emb_table_info\.txt"
    r"|.*\.(md|md5|sha1|sha256|sha512|crc|asc|sig|lock|tmp|yaml|yml|toml|ini|cfg|py|ipynb|sh|sql|html)",
    re.IGNORECASE,
)
"""Names in a folder that are no data: hidden files, marks of other programs, descriptions, checksums, what describes
prepared data. A file that `data.path` names itself is read whatever its name."""
_OF_A_RUN = frozenset({"job.yaml", "logs"})
"""A folder that holds these is a run's, which lies where `bagpipe run` was typed, often beside the data."""


_LOGGED = re.compile(r"(.*)/(?:(_delta_log)/.*|(\.hoodie)/.*|metadata/[^/]*(\.metadata\.json))")
_PROGRAMS = ("Delta Lake", "Apache Hudi", "Apache Iceberg")
"""Whose folders are tables with a log, by which some of the files are of older versions or deleted."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as it was found: `stamp` changes when its content does."""

    name: str
    size: int
    stamp: str
    named: bool = field(default=False, compare=False)
    """Whether it was given by its own name, and not found in a folder or by a pattern."""

    @property
    def remote(self) -> bool:
        """Whether it is behind a URL."""
        return is_url(self.name)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The raw bytes, still compressed.

        Raises:
            DataError: there is no such file; or it is another than was found, also where it has become one by the end.
        """
        with reading(self.name), ExitStack() as stack:
            if self.remote:
                yield cast("IO[bytes]", stack.enter_context(_remote(self.name)[0].open(self.name, "rb")))
            else:
                content = stack.enter_context(open(self.name, "rb"))
                self.check(os.fstat(content.fileno()))
                yield content
                self.check(None if content.closed else os.fstat(content.fileno()))  # Some decompressors close it.

    def check(self, status: os.stat_result | None = None) -> None:
        """Compare with what was found, by size and time of change; a URL is taken as it is.

        A job looks at a file more than once: to learn, to encode, at every epoch. Of two versions each look would find
        something that fits nothing, in silence.

        Args:
            status: of the open file; None: of what has its name now.

        Raises:
            DataError: it was changed or replaced since.
        """
        if not self.stamp or self.remote:
            return
        status = status or os.stat(self.name)
        if (status.st_size, _stamp(status)) != (self.size, self.stamp):
            sizes = f" ({self.size:,} bytes then, {status.st_size:,} now)" if status.st_size != self.size else ""
            raise DataError(
                f"{self.name}: was changed or replaced since it was first looked at{sizes}; start again, with data "
                "that nobody writes to meanwhile"
            )


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Whole lines of one file; `first_line` is the number of the first, counted from 1."""

    file: str
    first_line: int
    text: bytes


def find_files(path: str | Sequence[str]) -> tuple[InputFile, ...]:
    """All files that `path` names, in reading order.

    Raises:
        ConfigError: no path is given, or a file is named twice.
        DataError: a path does not exist, or a folder or glob has no files.
    """
    paths = (path,) if isinstance(path, str) else tuple(path)
    if not paths or not all(paths):
        raise ConfigError("data.path is empty; name a file, list, folder, glob or URL, or set data.format: synthetic")
    files = tuple(file for one in paths for file in _find(one))
    names = Counter(file.name if file.remote else os.path.realpath(file.name) for file in files)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ConfigError(f"data.path: {twice} is named twice, so that its rows would count twice; name it once")
    return files


def read_head(file: InputFile, size: int = 65536) -> bytes:
    """The first bytes of the file, decompressed."""
    with file.open() as raw, decompressed(file.name, raw) as stream:
        return stream.read(size)


def text_blocks(files: Sequence[InputFile], block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """The text of all files in order, in blocks of whole lines; a block never spans two files."""
    for file in files:
        with file.open() as raw, decompressed(file.name, raw) as stream:
            yield from _line_blocks(file.name, stream, block_bytes)


def _line_blocks(name: str, stream: IO[bytes], block_bytes: int) -> Iterator[TextBlock]:
    line, rest = 1, b""
    while True:
        data = stream.read(block_bytes)
        if not data:
            break
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            rest += data
            if len(rest) > LONGEST_LINE:
                raise DataError(f"{name}:{line}: a line is longer than {LONGEST_LINE} bytes; is this a text file?")
            continue
        text, rest = rest + data[:cut], data[cut:]
        yield TextBlock(name, line, text)
        line += text.count(b"\n")
    if rest:
        yield TextBlock(name, line, rest)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Translate what the file system says into our errors.

    Raises:
        DataError: there is no such file, or it may not be read.
        StorageError: the disk or the network failed, which may pass; or a limit of this process, which does not (78).
        OSError: Arrow's, of a local file that is damaged; the system's have a number.
    """
    try:
        yield
    except FileNotFoundError as error:
        if os.path.islink(name):
            raise DataError(f"{name}: a link to {os.readlink(name)}, which is not there; mend or remove it") from error
        raise DataError(f"{name}: no such file; check data.path") from error
    except PermissionError as error:
        raise DataError(f"{name}: permission denied; make the file readable for this user") from error
    except OSError as error:
        if error.errno is None and not is_url(name):
            raise
        raise refused(name, error) from error


def _find(path: str) -> list[InputFile]:
    if is_url(path):
        return _find_remote(path)
    with reading(path):
        if os.path.isdir(path):
            return _listed(path, "folder", _below(path))
        if glob.has_magic(path) and not os.path.exists(path):
            found = [n for n in glob.glob(path, recursive=True) if os.path.isfile(n)]
            return _listed(path, "glob", _once([n for n in found if is_data(os.path.basename(n))]))
        return [replace(_local(path), named=True)]


def is_data(name: str) -> bool:
    """Whether a file found in a folder is taken for data, by its name without its folder."""
    return _NO_DATA.fullmatch(name) is None


def _below(folder: str) -> list[str]:
    """Data files of a folder and of all folders below it that are not hidden, and no run's; links are followed."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (place != folder and _OF_A_RUN.issubset([*folders, *names])):
            folders.clear()
            continue
        seen.add(real)  # A link may lead back to a folder above it.
        _check_logged(f"{place}/{name}" for name in [*(f"{name}/" for name in folders), *names])
        folders[:] = [name for name in sorted(folders) if not name.startswith((".", "_"))]
        found += [os.path.join(place, name) for name in names if is_data(name)]
    return _once(found)


def _once(names: list[str]) -> list[str]:
    """Without links to files that are there too (`latest.csv`): their rows would count twice."""
    real = {os.path.realpath(name): name for name in reversed(names)}
    real |= {os.path.realpath(name): name for name in names if not os.path.islink(name)}
    return [name for name in names if real[os.path.realpath(name)] == name]


def _check_logged(names: Iterable[str]) -> None:
    """Refuse a table of which only a log says which files hold: all of them together have rows that are gone.

    Raises:
        DataError: names the program, and what to do.
    """
    for found in filter(None, map(_LOGGED.fullmatch, names)):
        folder, *marks = found.groups()
        what = next(program for mark, program in zip(marks, _PROGRAMS, strict=True) if mark)
        raise DataError(
            f"{folder}: a table of {what}, whose log says which of the files hold; write its present version as "
            "Parquet, or name the files that hold one by one or by a pattern"
        )


def _raise(error: OSError) -> None:
    raise error


def _local(name: str) -> InputFile:
    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{name}: expected a file, found a pipe or a device; write its rows to a file")
    return InputFile(name, status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> str:
    return str(status.st_mtime_ns)


def _listed(path: str, what: str, names: list[str]) -> list[InputFile]:
    if not names:
        raise DataError(f"{path}: {what} without files; check data.path")
    files = []
    for name in sorted(names, key=natural_order):
        with reading(name):
            files.append(_local(name))
    return files


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sort key under which `part_2` comes before `part_10`."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _remote(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL. fsspec is optional, so it is looked up only when a URL asks for it."""
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise ConfigError(
            f"{url}: URLs need fsspec; `pip install fsspec` and the package of this store (gcsfs for gs://)"
        ) from error
    if url.startswith(("s3://", "s3a://")):
        importlib.import_module("bagpipe.data.object_store").register()
    try:
        return cast("tuple[Any, str]", core.url_to_fs(url))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{url}: this kind of URL cannot be opened ({error})") from error


def _find_remote(url: str) -> list[InputFile]:
    system, path = _remote(url)
    with reading(url):
        named = False
        if glob.has_magic(path):
            kept = [str(n) for n in system.glob(path) if is_data(os.path.basename(str(n)))]
        elif system.isdir(path):
            names = list(map(str, system.find(path)))
            _check_logged(names)
            kept = [n for n in names if _visible(n, str(path))]
        else:
            kept, named = [str(path)], True
        if not kept:
            raise DataError(f"{url}: no files; check data.path")
        found = []
        for name in sorted(kept, key=natural_order):
            info = system.info(name)
            if info.get("type") != "directory":
                stamp = str(
                    info.get("ETag") or info.get("LastModified") or info.get("mtime") or info.get("created") or ""
                )
                found.append(InputFile(str(system.unstrip_protocol(name)), int(info.get("size") or 0), stamp, named))
        return found


def is_there(name: str) -> bool | None:
    """Whether something is in the file of this name; None: there is no such file.

    Raises:
        DataError, StorageError: that cannot be found out.
    """
    with reading(name):
        try:
            if not is_url(name):
                return os.stat(name).st_size > 0
            system, path = _remote(name)
            return int(system.info(path).get("size") or 0) > 0
        except FileNotFoundError:
            return None


def _visible(name: str, root: str) -> bool:
    """Whether an object below `root` is data, and no folder on the way to it is hidden."""
    *folders, last = name.removeprefix(root).strip("/").split("/")
    return is_data(last) and not any(folder.startswith((".", "_")) for folder in folders)
