"""Data cut into stretches that several machines can read at once: consecutive files, or some row groups of one.

The cuts depend on the files alone, never on who reads them. The pieces of all stretches, one after another, are the
pieces of the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import msgspec

from bagpipe.data.column_files import table_format
from bagpipe.data.columns import ColumnSource
from bagpipe.data.files import InputFile
from bagpipe.data.parquet_files import open_parquet
from bagpipe.data.raw import RawBlock, RawSchema, RawSource
from bagpipe.data.synthetic import SyntheticLogs

STRETCH_BYTES = 64 << 20
"""A stretch is at least so large, if the data is."""
MOST_STRETCHES = 256
"""About so many at most: a file is written and opened for each of them and each table."""


class Stretch(msgspec.Struct, frozen=True):
    """Pieces `begin` to `end - 1` of some files (None: to their end); no files: of generated data."""

    files: tuple[InputFile, ...]
    begin: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class StretchSource:
    """A stretch of raw data, as raw data."""

    whole: RawSource
    stretch: Stretch

    @property
    def schema(self) -> RawSchema:
        return self.whole.schema

    @property
    def num_examples(self) -> int | None:
        return None

    def pieces(self, start: int) -> tuple[int, Iterator[Any]]:
        files, raw = self.stretch.files, self.whole
        if files:
            raw = cast("RawSource", replace(cast("Any", raw), files=files))
        return 0, islice(raw.pieces(0)[1], self.stretch.begin, self.stretch.end)

    def parse(self, piece: Any) -> RawBlock:
        return self.whole.parse(piece)


def cut_into_stretches(raw: RawSource, files: Sequence[InputFile]) -> tuple[Stretch, ...]:
    """All data of `raw`, in order.

    Raises:
        DataError: a Parquet file is damaged.
    """
    if isinstance(raw, SyntheticLogs):
        count = sum(1 for _ in raw.pieces(0)[1])
        step = max(1, count // MOST_STRETCHES)
        return tuple(Stretch((), at, min(at + step, count)) for at in range(0, count, step))
    least = max(STRETCH_BYTES, sum(file.size for file in files) // MOST_STRETCHES)
    found: list[Stretch] = []
    waiting: list[InputFile] = []
    for file in files:
        groups = _row_groups(raw, file) if file.size > least else []
        if groups or (waiting and sum(f.size for f in waiting) + file.size > least):
            found += [Stretch(tuple(waiting))] * bool(waiting)
            waiting = []
        if groups:
            found += [Stretch((file,), begin, end) for begin, end in _runs(groups, least)]
        else:
            waiting.append(file)
    return (*found, *[Stretch(tuple(waiting))] * bool(waiting))


def _row_groups(raw: RawSource, file: InputFile) -> list[int]:
    """Bytes of each row group of a Parquet file; of other files none: only Parquet can be opened in the middle."""
    if not isinstance(raw, ColumnSource) or table_format(file, raw.stated) != "parquet":
        return []
    with open_parquet(file) as parquet:
        metadata = parquet.metadata
    # Bytes as they are stored, so that they compare with the file's.
    inside = range(metadata.num_columns)
    return [
        sum(metadata.row_group(group).column(column).total_compressed_size for column in inside)
        for group in range(metadata.num_row_groups)
    ]


def _runs(sizes: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Consecutive row groups that have `least` bytes together, the last ones maybe fewer."""
    runs, begin, total = [], 0, 0
    for group, size in enumerate(sizes):
        total += size
        if total >= least:
            runs.append((begin, group + 1))
            begin, total = group + 1, 0
    return runs + [(begin, len(sizes))] * (begin < len(sizes))
