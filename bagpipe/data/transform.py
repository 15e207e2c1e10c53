"""The transform: all that turns raw values into rows, stated or learned, as one value that is kept with the model.

A folder of two files: `transform.json` (`TransformInfo`), and `vocabulary.arrow` where values have rows of their own
(table, code, value, row, count; by row) or dense columns count theirs (the same without rows, after all tables; by
code). Its digest covers the content, not the files. It is made once, from the training part, and used wherever the
model meets raw values again: resume, evaluation, prediction, serving.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa

from bagpipe.config.columns import ColumnsConfig
from bagpipe.data.encode import Encoder
from bagpipe.data.raw import Kind, RawSchema, value_text
from bagpipe.data.transform_names import INFO_FILE, VOCABULARY_FILE
from bagpipe.data.value_counts import ValueCounts
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.errors import CheckpointError, DataError
from bagpipe.lowlevel.atomic_files import make_folder, raise_unless_file_at_fault, replacing_file, write_whole
from bagpipe.lowlevel.checksummed import with_checksum, without_checksum
from bagpipe.tables import TableLayout

VERSION = 1
BLOCK_ROWS = 1 << 16
_SCHEMA = pa.schema(
    [
        ("table", pa.dictionary(pa.int32(), pa.string())),
        ("code", pa.uint64()),
        ("value", pa.string()),
        ("row", pa.int64()),
        ("count", pa.int64()),
    ]
)


class KeptTable(msgspec.Struct, frozen=True, rename="camel"):
    """A table found in the data; its width is the job's choice."""

    name: str
    num_embeddings: int
    feature_names: tuple[str, ...]
    oov_rows: int = 1
    """First rows, shared by the values that have none of their own (vocabulary only)."""


class KeptFeature(msgspec.Struct, frozen=True, rename="camel"):
    """One sparse feature, or dense one with `count`; `kind` says what its codes are (`bagpipe.data.raw`)."""

    name: str
    kind: Kind


class DenseStatistics(msgspec.Struct, frozen=True):
    """Of a standardised column over the training part, after filling, clipping and logarithm."""

    name: str
    mean: float
    deviation: float


class TransformInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The content of `transform.json`."""

    version: int = VERSION
    source: str
    """Format of the raw data; `parquet`: data that was prepared by others, whose raw form nobody kept."""
    encoding: str
    hash_size: int
    min_count: int
    numeric_bins: str
    num_labels: int
    dense: tuple[str, ...]
    jagged: bool
    features: tuple[KeptFeature, ...]
    tables: tuple[KeptTable, ...]
    columns: ColumnsConfig | None = None
    statistics: tuple[DenseStatistics, ...] = ()
    counted: tuple[KeptFeature, ...] = ()
    """The dense columns with `count`."""
    vocabulary: str | None = None
    """SHA-256 of the codes and counts of every table, and of every column in `counted`."""


@dataclass(frozen=True, slots=True)
class Transform:
    """What was stated and learned, the vocabularies by table name, and the counts by name of their dense column."""

    info: TransformInfo
    vocabularies: Mapping[str, Vocabulary] | None = field(default=None, repr=False)
    counts: Mapping[str, ValueCounts] | None = field(default=None, repr=False)
    """None: no column has `count`, or they are elsewhere."""

    @classmethod
    def of(
        cls,
        info: TransformInfo,
        vocabularies: Mapping[str, Vocabulary] | None,
        counts: Mapping[str, ValueCounts] | None = None,
    ) -> "Transform":
        """`info` with the digest of vocabularies and counts filled in."""
        counts = counts or None
        if vocabularies is None and counts is None:
            return cls(info)
        hashed = hashlib.sha256()
        for part in (vocabularies or {}, counts or {}):
            for name, values in part.items():
                hashed.update(msgspec.json.encode([name, len(values.codes)]))
                hashed.update(values.codes.tobytes() + values.counts.tobytes())
        return cls(msgspec.structs.replace(info, vocabulary=hashed.hexdigest()), vocabularies, counts)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the labels, in their order; data without column names has `label`, or `label_0`, `label_1` and so on."""
        columns, count = self.info.columns, self.info.num_labels
        if columns is not None:
            return tuple(label.name for label in columns.labels)
        return ("label",) if count == 1 else tuple(f"label_{number}" for number in range(count))

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self.info)).hexdigest()

    def check_source(self, found: str, schema: RawSchema) -> None:
        """Refuse raw data that this transform was not made for.

        Raises:
            DataError: another format, or other features.
        """
        info = self.info
        forms = ("one value in each cell of sparse columns", "lists of values in a sparse column")
        ours = (info.source, info.dense, info.num_labels, forms[info.jagged], [(f.name, f.kind) for f in info.features])
        names = [(f.name, f.kind) for f in schema.features]
        theirs = (found, schema.dense_names, schema.num_labels, forms[schema.jagged], names)
        if ours == theirs:
            return
        parts = ("format", "dense columns", "labels", "values", "features")
        part, a, b = next((p, a, b) for p, a, b in zip(parts, ours, theirs, strict=True) if a != b)
        raise DataError(
            f"data.path: other {part} than the model was trained on: expected {_brief(a)}, found {_brief(b)}; "
            "give data of the same form"
        )

    def encoder(self, schema: RawSchema, layout: TableLayout) -> Encoder:
        """Raw blocks to keys of `layout`.

        Raises:
            DataError: what was learned is lost.
        """
        if self.info.vocabulary is not None and self.vocabularies is None and self.counts is None:
            raise DataError(
                "data.path: the vocabulary and counts of this transform are lost: the prepared data that the model was "
                "trained on had been rewritten by another program; prepare the raw data again and train on that"
            )
        return Encoder(schema, layout, self.info.encoding, self.vocabularies)

    def save(self, folder: Path) -> list[str]:
        """Write the transform's files into `folder`; returns their names.

        Raises:
            StorageError: they cannot be written.
        """
        make_folder(folder)
        names = []
        if self.info.vocabulary is not None:
            with replacing_file(folder / VOCABULARY_FILE) as draft:
                self.write_vocabulary(draft)
            names.append(VOCABULARY_FILE)
        found = msgspec.json.decode(msgspec.json.encode(self.info))
        whole = msgspec.json.encode(with_checksum(found))
        write_whole(folder / INFO_FILE, msgspec.json.format(whole, indent=2) + b"\n")
        return [*names, INFO_FILE]

    def write_vocabulary(self, file: IO[bytes]) -> None:
        """Write the vocabularies as one Arrow file, by table and row, and the counts after them, by column and code."""
        kinds = {f.name: f.kind for f in self.info.features}
        names = [t.name for t in self.info.tables] + [f"count of {c.name}" for c in self.info.counted]
        parts: list[tuple[int, Vocabulary | ValueCounts, Kind]] = []
        if self.vocabularies is not None:
            for number, table in enumerate(self.info.tables):
                parts.append((number, self.vocabularies[table.name], kinds[table.feature_names[0]]))
        if self.counts is not None:
            for number, column in enumerate(self.info.counted, len(self.info.tables)):
                parts.append((number, self.counts[column.name], column.kind))
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(pa.PythonFile(file, "w"), _SCHEMA, options=options) as writer:
            for number, values, kind in parts:
                for at in range(0, len(values.codes), BLOCK_ROWS):
                    writer.write_batch(_batch(names, number, values, kind, at))


