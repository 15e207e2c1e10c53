"""Writes rows that a Python program holds as Parquet, once; from there on they are a path like any other.

| what | how it is read |
|---|---|
| pandas `DataFrame` | slices of 65,536 rows; the index is left out (`warn_of_index`) |
| polars `DataFrame`, `LazyFrame` | slices; a lazy frame is streamed by polars itself |
| pyarrow `Table`, `RecordBatch`, `RecordBatchReader`, dataset, scanner | batch by batch |
| a HuggingFace `Dataset` or `IterableDataset` | batches in its Arrow format |
| whatever has `__arrow_c_stream__` (a DuckDB relation, ...) | as a stream of record batches |
| dicts: a list, a generator, a torch `Dataset` or `IterableDataset` | 65,536 rows at a time |

Of these libraries only pyarrow is imported here: the others are recognised by the names of their classes. Memory holds
one slice.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from bagpipe.errors import BagpipeError, ConfigError, DataError
from bagpipe.lowlevel.atomic_files import cannot_write, make_folder
from bagpipe.lowlevel.wording import listed

SLICE_ROWS = 1 << 16
"""Rows in memory at a time, and in a row group of what is written."""
EXPECTED = (
    "a path, a pandas or polars frame, an Arrow table, dataset or reader, a HuggingFace dataset, or dicts of one row "
    "each (a list, a generator, a torch dataset)"
)


@dataclass(frozen=True, slots=True)
class WrittenFrame:
    """Rows that lie in `folder` as Parquet."""

    folder: Path
    rows: int
    names: tuple[str, ...]


def is_path(data: object) -> bool:
    """Whether this names files instead of being rows: a path or URL, or a list of them."""
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(one, str | os.PathLike) for one in data)


def write_frame(frame: Any, folder: Path, what: str = "data") -> WrittenFrame:
    """Write all rows of `frame` into the new folder, in their order, as Parquet of one schema.

    Args:
        what: the argument that the frame was, for messages.

    Raises:
        ConfigError: it is none of the kinds above.
        DataError: no row, a column named twice, or a column whose values have no common type.
        StorageError: the disk is full.
    """
    make_folder(folder)
    writer = _Writer(folder, what)
    try:
        with _named(what):
            if _is(frame, "polars", "LazyFrame"):
                frame = _sunk(frame, folder / "lazy.tmp")
            try:
                for piece in tables_of(frame, what):
                    writer.add(piece)
            finally:
                writer.close()
                (folder / "lazy.tmp").unlink(missing_ok=True)
            return writer.finish()
    except OSError as error:
        raise cannot_write(folder, error) from None


def refuse_parts(frame: Any, what: str) -> None:
    """Refuse dicts that are neither settings nor one row: a data set in parts, and a dict of columns.

    Raises:
        ConfigError: says what to give instead.
    """
    if _is(frame, "datasets", "DatasetDict") or _is(frame, "datasets", "IterableDatasetDict"):
        raise ConfigError(f"{what}: a {type(frame).__name__} has several parts; give one of them: {', '.join(frame)}")
    if not isinstance(frame, Mapping) or not frame or {"path", "format"} & set(frame):
        return
    if all(isinstance(cells, list | tuple) or hasattr(cells, "__array__") for cells in frame.values()):
        raise ConfigError(f"{what}: a dict of columns is no frame; give pandas.DataFrame(...) or pyarrow.table(...)")


def warn_of_index(frame: Any, what: str) -> None:
    """Warn that the named index of a pandas frame is no column; for rows to learn from: scores come with the index."""
    if _is(frame, "pandas", "DataFrame"):
        names = [str(name) for name in frame.index.names if name is not None]
        if names:
            told = f"{what}: the index {listed(names)} is no column and is left out; frame.reset_index() makes it one"
            warnings.warn(told, stacklevel=3)


def tables_of(frame: Any, what: str = "data") -> Iterator[pa.Table]:
    """The rows of a frame as Arrow tables of at most 65,536 rows.

    Raises:
        ConfigError: it is none of the kinds above.
    """
    refuse_parts(frame, what)
    if _is(frame, "pandas", "Series") or _is(frame, "polars", "Series"):
        raise ConfigError(
            f"{what}: a Series is one column, or one row; give a frame, such as frame.iloc[[0]] for a row"
        )
    if _is(frame, "pandas", "DataFrame"):
        yield from _of_pandas(frame, what)
    elif _is(frame, "polars", "DataFrame"):
        yield from (piece.to_arrow() for piece in frame.iter_slices(SLICE_ROWS))
    elif _is(frame, "datasets", "Dataset") or _is(frame, "datasets", "IterableDataset"):
        yield from _of_huggingface(frame, what)
    elif isinstance(frame, pa.Table):
        yield from (frame.slice(at, SLICE_ROWS) for at in range(0, max(frame.num_rows, 1), SLICE_ROWS))
    elif isinstance(frame, pads.Dataset):
        yield from _of_batches(frame.to_batches(batch_size=SLICE_ROWS), frame.schema)
    elif isinstance(frame, pads.Scanner):
        yield from _of_batches(frame.to_batches(), frame.projected_schema)
    elif isinstance(frame, pa.RecordBatch):
        yield pa.Table.from_batches([frame])
    elif isinstance(frame, pa.RecordBatchReader):
        yield from _of_batches(frame, frame.schema)
    elif hasattr(frame, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(frame)
        yield from _of_batches(reader, reader.schema)
    else:
        yield from _of_rows(_rows(frame, what), what)


def _of_huggingface(frame: Any, what: str) -> Iterator[pa.Table]:
    """A data set as a program would see it: only the columns that it was reduced to, and transformed if it is to be.

    Where no types are declared, as behind `IterableDataset.map` and `from_generator`, the library would take those of
    the first row for all others, so such rows are read one by one.
    """
    view: Mapping[str, Any] = getattr(frame, "format", None) or {}
    if frame.features is None:
        yield from _of_rows(iter(frame.with_format(None)), what)
    elif view.get("type") == "custom":  # with_transform and set_transform
        yield from _of_rows(iter(frame), what)
    else:
        names = None if view.get("output_all_columns") else view.get("columns")
        shown = {} if names is None else {"columns": names}
        yield from frame.with_format("arrow", **shown).iter(batch_size=SLICE_ROWS)


def _is(frame: Any, library: str, name: str) -> bool:
    """Whether a class of this name and library is among the frame's, without importing the library."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == library for c in type(frame).__mro__)


