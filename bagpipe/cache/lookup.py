"""Looks up and pools the distinct rows of a step into the embeddings that a model receives, differentiably.

The plan gives the distinct rows once (`rows_KD`) and, for each lookup, which of them it means
(`inverse_N`, example-major). On a CPU both directions are compiled loops in one thread; the gradient of
a row is the sum over its lookups *in the order of the batch*, so it depends on nothing else. Pooling
equals `nn.EmbeddingBag` to the bit: rows are added one after the other from zero; `mean` divides the sum
by the count, and its gradient is multiplied by the rounded reciprocal of the count.

The sum of a row's gradients equals it too, for rows with up to two lookups. For more, torch's own `coalesce` adds them
in the order of an unstable sort; here they are added in the order of the batch, as `index_add_` does. Sums start from
-0.0, the neutral element (+0.0 would turn a gradient of -0.0 into +0.0).

Lookups may have weights, constants from 0: `sum` adds weight times row, `mean` divides that by the sum of the weights
(an empty bag, and one whose weights are all 0, is 0). It equals `(weights * rows[index]).sum(0)` in torch, divided by
`weights.sum()`, to the bit, forward and backward.

On a GPU the same is done with torch's operations, whose sums have no fixed order.

Shapes: `B` examples, `T` features of a width group, `P` of them pooled, `J` lookups of the others,
`N` lookups, `K` distinct rows, `D` embedding_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Floats, Int64s, Lengths
from bagpipe.cache.lookup_kernels import (
    POOLINGS,
    jagged_backward,
    jagged_forward,
    single_backward,
    single_forward,
    weighted_backward,
    weighted_forward,
)
from bagpipe.cache.lookup_torch import lookup_torch
from bagpipe.errors import ConfigError
from bagpipe.plan import GroupPlan
from bagpipe.tables import Pooling, TableLayout


@dataclass(frozen=True, slots=True)
class Jagged:
    """The rows of a feature that is not pooled: `padded_BkD` is zero beyond each example's length."""

    padded_BkD: torch.Tensor
    lengths_B: torch.Tensor
    weights_Bk: torch.Tensor | None = None
    """Of its lookups, 0 beyond each example's length; None where no lookup has a weight."""


class Lookups(NamedTuple):
    """The lookups of one width group, example-major."""

    inverse_N: npt.NDArray[Any]
    lengths_BT: Lengths | None = None
    """None: exactly one of each (example, feature)."""
    weights_N: Floats | None = None
    """None: all are 1."""