def _batch(names: Sequence[str], number: int, values: Vocabulary | ValueCounts, kind: Kind, at: int) -> Any:
    codes, counts = values.codes[at : at + BLOCK_ROWS], values.counts[at : at + BLOCK_ROWS]
    which = pa.DictionaryArray.from_arrays(pa.array(np.full(len(codes), number, np.int32)), pa.array(names))
    texts = pa.array([value_text(code, kind) for code in codes.tolist()], pa.string())
    if isinstance(values, Vocabulary):
        first = at + values.first_row
        rows = pa.array(np.arange(first, first + len(codes), dtype=np.int64))
    else:
        rows = pa.nulls(len(codes), pa.int64())
    return pa.record_batch([which, pa.array(codes), texts, rows, pa.array(counts)], schema=_SCHEMA)


def load_transform(folder: Path) -> Transform:
    """The transform in `folder`.

    Raises:
        CheckpointError: it is missing, damaged, or of a version that this code does not read.
        StorageError: this process may not read it, or not now.
    """
    path = folder / INFO_FILE
    try:
        info = msgspec.convert(without_checksum(path.read_bytes()), type=TransformInfo)
    except OSError as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: {error.strerror}; the transform of the data is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not a transform ({error}); use another checkpoint") from None
    if info.version != VERSION:
        raise CheckpointError(f"{path}: version {info.version}, this bagpipe reads version {VERSION}")
    if info.vocabulary is None:
        return Transform(info)
    path = folder / VOCABULARY_FILE
    try:
        with pa.memory_map(str(path)) as file:
            return with_vocabulary(info, file, str(path))
    except OSError as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: cannot be read ({error}); use another copy") from None


def with_vocabulary(info: TransformInfo, file: Any, name: str, remedy: str = "use another copy") -> Transform:
    """The transform of which `file`, an Arrow file or a buffer of one, holds the vocabularies and counts.

    Args:
        name: of the file, for messages.
        remedy: what to do if it is damaged.

    Raises:
        CheckpointError: it is damaged, or another one than `info` says.
    """
    try:
        table = pa.ipc.open_file(file).read_all().select(["table", "code", "count"])
        which = np.concatenate([np.zeros(0, np.int32), *(c.indices.to_numpy() for c in table.column("table").chunks)])
        codes, counts = table.column("code").to_numpy(), table.column("count").to_numpy()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise CheckpointError(f"{name}: cannot be read ({error}); {remedy}") from None
    bounds = np.searchsorted(which, np.arange(len(info.tables) + len(info.counted) + 1))
    parts = [(codes[begin:end], counts[begin:end]) for begin, end in itertools.pairwise(bounds)]
    vocabularies = {
        t.name: Vocabulary(*part, t.oov_rows) for t, part in zip(info.tables, parts[: len(info.tables)], strict=True)
    }
    counted = {
        c.name: ValueCounts(c.kind, *part) for c, part in zip(info.counted, parts[len(info.tables) :], strict=True)
    }
    found = Transform.of(info, vocabularies if info.encoding == "vocabulary" else None, counted)
    if found.info.vocabulary != info.vocabulary:
        raise CheckpointError(f"{name}: not the vocabulary that {INFO_FILE} names; {remedy}")
    return found


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
