"""Compiled loops of `bagpipe.cache.lookup`: gather and pool forward, sum gradients in batch order backward.

The weighted loops multiply each row by its lookup's weight and round, then add: no fused operation, as torch does it
in two steps. `mean` divides by the sum of the weights where that is not 0, forward and backward.

`kinds_T` is 0 for sum, 1 for mean, 2 for features that are not pooled. A gradient is read where it
lies: example b's part begins at `b * stride` of `grads`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit

from bagpipe.tables import Pooling

POOLINGS: Mapping[Pooling, int] = {"sum": 0, "mean": 1, "none": 2}
MEAN, UNPOOLED = 1, 2


@njit(cache=True, nogil=True)
def single_forward(rows: Any, inverse: Any, out: Any) -> None:
    """One lookup each. The sum of one row is `0 + row`, which turns -0.0 into +0.0, as torch does."""
    dim = rows.shape[1]
    for n in range(inverse.shape[0]):
        source, target = rows[inverse[n]], out[n]
        for j in range(dim):
            target[j] = source[j] + np.float32(0.0)


@njit(cache=True, nogil=True)
def single_backward(grads: Any, stride: Any, num_features: Any, inverse: Any, out: Any) -> None:
    dim = out.shape[1]
    for b in range(inverse.shape[0] // num_features):
        for t in range(num_features):
            at = b * stride + t * dim
            source, target = grads[at : at + dim], out[inverse[b * num_features + t]]
            for j in range(dim):
                target[j] += source[j]


@njit(cache=True, nogil=True, error_model="numpy")
def jagged_forward(rows: Any, inverse: Any, lengths: Any, kinds: Any, pooled: Any, jagged: Any) -> None:
    dim, lookup, other = rows.shape[1], 0, 0
    for b in range(lengths.shape[0]):
        place = 0
        for t in range(lengths.shape[1]):
            count = lengths[b, t]
            if kinds[t] == UNPOOLED:
                for _ in range(count):
                    jagged[other] = rows[inverse[lookup]]
                    lookup, other = lookup + 1, other + 1
                continue
            target = pooled[b, place]
            target[:] = np.float32(0.0)
            for _ in range(count):
                source = rows[inverse[lookup]]
                for j in range(dim):
                    target[j] += source[j]
                lookup += 1
            if kinds[t] == MEAN and count > 1:
                for j in range(dim):
                    target[j] /= np.float32(count)
            place += 1


@njit(cache=True, nogil=True, error_model="numpy")
def jagged_backward(
    grads: Any,
    stride: Any,
    jagged_grads: Any,
    inverse: Any,
    lengths: Any,
    kinds: Any,
    out: Any,
) -> None:
    dim, lookup, other = out.shape[1], 0, 0
    for b in range(lengths.shape[0]):
        at = b * stride
        for t in range(lengths.shape[1]):
            count = lengths[b, t]
            if kinds[t] == UNPOOLED:
                for _ in range(count):
                    target, source = out[inverse[lookup]], jagged_grads[other]
                    for j in range(dim):
                        target[j] += source[j]
                    lookup, other = lookup + 1, other + 1
                continue
            factor = np.float32(1.0) / np.float32(max(count, 1)) if kinds[t] == MEAN else np.float32(1.0)
            source = grads[at : at + dim]
            for _ in range(count):
                target = out[inverse[lookup]]
                for j in range(dim):
                    target[j] += source[j] * factor
                lookup += 1
            at += dim


@njit(cache=True, nogil=True, error_model="numpy")
def weighted_forward(rows: Any, inverse: Any, lengths: Any, weights: Any, kinds: Any, pooled: Any, jagged: Any) -> None:
    """As `jagged_forward`; rows of features that are not pooled are as they are."""
    dim, lookup, other = rows.shape[1], 0, 0
    for b in range(lengths.shape[0]):
        place = 0
        for t in range(lengths.shape[1]):
            count = lengths[b, t]
            if kinds[t] == UNPOOLED:
                for _ in range(count):
                    jagged[other] = rows[inverse[lookup]]
                    lookup, other = lookup + 1, other + 1
                continue
            target, total = pooled[b, place], np.float32(0.0)
            target[:] = np.float32(0.0)
            for _ in range(count):
                source, weight = rows[inverse[lookup]], weights[lookup]
                for j in range(dim):
                    target[j] += source[j] * weight
                total += weight
                lookup += 1
            if kinds[t] == MEAN and total > 0:
                for j in range(dim):
                    target[j] /= total
            place += 1


@njit(cache=True, nogil=True, error_model="numpy")
def weighted_backward(
    grads: Any, stride: Any, jagged_grads: Any, inverse: Any, lengths: Any, weights: Any, kinds: Any, out: Any
) -> None:
    dim, lookup, other = out.shape[1], 0, 0
    of_bag = np.empty(dim, np.float32)
    for b in range(lengths.shape[0]):
        at = b * stride
        for t in range(lengths.shape[1]):
            count = lengths[b, t]
            if kinds[t] == UNPOOLED:
                for _ in range(count):
                    target, source = out[inverse[lookup]], jagged_grads[other]
                    for j in range(dim):
                        target[j] += source[j]
                    lookup, other = lookup + 1, other + 1
                continue
            total = np.float32(0.0)
            for i in range(lookup, lookup + count):
                total += weights[i]
            divisor = total if kinds[t] == MEAN and total > 0 else np.float32(1.0)
            for j in range(dim):
                of_bag[j] = grads[at + j] / divisor
            for _ in range(count):
                target, weight = out[inverse[lookup]], weights[lookup]
                for j in range(dim):
                    target[j] += of_bag[j] * weight
                lookup += 1
            at += dim