def _of_pandas(frame: Any, what: str) -> Iterator[pa.Table]:
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{what}: column {twice[0]} is there twice; give each column a name of its own")
    frame = frame.set_axis(names, axis="columns")
    try:
        schema = pa.Schema.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:  # the latter of columns that leave out what is frequent
        raise DataError(
            f"{what}: {_mixed(frame)}cannot be written as a table: {_line(error)}; make all of its values text, "
            "by astype(str), or numbers of 64 bits, or leave the column out"
        ) from None
    for at in range(0, max(len(frame), 1), SLICE_ROWS):
        yield pa.Table.from_pandas(frame.iloc[at : at + SLICE_ROWS], schema=schema, preserve_index=False)


def _mixed(frame: Any) -> str:
    """The first column of a pandas frame that is no column of Arrow's, for a message."""
    for name in frame.columns:
        try:
            pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, TypeError):
            return f"column {name}: its values have no common type, so that it "
    return ""


def _sunk(frame: Any, path: Path) -> pads.Dataset:
    """A lazy frame, computed and streamed into a file by polars."""
    frame.sink_parquet(path)
    return pads.dataset(path)


def _of_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The batches, cut to size; an empty table if there is none, so that the columns are known."""
    none = True
    for batch in batches:
        for at in range(0, batch.num_rows, SLICE_ROWS):
            none = False
            yield pa.Table.from_batches([batch.slice(at, SLICE_ROWS)], schema)
    if none:
        yield schema.empty_table()


def _rows(frame: Any, what: str) -> Iterator[Any]:
    """The rows of an iterable, or of a dataset with `__getitem__` and `__len__`, one after another."""
    if _is(frame, "torch", "DataLoader"):
        raise ConfigError(f"{what}: a DataLoader gives batches; give the dataset that it reads")
    if isinstance(frame, str | bytes | Mapping):
        raise ConfigError(f"{what}: expected {EXPECTED}; found {type(frame).__name__}")
    if hasattr(frame, "__getitem__") and hasattr(frame, "__len__") and not hasattr(frame, "__iter__"):
        return (frame[number] for number in range(len(frame)))
    try:
        return iter(frame)
    except TypeError:
        raise ConfigError(f"{what}: expected {EXPECTED}; found {type(frame).__name__}") from None


def _of_rows(rows: Iterator[Any], what: str) -> Iterator[pa.Table]:
    """Tables of dicts; a key that a row lacks is missing there."""
    first = 0
    while piece := list(islice(rows, SLICE_ROWS)):
        names: dict[str, None] = {}
        for number, row in enumerate(piece, first):
            if not isinstance(row, Mapping):
                raise ConfigError(
                    f"{what}: row {number}: expected a dict of one row's values, found {type(row).__name__}"
                )
            for key in row:
                if not isinstance(key, str):
                    found = f"{key!r} of {type(key).__name__}"
                    raise ConfigError(f"{what}: row {number}: expected names of columns as keys, found {found}")
            names |= dict.fromkeys(row)
        yield pa.table({name: _column(piece, name, what) for name in names})
        first += len(piece)


def _column(rows: Sequence[Mapping[str, Any]], name: str, what: str) -> pa.Array:
    try:
        return pa.array([_plain(row.get(name)) for row in rows])
    except UnicodeEncodeError as error:
        raise DataError(f"{what}: column {name}: expected text, found {error.object!r:.60}") from None
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"{what}: column {name}: its values have no common type ({_line(error)}); make all of them text, "
            "or numbers of 64 bits"
        ) from None


def _plain(value: Any) -> Any:
    """Tensors and arrays as numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass(slots=True)
