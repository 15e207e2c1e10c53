"""The paper's JSON lines: `{"label": 0.0, "dense": [13 floats], "sparse": [26 ints]}`.

`sparse` may be ragged (`[[user], [item, item]]`), `label` may be a list, `dense` may be empty. The first
line fixes the shape (numbers of labels, dense values, features, ragged or not) for all the others.
Values are ids, any integer of 64 bits with or without a sign: row numbers of their tables, or values to be hashed or
counted. An id is its 64 bits, so -1 and 2^64 - 1 are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from bagpipe.batch import Floats, Lengths
from bagpipe.data.files import InputFile, TextBlock, read_head, text_blocks
from bagpipe.data.raw import Codes, RawBlock, RawFeature, RawSchema
from bagpipe.data.separated import REMEDY
from bagpipe.errors import DataError


class _Record(msgspec.Struct):
    label: float | list[float]
    sparse: list[int | list[int]]
    dense: list[float] = []


LARGEST = float(np.finfo(np.float32).max)
_DECODER = msgspec.json.Decoder(_Record)
NO_RECORD = (msgspec.DecodeError, RecursionError)
"""What decoding a malformed record raises, the latter where a key that nobody asks for is nested too deep."""


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
        except NO_RECORD as error:
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
        block = self._parse(piece, careful=False)
        if block is None:
            block = self._parse(piece, careful=True)
        assert block is not None
        return block

    def _parse(self, piece: TextBlock, *, careful: bool) -> RawBlock | None:
        """None: some value does not fit, and only a careful look at each record tells which."""
        records: list[_Record] = []
        lines: list[int] = []
        bad, first_bad = 0, None
        for line, text in enumerate(piece.text.split(b"\n"), piece.first_line):
            if not text or text.isspace():
                continue
            try:
                record = _DECODER.decode(text)
                problem = self._misshapen(record) or (self._out_of_range(record) if careful else None)
            except NO_RECORD as error:
                problem = str(error)
            if problem is None:
                records.append(record)
                lines.append(line)
                continue
            bad += 1
            first_bad = first_bad or f"{piece.file}:{line}: malformed record: {problem}"
            if not self.skip_bad:
                raise DataError(f"{first_bad}; {REMEDY}")
        arrays = self._arrays(records, careful=careful)
        if arrays is None:
            return None
        return RawBlock(*arrays, piece.file, np.array(lines, np.int64), bad, first_bad)

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

    def _out_of_range(self, record: _Record) -> str | None:
        for value in (*_labels(record), *record.dense):
            if not abs(value) <= LARGEST:
                return f"expected labels and dense values of 32 bits, found {value}"
        for value in chain.from_iterable(_lists(record)):
            if not -(2**63) <= value < 2**64:
                return f"expected ids of 64 bits, found {value}"
        return None

    def _arrays(self, records: list[_Record], *, careful: bool) -> tuple[Floats, Floats, Codes, Lengths | None] | None:
        schema, count = self.schema, len(records)
        labels = np.array([_labels(r) for r in records], np.float64).reshape(count, schema.num_labels)
        dense = np.array([r.dense for r in records], np.float64).reshape(count, len(schema.dense_names))
        if not all(np.all(np.abs(values) <= LARGEST) for values in (labels, dense)):
            return None
        lengths = None
        if schema.jagged:
            lengths = np.array([[len(v) for v in _lists(r)] for r in records], np.int32)
            lengths = lengths.reshape(count, len(schema.features))
        values: list[Any] = list(chain.from_iterable(r.sparse for r in records))
        if schema.jagged:
            values = [v for r in records for v in chain.from_iterable(_lists(r))]
        try:
            ids = np.array(values, np.int64)
        except OverflowError:
            if not careful:
                return None
            ids = np.array([v & 0xFFFF_FFFF_FFFF_FFFF for v in values], np.uint64).view(np.int64)
        return labels.astype(np.float32), dense.astype(np.float32), (ids + 1).view(np.uint64), lengths


def _lists(record: _Record) -> list[list[int]]:
    return [v if isinstance(v, list) else [v] for v in record.sparse]


def _labels(record: _Record) -> list[float]:
    return record.label if isinstance(record.label, list) else [record.label]
