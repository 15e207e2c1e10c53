"""What one worker does about one stretch of the data: pure functions of (stretch, settings, transform), bytes to bytes.

A task and its answer are msgpack, so an engine carries them without knowing either. What is too large for an answer is
written into a folder that client and workers share. A task may run twice, also at once, and comes to the same.
"""

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from bagpipe import __version__
from bagpipe.config.document import DataConfig
from bagpipe.data.column_learning import Look, looks
from bagpipe.data.columns import ColumnSource
from bagpipe.data.draft import Place
from bagpipe.data.encoded import EncodedSource, count_values, largest_codes, raw_blocks
from bagpipe.data.files import InputFile
from bagpipe.data.formats import Format, learned_by, open_raw
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.order import cut
from bagpipe.data.prepared import PreparedInfo, Report
from bagpipe.data.prepared_parts import Part, PartFormat
from bagpipe.data.raw import RawSource
from bagpipe.data.split import Part as Portion
from bagpipe.data.split import split_of
from bagpipe.data.stretches import Stretch, StretchSource
from bagpipe.data.transform import DenseStatistics, Transform, TransformInfo, load_transform
from bagpipe.data.walk import Walk
from bagpipe.errors import ConfigError
from bagpipe.tables import Table, TableLayout

VERSIONS = {"bagpipe": __version__, "pyarrow": pa.__version__, "numpy": np.__version__}
"""The bytes that are written depend on these."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """How the data is read."""

    data: DataConfig
    found: Format
    first: InputFile | None
    """The file that tells what columns are; None: generated data."""
    seed: int
    kept: TransformInfo | None
    """Of a model that was trained before."""
    times: tuple[float, float, float] | None = None
    """Of a split by time, once they are known."""
    statistics: tuple[DenseStatistics, ...] | None = None
    counted_cells: bool = False
    """The values of dense columns with `count` are features too."""

    def open(self, portion: Portion | None = None) -> RawSource:
        """All the data, or the examples of one portion."""
        files = (self.first,) if self.first is not None else ()
        raw = open_raw(self.data, self.found, files, self.seed, Transform(self.kept) if self.kept else None)
        if not isinstance(raw, ColumnSource):
            return raw
        split = split_of(self.data, self.times)
        raw = raw if split is None else raw.with_split(split)
        raw = raw if self.statistics is None else raw.with_statistics(self.statistics)
        raw = raw.with_counted_cells() if self.counted_cells else raw
        return raw if portion is None else raw.only(portion)


class Task(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something to do about a stretch of the data."""

    source: Source
    scratch: str
    """A folder that client and workers share."""

    def file(self, name: str) -> Path:
        return Path(self.scratch) / name


class FindTimes(Task, frozen=True, kw_only=True, tag=True):
    """Write the times of all rows to the file `into`."""

    stretch: Stretch
    into: str

    def run(self) -> None:
        raw = self.source.open()
        assert isinstance(raw, ColumnSource)
        with _whole(self.file(self.into)) as path, path.open("wb") as file:
            for piece in StretchSource(raw, self.stretch).pieces(0)[1]:
                file.write(raw.times_of(piece))


class PieceCount(msgspec.Struct, frozen=True, array_like=True):
    """What one piece has for one portion of the data."""

    examples: int
    bad_lines: int = 0
    first_bad: str | None = None


class CountExamples(Task, frozen=True, kw_only=True, tag=True):
    """What each piece of a stretch has for each of some portions (None: all the data)."""

    stretch: Stretch
    portions: tuple[Portion | None, ...]

    def run(self) -> list[list[PieceCount]]:
        return [
            [
                PieceCount(len(block), block.bad_lines, block.first_bad)
                for block in raw_blocks(StretchSource(self.source.open(portion), self.stretch), 0)
            ]
            for portion in self.portions
        ]


class LookAtColumns(Task, frozen=True, kw_only=True, tag=True):
    """A look at each block of the first `stop` examples."""

    stretch: Stretch
    portion: Portion | None
    stop: int | None

    def run(self) -> list[Look]:
        raw = self.source.open(self.portion)
        assert isinstance(raw, ColumnSource)
        return list(looks(raw, raw_blocks(StretchSource(raw.unfilled(), self.stretch), 0, self.stop), self.stop))


