"""Some examples after reading and before lookup: dense values, and for each sparse feature the codes of its values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint64]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Values:
    """Codes of one feature, example by example; `lengths_B` None: one for each example."""

    codes_N: Codes
    lengths_B: Lengths | None = None
    weights_N: npt.NDArray[np.float32] | None = None
    """None: all are 1."""

    def part(self, start: int, stop: int) -> "Values":
        if self.lengths_B is None:
            return Values(self.codes_N[start:stop])
        before = int(self.lengths_B[:start].sum())
        lengths = self.lengths_B[start:stop]
        here = slice(before, before + int(lengths.sum()))
        return Values(self.codes_N[here], lengths, None if self.weights_N is None else self.weights_N[here])


@dataclass(frozen=True, slots=True)
class Block:
    """`B` consecutive examples of one file; `rows_B` are their numbers in it, from 1."""

    dense_BF: npt.NDArray[np.float32]
    values: tuple[Values, ...]
    file: tuple[str, ...] = ()
    rows_B: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    kept: Any = None
    """Columns of the input, as an Arrow table, that are written beside the scores."""

    def __len__(self) -> int:
        return int(self.dense_BF.shape[0])

    def part(self, start: int, stop: int) -> "Block":
        values = tuple(v.part(start, stop) for v in self.values)
        kept = None if self.kept is None else self.kept.slice(start, stop - start)
        return Block(self.dense_BF[start:stop], values, self.file[start:stop], self.rows_B[start:stop], kept)


def batches_of(blocks: Iterator[Block], size: int) -> Iterator[Block]:
    """The same examples, `size` at once, the last block shorter: sums in a model may depend on the size of a batch."""
    waiting: list[Block] = []
    for block in blocks:
        at = 0
        while at < len(block):
            take = min(len(block) - at, size - sum(map(len, waiting)))
            waiting.append(block.part(at, at + take))
            at += take
            if sum(map(len, waiting)) == size:
                yield joined(waiting)
                waiting = []
    if waiting:
        yield joined(waiting)


def joined(blocks: Sequence[Block]) -> Block:
    """The examples of all blocks, one after another; at least one block is given."""
    if len(blocks) == 1:
        return blocks[0]
    values = []
    for place in range(len(blocks[0].values)):
        parts = [block.values[place] for block in blocks]
        lengths = None
        if any(p.lengths_B is not None for p in parts):
            found = [p.lengths_B if p.lengths_B is not None else np.ones(len(p.codes_N), np.int64) for p in parts]
            lengths = np.concatenate(found)
        weights = [p.weights_N for p in parts if p.weights_N is not None]
        found_weights = np.concatenate(weights) if weights else None
        values.append(Values(np.concatenate([p.codes_N for p in parts]), lengths, found_weights))
    kept = None
    if blocks[0].kept is not None:
        tables = [block.kept for block in blocks]
        kept = tables[0].from_batches([b for t in tables for b in t.cast(tables[0].schema).to_batches()])
    return Block(
        np.concatenate([b.dense_BF for b in blocks]),
        tuple(values),
        tuple(name for b in blocks for name in b.file),
        np.concatenate([b.rows_B for b in blocks]),
        kept,
    )
