"""Compressed files as streams of bytes that end where the file ends, or are refused by name.

Python's own readers of xz and bzip2 stop without a word at the first bytes after a stream that begin no new one.
Here every member of a file is read, whatever padding lies between them, and anything else after a member is an
error. What a file is says its content, not its suffix: a renamed file still opens.
"""

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

import pyarrow as pa

from bagpipe.errors import DataError

CHUNK = 1 << 16
"""Compressed bytes read at a time: what they decompress to is held at once."""
MEMBERS = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bzip2"))
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 1 to 3 of a frame of Zstandard (and LZ4) that holds no data."""
_ZIP = b"PK\x03\x04"
_UTF16 = "text in UTF-16; convert it, for instance with iconv -f UTF-16 -t UTF-8"
OTHER_FILES = (
    (0, _ZIP, "a zip archive; unpack it, or compress the file with gzip, xz or zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (0, b"Rar!", "a rar archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it into a folder"),
    (0, b"\x04\x22\x4d\x18", "LZ4 data; compress the file with gzip, xz or zstd"),
    (0, b"\xff\x06\x00\x00sNaPpY", "Snappy data; compress the file with gzip, xz or zstd"),
    (0, b"\x5d\x00\x00", "LZMA data of the old format; compress the file with xz"),
    (0, b"\xff\xfe", _UTF16),
    (0, b"\xfe\xff", _UTF16),
    (0, b"ORC", "an ORC file; convert it to Parquet"),
    (0, b"Obj\x01", "an Avro file; convert it to Parquet"),
    (0, b"SQLite format 3\x00", "an SQLite database; write the table to CSV or Parquet"),
    (0, b"\x89HDF\r\n", "an HDF5 file; write the table to CSV or Parquet"),
    (0, b"\xd0\xcf\x11\xe0", "a file of an old office program (xls); write the sheet to CSV"),
    (0, b"\x80\x02", "a pickle; write the table to Parquet"),
    (0, b"\x80\x03", "a pickle; write the table to Parquet"),
    (0, b"\x80\x04\x95", "a pickle; write the table to Parquet"),
    (0, b"\x80\x05\x95", "a pickle; write the table to Parquet"),
    (0, b"\x93NUMPY", "a NumPy array; write it to Parquet"),
)
_OF_SHEETS = (b"[Content_Types].xml", b"xl/", b"opendocument.spreadsheet")
_OF_ARRAYS = re.compile(rb"^.{30}[^/]*\.npy", re.DOTALL)
_TRUNCATED = "fetch the file again, it was cut short or damaged"


class Member(Protocol):
    """One compressed stream of a file that may hold several."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_NEW: dict[str, Callable[[], Member]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
ERRORS = (EOFError, OSError, lzma.LZMAError, zlib.error)


def what_else(head: bytes) -> str | None:
    """What a file is that holds neither text nor Parquet, and what to do about it."""
    if _is_wide(head[:512]):
        return _UTF16
    if head.startswith(_ZIP) and any(name in head for name in _OF_SHEETS):
        return "a spreadsheet (Excel, OpenDocument); write the sheet to CSV"
    if head.startswith(_ZIP) and _OF_ARRAYS.search(head[:200]):
        return "NumPy arrays (npz); write them to Parquet, a column each"
    return next((words for at, magic, words in OTHER_FILES if head[at:].startswith(magic)), None)


def _is_wide(head: bytes) -> bool:
    """Whether every other byte is zero, and no other: text of two bytes a sign."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    return min(even, odd) == 0 and max(even, odd) * 2 >= 0.9 * len(head) > 8


@contextmanager
def decompressed(name: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """The content of `raw`; reading raises DataError where it is damaged, cut short or followed by something else."""
    head = raw.read(6)
    raw.seek(0)
    kind = next((kind for magic, kind in MEMBERS if head.startswith(magic)), None)
    if kind is not None:
        yield _Reader(_Members(name, kind, raw).chunks())  # type: ignore[misc]  # the part of IO that is used
    elif head.startswith(ZSTD) or head[1:4] == SKIPPABLE:
        yield _Reader(_zstd_chunks(name, raw))  # type: ignore[misc]  # as above
    else:
        yield raw


class _Reader:
    """`read(size)` over chunks of any size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, b""

    closed = False
    """Arrow asks."""

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end; -1: all."""
        parts, count = [self._held], len(self._held)
        while size < 0 or count < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            count += len(chunk)
        data = b"".join(parts)
        cut = len(data) if size < 0 else size
        self._held = data[cut:]
        return data[:cut]


@dataclass(slots=True)
class _Members:
    """All members of a gzip, bzip2 or xz file."""

    name: str
    kind: str
    raw: IO[bytes]

    def chunks(self) -> Iterator[bytes]:
        member, data = _NEW[self.kind](), self.raw.read(CHUNK)
        while data:
            try:
                yield member.decompress(data)
            except ERRORS as error:
                raise self._damaged(str(error)) from error
            if member.eof:
                data = self._next_member(member.unused_data)
                if not data:
                    return
                member = _NEW[self.kind]()
            else:
                data = self.raw.read(CHUNK)
        if not member.eof:
            raise self._damaged("the file ends in the middle of it")

    def _next_member(self, rest: bytes) -> bytes:
        """What begins with the next member; empty at the end of the file. Zeros may lie between."""
        padding = 0
        while True:
            kept = rest.lstrip(b"\0")
            padding += len(rest) - len(kept)
            if len(kept) >= 6:
                break
            more = self.raw.read(CHUNK)
            if not more:
                break
            rest = kept + more
        if self.kind == "xz" and padding % 4:
            raise self._damaged(f"{padding} bytes of padding after a stream, expected a multiple of 4")
        magic = next(magic for magic, kind in MEMBERS if kind == self.kind)
        if kept and not kept.startswith(magic):
            raise self._damaged(f"what follows a whole stream is no {self.kind} data")
        return kept

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.name}: damaged {self.kind} data ({why}); {_TRUNCATED}")


def _zstd_chunks(name: str, raw: IO[bytes]) -> Iterator[bytes]:
    """Arrow reads every frame, skippable ones too, and refuses anything else after them."""
    try:
        stream: Any = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        while chunk := stream.read(CHUNK):
            yield chunk
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's, not the decoder's
        raise DataError(f"{name}: damaged zstd data ({error}); {_TRUNCATED}") from error
