"""A job's data as one deterministic stream of batches (contract X5). Only the oracle's process opens it.

Text with a known size of every table is parsed at each pass. A vocabulary, or ids whose range is not known,
needs passes over the data first; their result is kept as prepared Parquet in `work_dir`, where a resumed or
repeated run finds it again. Either way the batches are a pure function of files, order, batch size and seed.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bagpipe.batch import Batch, Cursor
from bagpipe.config.document import DataConfig, EmbeddingConfig, Paths
from bagpipe.config.parts import all_of, paths_in, shares_of, with_path
from bagpipe.data.enclosed import prepared_transform
from bagpipe.data.encoded import Counted, EncodedSource, Progress, count_examples
from bagpipe.data.examples import Examples
from bagpipe.data.files import InputFile, find_files
from bagpipe.data.formats import (
    Format,
    check_prepared,
    choose_encoding,
    format_of,
    found_tables,
    open_raw,
    prepared_tables,
)
from bagpipe.data.found_tables import layout_of
from bagpipe.data.order import EpochOrder, batches_of_epoch
from bagpipe.data.prepare import data_digest, prepared_cache, stated_transform
from bagpipe.data.prepared import PreparedSource, read_info, with_report
from bagpipe.data.raw import RawSource
from bagpipe.data.split import Range, Ranges, check_parts, far_from_asked, sizes_of
from bagpipe.data.transform import Transform
from bagpipe.errors import DataError
from bagpipe.lowlevel.atomic_files import make_folder, write_whole
from bagpipe.tables import TableLayout

BEGINNING = Cursor()


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was done to the data, for the run's summary."""

    bad_lines: int
    """Malformed lines skipped, in the part of the data read so far."""
    first_bad: str | None
    dropped_examples: int
    """Examples not trained on because of `drop_last`, over all epochs finished so far."""
    num_train_examples: int | None
    num_test_examples: int
    num_validation_examples: int
    tables: dict[str, int]
    """Rows of each table."""


