"""A seeded click log with Criteo's skew and labels that can be learned.

Row popularity follows a bounded Zipf law (row 0 is the most frequent). The click probability is a
logistic model over dense values, an effect of every row, and products of row effects of a few pairs of
small tables, so a linear model learns much of it and a model with interactions more. Effects of a table
are centred and scaled by popularity, so every seed gives about the same rate of clicks and the same
difficulty; rare rows differ little, or a log of demo size could not teach them. Examples come in blocks
of 4,096, each drawn from its own Philox counter: any example can be made without those before it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.config.document import SyntheticConfig
from bagpipe.data.raw import RawBlock, RawFeature, RawSchema
from bagpipe.data.text_kernels import mix

BLOCK = 4096
CRITEO_KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
LARGEST_DEFAULT_TABLE = 100_000
_STREAM = 0x53594E5448
_BIAS, _DENSE_WEIGHT, _ROW_WEIGHT, _PAIR_WEIGHT = -1.35, 0.35, 0.20, 0.25
_PAIRS = 6
_HALF_EFFECT_ROW = 50.0
"""From about this row on, effects shrink with the root of the row's rank."""
_MOMENT_ROWS = 20_000
"""Most popular rows over which a table's effects are centred; the others weigh next to nothing."""
_ALONE, _PAIRED = 0, 1
_TO_UNIT = 2.0**-53
_RAYLEIGH_MEAN = 1.2533141373155003


def table_sizes(config: SyntheticConfig) -> tuple[int, ...]:
    """Rows of each table."""
    return config.table_sizes or tuple(min(n, LARGEST_DEFAULT_TABLE) for n in CRITEO_KAGGLE_ROWS)


