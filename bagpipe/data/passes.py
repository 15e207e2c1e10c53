"""The passes over raw data that preparing it takes, and how one process makes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bagpipe.data.column_learning import Look, looks
from bagpipe.data.columns import ColumnSource
from bagpipe.data.draft import Draft
from bagpipe.data.encoded import (
    Counted,
    EncodedSource,
    Progress,
    count_examples,
    count_values,
    largest_codes,
    raw_blocks,
)
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.prepared import Report
from bagpipe.data.prepared_parts import PartFormat, write_parts
from bagpipe.data.raw import RawSource
from bagpipe.data.vocabulary import SavedCounts, ValueCounter
from bagpipe.data.walk import Walk


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the examples."""

    sizes: tuple[int, ...]
    """Examples of each portion, or of all the data."""
    bad_lines: int
    first_bad: str | None

    @property
    def report(self) -> Report:
        if len(self.sizes) == 1:
            return Report(self.bad_lines, self.first_bad)
        return Report(self.bad_lines, self.first_bad, self.sizes[0], self.sizes[1])


class Passes(Protocol):
    """Each method is one pass; all raise DataError for what is wrong with the data, the first in order."""

    def find_times(self, raw: ColumnSource) -> ColumnSource:
        """The same source, that knows where its split by time is cut."""
        ...

    def count(self, raw: RawSource) -> Counted: ...

    def look(self, raw: ColumnSource, stop: int | None) -> Iterable[Look]:
        """At the first `stop` examples."""
        ...

    def count_values(
        self, raw: RawSource, tables: tuple[FoundTable, ...], stop: int | None
    ) -> tuple[Sequence[ValueCounter | SavedCounts], Counted | None]:
        """Of the first `stop` examples, for each table; and how many examples there are, if that was seen."""
        ...

    def largest(self, raw: RawSource) -> tuple[Sequence[int], Counted]:
        """The largest code of each feature."""
        ...

    def write(self, draft: Draft, form: PartFormat, portions: Sequence[RawSource], counted: Counted | None) -> Written:
        """Write the parts that the draft does not hold yet."""
        ...


@dataclass(slots=True)
class LocalPasses:
    """In this process, as one stream."""

    readers: int
    progress: Progress
    scratch: Path | None = None
    """A folder for what memory does not hold; None: the system's."""

    def find_times(self, raw: ColumnSource) -> ColumnSource:
        split = raw.split
        assert split is not None
        return raw.with_split(split.with_times(map(raw.times_of, raw.pieces(0)[1]), self.scratch))

    def count(self, raw: RawSource) -> Counted:
        self.progress("counting examples", 0.0)
        return count_examples(raw, self.readers)

    def look(self, raw: ColumnSource, stop: int | None) -> Iterable[Look]:
        self.progress("looking at the columns", 0.0)
        return looks(raw, raw_blocks(raw.unfilled(), self.readers, stop), stop)

    def count_values(
        self, raw: RawSource, tables: tuple[FoundTable, ...], stop: int | None
    ) -> tuple[Sequence[ValueCounter | SavedCounts], Counted | None]:
        total = stop or raw.num_examples or 0

        def tell(done: int) -> None:
            self.progress("building the vocabulary", done / total if total else 0.0)

        return count_values(raw, tables, self.readers, stop, tell, self.scratch)

    def largest(self, raw: RawSource) -> tuple[Sequence[int], Counted]:
        self.progress("finding table sizes", 0.0)
        codes, counted = largest_codes(raw, self.readers)
        return codes.tolist(), counted

    def write(self, draft: Draft, form: PartFormat, portions: Sequence[RawSource], counted: Counted | None) -> Written:
        assert draft.state is not None
        sources = [EncodedSource(p, form.transform.encoder(p.schema, form.layout), self.readers) for p in portions]
        walk = Walk(sources, draft.state.place)
        total = counted.examples if counted else portions[0].num_examples

        def seen() -> Written:
            return Written(tuple(walk.sizes), walk.bad_lines, walk.first_bad)

        def tell(done: int) -> None:
            self.progress("writing Parquet", done / total if total else 0.0)

        write_parts(draft, form, walk, lambda: seen().report, tell)
        return seen()
