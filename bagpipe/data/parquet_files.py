"""How a Parquet file is opened: mapped into memory where it is local, as a stream behind a URL.

Pages of Parquet may bear checksums; those that we write do. Beside the encoding of raw columns their cost is next
to nothing, so they are compared whenever raw Parquet is read. Prepared columns are hardly more than copied: there it
costs 17 to 50 % of the speed, at every epoch. So prepared data is compared when `bagpipe data describe` reads it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow.parquet as pq

from bagpipe.data.files import InputFile, reading

_PAGE_HEADER = 64
"""Bytes of a page's header that hold all that is looked at here."""


def has_checksums(file: InputFile) -> bool:
    """Whether the pages of a Parquet file bear checksums; its first page answers for all, as one program wrote them.

    Arrow compares a checksum that is there and says nothing of one that is not.
    """
    with open_parquet(file) as parquet:
        metadata = parquet.metadata
    if not metadata.num_row_groups or not metadata.num_columns:
        return True
    first = metadata.row_group(0).column(0)
    begin = first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset
    with file.open() as content:
        content.seek(begin)
        header = content.read(_PAGE_HEADER)
    # Thrift's compact protocol: type, full size, stored size and, where it is there, the checksum as field 4, each a
    # byte 0x15 (the next field, of 32 bits) and a number of which every byte but the last has its highest bit.
    place = 0
    for _ in range(3):
        if header[place : place + 1] != b"\x15":
            return False
        place += 1
        while header[place] & 0x80:
            place += 1
        place += 1
    return header[place : place + 1] == b"\x15"


@contextmanager
def open_parquet(file: InputFile, metadata: Any = None, *, check: bool = False) -> Iterator[Any]:
    """A Parquet file, memory-mapped where it is local.

    Args:
        metadata: saves reading the footer again.
        check: compare each page that is read with its checksum, where it has one; Arrow raises OSError if it differs.

    Raises:
        DataError: a local file was changed or replaced since it was found, or is gone.
        StorageError: the disk or the network failed.
    """
    with reading(file.name), ExitStack() as stack:
        local = not file.remote
        source = file.name if local else stack.enter_context(file.open())
        opened = stack.enter_context(
            pq.ParquetFile(source, metadata=metadata, memory_map=local, page_checksum_verification=check)
        )
        file.check()  # After it was opened: a footer of before says nothing of another file's pages.
        yield opened
