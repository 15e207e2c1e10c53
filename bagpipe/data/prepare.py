"""Raw logs to prepared Parquet: `prepare` for people, `prepared_cache` for a job's own use.

Two or three streaming passes: count the examples (only to know where the training part ends), count the
values (vocabulary) or find the largest ids, then encode and write. Memory holds a few blocks of text, one
row group and the distinct values; it does not grow with the file. Output appears under its final name
only when it is complete.
"""

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.config.document import DataConfig
from bagpipe.data import encode_kernels
from bagpipe.data.encode import Encoder
from bagpipe.data.encoded import Counted, EncodedSource, Progress, count_examples, count_values, largest_ids
from bagpipe.data.examples import Examples
from bagpipe.data.files import InputFile, find_files
from bagpipe.data.formats import Format, FoundTable, choose_encoding, detect_format, found_tables, open_raw
from bagpipe.data.order import cut
from bagpipe.data.prepared import ROW_GROUP, TABLES_FILE, VERSION, PreparedInfo, PreparedTable, Recipe
from bagpipe.data.raw import RawSource, value_text
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.errors import ConfigError, DataError, StorageError
from bagpipe.tables import Table, TableLayout

ROWS_PER_PART = 64 * ROW_GROUP
VOCABULARY_FILE = "_vocabulary.parquet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote."""

    folder: Path
    examples: int
    info: PreparedInfo


def prepare(
    data: DataConfig,
    out: Path,
    *,
    tables: Sequence[Table] = (),
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write `data` as prepared Parquet to the folder `out`, for the tables that the job names, if it names any.

    Raises:
        ConfigError: `out` exists, the data is prepared already, or the settings contradict each other.
        DataError: the data cannot be read.
        StorageError: the output cannot be written; nothing half-written is left.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists already; choose another folder or allow overwriting")
    files = () if data.format == "synthetic" else find_files(data.path)
    found: Format = "synthetic" if data.format == "synthetic" else detect_format(files, data.format)
    if found == "parquet":
        raise ConfigError(f"{files[0].name}: prepared already; name the raw logs in data.path")
    raw = open_raw(data, found, files, seed)
    with replacing(out) as folder:
        result = _Preparation(data, found, raw, tuple(tables), progress or (lambda stage, fraction: None)).write(folder)
    return Prepared(out, result[0], result[1])


def prepared_cache(
    data: DataConfig,
    files: Sequence[InputFile],
    tables: Sequence[Table],
    seed: int,
    work_dir: Path,
    progress: Progress | None,
) -> Path:
    """The prepared folder of this data in `work_dir`, made unless it is there from an earlier run."""
    folder = work_dir / f"prepared-{data_digest(data, files, tables, seed)}"
    if not (folder / TABLES_FILE).exists():
        prepare(data, folder, tables=tables, seed=seed, overwrite=True, progress=progress)
    return folder


def data_digest(data: DataConfig, files: Sequence[InputFile], tables: Sequence[Table], seed: int) -> str:
    """Changes when the files or any setting that changes their examples does."""
    settings = {
        "version": VERSION,
        "files": [(f.name, f.size, f.stamp) for f in files],
        "tables": [(t.name, t.num_embeddings, t.feature_names) for t in tables],
        "recipe": [data.format, data.encoding, data.hash_size, data.min_count, data.numeric_bins, data.on_bad_line],
        "train": data.test_fraction,
        "synthetic": [data.synthetic, seed] if data.format == "synthetic" else None,
    }
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:16]


def train_size(num_examples: int, test_fraction: float) -> int:
    """floor(n * (1 - f)), exact for f as it is written."""
    return int(num_examples * (1 - Fraction(str(test_fraction))))


