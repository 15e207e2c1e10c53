"""The paper's JSON lines: `{"label": 0.0, "dense": [13 floats], "sparse": [26 ints]}`.

`sparse` may be ragged (`[[user], [item, item]]`), `label` may be a list, `dense` may be empty. The first
line fixes the shape (numbers of labels, dense values, features, ragged or not) for all the others.
Values are ids: row numbers of their tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np

from bagpipe.data.files import InputFile, TextBlock, read_head, text_blocks
from bagpipe.data.raw import RawBlock, RawFeature, RawSchema
from bagpipe.data.separated import REMEDY
from bagpipe.errors import DataError

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
"""Anything wider does not fit an array; whether it fits its table is checked when it is encoded."""


class _Record(msgspec.Struct):
    label: float | list[float]
    sparse: list[Id | list[Id]]
    dense: list[float] = []


_DECODER = msgspec.json.Decoder(_Record)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """JSON lines files as a `RawSource`."""

    files: tuple[InputFile, ...]
    schema: RawSchema
    skip_bad: bool = False

    @classmethod
    def open(cls, files: Sequence[InputFile], *, skip_bad: bool = False) -> "JsonLines":
        """Raises:
        DataError: the first line is not such a record.
        """
        first = next((f for f in files if f.size), files[0])
        line = read_head(first, 4 << 20).lstrip().split(b"\n", 1)[0]
        try:
            record = _DECODER.decode(line)
        except msgspec.DecodeError as error:
            raise DataError(
                f'{first.name}:1: expected {{"label": ..., "dense": [...], "sparse": [...]}}: {error}'
            ) from error
        jagged = any(isinstance(values, list) for values in record.sparse)
        features = tuple(RawFeature(f"C{i}", "int") for i in range(1, len(record.sparse) + 1))
        dense = tuple(f"I{i}" for i in range(1, len(record.dense) + 1))
        return cls(tuple(files), RawSchema(features, dense, len(_labels(record)), jagged), skip_bad)

    @property
    def num_examples(self) -> int | None:
        return None

    def pieces(self, start: int) -> tuple[int, Iterator[TextBlock]]:
        return 0, text_blocks(self.files)

    def parse(self, piece: TextBlock) -> RawBlock:
        records: list[_Record] = []
        lines: list[int] = []
        bad, first_bad = 0, None
        for line, text in enumerate(piece.text.split(b"\n"), piece.first_line):
            if not text or text.isspace():
                continue
            try:
                record = _DECODER.decode(text)
                problem = self._misshapen(record)
            except msgspec.DecodeError as error:
                problem = str(error)
            if problem is None:
                records.append(record)
                lines.append(line)
                continue
            bad += 1
            first_bad = first_bad or f"{piece.file}:{line}: malformed record: {problem}"
            if not self.skip_bad:
                raise DataError(f"{first_bad}; {REMEDY}")
        return self._block(piece.file, records, lines, bad, first_bad)

    def _misshapen(self, record: _Record) -> str | None:
        schema = self.schema
        found = (len(_labels(record)), len(record.dense), len(record.sparse))
        expected = (schema.num_labels, len(schema.dense_names), len(schema.features))
        for what, has, wants in zip(("labels", "dense values", "sparse features"), found, expected, strict=True):
            if has != wants:
                return f"expected {wants} {what}, found {has}"
        if not schema.jagged and any(isinstance(values, list) for values in record.sparse):
            return "expected one integer for each sparse feature, found a list"
        return None

    def _block(self, file: str, records: list[_Record], lines: list[int], bad: int, first_bad: str | None) -> RawBlock:
        schema = self.schema
        labels = np.array([_labels(r) for r in records], np.float32).reshape(len(records), schema.num_labels)
        dense = np.array([r.dense for r in records], np.float32).reshape(len(records), len(schema.dense_names))
        lengths, values = None, chain.from_iterable(r.sparse for r in records)
        if schema.jagged:
            lists = [[v if isinstance(v, list) else [v] for v in r.sparse] for r in records]
            lengths = np.array([[len(v) for v in r] for r in lists], np.int32).reshape(
                len(records), len(schema.features)
            )
            values = chain.from_iterable(v for r in lists for v in r)
        ids = np.fromiter(values, np.int64)
        return RawBlock(
            labels, dense, (ids + 1).view(np.uint64), lengths, file, np.array(lines, np.int64), bad, first_bad
        )


def _labels(record: _Record) -> list[float]:
    return record.label if isinstance(record.label, list) else [record.label]
