"""The transform: all that turns raw values into rows, stated or learned, as one value that is kept with the model.

A folder of two files: `transform.json` (`TransformInfo`), and `vocabulary.arrow` where values have rows of their own
(table, code, value, row, count; by row). Its digest covers the content, not the files. It is made once, from the
training part, and used wherever the model meets raw values again: resume, evaluation, prediction, serving.
"""

import hashlib
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
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.errors import CheckpointError, DataError
from bagpipe.lowlevel.atomic_files import replacing_file, write_whole
from bagpipe.tables import TableLayout

VERSION = 1
INFO_FILE = "transform.json"
VOCABULARY_FILE = "vocabulary.arrow"
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
    """One sparse feature; `kind` says what its codes are (`bagpipe.data.raw`)."""

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
    vocabulary: str | None = None
    """SHA-256 of every table's codes and counts."""


@dataclass(frozen=True, slots=True)
class Transform:
    """What was stated and learned, and the vocabularies by table name."""

    info: TransformInfo
    vocabularies: Mapping[str, Vocabulary] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, info: TransformInfo, vocabularies: Mapping[str, Vocabulary] | None) -> "Transform":
        """`info` with the vocabularies' digest filled in."""
        if vocabularies is None:
            return cls(info)
        hashed = hashlib.sha256()
        for name, vocabulary in vocabularies.items():
            hashed.update(msgspec.json.encode([name, len(vocabulary.codes)]))
            hashed.update(vocabulary.codes.tobytes() + vocabulary.counts.tobytes())
        return cls(msgspec.structs.replace(info, vocabulary=hashed.hexdigest()), vocabularies)

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
        ours = (info.source, info.dense, info.num_labels, info.jagged, [(f.name, f.kind) for f in info.features])
        names = [(f.name, f.kind) for f in schema.features]
        theirs = (found, schema.dense_names, schema.num_labels, schema.jagged, names)
        if ours == theirs:
            return
        parts = ("format", "dense columns", "labels", "kind (several values for a feature)", "features")
        part, a, b = next((p, a, b) for p, a, b in zip(parts, ours, theirs, strict=True) if a != b)
        raise DataError(
            f"data.path: other {part} than the model was trained on: expected {_brief(a)}, found {_brief(b)}; "
            "give data of the same form"
        )

    def encoder(self, schema: RawSchema, layout: TableLayout) -> Encoder:
        """Raw blocks to keys of `layout`."""
        return Encoder(schema, layout, self.info.encoding, self.vocabularies)

    def save(self, folder: Path) -> list[str]:
        """Write the transform's files into `folder`; returns their names.

        Raises:
            OSError, StorageError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        if self.vocabularies is not None:
            with replacing_file(folder / VOCABULARY_FILE) as draft:
                self.write_vocabulary(draft)
            names.append(VOCABULARY_FILE)
        write_whole(folder / INFO_FILE, msgspec.json.format(msgspec.json.encode(self.info), indent=2) + b"\n")
        return [*names, INFO_FILE]

    def write_vocabulary(self, file: IO[bytes]) -> None:
        """Write the vocabularies as one Arrow file, by table and row."""
        assert self.vocabularies is not None
        kinds = {f.name: f.kind for f in self.info.features}
        names = [t.name for t in self.info.tables]
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(pa.PythonFile(file, "w"), _SCHEMA, options=options) as writer:
            for number, table in enumerate(self.info.tables):
                vocabulary, kind = self.vocabularies[table.name], kinds[table.feature_names[0]]
                for at in range(0, len(vocabulary.codes), BLOCK_ROWS):
                    writer.write_batch(_batch(names, number, vocabulary, kind, at))


def _batch(names: Sequence[str], number: int, vocabulary: Vocabulary, kind: Kind, at: int) -> Any:
    codes, counts = vocabulary.codes[at : at + BLOCK_ROWS], vocabulary.counts[at : at + BLOCK_ROWS]
    which = pa.DictionaryArray.from_arrays(pa.array(np.full(len(codes), number, np.int32)), pa.array(names))
    values = pa.array([value_text(code, kind) for code in codes.tolist()], pa.string())
    first = at + vocabulary.first_row
    rows = pa.array(np.arange(first, first + len(codes), dtype=np.int64))
    return pa.record_batch([which, pa.array(codes), values, rows, pa.array(counts)], schema=_SCHEMA)


def load_transform(folder: Path) -> Transform:
    """The transform in `folder`.

    Raises:
        CheckpointError: it is missing, damaged, or of a version that this code does not read.
    """
    path = folder / INFO_FILE
    try:
        info = msgspec.json.decode(path.read_bytes(), type=TransformInfo)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the transform of the data is missing") from None
    except msgspec.DecodeError as error:
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
        raise CheckpointError(f"{path}: cannot be read ({error}); use another copy") from None


def with_vocabulary(info: TransformInfo, file: Any, name: str) -> Transform:
    """The transform of which `file`, an Arrow file or a buffer of one, holds the vocabularies.

    Raises:
        CheckpointError: it is damaged, or another one than `info` says.
    """
    try:
        table = pa.ipc.open_file(file).read_all().select(["table", "code", "count"])
        which = np.concatenate([np.zeros(0, np.int32), *(c.indices.to_numpy() for c in table.column("table").chunks)])
        codes, counts = table.column("code").to_numpy(), table.column("count").to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CheckpointError(f"{name}: cannot be read ({error}); use another copy") from None
    bounds = np.searchsorted(which, np.arange(len(info.tables) + 1))
    found = Transform.of(
        info,
        {
            t.name: Vocabulary(codes[bounds[i] : bounds[i + 1]], counts[bounds[i] : bounds[i + 1]], t.oov_rows)
            for i, t in enumerate(info.tables)
        },
    )
    if found.info.vocabulary != info.vocabulary:
        raise CheckpointError(f"{name}: not the vocabulary that {INFO_FILE} names; use another copy")
    return found


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
