"""The paper's `parsed_caser.txt`: who has seen which items, which came next, which never.

    {"label": [next items], "dense": [negative items], "sparse": [[user], [items of the history]]}

becomes an example with three features: `user`, `history` and `candidates`, the next items and then the
negatives; its labels are 1 for the former and 0 for the latter. So items that are scored are looked up like
all others. The first line fixes the numbers of next items and negatives for all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np

from bagpipe.data.files import InputFile, TextBlock, read_head, text_blocks
from bagpipe.data.jsonlines import NO_RECORD
from bagpipe.data.raw import RawBlock, RawFeature, RawSchema
from bagpipe.data.separated import REMEDY
from bagpipe.errors import DataError

Id = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
FEATURES = ("user", "history", "candidates")


class _Record(msgspec.Struct):
    label: list[Id]
    dense: list[Id]
    sparse: tuple[Annotated[list[Id], msgspec.Meta(min_length=1, max_length=1)], list[Id]]


_DECODER = msgspec.json.Decoder(_Record)


@dataclass(frozen=True, slots=True)
class CaserLines:
    """Caser's JSON lines as a `RawSource`."""

    files: tuple[InputFile, ...]
    num_next: int
    num_negatives: int
    skip_bad: bool = False

    @classmethod
    def open(cls, files: Sequence[InputFile], *, skip_bad: bool = False) -> "CaserLines":
        """Raises:
        DataError: the first line is not such a record.
        """
        first = next((f for f in files if f.size), files[0])
        try:
            record = _DECODER.decode(_first_line(first))
        except NO_RECORD as error:
            raise DataError(
                f'{first.name}:1: expected {{"label": [items], "dense": [items], "sparse": [[user], [items]]}}: {error}'
            ) from error
        return cls(tuple(files), len(record.label), len(record.dense), skip_bad)

    @property
    def schema(self) -> RawSchema:
        features = tuple(RawFeature(name, "int") for name in FEATURES)
        return RawSchema(features, (), self.num_next + self.num_negatives, jagged=True)

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
        return self._block(piece.file, records, lines, bad, first_bad)

    def _misshapen(self, record: _Record) -> str | None:
        found = (len(record.label), len(record.dense))
        if found == (self.num_next, self.num_negatives):
            return None
        wants = f"{self.num_next} next items and {self.num_negatives} negatives"
        return f"expected {wants} as in the first line, found {found[0]} and {found[1]}"

    def _block(self, file: str, records: list[_Record], lines: list[int], bad: int, first_bad: str | None) -> RawBlock:
        count, candidates = len(records), self.num_next + self.num_negatives
        labels = np.zeros((count, candidates), np.float32)
        labels[:, : self.num_next] = 1.0
        lengths = np.array([(1, len(r.sparse[1]), candidates) for r in records], np.int32).reshape(count, len(FEATURES))
        values = chain.from_iterable((*r.sparse[0], *r.sparse[1], *r.label, *r.dense) for r in records)
        codes = (np.fromiter(values, np.int64) + 1).view(np.uint64)
        dense = np.zeros((count, 0), np.float32)
        return RawBlock(labels, dense, codes, lengths, file, np.array(lines, np.int64), bad, first_bad)


def looks_like_caser(file: InputFile) -> bool:
    """Whether the first line is a record of next items, negatives, a user and a history."""
    try:
        record = _DECODER.decode(_first_line(file))
    except NO_RECORD:
        return False
    return bool(record.label and record.dense)


def _first_line(file: InputFile) -> bytes:
    return read_head(file, 4 << 20).lstrip().split(b"\n", 1)[0]
