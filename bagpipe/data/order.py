"""In which order examples come, and where each batch begins and ends (contract X5).

The order of an epoch is a pure function of (seed, epoch, window): examples are permuted within
windows of `shuffle_window`, so a reader needs to hold one window and can start at any position. The
permutation sorts raw Philox words, whose values are fixed by the algorithm and not by a version of
numpy. While a window is gathered it is held twice (Criteo: half a kilobyte for each example). Batches
are cut from that stream; a batch may span two windows, never two epochs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from bagpipe.batch import Batch, Cursor, Int64s
from bagpipe.data.examples import Examples, concatenate

Shuffle = Literal["never", "after-first", "always"]
PIECE = 1 << 15
"""Examples gathered at a time from a permuted window."""


class ExampleSource(Protocol):
    """Examples in file order, from any position."""

    def read(self, start: int, stop: int | None) -> Iterator[Examples]:
        """Examples `start..stop-1` (None: to the end), in pieces of any size."""
        ...


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """The order in which an epoch presents the training part."""

    seed: int
    shuffle: Shuffle
    window: int

    def shuffled(self, epoch: int) -> bool:
        return self.shuffle == "always" or (self.shuffle == "after-first" and epoch > 0)

    def permutation(self, epoch: int, window: int, size: int) -> Int64s:
        """Order of the `size` examples of one window."""
        words = np.random.Philox(key=[self.seed, 0x5348554646], counter=[0, 0, window, epoch]).random_raw(size)
        return np.argsort(words, kind="stable")

    def read(self, source: ExampleSource, epoch: int, start: int, stop: int | None) -> Iterator[Examples]:
        """The epoch's examples from position `start` of its order; `stop` is the size of the part."""
        if not self.shuffled(epoch):
            yield from source.read(start, stop)
            return
        first = start // self.window
        windows = cut(source.read(first * self.window, stop), self.window)
        for number, examples in enumerate(windows, first):
            order = self.permutation(epoch, number, len(examples))
            skip = max(0, start - number * self.window)
            for at in range(skip, len(examples), PIECE):
                yield examples.take(order[at : at + PIECE])


def cut(pieces: Iterable[Examples], size: int) -> Iterator[Examples]:
    """The same examples in pieces of exactly `size`, the last one shorter."""
    held: list[Examples] = []
    count = 0
    for piece in pieces:
        at = 0
        while count + len(piece) - at >= size:
            held.append(piece.slice(at, at + size - count))
            at += size - count
            yield concatenate(held)
            held, count = [], 0
        if at < len(piece):
            held.append(piece.slice(at, len(piece)))
            count += len(piece) - at
    if held:
        yield concatenate(held)


def batches_of_epoch(pieces: Iterable[Examples], batch_size: int, start: Cursor, *, drop_last: bool) -> Iterator[Batch]:
    """Batches of one epoch from `start`; the last one's `end` is the beginning of the next epoch.

    A batch is held back until the next one is known, because only then it is known not to be the
    last. What `drop_last` drops is the difference between the part's size and the last position.
    """
    position = start.position
    held: Examples | None = None
    for examples in cut(pieces, batch_size):
        if drop_last and len(examples) < batch_size:
            break
        if held is not None:
            yield _batch(held, Cursor(start.epoch, position), Cursor(start.epoch, position + len(held)))
            position += len(held)
        held = examples
    if held is not None:
        yield _batch(held, Cursor(start.epoch, position), Cursor(start.epoch + 1, 0))


def _batch(examples: Examples, cursor: Cursor, end: Cursor) -> Batch:
    return Batch(
        cursor,
        end,
        examples.dense_BF,
        examples.labels_BL,
        examples.sparse,
        examples.weights_B,
        examples.groups_B,
    )
