"""Maps the ids that the paper's API hands out to the step's distinct rows. Pure.

Ids of a feature are rectangular: `[B]` where each example has one lookup, `[B, k]` where it has k. Where examples have
bags of different lengths, k is the longest one's and the shorter ones end in `PADDING`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Lengths
from bagpipe.errors import ConfigError
from bagpipe.plan import GroupPlan
from bagpipe.tables import TableLayout, WidthGroup

Int64s = npt.NDArray[np.int64]
PADDING = -1
"""No id: its embedding is zero, and has no gradient."""


@dataclass(frozen=True, slots=True)
class LocalRows:
    """Where the rows of one feature's ids lie: `index` into the distinct rows of width group `group`, or `PADDING`."""

    group: int
    index: Int64s


class BatchIds:
    """One batch's ids, feature by feature in the order of the job's tables: `ids` as `sparse_vector` has them.

    Args:
        plans: of this batch, with keys, one for each width group of `layout`.
    """

    def __init__(self, plans: Sequence[GroupPlan], layout: TableLayout) -> None:
        self._groups = [_GroupIds(plan, group) for plan, group in zip(plans, layout.groups, strict=True)]
        places = {name: (g, f) for g, one in enumerate(self._groups) for f, name in enumerate(one.names)}
        self._places = [places[name] for table in layout.tables for name in table.feature_names]
        ids = [self._groups[g].ids(f) for g, f in self._places]
        self.ids: torch.Tensor | list[torch.Tensor]
        if all(one.lengths is None for one in self._groups):
            self.ids = torch.from_numpy(np.stack(ids))
        else:
            self.ids = [torch.from_numpy(i) for i in ids]

    def local_rows(self, ids: "torch.Tensor | Sequence[Any]") -> list[LocalRows]:
        """Where the rows of these ids lie among the step's distinct rows, feature by feature.

        Raises:
            ConfigError: an id is not in this batch, or there are more lists than features.
        """
        if ids is self.ids:
            return [LocalRows(g, self._groups[g].own(f)) for g, f in self._places]
        if len(ids) > len(self._places):
            raise ConfigError(f"get_emb: {len(ids)} lists of ids for {len(self._places)} sparse features")
        wanted = zip(self._places, map(_rectangular, ids), strict=False)
        return [LocalRows(g, self._groups[g].search(f, one)) for (g, f), one in wanted]


class _GroupIds:
    """The ids of one width group."""

    def __init__(self, plan: GroupPlan, group: WidthGroup) -> None:
        self.names, self.lengths = group.feature_names, plan.lengths_BT
        self._keys_K = plan.keys_K
        self._offsets = [at for table, at in zip(group.tables, group.offsets, strict=True) for _ in table.feature_names]
        self._own = _columns(plan.inverse_N.astype(np.int64), plan.lengths_BT, len(self.names))
        self._order: npt.NDArray[np.intp] | None = None

    def own(self, feature: int) -> Int64s:
        """The batch's own lookups of a feature, as places among the distinct rows."""
        return self._own[feature]

    def ids(self, feature: int) -> Int64s:
        """The same lookups as ids."""
        local = self._own[feature]
        if self.lengths is None:
            return self._keys_K[local] - self._offsets[feature]
        there = local != PADDING
        found = np.full(local.shape, PADDING, np.int64)
        found[there] = self._keys_K[local[there]] - self._offsets[feature]
        return found

    def search(self, feature: int, ids: Int64s) -> Int64s:
        """Where these ids of a feature lie."""
        keys_K, wanted = self._keys_K, ids + self._offsets[feature]
        if self._order is None:
            self._order = np.argsort(keys_K)
        padding = ids == PADDING
        at = np.minimum(np.searchsorted(keys_K, wanted, sorter=self._order), keys_K.size - 1)
        local = self._order[at] if keys_K.size else np.zeros(ids.shape, np.int64)
        strange = ~padding & (keys_K[local] != wanted if keys_K.size else np.ones(ids.shape, np.bool_))
        if strange.any():
            id_, name = ids[strange].reshape(-1)[0], self.names[feature]
            raise ConfigError(f"get_emb: id {id_} of feature {name} is not in this batch; pass ids of the current one")
        return np.where(padding, PADDING, local.astype(np.int64, copy=False))


def _columns(inverse_N: Int64s, lengths_BT: Lengths | None, features: int) -> list[Int64s]:
    """Per-lookup values feature by feature: `[B]`, or `[B, k]` with the longest bag's k."""
    if lengths_BT is None:
        return list(np.ascontiguousarray(inverse_N.reshape(-1, features).T))
    ends = np.concatenate(([0], lengths_BT.reshape(-1).cumsum()))
    examples = np.arange(lengths_BT.shape[0]) * features
    columns = []
    for feature in range(features):
        lengths_B = lengths_BT[:, feature]
        place = np.arange(int(lengths_B.max(initial=0)))
        there = place < lengths_B[:, None]
        column = np.full(there.shape, PADDING, np.int64)
        column[there] = inverse_N[(ends[examples + feature][:, None] + place)[there]]
        columns.append(column)
    return columns


def _rectangular(ids: Any) -> Int64s:
    """Lists of different lengths are padded."""
    try:
        return np.asarray(ids, np.int64)
    except ValueError:
        return np.array(list(zip(*zip_longest(*ids, fillvalue=PADDING), strict=True)), np.int64)
