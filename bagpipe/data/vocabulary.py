"""Which row each value of a table gets: counted over the training part, frequent values first.

Row 0 belongs to every value that was seen fewer than `min_count` times, or never, in the training
part. The others get rows 1, 2, ... by descending count, then by code; so the result depends on the
values alone, not on their order. The missing value is a value like any other.

Counting holds a bounded number of values: beyond it they are sorted, written to a file and forgotten, and all such
runs are merged in the end. What is kept takes 16 bytes for each value, and as much again in the table of lookups.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from bagpipe.data import encode_kernels as kernels
from bagpipe.data.raw import Codes

Counts = npt.NDArray[np.int64]


HELD_VALUES = 1 << 24
"""Distinct values of all tables together that counting holds in memory: at most 51 bytes each."""
MERGED_VALUES = 1 << 21
"""Values of all runs that are merged at a time."""
RECORD = np.dtype([("code", np.uint64), ("count", np.int64)])
"""A value of a run."""


class ValueCounter:
    """Exact counts of the values of one table, in one hash table that grows, and in sorted runs on disk beyond it.

    Args:
        most_held: distinct values in memory.
        scratch: a folder for the runs; they have no name in it and end with this counter. None: the system's.
    """

    def __init__(self, most_held: int = HELD_VALUES, scratch: Path | None = None) -> None:
        self._codes: Codes = np.zeros(1024, np.uint64)
        self._counts: Counts = np.zeros(1024, np.int64)
        self._held = 0
        self._missing = 0
        self._most, self._scratch = max(640, most_held), scratch
        self._runs: list[Any] = []

    def __repr__(self) -> str:
        return f"ValueCounter(held={self._held + (self._missing > 0)}, runs={len(self._runs)})"

    def add(self, codes_N: Codes) -> None:
        present = codes_N[codes_N != 0]
        self._missing += len(codes_N) - len(present)
        at = 0
        while True:
            limit = min(self._most, len(self._codes) * 5 // 8)
            at, self._held = kernels.count_codes(present, at, self._codes, self._counts, self._held, limit)
            if at == len(present):
                return
            if self._held >= self._most:
                self._write_run()
                continue
            old_codes, old_counts = self._codes, self._counts
            self._codes, self._counts = (
                np.zeros(2 * len(old_codes), np.uint64),
                np.zeros(2 * len(old_codes), np.int64),
            )
            kernels.insert_counts(old_codes, old_counts, self._codes, self._counts)

    def result(self, min_count: int = 1) -> tuple[Codes, Counts]:
        """Distinct values seen at least `min_count` times and their counts, by descending count, then by code."""
        if self._runs:
            self._write_run()
            return by_count(*merged(self._runs, min_count), self._missing, min_count)
        kept = self._counts >= min_count
        return by_count(self._codes[kept], self._counts[kept], self._missing, min_count)

    def save(self, path: Path) -> int:
        """Write all values but the missing one to a file, by rising code; returns how often that one was seen.

        Raises:
            OSError: the file cannot be written.
        """
        self._write_run()
        with path.open("wb") as file:
            for codes, counts in merged_stretches(self._runs, 1):
                file.write(_records(codes, counts).tobytes())
        return self._missing

    def _write_run(self) -> None:
        used = self._codes != 0
        codes, counts = self._codes[used], self._counts[used]
        order = np.argsort(codes)
        self._runs.append(_written(_records(codes[order], counts[order]), self._scratch))
        self._codes[:], self._counts[:], self._held = 0, 0, 0


@dataclass(frozen=True, slots=True)
class SavedCounts:
    """What several `ValueCounter`s of one table have saved."""

    files: Sequence[Path]
    missing: int

    def result(self, min_count: int = 1) -> tuple[Codes, Counts]:
        """As if one counter had counted all."""
        runs = [np.memmap(path, RECORD, "r") for path in self.files if path.stat().st_size]
        return by_count(*merged(runs, min_count), self.missing, min_count)


AnyCounter = ValueCounter | SavedCounts
"""Who has counted the values of one table."""


def by_count(codes: Codes, counts: Counts, missing: int, min_count: int) -> tuple[Codes, Counts]:
    """Values by descending count, then by code; the missing one, seen `missing` times, among them."""
    if missing >= min_count:
        codes, counts = np.append(codes, np.uint64(0)), np.append(counts, np.int64(missing))
    order = np.lexsort((codes, -counts))
    return codes[order], counts[order]


def _records(codes: Codes, counts: Counts) -> Any:
    records = np.empty(len(codes), RECORD)
    records["code"], records["count"] = codes, counts
    return records


def _written(records: Any, scratch: Path | None) -> Any:
    """The same records, mapped from a file without a name; it is there as long as it is mapped."""
    if not len(records):
        return records
    with cast("AbstractContextManager[IO[bytes]]", tempfile.TemporaryFile(dir=scratch)) as file:
        file.write(records.tobytes())
        file.flush()
        return np.memmap(file, RECORD, "r")


def merged(runs: Sequence[Any], min_count: int) -> tuple[Codes, Counts]:
    """All runs' sums of at least `min_count`, by rising code; memory holds a stretch of each run, and the result."""
    found = [(np.zeros(0, np.uint64), np.zeros(0, np.int64)), *merged_stretches(runs, min_count)]
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def merged_stretches(runs: Sequence[Any], min_count: int) -> Iterator[tuple[Codes, Counts]]:
    """The same, stretch by stretch; `MERGED_VALUES` at a time, however many runs there are."""
    begins, most = [0] * len(runs), max(1, MERGED_VALUES // max(1, len(runs)))
    while any(begin < len(run) for begin, run in zip(begins, runs, strict=True)):
        ends = [min(begin + most, len(run)) for begin, run in zip(begins, runs, strict=True)]
        unread = [run["code"][end - 1] for end, run in zip(ends, runs, strict=True) if end < len(run)]
        if unread:  # Up to the least of these codes, every run is here; beyond it, some go on.
            ends = [
                begin + int(np.searchsorted(run["code"][begin:end], min(unread), side="right"))
                for begin, end, run in zip(begins, ends, runs, strict=True)
            ]
        parts = np.concatenate([run[b:e] for b, e, run in zip(begins, ends, runs, strict=True)])
        codes, which = np.unique(parts["code"], return_inverse=True)
        counts = np.zeros(len(codes), np.int64)
        np.add.at(counts, which, parts["count"])
        kept = counts >= min_count
        yield codes[kept], counts[kept]
        begins = ends


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The values of one table that have a row of their own: `codes[i]` has row `first_row + i`.

    The rows before are for all other values, shared by hash.
    """

    codes: Codes
    counts: Counts
    first_row: int = 1

    @classmethod
    def of(cls, counter: AnyCounter, min_count: int, max_rows: int | None = None, first_row: int = 1) -> "Vocabulary":
        """`max_rows` caps the table, first rows included: the most frequent values keep theirs."""
        codes, counts = counter.result(min_count)
        kept = len(codes)
        if max_rows is not None:
            kept = min(kept, max(0, max_rows - first_row))
        return cls(codes[:kept], counts[:kept], first_row)

    @property
    def num_rows(self) -> int:
        return len(self.codes) + self.first_row


@dataclass(frozen=True, slots=True)
class LookupTables:
    """Several vocabularies as one hash table each, in shared arrays, for the compiled lookup."""

    firsts: Counts
    masks: Counts
    missing: Counts
    others: Counts
    """Rows for values without one of their own."""
    codes: Codes
    numbers: npt.NDArray[np.int32]

    @classmethod
    def of(cls, vocabularies: list[Vocabulary]) -> "LookupTables":
        sizes = [1 << max(3, (2 * v.num_rows).bit_length()) for v in vocabularies]
        firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
        codes, numbers = (np.zeros(int(firsts[-1]), np.uint64), np.zeros(int(firsts[-1]), np.int32))
        missing = np.zeros(len(sizes), np.int64)
        for i, vocabulary in enumerate(vocabularies):
            rows = np.arange(vocabulary.first_row, vocabulary.num_rows, dtype=np.int32)
            present = vocabulary.codes != 0
            missing[i] = rows[~present].sum()
            kernels.fill_table(vocabulary.codes[present], rows[present], codes, numbers, firsts[i], sizes[i] - 1)
        others = np.array([v.first_row for v in vocabularies], np.int64)
        return cls(firsts[:-1], np.array(sizes, np.int64) - 1, missing, others, codes, numbers)
