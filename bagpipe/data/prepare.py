"""Raw logs to prepared Parquet: `prepare` for people, `prepared_cache` for a job's own use.

Two or three streaming passes: count the examples (only to know where the training part ends), count the
values (vocabulary) or find the largest ids, then encode and write. Memory holds a few blocks of text, one
row group and the values that have rows of their own; it does not grow with the file. Output appears under
its final name only when it is complete; what a killed process leaves is gone on with (`bagpipe.data.draft`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bagpipe.config.document import DataConfig
from bagpipe.config.oov import oov_rows
from bagpipe.config.parts import Shares, shares_of
from bagpipe.data.column_learning import check_vocabularies, counted_statistics, learn_columns, learn_counts
from bagpipe.data.columns import ColumnSource, counted_names, telling_file
from bagpipe.data.draft import Draft, Place
from bagpipe.data.encoded import Counted, Progress, rows_needed
from bagpipe.data.files import InputFile, find_files
from bagpipe.data.formats import Format, choose_encoding, format_of, found_tables, learned_by, open_raw
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.output import check_output, going_on, made_once, replacing
from bagpipe.data.passes import LocalPasses, Passes
from bagpipe.data.prepared import FIRST_PART, VERSION, PreparedInfo, Recipe, read_info
from bagpipe.data.prepared_parts import PartFormat
from bagpipe.data.raw import RawSchema, RawSource
from bagpipe.data.split import Part, Ranges, check_parts, sizes_of, split_of
from bagpipe.data.spread import Engine, SpreadPasses
from bagpipe.data.stretches import cut_into_stretches
from bagpipe.data.tasks import Source, layout_of_parts
from bagpipe.data.transform import DenseStatistics, KeptFeature, KeptTable, Transform, TransformInfo
from bagpipe.data.value_counts import ValueCounts
from bagpipe.data.vocabulary import AnyCounter, Vocabulary
from bagpipe.errors import ConfigError, DataError
from bagpipe.tables import Table

PARTS: tuple[Part, ...] = ("training", "validation", "test")
"""In the order in which they lie."""
MOST_FOUND_ROWS = 1 << 32
"""Rows of a table whose size is found in the data; a larger one has to be listed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote."""

    folder: Path
    examples: int
    info: PreparedInfo
    begun_at: int = 0
    """Examples that an interrupted process had written before."""


def prepare(
    data: DataConfig,
    out: Path,
    *,
    tables: Sequence[Table] = (),
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    kept: Transform | None = None,
    resume: bool = True,
    engine: Engine | None = None,
) -> Prepared:
    """Write `data` as prepared Parquet to the folder `out`, for the tables that the job names, if it names any.

    Args:
        kept: an earlier transform to encode with; None: one is made of the training part.
        resume: go on where a process was killed or interrupted that wrote the same; the bytes will be the same.
        engine: who runs the passes, on other processes or machines that see the data and `out`; None: this process.
            Either writes the same bytes and goes on where the other was killed.

    Raises:
        ConfigError: `out` exists, the data is prepared already, or the settings contradict each other.
        DataError: the data cannot be read.
        StorageError: the output cannot be written; nothing half-written is left.
    """
    files = () if data.format == "synthetic" else find_files(data.path)
    check_output(out, [f.name for f in files], overwrite=overwrite)
    found = format_of(data, files)
    if found == "parquet":
        raise ConfigError(f"{files[0].name}: prepared already; name the raw logs in data.path")
    raw = open_raw(data, found, files, seed, kept)
    digest = data_digest(data, files, tables, seed) + (kept.digest[:8] if kept is not None else "")
    with going_on(out, digest, overwrite=overwrite) if resume else replacing(out, overwrite=overwrite) as folder:
        tell, draft = progress or (lambda stage, fraction: None), Draft(folder, kept=resume)
        learned = draft.found()
        begin = draft.state.place if draft.state is not None else Place()
        passes: Passes = LocalPasses(data.readers, tell, folder)
        if engine is not None:
            first = next((file for file in files if file.size), None)
            if isinstance(raw, ColumnSource):
                first, _ = telling_file(files, raw.columns, data.format)
            known = kept.info if kept is not None else None
            source = Source(data=data, found=found, first=first, seed=seed, kept=known)
            passes = SpreadPasses(engine, source, cut_into_stretches(raw, files), folder, tell)
        examples, info = _Preparation(data, found, raw, tuple(tables), passes, kept).write(draft, learned)
        draft.finish()
    return Prepared(out, examples, info, begin.examples)


def learn(data: DataConfig, *, tables: Sequence[Table] = (), seed: int = 0) -> Transform:
    """The transform that a job of this data would make, without writing its examples.

    Raises:
        ConfigError: the data is prepared already, or the settings contradict each other.
        DataError: the data cannot be read.
    """
    files = () if data.format == "synthetic" else find_files(data.path)
    found = format_of(data, files)
    if found == "parquet":
        raise ConfigError(f"{files[0].name}: prepared already; name the raw logs in data.path")
    raw = open_raw(data, found, files, seed)
    passes = LocalPasses(data.readers, lambda stage, fraction: None)
    return _Preparation(data, found, raw, tuple(tables), passes, None).learn()


def prepared_cache(
    data: DataConfig,
    files: Sequence[InputFile],
    tables: Sequence[Table],
    seed: int,
    work_dir: Path,
    progress: Progress | None,
    kept: Transform | None = None,
) -> Path:
    """The prepared folder of this data in `work_dir`, made unless it is there and by the kept transform."""
    folder = work_dir / f"prepared-{data_digest(data, files, tables, seed)}"
    if kept is not None and not _made_with(folder, kept):
        folder = folder.with_name(f"{folder.name}-{kept.digest[:8]}")
    with made_once(folder, FIRST_PART) as draft:
        if draft is not None:
            prepare(data, draft, tables=tables, seed=seed, progress=progress, kept=kept, resume=False)
    return folder


def _made_with(folder: Path, kept: Transform) -> bool:
    part = folder / FIRST_PART
    return part.exists() and read_info(InputFile(str(part), part.stat().st_size, "")).transform == kept.info


def data_digest(data: DataConfig, files: Sequence[InputFile], tables: Sequence[Table], seed: int) -> str:
    """Changes when the files or any setting that changes their examples does."""
    settings = {
        "version": VERSION,
        "files": [(f.name, f.size, f.stamp) for f in files],
        "tables": [(t.name, t.num_embeddings, t.feature_names) for t in tables],
        "recipe": [data.format, data.encoding, data.hash_size, data.min_count, data.numeric_bins, data.on_bad_line],
        "train": _cut_off(data),
        "columns": [data.columns, data.oov, data.split_by],
        "synthetic": [data.synthetic, seed] if data.format == "synthetic" else None,
    }
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:16]


def _cut_off(data: DataConfig) -> object:
    """As older versions wrote it where they could."""
    shares = shares_of(data)
    if shares == Shares(test=shares.test):
        return float(shares.test)
    return [None if share is None else str(share) for share in (shares.train, shares.validation, shares.test)]


@dataclass(slots=True)
class _Preparation:
    """The passes of one `prepare`."""

    data: DataConfig
    found: Format
    raw: RawSource
    named: tuple[Table, ...]
    passes: Passes
    kept: Transform | None
    counted: Counted | None = None

    def learn(self) -> Transform:
        """The transform: the kept one, or what the training part teaches."""
        self._split(None)
        return self.kept or self._learn()

    def _split(self, times: tuple[float, float, float] | None) -> None:
        """Find out who is for what, unless the times are known."""
        raw, split = self.raw, split_of(self.data, times)
        if isinstance(raw, ColumnSource) and split is not None:
            raw = raw.with_split(split)
            self.raw = self.passes.find_times(raw) if split.by == "time" and times is None else raw

    def write(self, draft: Draft, learned: Transform | None) -> tuple[int, PreparedInfo]:
        """All parts that the draft does not hold yet.

        Args:
            learned: what the draft holds; None: nothing.
        """
        if learned is not None and draft.state is not None:
            self.counted = draft.state.counted
            self._split(draft.state.times)
        else:
            learned = self.learn()
            split = self.raw.split if isinstance(self.raw, ColumnSource) else None
            draft.note_learned(learned, self.counted, split.times if split is not None else None)
        info = self._info(learned)
        form = PartFormat(draft.folder, info, layout_of_parts(info), learned)
        written = self.passes.write(draft, form, self._parts(learned), self.counted)
        if not sum(written.sizes):
            where = written.first_bad or "data.path"
            raise DataError(f"{where}: no valid example in the data; check data.path and data.format")
        if len(written.sizes) > 1:
            check_parts(dict(zip(PARTS, written.sizes, strict=True)), self.data)
        return sum(written.sizes), msgspec.structs.replace(info, **msgspec.structs.asdict(written.report))

    def _parts(self, transform: Transform) -> list[RawSource]:
        """All examples in file order, or part by part."""
        raw = self.raw
        if not isinstance(raw, ColumnSource):
            return [raw]
        raw = learned_by(raw, transform)
        return [raw] if raw.split is None else [raw.only(part) for part in PARTS]

    def _learn(self) -> Transform:
        """The passes before encoding: sizes or vocabularies of all tables, from the training part."""
        encoding = choose_encoding(self.data, self.raw.schema)
        tables = found_tables(self.data, self.raw.schema, encoding, self.named)
        vocabularies: dict[str, Vocabulary] | None = None
        counts: dict[str, ValueCounts] = {}
        raw, stop = self.raw, None
        statistics: tuple[DenseStatistics, ...] = ()
        if isinstance(raw, ColumnSource) and raw.split is not None:
            raw = raw.only("training")
        elif encoding == "vocabulary" or isinstance(raw, ColumnSource):
            stop = self._training_part()
        if isinstance(raw, ColumnSource):
            statistics = learn_columns(raw, self.passes.look(raw, stop))
        counters, counted = self._counters(raw, tables if encoding == "vocabulary" else (), stop)
        if isinstance(raw, ColumnSource):
            counts = learn_counts(raw, counted)
            statistics += counted_statistics(raw.columns, counts)
        if encoding == "vocabulary":
            tables, vocabularies = self._vocabularies(tables, counters)
        elif any(t.num_embeddings is None for t in tables):
            largest, self.counted = self.passes.largest(self.raw)
            sizes = rows_needed(self.raw.schema, tables, largest)
            tables = tuple(FoundTable(t.name, n, t.feature_names) for t, n in zip(tables, sizes, strict=True))
            _check_found(tables)
        info = stated_transform(self.data, self.found, self.raw.schema, encoding, tables)
        if isinstance(self.raw, ColumnSource):
            kept = tuple(KeptFeature(name, known.kind) for name, known in counts.items())
            info = msgspec.structs.replace(info, columns=self.raw.columns, statistics=statistics, counted=kept)
        return Transform.of(info, vocabularies, counts)

    def _training_part(self) -> int | None:
        """Where the training part ends; None: it is all there is."""
        if shares_of(self.data).whole:
            return None
        self.counted = self.passes.count(self.raw)
        ranges = Ranges.in_order(self.counted.examples, shares_of(self.data))
        check_parts(sizes_of(ranges), self.data)
        return ranges.train[1]

    def _counters(
        self, raw: RawSource, tables: tuple[FoundTable, ...], stop: int | None
    ) -> tuple[Sequence[AnyCounter], Sequence[AnyCounter]]:
        """Of the values of each table, and of each dense column with `count`, in one pass."""
        source, names = raw, tuple[str, ...]()
        if isinstance(raw, ColumnSource) and raw.counts:
            source, names = raw.with_counted_cells(), counted_names(raw.columns)
        asked = tables + tuple(FoundTable(name, None, (name,)) for name in names)
        if not asked:
            return (), ()
        counters, seen = self.passes.count_values(source, asked, stop)
        if raw is self.raw:
            self.counted = self.counted or seen
        return counters[: len(tables)], counters[len(tables) :]

    def _vocabularies(
        self, tables: tuple[FoundTable, ...], counters: Sequence[AnyCounter]
    ) -> tuple[tuple[FoundTable, ...], dict[str, Vocabulary]]:
        oov = oov_rows(self.data, [t.name for t in tables])
        made = {
            t.name: Vocabulary.of(counter, self.data.min_count, t.num_embeddings, oov[t.name])
            for t, counter in zip(tables, counters, strict=True)
        }
        if self.data.columns is not None:
            check_vocabularies(tables, made)
        sized = tuple(FoundTable(t.name, t.num_embeddings or made[t.name].num_rows, t.feature_names) for t in tables)
        return sized, made

    def _info(self, transform: Transform) -> PreparedInfo:
        data, schema, kept = self.data, self.raw.schema, transform.info
        recipe = Recipe(
            self.found,
            kept.encoding,
            kept.hash_size,
            kept.min_count,
            kept.numeric_bins,
            data.test_fraction,
            data.on_bad_line,
        )
        return PreparedInfo(
            VERSION, schema.num_labels, schema.dense_names, schema.jagged, kept.tables, recipe, transform=kept,
            weighted=schema.weighted, grouped=schema.grouped,
            value_weights=tuple(f.name for f in schema.features if f.weighted),
        )  # fmt: skip


def stated_transform(
    data: DataConfig, found: Format, schema: RawSchema, encoding: str, tables: Sequence[FoundTable]
) -> TransformInfo:
    """The transform before anything is learned but the sizes of tables."""
    oov = oov_rows(data, [t.name for t in tables])
    return TransformInfo(
        source=found,
        encoding=encoding,
        hash_size=data.hash_size,
        min_count=data.min_count,
        numeric_bins=data.numeric_bins,
        num_labels=schema.num_labels,
        dense=schema.dense_names,
        jagged=schema.jagged,
        features=tuple(KeptFeature(f.name, f.kind) for f in schema.features),
        tables=tuple(KeptTable(t.name, t.num_embeddings or 1, t.feature_names, oov[t.name]) for t in tables),
    )


def _check_found(tables: Sequence[FoundTable]) -> None:
    """Ids that are no row numbers would make tables as large as the largest of them."""
    for table in tables:
        rows, names = table.num_embeddings or 0, ", ".join(table.feature_names)
        if rows > MOST_FOUND_ROWS:
            raise DataError(
                f"data.path: feature {names} has the id {rows - 1}; as row numbers its ids need {rows:,} rows; "
                "set data.encoding to hash or vocabulary, or list the table in embedding.tables"
            )
