"""The sum of a row's gradients over trainers: in the order of ranks, whatever order they arrive in (contract X1).

Most rows of a step are used by one trainer only, so the others' gradients are added where its own already lie
instead of collecting all of them in a new array. `EmbeddingCache.update` scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bagpipe.batch import Floats
from bagpipe.cache.optimizers import accumulate
from bagpipe.plan import Indices


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one other trainer adds: `rows_SD[i]` to the gradient of local row `index_S[i]`; rows are distinct."""

    source: int
    index_S: Indices
    rows_SD: Floats


def add_in_rank_order(own_KD: Floats, rank: int, others: Sequence[Contribution]) -> None:
    """Add the contributions, listed by ascending rank, to this rank's own gradients, in place.

    To the bit `((0 + g_0) + g_1) + ...`, but for the sign of a zero, which the first 0 makes positive: add a zero to
    the result. Ranks below this one are summed first; a sum of two has no order (a + b = b + a).
    """
    below = [c for c in others if c.source < rank]
    if len(below) > 1:
        index = np.unique(np.concatenate([c.index_S for c in below]))
        below = [Contribution(below[0].source, index, _summed(index, below, own_KD.shape))]
    for part in (*below, *(c for c in others if c.source > rank)):
        accumulate(own_KD, part.index_S, part.rows_SD)


def _summed(index_U: Indices, parts: Sequence[Contribution], shape: tuple[int, ...]) -> Floats:
    num_rows, dim = shape
    place = np.empty(num_rows, np.int32)
    place[index_U] = np.arange(index_U.size, dtype=np.int32)
    total = np.zeros((index_U.size, dim), np.float32)
    for part in parts:
        accumulate(total, place[part.index_S], part.rows_SD)
    return total
