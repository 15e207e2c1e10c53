"""What happens when output can no longer be written: its reader has gone, its terminal is closed, its disk is full.

A command that does more than print goes on (`outlive_reader`); any other one ends in an error that names standard
output (`name_stdout`).
"""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


STDOUT = "standard output"


class _Forgiving(io.FileIO):
    """Writes as a file does; once that fails, writes are discarded, and `lost` is called with the reason."""

    def __init__(self, descriptor: int, lost: Callable[[OSError], None]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._lost = lost

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            self._lost(error)
            return memoryview(data).nbytes


class _Named(io.FileIO):
    """Writes as a file does; its errors have a name, as those of files have."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


def name_stdout() -> None:
    """From now on an error of standard output says that it is one; a letter that its encoding lacks is printed escaped.

    Called before anything is printed.
    """
    stream = sys.stdout
    if stream is sys.__stdout__ and isinstance(stream, io.TextIOWrapper):
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(  # type: ignore[misc]  # the buffer's own stream is a subclass
            io.BufferedWriter(_Named(stream.fileno(), "w", closefd=False)),
            encoding=stream.encoding,
            errors="backslashreplace" if stream.errors == "strict" or not _is_utf8(stream) else stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )


def _is_utf8(stream: io.TextIOWrapper) -> bool:
    return stream.encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def outlive_reader() -> None:
    """From now on output that cannot be written is no error; a name that is not UTF-8 is printed escaped.

    A reader that has gone is not reported. Any other failure of standard output is reported once on standard error.
    Does nothing where a stream is not this process's own, as in a test or a notebook.
    """
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _forgiving(sys.stdout, _tell)
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _forgiving(sys.stderr, lambda _: None)


def _forgiving(stream: io.TextIOWrapper, lost: Callable[[OSError], None]) -> io.TextIOWrapper:
    with suppress(OSError):
        stream.flush()
    raw = _Forgiving(stream.fileno(), lost)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=True
    )


def _tell(error: OSError) -> None:
    if not isinstance(error, BrokenPipeError):
        line = f"standard output cannot be written: {error.strerror}; the run goes on without it\n"
        # Not by `print`: while progress is shown, `sys.stderr` writes to standard output as well.
        with suppress(OSError):
            os.write(2, line.encode())
