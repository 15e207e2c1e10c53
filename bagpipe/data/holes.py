"""What Arrow does not see in separated text: NUL bytes, and a quote that is never closed.

No text has NUL bytes; the blocks of a file that a crash kept from being written are full of them.
"""

import re
from typing import Any

from bagpipe.data.compressed import decompressed
from bagpipe.data.files import BLOCK_BYTES, InputFile

FOUND = "expected text, found a NUL byte (a crash of whoever wrote the file leaves such holes)"
_HOLE = re.compile(rb"\0([^\r\n]*)")
"""From the first NUL byte of a line to its end."""
_ZEROS = re.compile(rb"\0+")


class Marked:
    """A stream of separated text in which a line with NUL bytes has more fields than any row, so that Arrow refuses it.

    One NUL byte stays in the line, where the first one was; a text in quotes ends there.

    Args:
        fields: how many a row has.
    """

    closed = False
    """Arrow asks."""

    def __init__(self, stream: Any, delimiter: str, fields: int) -> None:
        self._stream, self._mark = stream, b'\0"' + delimiter.encode() * (fields + 1)

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes, more where a line is marked; -1: all."""
        data: bytes = self._stream.read(size)
        if b"\0" not in data:
            return data
        while _ends_in_hole(data) and (more := self._stream.read(size)):  # Arrow wants a line end in each block.
            data = _ZEROS.sub(b"\0", data + more)
        return _HOLE.sub(self._marked, data)

    def _marked(self, hole: re.Match[bytes]) -> bytes:
        return self._mark + hole[1].replace(b"\0", b"")


class Ended:
    """A stream of separated text with one line more, of more fields than any row: Arrow refuses it, unless a quote is
    open there. Then all from that quote on is one cell, of which Arrow says nothing.
    """

    closed = False
    """Arrow asks."""

    def __init__(self, stream: Any, delimiter: str, fields: int) -> None:
        self._stream, self._over = stream, False
        self.line = "\x04" + delimiter * (fields + 1)
        """The line, as Arrow tells it."""

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes, none only at the end; -1: all."""
        data: bytes = self._stream.read(size)
        if self._over or (data and size >= 0):
            return data
        self._over = True
        return data + b"\n" + self.line.encode() + b"\n"


def _ends_in_hole(data: bytes) -> bool:
    """Whether the last line, which has no end here, has a NUL byte."""
    return data.rfind(b"\0") > max(data.rfind(b"\n"), data.rfind(b"\r"))


def line_of_hole(file: InputFile) -> int | None:
    """Number of the first line with a NUL byte, counted from 1; None: there is none."""
    line = 1
    with file.open() as raw, decompressed(file.name, raw) as stream:
        while data := stream.read(BLOCK_BYTES):
            at = data.find(b"\0")
            if at >= 0:
                return line + data.count(b"\n", 0, at)
            line += data.count(b"\n")
    return None
