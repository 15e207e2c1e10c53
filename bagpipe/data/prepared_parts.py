"""Examples to the parts of a prepared folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.batch import SparseBlock
from bagpipe.data import encode_kernels
from bagpipe.data.draft import Draft
from bagpipe.data.enclosed import enclose
from bagpipe.data.examples import Examples
from bagpipe.data.order import cut
from bagpipe.data.prepared import (
    FIRST_PART,
    PART_NAME,
    REPORT_KEY,
    ROW_GROUP,
    ROWS_PER_PART,
    PreparedInfo,
    Report,
    with_checksum,
)
from bagpipe.data.transform import Transform
from bagpipe.data.walk import Walk
from bagpipe.tables import TableLayout


def part_size() -> tuple[int, int]:
    """Examples of a row group, and row groups of a part."""
    return ROW_GROUP, ROWS_PER_PART // ROW_GROUP


@dataclass(frozen=True, slots=True)
class PartFormat:
    """What all parts of a prepared folder have in common."""

    folder: Path
    info: PreparedInfo
    layout: TableLayout
    transform: Transform

    def path(self, number: int) -> Path:
        return self.folder / PART_NAME.format(number)


class Part:
    """One part that is being written; the first one holds the vocabulary.

    Args:
        path: where, if it is not to be written under its own name.
    """

    def __init__(self, form: PartFormat, number: int, path: Path | None = None) -> None:
        self._form, self._schema = form, form.info.arrow_schema()
        self._path = path or form.path(number)
        self._first = form.path(number).name == FIRST_PART
        self._file = pa.OSFile(str(self._path), "wb")
        # Plain pages: ids of a large table do not compress, and decoding costs more than reading.
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="NONE",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )

    def write(self, examples: Examples) -> None:
        """A row group."""
        table = _arrow_table(examples, self._form.info, self._form.layout, self._schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def close(self, report: Report | None = None) -> None:
        """Make it whole; the last one's footer says `report` too."""
        if report is not None:
            self._writer.add_key_value_metadata(with_checksum(REPORT_KEY, msgspec.json.encode(report)))
        if self._first:
            self._writer.add_key_value_metadata(enclose(self._form.transform, self._file, self._path.parent))
        self.let_go()

    def let_go(self) -> None:
        """Close it as it is."""
        try:
            self._writer.close()
        finally:
            self._writer.is_open = False  # else it is closed again when it is deleted, and complains to stderr
            self._file.close()


def write_parts(
    draft: Draft, form: PartFormat, walk: Walk, report: Callable[[], Report], progress: Callable[[int], None]
) -> int:
    """Write the parts from `walk.begin` on; the last one's footer says `report` too.

    Returns the number of examples, those of earlier parts included.
    """
    written = walk.begin.examples
    part: Part | None = None
    try:
        for examples in cut(walk.examples(), ROW_GROUP):
            if part is None or written % ROWS_PER_PART == 0:
                if part is not None:
                    part.close()
                    draft.note_part(walk.place(written))
                part = Part(form, written // ROWS_PER_PART)
            part.write(examples)
            written += len(examples)
            progress(written)
        if part is not None:
            part.close(report())
    finally:
        if part is not None:
            part.let_go()
    return written


def _arrow_table(examples: Examples, info: PreparedInfo, layout: TableLayout, schema: pa.Schema) -> pa.Table:
    columns: list[Any] = [pa.array(examples.labels_BL[:, i]) for i in range(info.num_labels)]
    columns += [pa.array(examples.dense_BF[:, i]) for i in range(len(info.dense))]
    group, block = layout.groups[0], examples.sparse[0]
    features = [(t, offset) for t, offset in zip(group.tables, group.offsets, strict=True) for _ in t.feature_names]
    types = schema.types[len(columns) : len(columns) + len(features)]
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
    columns += [pa.array(array) for array in (examples.weights_B, examples.groups_B) if array is not None]
    columns += [_weight_lists(block, group.feature_names.index(name)) for name in info.value_weights]
    return pa.Table.from_arrays(columns, schema=schema)


def _weight_lists(block: SparseBlock, place: int) -> Any:
    assert block.lengths_BT is not None
    assert block.weights_N is not None
    lengths_B = block.lengths_BT[:, place]
    weights = np.empty(int(lengths_B.sum(dtype=np.int64)), np.float32)
    encode_kernels.select_values(block.weights_N, block.lengths_BT, np.array([place], np.int64), weights)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths_B, dtype=np.int32)])
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(weights), type=kind)
