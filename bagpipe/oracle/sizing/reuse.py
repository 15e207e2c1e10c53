"""Measures how soon rows are used again, and so what any lookahead would fetch, from a job's first batches.

A row is fetched when its last use lies further back than the lookahead, so the gaps between uses tell
the traffic of every lookahead at once, without planning any of them. Only some rows are followed,
chosen by a hash of their key, which keeps the gaps' distribution (SHARDS, Waldspurger et al., FAST
2015). Pure.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Batch, Keys

SAMPLE_BATCHES = 256
"""A lookahead of 200 is judged by the last 56 of them."""
SAMPLE_LOOKUPS = 2**21
"""Lookups followed: sorting them takes a fifth of a second."""
_HASH = np.uint64(0x9E3779B97F4A7C15)
_NEVER = np.int32(2**31 - 1)


@dataclass(frozen=True, slots=True)
class Reuse:
    """Uses of the followed rows, one for each row and batch that has it."""

    steps: int
    """Batches looked at."""
    share: float
    """Of all rows, how many were followed."""
    batch_bytes: int
    """Memory of one batch, as a mean."""
    at_U: npt.NDArray[np.int32]
    """The batch of each use."""
    gap_U: npt.NDArray[np.int32]
    """Batches since the row's last use; beyond every lookahead at its first."""
    cost_U: npt.NDArray[np.int64]
    """Bytes of fetching the row."""

    def fetched_bytes(self, lookahead: int, *, since: int) -> float:
        """Bytes that one step fetches, as a mean over the batches from `since` on.

        With `since >= lookahead`, rows whose last use came before the first batch are counted rightly.
        """
        missed = (self.at_U >= since) & (self.gap_U > lookahead)
        return float(self.cost_U[missed].sum()) / self.share / max(self.steps - since, 1)


def peek(batches: Iterator[Batch], *, max_bytes: int) -> tuple[list[Batch], Iterator[Batch]]:
    """The first batches, at most `SAMPLE_BATCHES` and `max_bytes` of them, and all batches from the first on."""
    seen: list[Batch] = []
    size = 0
    for batch in itertools.islice(batches, SAMPLE_BATCHES):
        seen.append(batch)
        size += _bytes(batch)
        if size > max_bytes:
            break
    return seen, _replay(deque(seen), batches)


def _replay(seen: deque[Batch], rest: Iterator[Batch]) -> Iterator[Batch]:
    while seen:
        yield seen.popleft()
    yield from rest


def measure_reuse(batches: Sequence[Batch], row_bytes: Sequence[int], *, lookups: int = SAMPLE_LOOKUPS) -> Reuse:
    """Measure over a sample of rows that about `lookups` lookups use.

    Args:
        row_bytes: bytes that fetching one row takes, by width group.
    """
    total = sum(block.keys_N.size for batch in batches for block in batch.sparse)
    share = min(1.0, lookups / max(total, 1))
    parts = [_uses((b.sparse[group].keys_N for b in batches), share) for group in range(len(row_bytes))]
    return Reuse(
        steps=len(batches),
        share=share,
        batch_bytes=sum(map(_bytes, batches)) // max(len(batches), 1),
        at_U=np.concatenate([at for at, _ in parts]),
        gap_U=np.concatenate([gap for _, gap in parts]),
        cost_U=np.repeat(np.asarray(row_bytes, np.int64), [at.size for at, _ in parts]),
    )


def _uses(batches: Iterable[Keys], share: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Batch and gap of every use of the followed rows of one width group."""
    below = np.uint64(min(share * 2**64, 2**64 - 1))
    marked = [np.zeros(0, np.int64)]
    for at, keys in enumerate(batches):
        followed = keys if share == 1.0 else keys[keys.astype(np.uint64) * _HASH < below]
        marked.append(followed * SAMPLE_BATCHES + at)
    uses = np.unique(np.concatenate(marked))
    at_U = (uses % SAMPLE_BATCHES).astype(np.int32)
    again = np.diff(uses // SAMPLE_BATCHES, prepend=-1) == 0
    gap_U = np.where(again, np.diff(at_U, prepend=0), _NEVER).astype(np.int32)
    return at_U, gap_U


def _bytes(batch: Batch) -> int:
    arrays: list[npt.NDArray[Any]] = [batch.dense_BF, batch.labels_BL]
    for block in batch.sparse:
        arrays += [a for a in (block.keys_N, block.lengths_BT, block.weights_N) if a is not None]
    return sum(a.nbytes for a in arrays)
