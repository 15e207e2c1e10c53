"""Scores raw rows with a checkpoint, in this process: no servers, no oracle, read-only.

Rows are treated as in training: the kept transform turns them into keys, and the checkpoint's weights (or first values,
where no step has used a row) go through the same lookup and the same dense model as in evaluation. They are scored in
batches of the job's size, whatever pieces the files are read in, so that the scores are evaluation's to the last digit.
Memory holds some pieces of the files and one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.batch import Floats
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config.document import JobSpec
from bagpipe.config.losses import LossKind, loss_kind
from bagpipe.data.column_files import table_format, table_schema
from bagpipe.data.columns import ColumnSource
from bagpipe.data.encode import Encoder
from bagpipe.data.examples import Examples, concatenate
from bagpipe.data.files import find_files
from bagpipe.data.formats import format_of, open_raw
from bagpipe.data.kept_columns import as_before
from bagpipe.data.raw import RawBlock, RawSource
from bagpipe.data.transform import Transform
from bagpipe.errors import CheckpointError, ConfigError, DataError
from bagpipe.lowlevel.atomic_files import replacing_file
from bagpipe.lowlevel.wording import no_column
from bagpipe.metrics.clicks import sigmoid
from bagpipe.trainer.scorer import Scorer

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was written."""

    rows: int
    bad_lines: int
    columns: tuple[str, ...]


def predict(
    directory: Path,
    path: str,
    out: Path,
    *,
    keep: Sequence[str] = (),
    file_format: str = "auto",
    keep_option: str = "--keep",
) -> Predicted:
    """Score raw rows and write one row of Parquet for each: its file and row, the kept columns, a score for each label.

    Args:
        directory: a checkpoint.
        path: as `data.path`; labels need not be there where `data.columns` describe the data.
        keep: columns of the input that are written beside the scores.
        file_format: as `data.format`.
        keep_option: what messages call `keep`.

    Raises:
        CheckpointError: the checkpoint keeps no transform, or is damaged.
        ConfigError, DataError: the data is not of the form that the model was trained on.
        UserCodeError: the model raised.
        StorageError: the output cannot be written; an older file of that name is as it was.
    """
    scores = CheckpointScores(directory, path, keep=keep, file_format=file_format, keep_option=keep_option)
    rows = write_scores(scores.tables(), out)
    return Predicted(rows, scores.bad_lines, scores.columns)