def lookup(
    rows_KD: torch.Tensor,
    inverse_N: npt.NDArray[Any],
    lengths_BT: Lengths | None,
    pooling_T: Sequence[Pooling],
    weights_N: Floats | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool the lookups of one width group.

    Args:
        lengths_BT: lookups of each (example, feature); None: exactly one each.
        pooling_T: of each feature, in block order.
        weights_N: of each lookup; None: all are 1. Lookups of features that are not pooled are not multiplied.

    Returns:
        `pooled_BPD` of the features that are pooled, and `jagged_JD`, the lookups of the others in
        batch order.
    """
    if lengths_BT is None and ("none" in pooling_T or weights_N is not None):
        lengths_BT = np.ones((inverse_N.size // len(pooling_T), len(pooling_T)), np.int32)
    if rows_KD.device.type != "cpu":
        return lookup_torch(rows_KD, inverse_N, lengths_BT, pooling_T, weights_N)
    kinds = np.array([POOLINGS[p] for p in pooling_T], np.int32)
    pooled, jagged = _Lookup.apply(rows_KD, inverse_N, lengths_BT, weights_N, kinds)  # type: ignore[no-untyped-call]  # torch has not annotated it
    return pooled, jagged


def gather_rows(rows_KD: torch.Tensor, index_N: npt.NDArray[Any]) -> torch.Tensor:
    """`rows_KD[index_N]`, `[N, D]`, differentiable as `lookup` is. Ask for many at once and split: every
    call adds a whole `[K, D]` gradient.
    """
    return lookup(rows_KD, index_N, None, ("sum",))[0].squeeze(1)


class _Lookup(torch.autograd.Function):
    """The CPU path. One function for all features, so that one loop sums the gradients in batch order."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_KD: torch.Tensor,
        inverse_N: npt.NDArray[Any],
        lengths_BT: Lengths | None,
        weights_N: Floats | None,
        kinds_T: npt.NDArray[np.int32],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.plan, ctx.shape = (inverse_N, lengths_BT, weights_N, kinds_T), tuple(rows_KD.shape)
        rows, dim = rows_KD.detach().numpy(), rows_KD.shape[1]
        # torch's memory, because it is aligned alike at every step, and matrix products may round by alignment.
        if lengths_BT is None:
            pooled = torch.empty((inverse_N.size // kinds_T.size, kinds_T.size, dim), dtype=torch.float32)
            single_forward(rows, inverse_N, pooled.numpy().reshape(-1, dim))
            return pooled, torch.empty((0, dim), dtype=torch.float32)
        unpooled = kinds_T == POOLINGS["none"]
        pooled = torch.empty((lengths_BT.shape[0], int(np.count_nonzero(~unpooled)), dim), dtype=torch.float32)
        jagged = torch.empty((int(lengths_BT[:, unpooled].sum(dtype=np.int64)), dim), dtype=torch.float32)
        out = (pooled.numpy(), jagged.numpy())
        if weights_N is None:
            jagged_forward(rows, inverse_N, lengths_BT, kinds_T, *out)
        else:
            weighted_forward(rows, inverse_N, lengths_BT, weights_N, kinds_T, *out)
        return pooled, jagged

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inverse_N, lengths_BT, weights_N, kinds_T = ctx.plan
        grad_pooled, grad_jagged = grads
        out = np.full(ctx.shape, -0.0, np.float32)
        flat, stride = _rows_of_examples(grad_pooled)
        if lengths_BT is None:
            single_backward(flat, stride, kinds_T.size, inverse_N, out)
            return torch.from_numpy(out), None, None, None, None
        jagged = grad_jagged.contiguous().numpy()
        if weights_N is None:
            jagged_backward(flat, stride, jagged, inverse_N, lengths_BT, kinds_T, out)
        else:
            weighted_backward(flat, stride, jagged, inverse_N, lengths_BT, weights_N, kinds_T, out)
        return torch.from_numpy(out), None, None, None, None


def _rows_of_examples(grad_BPD: torch.Tensor) -> tuple[npt.NDArray[np.float32], int]:
    """The gradient as flat memory and the distance between its examples.

    What comes out of a concatenation is a slice of a wider tensor: every example is contiguous, the whole
    is not. Reading it where it lies saves a copy of the largest tensor of the step.
    """
    b, p, d = grad_BPD.shape
    if b == 0 or p == 0:
        return np.zeros(0, np.float32), 0
    if grad_BPD.stride(2) != 1 or (p > 1 and grad_BPD.stride(1) != d) or grad_BPD.stride(0) < p * d:
        grad_BPD = grad_BPD.contiguous()
    stride = grad_BPD.stride(0)
    return grad_BPD.as_strided(((b - 1) * stride + p * d,), (1,)).numpy(), stride


@dataclass(frozen=True, slots=True)
class GroupEmbeddings:
    """One width group's lookups."""

    names: tuple[str, ...]
    pooling: tuple[Pooling, ...]
    pooled_BPD: torch.Tensor
    jagged_JD: torch.Tensor
    lengths_BT: Lengths | None
    weights_N: Floats | None = None


class SparseEmbeddings:
    """What a model receives for its sparse features: pooled embeddings, or jagged rows where a feature has pooling
    "none". Knows nothing of caches, plans or trainers.

    Rows may still be on their way (`later`): the first access to them waits. A model that first computes what needs no
    rows hides that wait.
    """

    def __init__(
        self,
        groups: Sequence[GroupEmbeddings] | Callable[[], Sequence[GroupEmbeddings]],
        num_examples: int,
        names: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Args:
        groups: the width groups' lookups, or a function that makes them when they are first asked for.
        names: the features of each width group; needed where `groups` is a function.
        """
        self.num_examples = num_examples
        self._make = groups if callable(groups) else lambda: groups
        self._made: tuple[GroupEmbeddings, ...] | None = None
        self._names = [group.names for group in self._groups] if names is None else names

    @property
    def _groups(self) -> tuple[GroupEmbeddings, ...]:
        # Not a `cached_property`: until Python 3.12 it holds one lock for all objects, here while it waits for rows
        # that another trainer in this process may have to send.
        if self._made is None:
            self._made = tuple(self._make())
        return self._made

    @cached_property
    def _where(self) -> dict[str, tuple[int, int]]:
        return {name: (g, t) for g, names in enumerate(self._names) for t, name in enumerate(names)}

    def __repr__(self) -> str:
        return f"SparseEmbeddings(examples={self.num_examples}, features={len(self._where)})"

    @classmethod
    def later(
        cls,
        layout: TableLayout,
        rows: Callable[[], Sequence[torch.Tensor]],
        plans: Sequence[GroupPlan],
        num_examples: int,
    ) -> Self:
        """A step's rows, looked up when the model first asks: `rows()[g]` are the weights of `plans[g].slots_K`."""
        lookups = [Lookups(p.inverse_N, p.lengths_BT, p.weights_N) for p in plans]
        return cls(lambda: _look_up(layout, rows(), lookups), num_examples, [g.feature_names for g in layout.groups])

    @classmethod
    def of_lookups(
        cls,
        layout: TableLayout,
        rows: Sequence[torch.Tensor],
        lookups: Sequence[Lookups | tuple[npt.NDArray[Any], Lengths | None]],
    ) -> Self:
        """Look rows up by (inverse_N, lengths_BT) of each width group."""
        num_examples, listed = 0, [Lookups(*one) for one in lookups]
        for group, (inverse_N, lengths_BT, _) in zip(layout.groups, listed, strict=True):
            num_examples = inverse_N.size // len(group.feature_names) if lengths_BT is None else lengths_BT.shape[0]
        return cls(_look_up(layout, rows, listed), num_examples)

    @property
    def features(self) -> tuple[str, ...]:
        """All features: group by group, within a group in table order."""
        return tuple(self._where)

    def __getitem__(self, feature: str) -> torch.Tensor:
        """`[B, D]`, the pooled embedding of one feature.

        Raises:
            ConfigError: no such feature, or its table is not pooled.
        """
        self._check_pooled(feature)
        group, t = self._find(feature)
        return group.pooled_BPD[:, sum(p != "none" for p in group.pooling[:t])]

    def stacked(self) -> torch.Tensor:
        """`[B, T, D]`, all pooled features in the order of `features`; needs a single width.

        Raises:
            ConfigError: the tables have several widths.
        """
        if len(self._groups) == 1:
            return self._groups[0].pooled_BPD
        widths = ", ".join(str(g.pooled_BPD.shape[2]) for g in self._groups)
        raise ConfigError(f"expected tables of one width, found widths {widths}; use `[feature]` or `concatenated()`")

    def concatenated(self) -> torch.Tensor:
        """`[B, sum of widths]`, all pooled features side by side; any widths."""
        return torch.cat([g.pooled_BPD.flatten(1) for g in self._groups], dim=1)

    def side_by_side(self, features: Sequence[str]) -> torch.Tensor:
        """`[B, sum of their widths]`, these pooled features in this order.

        Raises:
            ConfigError: no such feature, or its table is not pooled.
        """
        for feature in features:
            self._check_pooled(feature)
        if len(self._groups) == 1 and tuple(features) == self._groups[0].names:
            return self._groups[0].pooled_BPD.flatten(1)
        # Unbound once for each group: a slice for each feature would each have a gradient as large as the group.
        vectors: dict[str, torch.Tensor] = {}
        for group in self._groups:
            pooled = [name for name, pooling in zip(group.names, group.pooling, strict=True) if pooling != "none"]
            vectors |= dict(zip(pooled, group.pooled_BPD.unbind(1), strict=True))
        return torch.cat([vectors[feature] for feature in features], dim=1)

    def jagged(self, feature: str) -> Jagged:
        """The rows of a feature that has pooling "none", padded to the longest example.

        Raises:
            ConfigError: no such feature, or its table is pooled.
        """
        rows_ND, lengths = self._picked(feature)
        lengths_B, weights_N = torch.from_numpy(lengths).to(rows_ND.device), self.weights(feature)
        weights_Bk = None if weights_N is None else _padded(weights_N.unsqueeze(1), lengths).squeeze(2)
        return Jagged(_padded(rows_ND, lengths), lengths_B, weights_Bk)

    def flat(self, feature: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of a feature with pooling "none", without padding: `[N, D]`, and how many each example has, `[B]`.

        Raises:
            ConfigError: no such feature, or its table is pooled.
        """
        rows_ND, lengths = self._picked(feature)
        return rows_ND, torch.from_numpy(lengths).to(rows_ND.device)

    def lengths(self, feature: str) -> torch.Tensor:
        """`[B]` integers, lookups of each example; of any feature.

        Raises:
            ConfigError: no such feature.
        """
        group, t = self._find(feature)
        lengths = self._lengths(group)[:, t].astype(np.int64)
        return torch.from_numpy(lengths).to(group.pooled_BPD.device)

    def weights(self, feature: str) -> torch.Tensor | None:
        """`[N]`, the weight of each of a feature's lookups; of any feature. None: no lookup of its width has a weight.

        Raises:
            ConfigError: no such feature.
        """
        group, t = self._find(feature)
        if group.weights_N is None:
            return None
        source, _ = _places(self._lengths(group), t)
        return torch.from_numpy(group.weights_N[source]).to(group.pooled_BPD.device)

    def _lengths(self, group: GroupEmbeddings) -> Lengths:
        if group.lengths_BT is None:
            return np.ones((self.num_examples, len(group.pooling)), np.int32)
        return group.lengths_BT

    def _picked(self, feature: str) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """One unpooled feature's rows out of all of them (`J` runs over examples, then features), and its lengths."""
        group, t = self._find(feature)
        if group.pooling[t] != "none":
            raise ConfigError(f"feature {feature!r} is pooled ({group.pooling[t]}); read it with `[{feature!r}]`")
        unpooled = [i for i, p in enumerate(group.pooling) if p == "none"]
        source, lengths = _places(self._lengths(group)[:, unpooled], unpooled.index(t))
        return group.jagged_JD[torch.from_numpy(source).to(group.jagged_JD.device)], lengths

    def _check_pooled(self, feature: str) -> None:
        group, t = self._find(feature)
        if group.pooling[t] == "none":
            raise ConfigError(f'feature {feature!r} has pooling "none"; read it with `jagged({feature!r})`')

    def _find(self, feature: str) -> tuple[GroupEmbeddings, int]:
        if feature not in self._where:
            raise ConfigError(f"expected one of the features {', '.join(self.features)}, found {feature!r}")
        group, t = self._where[feature]
        return self._groups[group], t


def _look_up(
    layout: TableLayout,
    rows: Sequence[torch.Tensor],
    lookups: Sequence[Lookups],
) -> list[GroupEmbeddings]:
    groups = []
    for group, rows_KD, (inverse_N, lengths_BT, weights_N) in zip(layout.groups, rows, lookups, strict=True):
        pooled, jagged = lookup(rows_KD, inverse_N, lengths_BT, group.pooling, weights_N)
        groups.append(GroupEmbeddings(group.feature_names, group.pooling, pooled, jagged, lengths_BT, weights_N))
    return groups


def _padded(rows_ND: torch.Tensor, lengths: Int64s) -> torch.Tensor:
    longest = int(lengths.max(initial=0))
    example = np.repeat(np.arange(lengths.size), lengths)
    device, dim = rows_ND.device, rows_ND.shape[1]
    target = torch.from_numpy(example * longest + _within(lengths)).to(device)
    padded = rows_ND.new_zeros((lengths.size * longest, dim)).index_copy(0, target, rows_ND)
    return padded.view(lengths.size, longest, dim)


def _places(lengths_BT: Lengths, column: int) -> tuple[Int64s, Int64s]:
    """Where one feature's lookups lie among those of all features, example-major, and how many each example has."""
    ends = np.cumsum(lengths_BT.reshape(-1), dtype=np.int64).reshape(lengths_BT.shape)
    lengths = lengths_BT[:, column].astype(np.int64)
    return np.repeat(ends[:, column] - lengths, lengths) + _within(lengths), lengths


def _within(lengths: Int64s) -> Int64s:
    """Each lookup's place in its own list."""
    within: Int64s = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return within
