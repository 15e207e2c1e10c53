"""Embeddings of the ids that the paper's API hands out, connected to the rows of the batch."""

from collections.abc import Sequence

import numpy as np
import torch

from bagpipe.cache.ids import PADDING, LocalRows
from bagpipe.cache.lookup import gather_rows


def embeddings_of(rows: Sequence[torch.Tensor], features: Sequence[LocalRows]) -> list[torch.Tensor]:
    """The embeddings of each feature's ids, connected to the rows: `[B, D]`, or `[B, k, D]` with zeros for padding.

    Args:
        rows: the distinct rows `[K, D]` of each width group.
    """
    found: list[torch.Tensor] = [torch.empty(0)] * len(features)
    for group, rows_KD in enumerate(rows):
        members = [n for n, feature in enumerate(features) if feature.group == group]
        flat = [features[n].index.reshape(-1) for n in members]
        there = [index != PADDING for index in flat]
        # One lookup for all features: a lookup for each would add one gradient as large as all of the batch's rows.
        index_N = np.concatenate([i[t] for i, t in zip(flat, there, strict=True)]) if members else np.zeros(0, np.int64)
        parts = torch.split(gather_rows(rows_KD, index_N), [int(t.sum()) for t in there])
        for n, part, mask in zip(members, parts, there, strict=True):
            if not mask.all():
                where = torch.from_numpy(np.flatnonzero(mask)).to(part.device)
                part = part.new_zeros((mask.size, part.shape[1])).index_copy(0, where, part)
            found[n] = part.view(*features[n].index.shape, rows_KD.shape[1])
    return found