def write_scores(tables: Iterator[pa.Table], out: Path) -> int:
    """Write tables as one Parquet file, whole or not at all; returns the number of rows.

    Raises:
        DataError: there is no row.
        StorageError: the file cannot be written.
    """
    writer: pq.ParquetWriter | None = None
    rows = 0
    with replacing_file(out) as draft:
        try:
            for table in tables:
                if writer is None:
                    writer = pq.ParquetWriter(draft, table.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(table.cast(writer.schema))
                rows += table.num_rows
        finally:
            if writer is not None:
                writer.close()
        if not rows:
            raise DataError("no valid row in the data; nothing was written")
    return rows


@dataclass(slots=True)
class CheckpointScores:
    """The scores of raw rows, as tables; made of a checkpoint and a path."""

    directory: Path
    path: str
    keep: Sequence[str] = ()
    file_format: str = "auto"
    keep_option: str = "--keep"
    """What messages call `keep`."""
    columns: tuple[str, ...] = field(default=(), init=False)
    bad_lines: int = field(default=0, init=False)
    _loss: LossKind | None = field(init=False)
    _scorer: Scorer = field(init=False)
    _raw: RawSource = field(init=False)
    _encoder: Encoder = field(init=False)
    _kept_types: pa.Schema | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.keep = tuple(dict.fromkeys(self.keep))
        checkpoint = open_checkpoint(self.directory)
        kept = load_kept(checkpoint)
        if kept is None:
            raise CheckpointError(
                f"{self.directory}: written before transforms were kept; resume the run to get a new checkpoint"
            )
        self.columns = tuple(f"score_{name}" for name in kept.transform.label_names)
        self._raw = _open(
            checkpoint.manifest.spec, self.path, self.file_format, kept.transform, tuple(self.keep), self.keep_option
        )
        self._loss = loss_kind(checkpoint.manifest.spec.model)
        self._scorer = Scorer(checkpoint, kept.transform)
        self._encoder = kept.transform.encoder(self._raw.schema, self._scorer.layout)

    def tables(self) -> Iterator[pa.Table]:
        """One for each batch: file, row, the kept columns, a score for each label."""
        for examples, described in _batches(self._pieces(), self._scorer.spec.batch_size):
            logits = self._scorer.logits(examples)
            if logits.shape[1] != len(self.columns):
                raise DataError(
                    f"the model gives {logits.shape[1]} outputs for {len(self.columns)} labels; it cannot be "
                    "predicted with"
                )
            scores = predictions(logits, self._loss)
            for place, name in enumerate(self.columns):
                described = described.append_column(name, pa.array(scores[:, place]))
            yield described

    def _pieces(self) -> Iterator[tuple[Examples, pa.Table]]:
        for piece in self._raw.pieces(0)[1]:
            block = self._raw.parse(piece)
            self.bad_lines += block.bad_lines
            yield self._encoder.encode(block), self._described(block, piece)

    def _described(self, block: RawBlock, piece: Any) -> pa.Table:
        columns: dict[str, Any] = {"file": pa.array([block.file] * len(block), pa.string()), "row": block.lines_B}
        if self.keep:
            table = piece.load()
            chosen = pa.array(np.searchsorted(piece.row_numbers(table.num_rows), block.lines_B))
            kept = as_before(table.select(self.keep).replace_schema_metadata(None), self._kept_types, block.file)
            self._kept_types = kept.schema
            columns |= {name: kept.column(name).take(chosen) for name in self.keep}
        return pa.table(columns)


def _batches(pieces: Iterator[tuple[Examples, pa.Table]], size: int) -> Iterator[tuple[Examples, pa.Table]]:
    """The same examples, `size` at once; the last batch is shorter."""
    examples: list[Examples] = []
    tables: list[pa.Table] = []
    count = 0
    for piece, table in pieces:
        at = 0
        while at < len(piece):
            take = min(len(piece) - at, size - count)
            examples.append(piece.slice(at, at + take))
            tables.append(table.slice(at, take))
            at, count = at + take, count + take
            if count == size:
                yield concatenate(examples), pa.concat_tables(tables, promote_options="permissive")
                examples, tables, count = [], [], 0
    if count:
        yield concatenate(examples), pa.concat_tables(tables, promote_options="permissive")


def _open(
    spec: JobSpec, path: str, file_format: str, transform: Transform, keep: tuple[str, ...], option: str
) -> RawSource:
    files = find_files(path)
    if file_format == "auto" and transform.info.source not in ("columns", "parquet", "synthetic"):
        file_format = transform.info.source
    changes: dict[str, Any] = {
        "path": path,
        "format": file_format,
        "split_by": "order",
        "columns": transform.info.columns,
    }
    data = msgspec.structs.replace(spec.data, **changes)
    found = format_of(data, files)
    if found == "parquet":
        raise ConfigError(f"{path}: prepared data; give the raw rows")
    raw = open_raw(data, found, files, spec.seed, transform, labelled=False)
    transform.check_source(found, raw.schema)
    if not keep:
        return raw
    if not isinstance(raw, ColumnSource):
        raise ConfigError(f"{option}: this format has no columns of its own; rows are named by file and number")
    first = next(file for file in files if file.size)
    names = table_schema(first, table_format(first, data.format), raw.columns.header).names
    written = ["file", "row", *(f"score_{name}" for name in transform.label_names)]
    _check_kept(keep, first.name, names, option, written)
    return raw.with_extra(keep)


def _check_kept(keep: Sequence[str], file: str, names: Sequence[str], option: str, written: Sequence[str]) -> None:
    for name in keep:
        if name not in names:
            raise ConfigError(f"{option}: {no_column(name, file, names)}")
        if name in written:
            raise ConfigError(f"{option}: {name!r} is a column of the scores already; rename it in the data to keep it")


def predictions(outputs_BL: Floats, loss: LossKind | None) -> Floats64:
    """Predicted labels from the model's outputs, as in evaluation: probabilities, values, expected counts; of
    candidates the outputs themselves.
    """
    wide = outputs_BL.astype(np.float64)
    if loss is None or loss.figures == "clicks":
        return sigmoid(wide)
    return np.exp(wide) if loss.figures == "counts" else wide
