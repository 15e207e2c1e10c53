"""Standard output of commands that do more than print: they go on when nobody reads it any more.

For instance `bagpipe run job.yaml | head -1`.
"""

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Forgiving(io.FileIO):
    """Writes as a file does; once the reader is gone, writes go nowhere."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def outlive_reader() -> None:
    """From now on a closed pipe on standard output is no error; a name that is not UTF-8 is printed escaped.

    Does nothing where standard output is not this process's own, as under a test or in a notebook.
    """
    if sys.stdout is None or sys.stdout is not sys.__stdout__ or not isinstance(sys.stdout, io.TextIOWrapper):
        return
    sys.stdout.flush()
    raw = _Forgiving(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=sys.stdout.encoding, errors="backslashreplace", line_buffering=True
    )
