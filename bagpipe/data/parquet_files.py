"""How a Parquet file is opened: mapped into memory where it is local, as a stream behind a URL."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow.parquet as pq

from bagpipe.data.files import InputFile


@contextmanager
def open_parquet(file: InputFile, metadata: Any = None) -> Iterator[Any]:
    """A Parquet file, memory-mapped where it is local; `metadata` saves reading the footer again."""
    with ExitStack() as stack:
        local = "://" not in file.name
        source = file.name if local else stack.enter_context(file.open())
        yield stack.enter_context(pq.ParquetFile(source, metadata=metadata, memory_map=local))
