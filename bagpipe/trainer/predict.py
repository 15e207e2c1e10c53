"""Scores of raw rows by a checkpoint, in this process: no servers, no oracle, read-only.

Rows go the way that they went in training: the kept transform turns them into table rows, the checkpoint's weights (or
first values, where nobody touched a row) go through the same lookup and the same dense model as in evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch

from bagpipe.batch import Floats, Keys
from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import Lookups, SparseEmbeddings
from bagpipe.checkpoint.digest import DENSE_WEIGHTS
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.config.document import JobSpec
from bagpipe.config.losses import LossKind, loss_kind
from bagpipe.data.columns import ColumnSource
from bagpipe.data.encode import Encoder
from bagpipe.data.examples import Examples
from bagpipe.data.files import find_files
from bagpipe.data.formats import format_of, open_raw
from bagpipe.data.raw import RawBlock, RawSource
from bagpipe.data.transform import Transform
from bagpipe.errors import CheckpointError, ConfigError, DataError
from bagpipe.lowlevel.atomic_files import cannot_write
from bagpipe.models.base import build_model
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import WidthGroup
from bagpipe.trainer.loop import num_threads

Floats64 = npt.NDArray[np.float64]


class KeptRows:
    """The rows of one width group of a checkpoint; records stay in their files until they are read."""

    def __init__(self, checkpoint: Checkpoint, number: int, group: WidthGroup) -> None:
        spec = checkpoint.manifest.spec
        self.group = group
        self._initial_rows = InitialRows(group, spec.embedding, spec.seed)
        parts = [(k, r) for at, k, r in map(checkpoint.rows, checkpoint.manifest.shards) if at == number]
        self._parts = [(keys[order], order, records) for keys, records in parts for order in [np.argsort(keys)]]

    def weights(self, keys_K: Keys) -> Floats:
        """`[K, D]`, as training left them, or as they were born."""
        out = np.empty((len(keys_K), self.group.embedding_dim), np.float32)
        born = np.ones(len(keys_K), np.bool_)
        for keys, order, records in self._parts:
            place = np.minimum(np.searchsorted(keys, keys_K), max(len(keys) - 1, 0))
            here = (keys[place] == keys_K) if len(keys) else np.zeros(len(keys_K), np.bool_)
            out[here] = records[order[place[here]], : self.group.embedding_dim]
            born &= ~here
        where = np.flatnonzero(born)
        self._initial_rows.fill(keys_K[where], where, out)
        return out


class Scorer:
    """A checkpoint's model over encoded examples."""

    def __init__(self, checkpoint: Checkpoint, transform: Transform) -> None:
        manifest = checkpoint.manifest
        self.spec, self.layout = manifest.spec, manifest.layout
        info = transform.info
        self.model = build_model(self.spec.model, self.layout, len(info.dense), info.num_labels, self.spec.seed)
        self.model.load_state_dict(_dense_weights(checkpoint))
        self.model.eval()
        self._rows = [KeptRows(checkpoint, number, group) for number, group in enumerate(self.layout.groups)]
        torch.set_num_threads(num_threads(self.spec, self.spec.trainers.replicas))

    def logits(self, examples: Examples) -> Floats:
        """`[B, L]`."""
        weights, lookups = [], []
        for rows, block in zip(self._rows, examples.sparse, strict=True):
            distinct, inverse = np.unique(block.keys_N, return_inverse=True)
            weights.append(aligned(rows.weights(distinct)))
            lookups.append(Lookups(inverse.astype(np.int32), block.lengths_BT, block.weights_N))
        sparse = SparseEmbeddings.of_lookups(self.layout, weights, lookups)
        with torch.no_grad():
            out: Floats = self.model(aligned(examples.dense_BF), sparse).numpy()
        return out.reshape(len(examples), -1)