class _Writer:
    """Writes Parquet files that in the end all have the same schema.

    In rows given as dicts, a column may have no value in the first slice and a type in a later one. So each new schema
    begins a file, and files whose schema is not the common one are written again at the end.
    """

    folder: Path
    what: str
    rows: int = 0
    _schemas: list[pa.Schema] = field(default_factory=list)
    _open: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        names = table.column_names
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{self.what}: column {twice[0]} is there twice; give each column a name of its own")
        table = table.replace_schema_metadata(None)
        if not self._schemas or not self._schemas[-1].equals(table.schema):
            self.close()
            self._open = _writer(self._path(len(self._schemas)), table.schema)
            self._schemas.append(table.schema)
        assert self._open is not None
        if table.num_rows:
            self._open.write_table(table, row_group_size=SLICE_ROWS)
        self.rows += table.num_rows

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def finish(self) -> WrittenFrame:
        if not self.rows:
            raise DataError(f"{self.what}: no rows; expected at least one")
        try:
            common = pa.unify_schemas(self._schemas, promote_options="permissive")
            for number, schema in enumerate(self._schemas):
                if not schema.equals(common):
                    self._again(self._path(number), common)
        except pa.ArrowException as error:
            raise DataError(
                f"{self.what}: a column has values of different types in different rows ({_line(error)}); give it one"
            ) from None
        return WrittenFrame(self.folder, self.rows, tuple(common.names))

    def _again(self, path: Path, common: pa.Schema) -> None:
        """The same rows with the common schema."""
        draft = path.with_suffix(".tmp")
        with pq.ParquetFile(path) as old, _writer(draft, common) as new:
            for number in range(old.num_row_groups):
                table = old.read_row_group(number)
                for name in set(common.names) - set(table.column_names):
                    table = table.append_column(name, pa.nulls(table.num_rows))
                new.write_table(table.select(common.names).cast(common), row_group_size=SLICE_ROWS)
        draft.replace(path)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


@contextmanager
def naming_frames(frames: Mapping[Path, str]) -> Iterator[None]:
    """Inside, errors name a written frame by what the program calls it, not by files that the program never sees.

    Args:
        frames: the name of the frame in each folder.
    """
    try:
        yield
    except BagpipeError as error:
        words = told = str(error)
        for folder, name in frames.items():
            for written in {os.path.abspath(folder), str(folder)}:  # resolve() would follow links
                told = re.sub(rf"{re.escape(written)}(/part-\d+\.parquet)?(?=[^\w/.-]|$)", name, told)
        if told == words:
            raise
        raise type(error)(told) from None


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn Arrow's errors about values that it cannot hold into DataError of one line."""
    try:
        yield
    except pa.ArrowException as error:
        raise DataError(f"{what}: cannot be written as a table: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(" ".join(str(part) for part in error.args).split())
