"""Raw data read straight into keys, and the passes over it that have to come first (counting, sizes, vocabulary)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bagpipe.data import encode_kernels as kernels
from bagpipe.data.encode import Encoder, feature_positions, select
from bagpipe.data.examples import Examples
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.raw import Codes, RawBlock, RawSchema, RawSource, ordered_map
from bagpipe.data.vocabulary import HELD_VALUES, ValueCounter

Progress = Callable[[str, float], None]


class Counted(msgspec.Struct, frozen=True, rename="camel"):
    """What a pass over all raw data found."""

    examples: int
    bad_lines: int = 0
    first_bad: str | None = None


@dataclass(slots=True)
class EncodedSource:
    """Raw data as an `ExampleSource`: parsed and encoded again at every pass, nothing stored."""

    raw: RawSource
    encoder: Encoder
    readers: int = 0
    bad_lines: int = 0
    first_bad: str | None = None

    def read(self, start: int, stop: int | None) -> Iterator[Examples]:
        """Text has no index, so everything before `start` is parsed too, as fast as parsing goes."""
        before, pieces = self.raw.pieces(start)
        position, bad = before, 0
        for block, examples in ordered_map(self.encode, pieces, self.readers):
            if position >= (stop if stop is not None else position + 1):
                return
            bad += block.bad_lines
            self.bad_lines = max(self.bad_lines, bad)
            self.first_bad = self.first_bad or block.first_bad
            low, high = (max(0, start - position), len(block) if stop is None else min(len(block), stop - position))
            if low < high:
                yield examples.slice(low, high)
            position += len(block)

    def encode(self, piece: Any) -> tuple[RawBlock, Examples]:
        """One piece of the raw data, and its examples."""
        block = self.raw.parse(piece)
        return block, self.encoder.encode(block)


def raw_blocks(raw: RawSource, readers: int, stop: int | None = None) -> Iterator[RawBlock]:
    """All raw blocks in order, up to and including the one with example `stop - 1`."""
    position = 0
    for block in ordered_map(raw.parse, raw.pieces(0)[1], readers):
        if stop is not None and position >= stop:
            return
        yield block
        position += len(block)


def count_examples(raw: RawSource, readers: int) -> Counted:
    """One pass that parses everything, so that malformed lines are known before training."""
    if raw.num_examples is not None:
        return Counted(raw.num_examples)
    examples, bad, first = 0, 0, None
    for block in raw_blocks(raw, readers):
        examples, bad, first = (examples + len(block), bad + block.bad_lines, first or block.first_bad)
    return Counted(examples, bad, first)


def count_values(
    raw: RawSource,
    tables: Sequence[FoundTable],
    readers: int,
    stop: int | None,
    progress: Callable[[int], None],
    scratch: Path | None = None,
) -> tuple[list[ValueCounter], Counted]:
    """Count the values of each table over the first `stop` examples; a shared table counts all its features.

    Args:
        scratch: a folder for values that memory does not hold.
    """
    names = [f.name for f in raw.schema.features]
    features = [np.array(feature_positions(names, t.feature_names, t.name), np.int64) for t in tables]
    counters = [ValueCounter(HELD_VALUES // len(tables), scratch) for _ in tables]
    position, bad, first = 0, 0, None
    for block in raw_blocks(raw, readers, stop):
        part = block if stop is None else first_examples(block, stop - position, len(names))
        for counter, wanted in zip(counters, features, strict=True):
            counter.add(select(part, len(names), wanted)[0])
        position, bad, first = (position + len(part), bad + block.bad_lines, first or block.first_bad)
        progress(position)
    return counters, Counted(position, bad, first)


def largest_codes(raw: RawSource, readers: int) -> tuple[Codes, Counted]:
    """The largest code of each feature, 0 where there is none."""
    names = [f.name for f in raw.schema.features]
    largest = np.zeros(len(names), np.uint64)
    everything = np.arange(len(names), dtype=np.int64)
    examples, bad, first = 0, 0, None
    for block in raw_blocks(raw, readers):
        codes_N, _, which_N = select(block, len(names), everything)
        # A negative id has a huge code; it is left for the encoder to refuse with its line.
        fine = codes_N < np.uint64(1 << 63)
        kernels.largest_codes(codes_N[fine], which_N[fine], largest)
        examples, bad, first = (examples + len(block), bad + block.bad_lines, first or block.first_bad)
    return largest, Counted(examples, bad, first)


def rows_needed(schema: RawSchema, tables: Sequence[FoundTable], largest: Sequence[int]) -> list[int]:
    """Rows that each table needs for the largest code of each feature."""
    by_name = dict(zip((f.name for f in schema.features), largest, strict=True))
    return [max(1, *(by_name[name] for name in table.feature_names)) for table in tables]


def first_examples(block: RawBlock, count: int, num_features: int) -> RawBlock:
    if count >= len(block):
        return block
    if block.lengths_BT is None:
        values, lengths = count * num_features, None
    else:
        lengths = block.lengths_BT[:count]
        values = int(lengths.sum(dtype=np.int64))
    return replace(
        block,
        labels_BL=block.labels_BL[:count],
        dense_BF=block.dense_BF[:count],
        codes_N=block.codes_N[:values],
        lengths_BT=lengths,
        lines_B=block.lines_B[:count],
        bad_lines=0,
        first_bad=None,
        weights_B=None if block.weights_B is None else block.weights_B[:count],
        groups_B=None if block.groups_B is None else block.groups_B[:count],
        weights_N=None if block.weights_N is None else block.weights_N[:values],
    )
