"""Preparing data on several machines: the same passes, as tasks for an engine, and their answers put together.

Answers come in the order of the data, so that sums of floats, the first error and the parts are those of one process.
"""

import secrets
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from bagpipe.data.column_learning import Look
from bagpipe.data.columns import ColumnSource
from bagpipe.data.draft import LEARNED_FOLDER, PIECES_FILE, WORK_FOLDER, Draft, Place
from bagpipe.data.encoded import Counted, Progress
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.passes import Written
from bagpipe.data.prepared_parts import PartFormat, part_size
from bagpipe.data.raw import RawSource
from bagpipe.data.split import Part as Portion
from bagpipe.data.stretches import Stretch
from bagpipe.data.tasks import (
    AnyTask,
    CountExamples,
    CountValues,
    FindLargest,
    FindTimes,
    LookAtColumns,
    PieceCount,
    Source,
    WritePart,
    packed,
)
from bagpipe.data.vocabulary import SavedCounts, ValueCounter
from bagpipe.lowlevel.atomic_files import write_whole

Counts = list[list[list[PieceCount]]]
"""By portion, stretch, piece."""


class Engine(Protocol):
    """Somebody who runs tasks on other processes or machines."""

    def map(self, messages: Sequence[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
        """`run_packed` of each message, in their order; `done` is told how many are finished.

        Raises:
            BagpipeError: the first one, in that order, that a task has raised.
            PeerLost: the engine is lost, or nobody is left to do the tasks.
        """
        ...


class _Pieces(msgspec.Struct, frozen=True):
    """What is kept in the draft, so that a second process need not count again."""

    stretches: tuple[Stretch, ...]
    portions: tuple[Portion | None, ...]
    counts: Counts


class _Start(NamedTuple):
    """Where a piece begins: among the stretches, and as a process that goes on alone would say it."""

    portion: int
    stretch: int
    piece: int
    place: Place


@dataclass(slots=True)
class SpreadPasses:
    """By tasks. The draft's folder is seen by all workers."""

    engine: Engine
    source: Source
    stretches: tuple[Stretch, ...]
    draft: Path
    progress: Progress
    _scratch: Path = field(init=False)
    _pieces: _Pieces | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # Workers of a client that was killed may still write: into a folder that is gone.
        shutil.rmtree(self.draft / WORK_FOLDER, ignore_errors=True)
        self._scratch = self.draft / WORK_FOLDER / secrets.token_hex(8)
        self._scratch.mkdir(parents=True)

    def find_times(self, raw: ColumnSource) -> ColumnSource:
        split = raw.split
        assert split is not None
        names = [f"times-{number}" for number in range(len(self.stretches))]
        tasks = [
            FindTimes(**self._about(raw), stretch=stretch, into=name)
            for stretch, name in zip(self.stretches, names, strict=True)
        ]
        self._answers("finding times", tasks, type(None))
        blocks = chain.from_iterable(_blocks(self._scratch / name) for name in names)
        return raw.with_split(split.with_times(blocks, self._scratch))

    def count(self, raw: RawSource) -> Counted:
        return _counted(self._counts(raw, (None,)))

    def look(self, raw: ColumnSource, stop: int | None) -> Iterable[Look]:
        tasks = [
            LookAtColumns(**self._about(raw), stretch=self.stretches[number], portion=raw.part, stop=end)
            for number, end in self._first(stop)
        ]
        return chain.from_iterable(self._answers("looking at the columns", tasks, list[Look]))

    def count_values(
        self, raw: RawSource, tables: tuple[FoundTable, ...], stop: int | None
    ) -> tuple[Sequence[ValueCounter | SavedCounts], Counted | None]:
        portion = raw.part if isinstance(raw, ColumnSource) else None
        ends = list(self._first(stop))
        names = [tuple(f"values-{place}-{number}" for place in range(len(tables))) for number, _ in ends]
        tasks = [
            CountValues(
                **self._about(raw), stretch=self.stretches[n], portion=portion, stop=end, tables=tables, into=into
            )
            for (n, end), into in zip(ends, names, strict=True)
        ]
        missing = self._answers("building the vocabulary", tasks, list[int])
        return [
            SavedCounts([self._scratch / into[place] for into in names], sum(found[place] for found in missing))
            for place in range(len(tables))
        ], None

    def largest(self, raw: RawSource) -> tuple[Sequence[int], Counted]:
        tasks = [FindLargest(**self._about(raw), stretch=stretch) for stretch in self.stretches]
        found = self._answers("finding table sizes", tasks, list[int])
        return [max(codes) for codes in zip(*found, strict=True)], self.count(raw)

    def write(self, draft: Draft, form: PartFormat, portions: Sequence[RawSource], counted: Counted | None) -> Written:
        assert draft.state is not None
        for path in self._scratch.iterdir():  # counts of values, which are learned now
            path.unlink()
        named = tuple(raw.part if isinstance(raw, ColumnSource) else None for raw in portions)
        counts = self._counts(portions[0], named)
        starts, all_of = _starts(counts), _counted(counts)
        sizes = tuple(sum(p.examples for pieces in stretches for p in pieces) for stretches in counts)
        written = Written(sizes, all_of.bad_lines, all_of.first_bad)
        group, groups = part_size()
        size = group * groups
        parts, first = -(-all_of.examples // size), len(draft.state.part_bytes)
        tasks = [
            self._part(form, portions[0], named, starts, number, written if number == parts - 1 else None)
            for number in range(first, parts)
        ]
        for number, _ in enumerate(self._stream("writing Parquet", tasks, type(None), first), first + 1):
            if number < parts:
                draft.note_part(place_of(starts, number * size))
        return written

    def _part(
        self,
        form: PartFormat,
        raw: RawSource,
        named: tuple[Portion | None, ...],
        starts: Sequence[_Start],
        number: int,
        last: Written | None,
    ) -> WritePart:
        group, groups = part_size()
        begin, size = number * group * groups, group * groups
        at, end = _at(starts, begin), bisect_left(starts, begin + size, key=_examples)
        wanted = list(dict.fromkeys((start.portion, start.stretch) for start in starts[at:end]))
        before = (starts[at].place.examples, *[0] * (len(wanted) - 1))
        return WritePart(
            **self._about(raw),
            stretches=tuple((named[portion], self.stretches[stretch]) for portion, stretch in wanted),
            begin=Place(begin, 0, starts[at].piece, before),
            number=number,
            out=str(form.folder),
            learned=str(self.draft / LEARNED_FOLDER),
            digest=form.transform.digest,
            info=form.info,
            row_group=group,
            row_groups=groups,
            report=last.report if last is not None else None,
        )

    def _about(self, raw: RawSource) -> dict[str, Any]:
        """What every task is told: how to read `raw`, and the folder that is shared."""
        source = self.source
        if isinstance(raw, ColumnSource):
            times = raw.split.times if raw.split is not None else None
            source = msgspec.structs.replace(
                source, times=times, statistics=raw.statistics, counted_cells=raw.counted_cells
            )
        return {"source": source, "scratch": str(self._scratch)}

    def _counts(self, raw: RawSource, portions: tuple[Portion | None, ...]) -> Counts:
        """Counted once, also for a process that comes after this one."""
        path = self.draft / PIECES_FILE
        if self._pieces is None and path.exists():
            self._pieces = msgspec.msgpack.decode(path.read_bytes(), type=_Pieces)
        known = self._pieces
        if known is not None and (known.stretches, known.portions) == (self.stretches, portions):
            return known.counts
        tasks = [CountExamples(**self._about(raw), stretch=s, portions=portions) for s in self.stretches]
        found = self._answers("counting examples", tasks, list[list[PieceCount]])
        counts = [[answer[place] for answer in found] for place in range(len(portions))]
        self._pieces = _Pieces(self.stretches, portions, counts)
        write_whole(path, msgspec.msgpack.encode(self._pieces))
        return counts

    def _first(self, stop: int | None) -> Iterator[tuple[int, int | None]]:
        """Numbers of the stretches that hold the first `stop` examples, and how many each has of them."""
        if stop is None:
            yield from ((number, None) for number in range(len(self.stretches)))
            return
        assert self._pieces is not None
        left = stop
        for number, pieces in enumerate(self._pieces.counts[0]):
            here = min(left, sum(piece.examples for piece in pieces))
            if here:
                yield number, here
            left -= here

    def _answers(self, stage: str, tasks: Sequence[AnyTask], kind: Any) -> list[Any]:
        return list(self._stream(stage, tasks, kind))

    def _stream(self, stage: str, tasks: Sequence[AnyTask], kind: Any, before: int = 0) -> Iterator[Any]:
        """Answers of one pass in order; `before` of its tasks were done by an earlier process."""
        total = before + len(tasks)

        def tell(done: int) -> None:
            self.progress(stage, (before + done) / max(1, total))

        tell(0)
        for message in self.engine.map([packed(task) for task in tasks], tell):
            yield msgspec.msgpack.decode(message, type=kind)


def _counted(counts: Counts) -> Counted:
    pieces = [piece for stretches in counts for found in stretches for piece in found]
    first = next((piece.first_bad for piece in pieces if piece.first_bad), None)
    return Counted(sum(p.examples for p in pieces), sum(p.bad_lines for p in pieces), first)


def _starts(counts: Counts) -> list[_Start]:
    """Of all pieces, in the order in which they are written."""
    found: list[_Start] = []
    position, sizes, bad_lines = 0, [0] * len(counts), 0
    first_bad: str | None = None
    for portion, stretches in enumerate(counts):
        number = 0
        for stretch, pieces in enumerate(stretches):
            for piece, count in enumerate(pieces):
                place = Place(position, portion, number, tuple(sizes), bad_lines, first_bad)
                found.append(_Start(portion, stretch, piece, place))
                position, number = position + count.examples, number + 1
                sizes[portion] += count.examples
                bad_lines, first_bad = bad_lines + count.bad_lines, first_bad or count.first_bad
    return found


def _examples(start: _Start) -> int:
    return start.place.examples


def _at(starts: Sequence[_Start], examples: int) -> int:
    """The number of the piece that holds example number `examples`."""
    return bisect_right(starts, examples, key=_examples) - 1


def place_of(starts: Sequence[_Start], examples: int) -> Place:
    """Where a process that goes on alone begins, so that example number `examples` is the first one."""
    return msgspec.structs.replace(starts[_at(starts, examples)].place, examples=examples)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
    path.unlink()