class SyntheticLogs:
    """The generator as a `RawSource`; a pure function of (config, seed)."""

    def __init__(self, config: SyntheticConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._sizes = np.array(table_sizes(config), np.int64)
        self._moments = np.empty((2, len(self._sizes), 2), np.float64)
        _effect_moments(self._sizes, config.alpha, np.uint64(seed), self._moments)
        # Pairs are made of neighbours in size, from the smallest tables on: those are seen often enough.
        self._pairs = np.argsort(self._sizes, kind="stable")[: 2 * min(_PAIRS, len(self._sizes) // 2)].reshape(-1, 2)

    def __repr__(self) -> str:
        return f"SyntheticLogs(examples={self.config.examples}, tables={len(self._sizes)}, seed={self.seed})"

    @property
    def schema(self) -> RawSchema:
        features = tuple(RawFeature(f"C{i}", "int", size) for i, size in enumerate(self._sizes.tolist(), 1))
        dense = tuple(f"I{i}" for i in range(1, self.config.num_dense + 1))
        return RawSchema(features, dense, jagged=self.config.multi_hot > 1)

    @property
    def num_examples(self) -> int | None:
        return self.config.examples

    def pieces(self, start: int) -> tuple[int, Iterator[int]]:
        first = start // BLOCK
        return first * BLOCK, iter(range(first, -(-self.config.examples // BLOCK)))

    def parse(self, piece: int) -> RawBlock:
        return self._generate(piece)[0]

    def logits(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """The true log-odds of examples `start..stop-1`: no model can rank better than these."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [self._generate(number)[1] for number in range(first, last)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def _generate(self, number: int) -> tuple[RawBlock, npt.NDArray[np.float64]]:
        sizes = self._sizes
        n = min(BLOCK, self.config.examples - number * BLOCK)
        draw = np.random.Philox(key=[self.seed, _STREAM], counter=[0, 0, number, 0])
        dense_BF = _rayleigh(_uniform(draw, (BLOCK, self.config.num_dense)))[:n]
        clicks_B = _uniform(draw, (BLOCK,))[:n]
        lengths_BT = np.ones((BLOCK, len(sizes)), np.int32)
        if self.config.multi_hot > 1:
            lengths_BT += (_uniform(draw, lengths_BT.shape) * self.config.multi_hot).astype(np.int32)
        lengths_BT = lengths_BT[:n]
        picks_N = _uniform(draw, (int(lengths_BT.sum()),))
        rows_N = np.empty(len(picks_N), np.int64)
        logits_B = np.empty(n, np.float64)
        _draw_rows(picks_N, lengths_BT, sizes, self.config.alpha, rows_N)
        _score(rows_N, lengths_BT, self._moments, self._pairs, dense_BF, np.uint64(self.seed), logits_B)
        labels_BL = (clicks_B < 1.0 / (1.0 + np.exp(-logits_B))).astype(np.float32).reshape(-1, 1)
        lines_B = np.arange(number * BLOCK + 1, number * BLOCK + n + 1)
        lengths = lengths_BT if self.config.multi_hot > 1 else None
        return RawBlock(labels_BL, dense_BF, (rows_N + 1).view(np.uint64), lengths, "synthetic", lines_B), logits_B


def _uniform(draw: np.random.Philox, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    words = np.asarray(draw.random_raw(int(np.prod(shape))), np.uint64)
    return (words >> np.uint64(11)).astype(np.float64).reshape(shape) * _TO_UNIT


def _rayleigh(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Non-negative and skewed, as the logarithm of a count is."""
    return np.sqrt(-2.0 * np.log1p(-uniform)).astype(np.float32)


@njit(cache=True, nogil=True)
def _draw_rows(picks_N: Any, lengths_BT: Any, sizes: Any, alpha: float, rows_N: Any) -> None:
    """Bounded Zipf by the inverse of its continuous distribution function."""
    at = 0
    for example in range(lengths_BT.shape[0]):
        for table in range(sizes.shape[0]):
            top = np.float64(sizes[table] + 1)
            for _ in range(lengths_BT[example, table]):
                if abs(alpha - 1.0) < 1e-9:
                    rank = np.exp(picks_N[at] * np.log(top))
                else:
                    rank = ((top ** (1.0 - alpha) - 1.0) * picks_N[at] + 1.0) ** (1.0 / (1.0 - alpha))
                rows_N[at] = min(max(np.int64(rank) - 1, 0), sizes[table] - 1)
                at += 1


@njit(cache=True, nogil=True)
def _effect(seed: Any, table: int, row: int, kind: int) -> Any:
    """A hidden number of this row, around 0; smaller for rare rows."""
    word = mix(mix(seed + np.uint64(kind)) ^ mix(np.uint64(table + 1) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(row)))
    return (np.float64(word >> np.uint64(11)) * _TO_UNIT * 2.0 - 1.0) / np.sqrt(1.0 + row / _HALF_EFFECT_ROW)


@njit(cache=True, nogil=True)
def _effect_moments(sizes: Any, alpha: float, seed: Any, moments: Any) -> None:
    """Mean and standard deviation of each kind of effect over the lookups of each table."""
    for table in range(sizes.shape[0]):
        for kind in range(2):
            weight, first, second = 0.0, 0.0, 0.0
            for row in range(min(sizes[table], _MOMENT_ROWS)):
                popularity = 1.0 / (row + 1.5) ** alpha
                effect = _effect(seed, table, row, kind)
                weight += popularity
                first += popularity * effect
                second += popularity * effect * effect
            mean = first / weight
            moments[kind, table, 0] = mean
            moments[kind, table, 1] = max(np.sqrt(max(second / weight - mean * mean, 0.0)), 1e-3)


@njit(cache=True, nogil=True)
def _score(rows_N: Any, lengths_BT: Any, moments: Any, pairs: Any, dense_BF: Any, seed: Any, logits_B: Any) -> None:
    """The hidden model. Multi-valued features count with the mean effect of their rows."""
    tables = lengths_BT.shape[1]
    effects = np.zeros((2, tables), np.float64)
    kinds = np.ones(tables, np.int64)
    for pair in range(pairs.shape[0]):
        kinds[pairs[pair, 0]] = kinds[pairs[pair, 1]] = 2
    at = 0
    for example in range(logits_B.shape[0]):
        logit = _BIAS
        for feature in range(dense_BF.shape[1]):
            sign = 1.0 if mix(seed + np.uint64(feature)) & np.uint64(1) else -1.0
            logit += sign * _DENSE_WEIGHT * (np.float64(dense_BF[example, feature]) - _RAYLEIGH_MEAN)
        for table in range(tables):
            count = lengths_BT[example, table]
            for kind in range(kinds[table]):
                total = 0.0
                for i in range(at, at + count):
                    total += _effect(seed, table, rows_N[i], kind) - moments[kind, table, 0]
                effects[kind, table] = total / (max(count, 1) * moments[kind, table, 1])
            logit += _ROW_WEIGHT * effects[_ALONE, table]
            at += count
        for pair in range(pairs.shape[0]):
            logit += _PAIR_WEIGHT * effects[_PAIRED, pairs[pair, 0]] * effects[_PAIRED, pairs[pair, 1]]
        logits_B[example] = logit
