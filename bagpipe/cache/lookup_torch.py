"""The lookups of `bagpipe.cache.lookup` by torch's operations, not compiled loops: for devices other than CPUs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Floats, Lengths
from bagpipe.cache.lookup_kernels import POOLINGS
from bagpipe.tables import Pooling


def lookup_torch(
    rows_KD: torch.Tensor,
    inverse_N: npt.NDArray[Any],
    lengths_BT: Lengths | None,
    pooling_T: Sequence[Pooling],
    weights_N: Floats | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`bagpipe.cache.lookup.lookup` on any device; the same arguments, and the same result up to rounding."""
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
    added, counts = looked_up[is_pooled], lengths_BT[:, pooled_T].astype(np.float32).reshape(-1)
    if weights_N is not None:
        weights = torch.from_numpy(weights_N).to(device)[is_pooled]
        added = added * weights.unsqueeze(1)
        counts = weights.new_zeros(len(sums)).index_add(0, segment_N[is_pooled], weights).cpu().numpy()
    sums = sums.index_add(0, segment_N[is_pooled], added)
    is_mean = np.tile(kinds[pooled_T] == POOLINGS["mean"], lengths_BT.shape[0])
    divisor = np.where(is_mean & (counts > 0), counts, np.float32(1.0))
    pooled = sums / torch.from_numpy(divisor.reshape(-1, 1)).to(device)
    return pooled.view(lengths_BT.shape[0], -1, dim), looked_up[~is_pooled]
