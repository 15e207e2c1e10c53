"""The work that every contender does: 26 tables, skewed ids, one example one row of each table.

The tables are Criteo-Kaggle's, the five largest divided by 10 so that a copy for every trainer fits into a small
machine. Ids are a stream, never a pool that repeats: a cache with a long lookahead would hold a pool. They follow a
bounded Zipf law and are scattered over their table, or splitting tables by rows would give one server all of the
frequent ones. A step's batch is a pure function of (seed, step, shape). Labels and dense values are noise: this
measures time, not learning.

Shapes: `B` examples of all trainers, `T` tables, `F` dense features.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peers import clicks
from peers.setting import Setting

CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
LARGE, DIVISOR = 1_000_000, 10
TABLE_ROWS = tuple(n if n <= LARGE else n // DIVISOR for n in CRITEO_KAGGLE_ROWS)
NUM_ROWS = sum(TABLE_ROWS)
OFFSETS = np.concatenate([[0], np.cumsum(TABLE_ROWS)[:-1]]).astype(np.int64)
NUM_DENSE = 13
BOTTOM_MLP, OVER_MLP = (512, 256, 64), (512, 256)
"""The bottom's last layer is as wide as the rows; 27 vectors have 351 pairs, so the top starts at 351 + width."""
_SCATTER, _SHIFT = 2_654_435_761, 7_919


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's examples, of all trainers or of one."""

    dense_BF: npt.NDArray[np.float32]
    rows_TB: npt.NDArray[np.int64]
    """Row within its table."""
    labels_B1: npt.NDArray[np.float32]

    def keys(self) -> npt.NDArray[np.int64]:
        """Row among all tables, example by example."""
        return np.ascontiguousarray((self.rows_TB + OFFSETS[:, None]).T)

    def part(self, rank: int, parts: int) -> "Batch":
        """One trainer's slice."""
        size = len(self.labels_B1) // parts
        mine = slice(rank * size, (rank + 1) * size)
        return Batch(self.dense_BF[mine], np.ascontiguousarray(self.rows_TB[:, mine]), self.labels_B1[mine])


def global_batch(setting: Setting, step: int) -> Batch:
    """The examples of one step, trainer by trainer."""
    size = setting.batch * setting.trainers
    if setting.clicks is not None:
        rows_TN, dense_NF, labels_N1 = clicks.load(setting.clicks)
        wanted = np.arange(step * size, (step + 1) * size) % len(labels_N1)
        return Batch(dense_NF[wanted], rows_TN[:, wanted], labels_N1[wanted])
    draw = np.random.Generator(np.random.Philox(key=[setting.seed, step]))
    rows_TB = np.empty((len(TABLE_ROWS), size), np.int64)
    for table, num_rows in enumerate(TABLE_ROWS):
        rows_TB[table] = scattered(zipf_ranks(draw.random(size), num_rows, setting.alpha), num_rows, table)
    dense_BF = draw.random((size, NUM_DENSE), dtype=np.float32)
    labels_B1 = (draw.random((size, 1)) < 0.25).astype(np.float32)
    return Batch(dense_BF, rows_TB, labels_B1)


def zipf_ranks(uniform: npt.NDArray[np.float64], num_rows: int, alpha: float) -> npt.NDArray[np.int64]:
    """Ranks `0..num_rows-1` with probability about `(rank + 1) ** -alpha`: the inverse of the continuous law."""
    top = float(num_rows + 1)
    if math.isclose(alpha, 1.0, abs_tol=1e-9):
        drawn = np.exp(uniform * math.log(top))
    else:
        drawn = ((top ** (1.0 - alpha) - 1.0) * uniform + 1.0) ** (1.0 / (1.0 - alpha))
    return np.clip(drawn.astype(np.int64) - 1, 0, num_rows - 1)


def scattered(ranks: npt.NDArray[np.int64], num_rows: int, table: int) -> npt.NDArray[np.int64]:
    """Another row for each rank, one to one, so that frequent rows do not lie side by side."""
    if math.gcd(_SCATTER, num_rows) != 1:
        return ranks
    return (ranks * _SCATTER + table * _SHIFT) % num_rows
