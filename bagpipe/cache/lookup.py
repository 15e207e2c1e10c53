"""From the distinct rows of a step to what a model receives: pooled embeddings, differentiably.

The plan gives the distinct rows once (`rows_KD`) and, for each lookup, which of them it means
(`inverse_N`, example-major). On a CPU both directions are compiled loops in one thread; the gradient of
a row is the sum over its lookups *in the order of the batch*, so it depends on nothing else. Pooling
equals `nn.EmbeddingBag` to the bit: rows are added one after the other from zero; `mean` divides the sum
by the count, and its gradient is multiplied by the rounded reciprocal of the count.

So does the sum of a row's gradients with up to two lookups. With more, torch's own `coalesce` adds them
in the order of an unstable sort, which the order of a batch is not; adding in batch order is what
`index_add_` does. Sums start from -0.0, the neutral element (+0.0 would turn a gradient of -0.0 around).

On a GPU the same is done with torch's operations, whose sums have no fixed order.

Shapes: `B` examples, `T` features of a width group, `P` of them pooled, `J` lookups of the others,
`N` lookups, `K` distinct rows, `D` embedding_dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Lengths
from bagpipe.cache.lookup_kernels import (
    jagged_backward,
    jagged_forward,
    single_backward,
    single_forward,
)
from bagpipe.errors import ConfigError
from bagpipe.plan import GroupPlan
from bagpipe.tables import Pooling, TableLayout

POOLINGS: Mapping[Pooling, int] = {"sum": 0, "mean": 1, "none": 2}


@dataclass(frozen=True, slots=True)
class Jagged:
    """The rows of a feature that is not pooled: `padded_BkD` is zero beyond each example's length."""

    padded_BkD: torch.Tensor
    lengths_B: torch.Tensor