def _dense_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    for file in checkpoint.manifest.dense:
        if file.name == DENSE_WEIGHTS:
            found: dict[str, torch.Tensor] = safetensors.torch.load(checkpoint.read(file))
            return found
    raise CheckpointError(f"{checkpoint.directory}: holds no dense weights; its model cannot be rebuilt")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was written."""

    rows: int
    bad_lines: int
    columns: tuple[str, ...]


def predict(directory: Path, path: str, out: Path, *, keep: Sequence[str] = (), file_format: str = "auto") -> Predicted:
    """Score raw rows and write one row of Parquet for each: where it was, the kept columns, a score for each label.

    Args:
        directory: a checkpoint.
        path: as `data.path`; labels need not be there where `data.columns` describe the data.
        keep: columns of the input that are written beside the scores.
        file_format: as `data.format`.

    Raises:
        CheckpointError: the checkpoint keeps no transform, or is damaged.
        ConfigError, DataError: the data is not of the form that the model was trained on.
        StorageError: the output cannot be written.
    """
    checkpoint = open_checkpoint(directory)
    kept = load_kept(checkpoint)
    if kept is None:
        raise CheckpointError(
            f"{directory}: written before transforms were kept; resume the run to get a new checkpoint"
        )
    raw = _open(checkpoint.manifest.spec, path, file_format, kept.transform, tuple(keep))
    scorer = Scorer(checkpoint, kept.transform)
    encoder = kept.transform.encoder(raw.schema, scorer.layout)
    names = [f"score_{name}" for name in kept.transform.label_names]
    draft = out.with_name(f".{out.name}.tmp")
    try:
        rows, bad = _write(draft, _tables(raw, encoder, scorer, names, tuple(keep)))
        draft.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from None
    finally:
        draft.unlink(missing_ok=True)
    return Predicted(rows, bad, tuple(names))


def _open(spec: JobSpec, path: str, file_format: str, transform: Transform, keep: tuple[str, ...]) -> RawSource:
    files = find_files(path)
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
    if isinstance(raw, ColumnSource):
        return raw.with_extra(keep)
    if keep:
        raise ConfigError("--keep: this format has no columns of its own; rows are named by file and number")
    return raw


def _tables(
    raw: RawSource, encoder: Encoder, scorer: Scorer, names: Sequence[str], keep: tuple[str, ...]
) -> Iterator[tuple[pa.Table, int]]:
    """For each piece of the data its scores, and how many bad lines it had."""
    for piece in raw.pieces(0)[1]:
        block = raw.parse(piece)
        scores = _scores(block, encoder, scorer)
        if scores.shape[1] != len(names):
            raise DataError(
                f"the model gives {scores.shape[1]} outputs for {len(names)} labels; it cannot be predicted with"
            )
        columns: dict[str, Any] = {"file": pa.array([block.file] * len(block)), "row": pa.array(block.lines_B)}
        if keep:
            table = piece.load()
            for name in keep:
                columns[name] = table.column(name).take(pa.array(block.lines_B - piece.first_row))
        columns |= {name: pa.array(scores[:, place]) for place, name in enumerate(names)}
        yield pa.table(columns), block.bad_lines


def _scores(block: RawBlock, encoder: Encoder, scorer: Scorer) -> Floats64:
    examples, size = encoder.encode(block), scorer.spec.batch_size
    parts = [scorer.logits(examples.slice(at, min(at + size, len(block)))) for at in range(0, len(block), size)]
    logits = np.concatenate(parts) if parts else np.zeros((0, len(block.labels_BL[0])), np.float32)
    return predictions(logits, loss_kind(scorer.spec.model))


def predictions(outputs_BL: Floats, loss: LossKind | None) -> Floats64:
    """What the model's outputs say of the labels: probabilities, values or expected counts, as in evaluation."""
    if loss is None or loss.figures == "clicks":
        return probabilities(outputs_BL)
    wide = outputs_BL.astype(np.float64)
    return np.exp(wide) if loss.figures == "counts" else wide


def probabilities(logits: Floats) -> Floats64:
    """Of a logit, as evaluation takes it: 1 / (1 + e^-x) in float64."""
    wide = logits.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1.0 + small), np.float64)


def _write(path: Path, tables: Iterator[tuple[pa.Table, int]]) -> tuple[int, int]:
    writer: pq.ParquetWriter | None = None
    rows, bad = 0, 0
    try:
        for table, bad_lines in tables:
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            rows, bad = rows + table.num_rows, bad + bad_lines
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise DataError("no valid row in the data; nothing was written")
    return rows, bad
