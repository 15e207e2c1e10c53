"""Rows of tables to what a model receives, to the bit as in training; an export's stand-in for `bagpipe.cache.lookup`.

Rows, times their weights, are added one after the other from zero; `mean` divides the sum by that of the weights.

Shapes: `B` examples, `P` pooled features of a width group, `N` lookups of a feature, `D` embedding_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.errors import ConfigError
from bagpipe.standalone.layout import Pooling

Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Jagged:
    """The rows of a feature that is not pooled: `padded_BkD` is zero beyond each example's length."""

    padded_BkD: torch.Tensor
    lengths_B: torch.Tensor
    weights_Bk: torch.Tensor | None = None
    """Of its lookups, 0 beyond each example's length; None where no lookup has a weight."""


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """One feature's lookups, example by example; `lengths_B` None: one for each example."""

    name: str
    pooling: Pooling
    rows_ND: Floats
    lengths_B: Lengths | None
    weights_N: Floats | None = None
    """None: all are 1."""


class SparseEmbeddings:
    """What a model receives for its sparse features: pooled embeddings, or jagged rows where pooling is "none"."""

    def __init__(self, groups: Sequence[Sequence[FeatureRows]], num_examples: int) -> None:
        """Of the features of each width group, in the order of the layout."""
        self.num_examples = num_examples
        self._features = {feature.name: feature for group in groups for feature in group}
        weighted = [group for group in groups if any(f.weights_N is not None for f in group)]
        self._weighted = {feature.name for group in weighted for feature in group}
        self._pooled: list[torch.Tensor] = []
        self._where: dict[str, tuple[int, int]] = {}
        for number, group in enumerate(groups):
            pooled = [f for f in group if f.pooling != "none"]
            self._where |= {f.name: (number, place) for place, f in enumerate(pooled)}
            dim = group[0].rows_ND.shape[1]
            out = torch.empty((num_examples, len(pooled), dim), dtype=torch.float32)
            for place, feature in enumerate(pooled):
                out[:, place] = torch.from_numpy(_pool(feature, num_examples))
            self._pooled.append(out)

    def __repr__(self) -> str:
        return f"SparseEmbeddings(examples={self.num_examples}, features={len(self._features)})"

    @property
    def features(self) -> tuple[str, ...]:
        """All features: group by group, within a group in table order."""
        return tuple(self._features)

    def __getitem__(self, feature: str) -> torch.Tensor:
        """`[B, D]`, the pooled embedding of one feature.

        Raises:
            ConfigError: no such feature, or its table is not pooled.
        """
        if self._find(feature).pooling == "none":
            raise ConfigError(f'feature {feature!r} has pooling "none"; read it with `jagged({feature!r})`')
        group, place = self._where[feature]
        return self._pooled[group][:, place]

    def stacked(self) -> torch.Tensor:
        """`[B, T, D]`, all pooled features in the order of `features`; needs a single width.

        Raises:
            ConfigError: the tables have several widths.
        """
        if len(self._pooled) == 1:
            return self._pooled[0]
        raise ConfigError("expected tables of one width; use `[feature]` or `concatenated()`")

    def concatenated(self) -> torch.Tensor:
        """`[B, sum of widths]`, all pooled features side by side; any widths."""
        return torch.cat([pooled.flatten(1) for pooled in self._pooled], dim=1)

    def side_by_side(self, features: Sequence[str]) -> torch.Tensor:
        """`[B, sum of their widths]`, these pooled features in this order.

        Raises:
            ConfigError: no such feature, or its table is not pooled.
        """
        return torch.cat([self[feature] for feature in features], dim=1)

    def flat(self, feature: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of a feature that is not pooled, one behind the other: `[N, D]`, and each example's number of them.

        Raises:
            ConfigError: no such feature, or its table is pooled.
        """
        return torch.from_numpy(self._unpooled(feature).rows_ND).clone(), self.lengths(feature)

    def lengths(self, feature: str) -> torch.Tensor:
        """`[B]` integers, lookups of each example; of any feature.

        Raises:
            ConfigError: no such feature.
        """
        return torch.from_numpy(self._lengths(self._find(feature)).copy())

    def jagged(self, feature: str) -> Jagged:
        """The rows of a feature whose table has pooling "none", padded to the longest example.

        Raises:
            ConfigError: no such feature, or its table is pooled.
        """
        found = self._unpooled(feature)
        lengths, weights_N = self._lengths(found), self.weights(feature)
        weights_Bk = None
        if weights_N is not None:
            weights_Bk = torch.from_numpy(_padded(weights_N.numpy()[:, None], lengths)).clone().squeeze(2)
        rows_BkD = torch.from_numpy(_padded(found.rows_ND, lengths)).clone()
        return Jagged(rows_BkD, torch.from_numpy(lengths.copy()), weights_Bk)

    def weights(self, feature: str) -> torch.Tensor | None:
        """`[N]`, the weight of each of a feature's lookups; of any feature. None: no lookup of its width has a weight.

        Raises:
            ConfigError: no such feature.
        """
        found = self._find(feature)
        if feature not in self._weighted:
            return None
        weights = found.weights_N if found.weights_N is not None else np.ones(len(found.rows_ND), np.float32)
        return torch.from_numpy(weights.copy())

    def _lengths(self, feature: FeatureRows) -> Lengths:
        return feature.lengths_B if feature.lengths_B is not None else np.ones(self.num_examples, np.int64)

    def _unpooled(self, feature: str) -> FeatureRows:
        found = self._find(feature)
        if found.pooling != "none":
            raise ConfigError(f"feature {feature!r} is pooled ({found.pooling}); read it with `[{feature!r}]`")
        return found

    def _find(self, feature: str) -> FeatureRows:
        if feature not in self._features:
            raise ConfigError(f"expected one of the features {', '.join(self.features)}, found {feature!r}")
        return self._features[feature]


def _pool(feature: FeatureRows, num_examples: int) -> Floats:
    """`[B, D]`; the sum of one row is `0 + row`, which turns -0.0 into +0.0, as torch does."""
    rows, lengths, weights = feature.rows_ND, feature.lengths_B, feature.weights_N
    if lengths is None:
        return rows + np.float32(0.0)
    sums, totals = np.zeros((num_examples, rows.shape[1]), np.float32), np.zeros(num_examples, np.float32)
    starts = np.cumsum(lengths) - lengths
    for at in range(int(lengths.max(initial=0))):
        live = np.flatnonzero(lengths > at)
        place = starts[live] + at
        weight = np.ones(len(live), np.float32) if weights is None else weights[place]
        sums[live] += rows[place] * weight[:, None]
        totals[live] += weight
    if feature.pooling == "mean":
        some = np.flatnonzero(totals > 0)
        sums[some] /= totals[some, None]
    return sums


def _padded(rows_ND: Floats, lengths: Lengths) -> Floats:
    """`[B, longest, D]`, zero beyond each example's length."""
    longest, starts = int(lengths.max(initial=0)), np.cumsum(lengths) - lengths
    padded = np.zeros((len(lengths), longest, rows_ND.shape[1]), np.float32)
    for at in range(longest):
        live = np.flatnonzero(lengths > at)
        padded[live, at] = rows_ND[starts[live] + at]
    return padded
