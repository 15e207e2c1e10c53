"""`bagpipe.Transform`: turns raw rows into numbers, without a run: it is learned from one frame and applied to others.

It is the transform of a run (`bagpipe.data.transform`), learned by the same passes over the same columns. So its
encoding of a run's training rows equals the run's batches, bit for bit.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from bagpipe.batch import Floats, Int64s, Lengths
from bagpipe.config.columns import ColumnsConfig
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.column_cells import label_source
from bagpipe.data.column_files import table_format, table_schema
from bagpipe.data.encode import select
from bagpipe.data.encoded import raw_blocks
from bagpipe.data.examples import Examples
from bagpipe.data.files import find_files
from bagpipe.data.formats import Encoding, format_of, open_raw
from bagpipe.data.found_tables import layout_of
from bagpipe.data.prepare import learn
from bagpipe.data.raw import RawBlock
from bagpipe.data.transform import Transform as Kept
from bagpipe.data.transform import load_transform
from bagpipe.errors import DataError
from bagpipe.interactive.document import compose
from bagpipe.interactive.frames import is_path, naming_frames, warn_of_index, write_frame
from bagpipe.interactive.progress import teller
from bagpipe.interactive.user_model import NamedModel
from bagpipe.lowlevel.wording import listed


@dataclass(frozen=True, slots=True)
class EncodedFeature:
    """One sparse feature of all rows."""

    rows: Int64s
    """Row of its table for each lookup, example by example: `[B]`, or `[N]` where examples have lists."""
    lengths: Lengths | None
    """Lookups of each example, `[B]`; None: one each."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """B encoded examples, as a model is trained on them."""

    labels: Floats | None
    """`[B, L]`; None: the rows have no labels."""
    dense: Floats
    """`[B, F]`, filled, clipped, logged and standardised as the columns say."""
    features: Mapping[str, EncodedFeature]
    """By name."""


class Transform:
    """From raw rows to labels, dense features and rows of tables. Made by `fit` or `load`."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def __repr__(self) -> str:
        return f"Transform({', '.join(f'{name}: {rows:,} rows' for name, rows in self.tables.items())})"

    @classmethod
    def fit(
        cls, rows: Any, columns: Any = None, *, label: str | None = None, progress: bool = True, **settings: Any
    ) -> Self:
        """Learn vocabularies, means and deviations from the training part of the rows.

        Args:
            rows: a path or rows, as `bagpipe.fit` takes them.
            columns: as for `bagpipe.fit`; None: as `bagpipe init` suggests, which is printed: what each column was
                taken for, and what was doubtful.
            label: with `columns=None`, the column to predict; None: it is guessed.
            progress: with `columns=None`, print what was guessed.
            **settings: of `spec.data`, such as `encoding="hash"`, `min_count=2`, `test_fraction=0.1`; rows of the
                test part teach nothing.

        Raises:
            ConfigError, DataError: as `bagpipe.fit`.
        """
        warn_of_index(rows, "rows")
        with _as_path(rows) as path:
            tell = teller(progress=progress)
            any_label = columns is not None and "model" not in settings
            named = NamedModel({"loss": "squared-error"} if any_label else {})  # No loss is computed here.
            spec = compose("transform", named, path, None, columns, label, settings, tell).job.spec
            if columns is None and spec.data.columns is not None:
                tell(_taken(spec.data.columns))
            return cls(learn(spec.data, tables=spec.embedding.tables, seed=spec.seed))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The transform in `folder`: saved by `save`, or `transform/` of a checkpoint or an export.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        return cls(load_transform(Path(folder)))

    def save(self, folder: str | Path) -> Path:
        """Write it into `folder`; returns the folder.

        Raises:
            StorageError: it cannot be written.
        """
        self._kept.save(Path(folder))
        return Path(folder)

    @property
    def digest(self) -> str:
        """SHA-256 of everything stated and learned: equal for equal transforms."""
        return self._kept.digest

    @property
    def tables(self) -> Mapping[str, int]:
        """Rows of each table, by name."""
        return {table.name: table.num_embeddings for table in self._kept.info.tables}

    def encode(self, rows: Any) -> EncodedRows:
        """Encode raw rows, in their order, all in memory. Values that were not seen in training share rows (`oov`).

        Raises:
            DataError: the rows do not have the columns that were learned from, or a value is not valid; names row and
                column.
        """
        with _as_path(rows) as path:
            return self._encode(path)

    def _encode(self, path: Any) -> EncodedRows:
        info = self._kept.info
        files = find_files(path)
        stated: Any = "auto" if info.source in ("columns", "parquet", "synthetic") else info.source
        data = DataConfig(path=path, format=stated, columns=info.columns, encoding=cast("Encoding", info.encoding))
        found = format_of(data, files)
        labelled = info.columns is None or self._has_labels(path, data)
        raw = open_raw(data, found, files, 0, self._kept, labelled=labelled)
        self._kept.check_source(found, raw.schema)
        layout = layout_of(info.tables, EmbeddingConfig(dim=1))
        encoder = self._kept.encoder(raw.schema, layout)
        blocks = [block for block in raw_blocks(raw, 0) if len(block)]
        if not blocks:
            raise DataError("rows: no rows; expected at least one")
        group = layout.groups[0]
        offsets = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        examples = [encoder.encode(block) for block in blocks]
        features = {}
        for place, name in enumerate(group.feature_names):
            parts = [select(_keys_only(e), len(group.feature_names), np.array([place])) for e in examples]
            keys = np.concatenate([codes.view(np.int64) for codes, *_ in parts]) - offsets[name]
            lengths = [part[1].reshape(-1) for part in parts if part[1] is not None]
            features[name] = EncodedFeature(keys, np.concatenate(lengths) if lengths else None)
        labels = np.concatenate([block.labels_BL for block in blocks]) if labelled else None
        return EncodedRows(labels, np.concatenate([block.dense_BF for block in blocks]), features)

    def _has_labels(self, path: Any, data: DataConfig) -> bool:
        assert data.columns is not None
        first = next((file for file in find_files(path) if file.size), None)
        if first is None:
            raise DataError("rows: no rows; expected at least one")
        names = table_schema(first, table_format(first, data.format), data.columns.header).names
        return all(label_source(label) in names for label in data.columns.labels)


def _taken(columns: ColumnsConfig) -> str:
    """What columns were taken for, by a program that has no job file in which it would stand."""
    parts = (("as numbers", columns.dense), ("as categories", columns.sparse))
    return "; ".join(f"{what}: {listed([column.name for column in part])}" for what, part in parts if part)


def _keys_only(examples: Examples) -> RawBlock:
    """A raw block with keys in place of codes, so that features are picked by the same function."""
    block = examples.sparse[0]
    keys_N, numbers = block.keys_N.view(np.uint64), np.zeros(0, np.int64)
    return RawBlock(examples.labels_BL, examples.dense_BF, keys_N, block.lengths_BT, "", numbers)


@contextmanager
def _as_path(rows: Any) -> Iterator[Any]:
    if is_path(rows):
        yield [str(one) for one in rows] if isinstance(rows, list | tuple) else str(rows)
        return
    with tempfile.TemporaryDirectory(prefix="bagpipe-rows-") as folder:
        written = write_frame(rows, Path(folder) / "rows", "rows").folder
        with naming_frames({written: "the frame"}):
            yield str(written)
