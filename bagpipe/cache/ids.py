"""How the ids that the paper's API hands out map to the rows at hand. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.errors import ConfigError
from bagpipe.plan import GroupPlan
from bagpipe.tables import WidthGroup


class BatchIds:
    """One batch's ids, feature by feature: `ids` as `sparse_vector` has them.

    Args:
        plan: of this batch, with keys.
    """

    def __init__(self, plan: GroupPlan, group: WidthGroup) -> None:
        self._plan, self._group = plan, group
        self._offsets = np.array(
            [at for table, at in zip(group.tables, group.offsets, strict=True) for _ in table.feature_names], np.int64
        )
        keys_N = self._plan.keys_K[self._plan.inverse_N]
        ids = [c - at for c, at in zip(self._columns(keys_N), self._offsets, strict=True)]
        self.ids: torch.Tensor | list[torch.Tensor]
        if self._plan.lengths_BT is None:
            self.ids = torch.from_numpy(np.stack(ids))
        else:
            self.ids = [torch.from_numpy(i) for i in ids]

    def local_indices(self, ids: "torch.Tensor | Sequence[Any]") -> list[npt.NDArray[np.int64]]:
        """Where the rows of these ids lie among the step's distinct rows, feature by feature."""
        if ids is self.ids:
            return self._columns(self._plan.inverse_N.astype(np.int64))
        if len(ids) > self._offsets.size:
            raise ConfigError(f"get_emb: {len(ids)} lists of ids for {self._offsets.size} sparse features")
        order = np.argsort(self._plan.keys_K)
        return [self._search(feature, np.asarray(wanted, np.int64), order) for feature, wanted in enumerate(ids)]

    def _columns(self, values_N: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Per-lookup values feature by feature: `[B]`, or `[B, k]` where bags have k lookups each."""
        lengths = self._plan.lengths_BT
        if lengths is None:
            return list(np.ascontiguousarray(values_N.reshape(-1, self._offsets.size).T))
        ends = np.concatenate(([0], lengths.reshape(-1).cumsum()))
        columns = []
        for feature, name in enumerate(self._group.feature_names):
            k = int(lengths[0, feature]) if lengths.shape[0] else 0
            if (lengths[:, feature] != k).any():
                raise ConfigError(
                    f"feature {name} has bags of different lengths in one batch, and this API's ids are rectangular; "
                    "pad them in the data, or train a model of your own with `bagpipe run`"
                )
            starts = ends[np.arange(lengths.shape[0]) * self._offsets.size + feature]
            columns.append(values_N[starts[:, None] + np.arange(k)])
        return columns

    def _search(self, feature: int, ids: npt.NDArray[np.int64], order: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        keys_K, wanted = self._plan.keys_K, ids + self._offsets[feature]
        at = np.minimum(np.searchsorted(keys_K, wanted, sorter=order), keys_K.size - 1)
        local = order[at]
        if not np.array_equal(keys_K[local], wanted):
            strange = ids[keys_K[local] != wanted].reshape(-1)[0]
            name = self._group.feature_names[feature]
            raise ConfigError(
                f"get_emb: id {strange} of feature {name} is not in this batch; pass ids of the current one"
            )
        found: npt.NDArray[np.int64] = local.astype(np.int64, copy=False)
        return found