@dataclass(slots=True)
class _Preparation:
    """The passes of one `prepare`."""

    data: DataConfig
    found: Format
    raw: RawSource
    named: tuple[Table, ...]
    progress: Progress

    def write(self, folder: Path) -> tuple[int, PreparedInfo]:
        encoding = choose_encoding(self.data, self.raw.schema)
        tables = found_tables(self.data, self.raw.schema, encoding, self.named)
        vocabularies: dict[str, Vocabulary] | None = None
        counted: Counted | None = None
        if encoding == "vocabulary":
            tables, vocabularies, counted = self._vocabularies(tables)
            _write_vocabulary(folder / VOCABULARY_FILE, self.raw, tables, vocabularies)
        elif any(t.num_embeddings is None for t in tables):
            self.progress("finding table sizes", 0.0)
            sizes, counted = largest_ids(self.raw, tables, self.data.readers)
            tables = tuple(FoundTable(t.name, n, t.feature_names) for t, n in zip(tables, sizes, strict=True))
        info = self._info(tables, encoding)
        layout = TableLayout.of(Table(t.name, t.num_embeddings, 1, t.feature_names) for t in info.tables)
        source = EncodedSource(self.raw, Encoder(self.raw.schema, layout, encoding, vocabularies), self.data.readers)
        total = counted.examples if counted else self.raw.num_examples
        examples = _write_parts(folder, info, layout, source.read(0, None), total, self.progress)
        if examples == 0:
            raise DataError(
                f"{source.first_bad or 'data.path'}: no valid example in the data; check data.path and data.format"
            )
        info = msgspec.structs.replace(info, bad_lines=source.bad_lines, first_bad=source.first_bad)
        (folder / TABLES_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")
        return examples, info

    def _vocabularies(
        self, tables: tuple[FoundTable, ...]
    ) -> tuple[tuple[FoundTable, ...], dict[str, Vocabulary], Counted | None]:
        counted, stop = None, None
        if self.data.test_fraction > 0:
            self.progress("counting examples", 0.0)
            counted = count_examples(self.raw, self.data.readers)
            stop = train_size(counted.examples, self.data.test_fraction)
        total = stop or self.raw.num_examples or 0
        counters, seen = count_values(
            self.raw,
            tables,
            self.data.readers,
            stop,
            lambda n: self.progress("building the vocabulary", n / total if total else 0.0),
        )
        made = {
            t.name: Vocabulary.of(counter, self.data.min_count, t.num_embeddings)
            for t, counter in zip(tables, counters, strict=True)
        }
        sized = tuple(FoundTable(t.name, t.num_embeddings or made[t.name].num_rows, t.feature_names) for t in tables)
        return sized, made, counted or seen

    def _info(self, tables: Sequence[FoundTable], encoding: str) -> PreparedInfo:
        data, schema = self.data, self.raw.schema
        recipe = Recipe(
            self.found,
            encoding,
            data.hash_size,
            data.min_count,
            data.numeric_bins,
            data.test_fraction,
            data.on_bad_line,
        )
        listed = tuple(PreparedTable(t.name, t.num_embeddings or 1, t.feature_names) for t in tables)
        return PreparedInfo(VERSION, schema.num_labels, schema.dense_names, schema.jagged, listed, recipe)


def _write_parts(
    folder: Path,
    info: PreparedInfo,
    layout: TableLayout,
    pieces: Iterator[Examples],
    total: int | None,
    progress: Progress,
) -> int:
    schema, written = info.arrow_schema(), 0
    part: pq.ParquetWriter | None = None
    try:
        for examples in cut(pieces, ROW_GROUP):
            if written % ROWS_PER_PART == 0:
                if part is not None:
                    part.close()
                # Plain pages: ids of a large table do not compress, and decoding costs more than reading.
                name = folder / f"part-{written // ROWS_PER_PART:05d}.parquet"
                part = pq.ParquetWriter(name, schema, compression="NONE", use_dictionary=False, write_statistics=False)
            if part is not None:
                part.write_table(_arrow_table(examples, info, layout, schema), row_group_size=ROW_GROUP)
            written += len(examples)
            progress("writing Parquet", written / total if total else 0.0)
    finally:
        if part is not None:
            part.close()
    return written


def _arrow_table(examples: Examples, info: PreparedInfo, layout: TableLayout, schema: pa.Schema) -> pa.Table:
    columns: list[Any] = [pa.array(examples.labels_BL[:, i]) for i in range(info.num_labels)]
    columns += [pa.array(examples.dense_BF[:, i]) for i in range(len(info.dense))]
    group, block = layout.groups[0], examples.sparse[0]
    features = [(t, offset) for t, offset in zip(group.tables, group.offsets, strict=True) for _ in t.feature_names]
    types = schema.types[len(columns) :]
    for place, ((_, offset), kind) in enumerate(zip(features, types, strict=True)):
        if block.lengths_BT is None:
            rows = block.keys_N.reshape(len(examples), -1)[:, place] - offset
            columns.append(pa.array(rows.astype(kind.to_pandas_dtype())))
            continue
        lengths = np.empty((len(examples), 1), np.int32)
        codes = np.empty(int(block.lengths_BT[:, place].sum(dtype=np.int64)), np.uint64)
        which, wanted = np.empty(len(codes), np.int32), np.array([place], np.int64)
        encode_kernels.select_features(block.keys_N.view(np.uint64), block.lengths_BT, wanted, codes, lengths, which)
        rows = (codes.view(np.int64) - offset).astype(kind.value_type.to_pandas_dtype())
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths[:, 0], dtype=np.int32)])
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows), type=kind))
    return pa.Table.from_arrays(columns, schema=schema)


def _write_vocabulary(
    path: Path, raw: RawSource, tables: Sequence[FoundTable], vocabularies: dict[str, Vocabulary]
) -> None:
    """One row for each value that has a row of its own: what a server of the trained model looks values up in."""
    kinds = {f.name: f.kind for f in raw.schema.features}
    schema = pa.schema([("table", pa.string()), ("value", pa.string()), ("row", pa.int64()), ("count", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            vocabulary, kind = vocabularies[table.name], kinds[table.feature_names[0]]
            for at in range(0, len(vocabulary.codes), ROW_GROUP):
                codes = vocabulary.codes[at : at + ROW_GROUP].tolist()
                values = [value_text(code, kind) for code in codes]
                rows = np.arange(at + 1, at + 1 + len(codes))
                counts = vocabulary.counts[at : at + ROW_GROUP]
                columns = [pa.array([table.name] * len(codes)), pa.array(values), pa.array(rows), pa.array(counts)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "check the folder and its permissions"
        raise StorageError(f"{out}: cannot write prepared data: {error.strerror or error}; {remedy}") from error


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name if the body succeeds, and vanishes if not."""
    temporary: Path | None = None
    try:
        with _writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            yield temporary
            if out.exists():
                shutil.rmtree(out)
            temporary.chmod(0o755)
            temporary.rename(out)
            temporary = None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