class CountValues(Task, frozen=True, kw_only=True, tag=True):
    """Write how often the values of each table are among the first `stop` examples to the files `into`.

    The answer is how often each table's missing value is.
    """

    stretch: Stretch
    portion: Portion | None
    stop: int | None
    tables: tuple[FoundTable, ...]
    into: tuple[str, ...]

    def run(self) -> list[int]:
        source = StretchSource(self.source.open(self.portion), self.stretch)
        counters, _ = count_values(source, self.tables, 0, self.stop, lambda done: None, Path(self.scratch))
        missing = []
        for counter, name in zip(counters, self.into, strict=True):
            with _whole(self.file(name)) as path:
                missing.append(counter.save(path))
        return missing


class FindLargest(Task, frozen=True, kw_only=True, tag=True):
    """The largest code of each feature."""

    stretch: Stretch

    def run(self) -> list[int]:
        return [int(code) for code in largest_codes(StretchSource(self.source.open(), self.stretch), 0)[0]]


class WritePart(Task, frozen=True, kw_only=True, tag=True):
    """Write one part of the output.

    Args:
        stretches: where its examples lie, as few as there are, with the portion to take of each.
        begin: where it begins among these.
        report: said by the last part.
    """

    stretches: tuple[tuple[Portion | None, Stretch], ...]
    begin: Place
    number: int
    out: str
    learned: str
    """The folder of the transform, and its digest."""
    digest: str
    info: PreparedInfo
    row_group: int
    """Examples of each; `row_groups` of them make a part."""
    row_groups: int
    report: Report | None

    def run(self) -> None:
        transform = _transform(self.learned, self.digest)
        form = PartFormat(Path(self.out), self.info, layout_of_parts(self.info), transform)
        sources: Sequence[EncodedSource] = [
            EncodedSource(source, transform.encoder(source.schema, form.layout))
            for source in (StretchSource(self._open(p, transform), s) for p, s in self.stretches)
        ]
        examples = cut(Walk(sources, self.begin).examples(), self.row_group)
        with _whole(self.file(f"part-{self.number}"), form.path(self.number)) as path:
            part = Part(form, self.number, path)
            try:
                for group in islice(examples, self.row_groups):
                    part.write(group)
                part.close(self.report)
            finally:
                part.let_go()

    def _open(self, portion: Portion | None, transform: Transform) -> RawSource:
        raw = self.source.open(portion)
        return learned_by(raw, transform) if isinstance(raw, ColumnSource) else raw


AnyTask = FindTimes | CountExamples | LookAtColumns | CountValues | FindLargest | WritePart


class _Message(msgspec.Struct, frozen=True):
    versions: dict[str, str]
    task: msgspec.Raw


def packed(task: AnyTask) -> bytes:
    """What `run_packed` takes."""
    return msgspec.msgpack.encode(_Message(VERSIONS, msgspec.Raw(msgspec.msgpack.encode(task))))


def run_packed(message: bytes) -> bytes:
    """Do a task; the answer is what its `run` returns, as msgpack.

    Raises:
        ConfigError: this process is of other versions than the client, or does not see its files.
    """
    found = msgspec.msgpack.decode(message, type=_Message)
    host = socket.gethostname()
    for name, version in found.versions.items():
        if VERSIONS.get(name) != version:
            raise ConfigError(
                f"{name} is {VERSIONS.get(name)} for a worker on host {host} and {version} here, and the bytes would "
                "differ; install the same version for all workers"
            )
    task = msgspec.msgpack.decode(found.task, type=AnyTask)
    if not os.path.isdir(task.scratch):
        raise ConfigError(
            f"{task.scratch}: not seen by a worker on host {host}; write to a folder that all workers share"
        )
    return msgspec.msgpack.encode(task.run())


def layout_of_parts(info: PreparedInfo) -> TableLayout:
    """All tables as one group, in their order."""
    return TableLayout.of(Table(t.name, t.num_embeddings, 1, t.feature_names) for t in info.tables)


@lru_cache(maxsize=1)
def _transform(folder: str, digest: str) -> Transform:
    """Loaded once by each worker."""
    return load_transform(Path(folder))


@contextmanager
def _whole(path: Path, final: Path | None = None) -> Iterator[Path]:
    """A path of nobody else's, for a file that then takes the name `final`, or `path`."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        os.replace(draft, final or path)
    finally:
        draft.unlink(missing_ok=True)