def lookup(
    rows_KD: torch.Tensor,
    inverse_N: npt.NDArray[Any],
    lengths_BT: Lengths | None,
    pooling_T: Sequence[Pooling],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool the lookups of one width group.

    Args:
        lengths_BT: lookups of each (example, feature); None: exactly one each.
        pooling_T: of each feature, in block order.

    Returns:
        `pooled_BPD` of the features that are pooled, and `jagged_JD`, the lookups of the others in
        batch order.
    """
    if lengths_BT is None and "none" in pooling_T:
        lengths_BT = np.ones((inverse_N.size // len(pooling_T), len(pooling_T)), np.int32)
    if rows_KD.device.type != "cpu":
        return _lookup_torch(rows_KD, inverse_N, lengths_BT, pooling_T)
    kinds = np.array([POOLINGS[p] for p in pooling_T], np.int32)
    pooled, jagged = _Lookup.apply(rows_KD, inverse_N, lengths_BT, kinds)  # type: ignore[no-untyped-call]  # torch has not annotated it
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
        kinds_T: npt.NDArray[np.int32],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.plan, ctx.shape = (inverse_N, lengths_BT, kinds_T), tuple(rows_KD.shape)
        rows, dim = rows_KD.detach().numpy(), rows_KD.shape[1]
        # torch's memory, because it is aligned alike at every step, and matrix products may round by alignment.
        if lengths_BT is None:
            pooled = torch.empty((inverse_N.size // kinds_T.size, kinds_T.size, dim), dtype=torch.float32)
            single_forward(rows, inverse_N, pooled.numpy().reshape(-1, dim))
            return pooled, torch.empty((0, dim), dtype=torch.float32)
        unpooled = kinds_T == POOLINGS["none"]
        pooled = torch.empty((lengths_BT.shape[0], int(np.count_nonzero(~unpooled)), dim), dtype=torch.float32)
        jagged = torch.empty((int(lengths_BT[:, unpooled].sum(dtype=np.int64)), dim), dtype=torch.float32)
        jagged_forward(rows, inverse_N, lengths_BT, kinds_T, pooled.numpy(), jagged.numpy())
        return pooled, jagged

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inverse_N, lengths_BT, kinds_T = ctx.plan
        grad_pooled, grad_jagged = grads
        out = np.full(ctx.shape, -0.0, np.float32)
        flat, stride = _rows_of_examples(grad_pooled)
        if lengths_BT is None:
            single_backward(flat, stride, kinds_T.size, inverse_N, out)
        else:
            jagged_backward(
                flat,
                stride,
                grad_jagged.contiguous().numpy(),
                inverse_N,
                lengths_BT,
                kinds_T,
                out,
            )
        return torch.from_numpy(out), None, None, None


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


def _lookup_torch(
    rows_KD: torch.Tensor,
    inverse_N: npt.NDArray[Any],
    lengths_BT: Lengths | None,
    pooling_T: Sequence[Pooling],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with torch's operations, on any device."""
    device, dim, num_features = rows_KD.device, rows_KD.shape[1], len(pooling_T)
    looked_up = rows_KD[torch.from_numpy(inverse_N.astype(np.int64)).to(device)]
    if lengths_BT is None:
        return looked_up.view(-1, num_features, dim), looked_up[:0]
    kinds = np.array([POOLINGS[p] for p in pooling_T])
    pooled_T = kinds != POOLINGS["none"]
    # Segment of each lookup among the pooled (example, feature) pairs; -1 where it is not pooled.
    segment_BT = np.full(lengths_BT.shape, -1, np.int64)
    segment_BT[:, pooled_T] = np.arange(lengths_BT.shape[0] * int(pooled_T.sum())).reshape(lengths_BT.shape[0], -1)
    segment_N = torch.from_numpy(np.repeat(segment_BT.reshape(-1), lengths_BT.reshape(-1))).to(device)
    is_pooled = segment_N >= 0
    sums = looked_up.new_zeros((lengths_BT.shape[0] * int(pooled_T.sum()), dim))
    sums = sums.index_add(0, segment_N[is_pooled], looked_up[is_pooled])
    divisor = np.where(kinds == POOLINGS["mean"], np.maximum(lengths_BT, 1), 1)[:, pooled_T]
    pooled = sums / torch.from_numpy(divisor.astype(np.float32).reshape(-1, 1)).to(device)
    return pooled.view(lengths_BT.shape[0], -1, dim), looked_up[~is_pooled]


@dataclass(frozen=True, slots=True)
class GroupEmbeddings:
    """One width group's lookups."""

    names: tuple[str, ...]
    pooling: tuple[Pooling, ...]
    pooled_BPD: torch.Tensor
    jagged_JD: torch.Tensor
    lengths_BT: Lengths | None


class SparseEmbeddings:
    """What a model receives for its sparse features: pooled embeddings, or jagged rows where a table
    has pooling "none". Knows nothing of caches, plans or trainers.

    Rows may still be on their way (`later`): the first question for them waits. A model that does first
    what needs no rows hides that wait.
    """

    def __init__(
        self,
        groups: Sequence[GroupEmbeddings] | Callable[[], Sequence[GroupEmbeddings]],
        num_examples: int,
        names: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Of groups at hand, or of a function that makes them when they are first asked for (`names`: theirs)."""
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
        lookups = [(p.inverse_N, p.lengths_BT) for p in plans]
        return cls(lambda: _look_up(layout, rows(), lookups), num_examples, [g.feature_names for g in layout.groups])

    @classmethod
    def of_lookups(
        cls,
        layout: TableLayout,
        rows: Sequence[torch.Tensor],
        lookups: Sequence[tuple[npt.NDArray[Any], Lengths | None]],
    ) -> Self:
        """Look rows up by (inverse_N, lengths_BT) of each width group."""
        num_examples = 0
        for group, (inverse_N, lengths_BT) in zip(layout.groups, lookups, strict=True):
            num_examples = inverse_N.size // len(group.feature_names) if lengths_BT is None else lengths_BT.shape[0]
        return cls(_look_up(layout, rows, lookups), num_examples)

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
        # Each group is taken apart once: a slice for each feature would have a gradient as large as the group each.
        vectors: dict[str, torch.Tensor] = {}
        for group in self._groups:
            pooled = [name for name, pooling in zip(group.names, group.pooling, strict=True) if pooling != "none"]
            vectors |= dict(zip(pooled, group.pooled_BPD.unbind(1), strict=True))
        return torch.cat([vectors[feature] for feature in features], dim=1)

    def jagged(self, feature: str) -> Jagged:
        """The rows of a feature whose table has pooling "none", padded to the longest example.

        Raises:
            ConfigError: no such feature, or its table is pooled.
        """
        return _padded(*self._picked(feature))

    def flat(self, feature: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The same one behind the other: `[N, D]`, and how many of them are each example's, `[B]`.

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
        lengths_BU, column = self._lengths(group)[:, unpooled], unpooled.index(t)
        ends = np.cumsum(lengths_BU.reshape(-1), dtype=np.int64).reshape(lengths_BU.shape)
        lengths = lengths_BU[:, column].astype(np.int64)
        source = np.repeat(ends[:, column] - lengths, lengths) + _within(lengths)
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
    lookups: Sequence[tuple[npt.NDArray[Any], Lengths | None]],
) -> list[GroupEmbeddings]:
    groups = []
    for group, rows_KD, (inverse_N, lengths_BT) in zip(layout.groups, rows, lookups, strict=True):
        pooling = tuple(t.pooling for t in group.tables for _ in t.feature_names)
        pooled, jagged = lookup(rows_KD, inverse_N, lengths_BT, pooling)
        groups.append(GroupEmbeddings(group.feature_names, pooling, pooled, jagged, lengths_BT))
    return groups


def _padded(rows_ND: torch.Tensor, lengths: npt.NDArray[np.int64]) -> Jagged:
    longest = int(lengths.max(initial=0))
    example = np.repeat(np.arange(lengths.size), lengths)
    device, dim = rows_ND.device, rows_ND.shape[1]
    target = torch.from_numpy(example * longest + _within(lengths)).to(device)
    padded = rows_ND.new_zeros((lengths.size * longest, dim)).index_copy(0, target, rows_ND)
    return Jagged(padded.view(lengths.size, longest, dim), torch.from_numpy(lengths).to(device))


def _within(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each lookup's place in its own list."""
    within: npt.NDArray[np.int64] = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return within