class Dataset:
    """The training, validation and test part of one job's data; made by `open_dataset`."""

    def __init__(
        self,
        source: EncodedSource | PreparedSource,
        *,
        layout: TableLayout,
        transform: Transform,
        counted: Counted | None,
        ranges: Ranges | None,
        data: DataConfig,
        seed: int,
    ) -> None:
        self.layout, self.transform = layout, transform
        self.num_dense, self.num_labels = len(transform.info.dense), transform.info.num_labels
        self._source, self._counted, self._data = source, counted, data
        self._test: Dataset | None = None
        self._validation: Dataset | None = None
        self._ranges = ranges
        self.num_examples = counted.examples if counted else None
        sizes = sizes_of(ranges) if ranges else None
        self.num_train_examples = sizes["training"] if sizes else None
        self.num_validation_examples = sizes["validation"] if sizes else 0
        self.num_test_examples = sizes["test"] if sizes else 0
        self._order = EpochOrder(seed, data.shuffle, data.shuffle_window)
        self._dropped = 0

    def __repr__(self) -> str:
        sizes = (self.num_train_examples, self.num_validation_examples, self.num_test_examples)
        return f"Dataset(train={sizes[0]}, validation={sizes[1]}, test={sizes[2]}, source={self._source!r})"

    @property
    def grouped(self) -> bool:
        """Whether examples say whom they belong to (`Batch.groups_B`)."""
        if isinstance(self._source, PreparedSource):
            return self._source.info.grouped
        return self._data.columns is not None and bool(self._data.columns.group)

    @property
    def report(self) -> DataReport:
        bad, first = (self._counted.bad_lines, self._counted.first_bad) if self._counted else (0, None)
        if isinstance(self._source, EncodedSource):
            bad, first = (max(bad, self._source.bad_lines), first or self._source.first_bad)
        tables = {t.name: t.num_embeddings for t in self.layout.tables}
        evaluated = (self.num_test_examples, self.num_validation_examples)
        return DataReport(bad, first, self._dropped, self.num_train_examples, *evaluated, tables)

    def far_from_asked(self) -> str | None:
        """One line if a part is far from the share that was asked for; None: no part is."""
        return far_from_asked(sizes_of(self._ranges), self._data) if self._ranges else None

    def train_batches(
        self, batch_size: int, *, start: Cursor = BEGINNING, epochs: int | None = None
    ) -> Iterator[Batch]:
        """Batches from `start` to the end of epoch `epochs - 1` (None: forever).

        Raises:
            DataError: the training part has no example, or `drop_last` would drop every one.
        """
        epoch, position = start.epoch, start.position
        while epochs is None or epoch < epochs:
            seen = _Tally(position)
            pieces = seen.count(self._order.read(self._source, epoch, position, self.num_train_examples))
            empty = True
            for batch in batches_of_epoch(pieces, batch_size, Cursor(epoch, position), drop_last=self._data.drop_last):
                empty = False
                yield batch
            if empty and position == 0:
                raise DataError(
                    f"data.path: the training part has {seen.examples} examples, fewer than one batch; give more data, "
                    "lower data.testFraction or batchSize, or set data.dropLast: false"
                )
            if position == 0 or seen.examples > position:
                self.num_train_examples = seen.examples
            if self._data.drop_last:
                self._dropped += (seen.examples - position) % batch_size
            epoch, position = epoch + 1, 0

    def with_test(self, test: "Dataset") -> "Dataset":
        """This data set, which is evaluated on all of `test`."""
        self._test, self.num_test_examples = test, test.num_examples or 0
        return self

    def with_validation(self, validation: "Dataset") -> "Dataset":
        """This data set, whose validation part is all of `validation`."""
        self._validation, self.num_validation_examples = validation, validation.num_examples or 0
        return self

    def all_examples(self) -> Iterator[Examples]:
        """Every example in file order."""
        return self._source.read(0, None)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test part or data once, in file order; cursors count from its beginning, nothing is dropped."""
        return self._once(self._test, self._ranges.test if self._ranges else (0, 0), batch_size)

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        """The same of the validation part or data."""
        return self._once(self._validation, self._ranges.validation if self._ranges else (0, 0), batch_size)

    def _once(self, other: "Dataset | None", part: Range, batch_size: int) -> Iterator[Batch]:
        if other is None and part[0] == part[1]:
            return iter(())
        pieces = self._source.read(*part) if other is None else other.all_examples()
        return batches_of_epoch(pieces, batch_size, Cursor(), drop_last=False)


@dataclass(slots=True)
class _Tally:
    """Counts the examples that pass by, from position `examples` on."""

    examples: int

    def count(self, pieces: Iterator[Examples]) -> Iterator[Examples]:
        for piece in pieces:
            self.examples += len(piece)
            yield piece


def open_dataset(
    data: DataConfig,
    embedding: EmbeddingConfig,
    *,
    seed: int,
    work_dir: Path,
    progress: Progress | None = None,
    kept: Transform | None = None,
    only_test: bool = False,
) -> Dataset:
    """Open a job's data, preparing it first where that is needed.

    Args:
        seed: the job's seed; it orders shuffled epochs and makes synthetic data.
        work_dir: folder for prepared data, reused by later runs.
        progress: called with a stage and a fraction in [0, 1].
        kept: the transform of the model that is to be resumed or evaluated; None: one is made of the training part.
        only_test: nothing will be trained; with `kept`, training data beside data of its own for tests is not opened.

    Raises:
        ConfigError: settings that contradict each other or the data.
        DataError: data that is missing, unreadable, malformed, or of another form than `kept` was made for.
    """
    opener, data = _Opener(embedding, seed, work_dir, progress), with_path(data)
    test, validation = paths_in(data.test), paths_in(data.validation)
    if test and only_test and kept is not None:
        dataset = opener.open(all_of(data, test), kept, prepare=False, count=True)
        return dataset.with_test(dataset)
    dataset = opener.open(data, kept, prepare=not only_test or bool(test))
    if test:
        dataset.with_test(opener.other(data, test, dataset))
    if validation and not only_test:
        dataset.with_validation(opener.other(data, validation, dataset))
    return dataset


@dataclass(frozen=True, slots=True)
class _Opener:
    """What every part of a job's data is opened with."""

    embedding: EmbeddingConfig
    seed: int
    work_dir: Path
    progress: Progress | None

    def open(self, data: DataConfig, kept: Transform | None, *, prepare: bool = True, count: bool = False) -> Dataset:
        """One part.

        Args:
            prepare: raw data that is read again and again is prepared once, if its transform is to be learned anyway.
            count: the number of examples is wanted.
        """
        files = () if data.format == "synthetic" else find_files(data.path)
        found = format_of(data, files)
        if found == "parquet":
            if kept is None:
                check_prepared(data)
            return self._prepared(data, files, kept)
        raw = open_raw(data, found, files, self.seed, kept)
        if kept is not None:
            kept.check_source(found, raw.schema)
        stated = kept or self._stated(data, found, raw)
        if stated is None or (prepare and stated.info.encoding == "vocabulary") or data.split_by != "order":
            tables = self.embedding.tables
            folder = prepared_cache(data, files, tables, self.seed, self.work_dir, self.progress, kept)
            return self._prepared(data, find_files(str(folder)), kept)
        layout = layout_of(stated.info.tables, self.embedding)
        source = EncodedSource(raw, stated.encoder(raw.schema, layout), data.readers)
        counted = Counted(raw.num_examples) if raw.num_examples is not None else None
        if counted is None and (count or not shares_of(data).whole):
            counted = self._counted(raw, data, files)
        ranges = None
        if counted is not None:
            ranges = Ranges.in_order(counted.examples, shares_of(data))
            check_parts(sizes_of(ranges), data)
        return Dataset(
            source, layout=layout, transform=stated, counted=counted, ranges=ranges, data=data, seed=self.seed
        )

    def other(self, data: DataConfig, path: Paths, trained: Dataset) -> Dataset:
        """Data of its own for a part, all of it, as the training part's transform encodes it."""
        return self.open(all_of(data, path), trained.transform, prepare=False, count=True)

    def _stated(self, data: DataConfig, found: Format, raw: RawSource) -> Transform | None:
        """The transform, if nothing has to be learned from the data first."""
        encoding = choose_encoding(data, raw.schema)
        tables = found_tables(data, raw.schema, encoding, self.embedding.tables)
        if encoding == "vocabulary" or data.columns is not None or any(t.num_embeddings is None for t in tables):
            return None
        return Transform(stated_transform(data, found, raw.schema, encoding, tables))

    def _prepared(self, data: DataConfig, files: Sequence[InputFile], kept: Transform | None) -> Dataset:
        files = [file for file in files if file.size] or files[:1]  # One that is empty is refused as it is read.
        info = with_report(read_info(files[0]), files)
        own = prepared_transform(info, files[0])
        transform = own if kept is None else kept
        if transform.info not in (info.transform, own.info):
            raise DataError(
                f"{files[0].name}: prepared with another transform than the model's, so its rows mean other values; "
                "give the raw data"
            )
        layout = layout_of(prepared_tables(info), self.embedding)
        source = PreparedSource(files, info, layout, data.readers)
        counted = Counted(source.num_examples, info.bad_lines, info.first_bad)
        if info.train_examples is None:
            ranges = Ranges.in_order(counted.examples, shares_of(data))
        else:
            ranges = Ranges.one_after_another(info.train_examples, info.validation_examples, counted.examples)
        check_parts(sizes_of(ranges), data)
        return Dataset(
            source, layout=layout, transform=transform, counted=counted, ranges=ranges, data=data, seed=self.seed
        )

    def _counted(self, raw: RawSource, data: DataConfig, files: Sequence[InputFile]) -> Counted:
        """The number of examples, remembered in `work_dir`."""
        path = self.work_dir / f"count-{data_digest(data, files, (), self.seed)}.json"
        with suppress(OSError, ValueError):  # Not there, or damaged: it is counted again.
            return msgspec.json.decode(path.read_bytes(), type=Counted)
        if self.progress is not None:
            self.progress("counting examples", 0.0)
        counted = count_examples(raw, data.readers)
        make_folder(self.work_dir)
        write_whole(path, msgspec.json.encode(counted))
        return counted
