"""Compiled row loops: gather, scatter, accumulate, and the arithmetic of each row optimizer.

Slots and index lists are random accesses into a slab far larger than any processor cache, so each loop
prefetches the rows it is about to reach (1.5 times faster at dim 48). Loops run over one-dimensional
row views, which the compiler vectorises.

Rounding is part of the contract (`bagpipe.cache.optimizers`): `fused` is exactly one rounding of
a * b + c; everything written with `*` and `+` rounds twice, because numba never contracts them
without `fastmath`, which must not be used here. Loops that divide need `error_model="numpy"`: Python's check for
zero keeps the compiler from vectorising them (three times slower).
"""

from typing import Any

import numpy as np
from numba import njit

from bagpipe.lowlevel.intrinsics import fused, prefetch_item

AHEAD = 8
"""Rows between a prefetch and the use of its row."""
LINE = 16
"""Floats in a cache line."""


@njit(cache=True, nogil=True)
def _prefetch_row(slab: Any, index: Any, at: Any, width: Any) -> None:
    if at < index.shape[0]:
        row = np.int64(index[at])
        for column in range(0, width, LINE):
            prefetch_item(slab, row, column)


@njit(cache=True, nogil=True)
def gather(slab: Any, slots: Any, width: Any, out: Any) -> None:
    """`out[i] = slab[slots[i], :width]`."""
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, width)
        source, target = slab[slots[i]], out[i]
        for j in range(width):
            target[j] = source[j]


@njit(cache=True, nogil=True)
def scatter(slab: Any, slots: Any, rows: Any) -> None:
    """`slab[slots[i], :rows.shape[1]] = rows[i]`: whole records, or weights only."""
    width = rows.shape[1]
    for i in range(slots.shape[0]):
        source, target = rows[i], slab[slots[i]]
        for j in range(width):
            target[j] = source[j]


@njit(cache=True, nogil=True)
def accumulate(acc_KD: Any, index: Any, rows: Any) -> None:
    """`acc_KD[index[i]] += rows[i]`, in the order of the list."""
    width = rows.shape[1]
    for i in range(index.shape[0]):
        _prefetch_row(acc_KD, index, i + AHEAD, width)
        source, target = rows[i], acc_KD[index[i]]
        for j in range(width):
            target[j] += source[j]


@njit(cache=True, nogil=True)
def gather_sums(rows_KD: Any, index: Any, zero: Any, scale: Any, out: Any) -> None:
    """`out[i] = (rows_KD[index[i]] + zero) * scale`, each operation rounded."""
    width = rows_KD.shape[1]
    for i in range(index.shape[0]):
        _prefetch_row(rows_KD, index, i + AHEAD, width)
        source, target = rows_KD[index[i]], out[i]
        for j in range(width):
            target[j] = (source[j] + zero) * scale


@njit(cache=True, nogil=True)
def decay(slab: Any, slots: Any, dim: Any, factor: Any) -> None:
    """`slab[slots[i], :dim] *= factor`: decoupled weight decay."""
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, dim)
        row = slab[slots[i]]
        for j in range(dim):
            row[j] = row[j] * factor


# ── row optimizers: the slab's rows are [weights | state] ─────────────────────────────────────────


@njit(cache=True, nogil=True)
def sgd(slab: Any, slots: Any, grads: Any, minus_lr: Any) -> None:
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, dim)
        row, grad = slab[slots[i]], grads[i]
        for j in range(dim):
            row[j] = fused(minus_lr, grad[j], row[j])


@njit(cache=True, nogil=True)
def momentum_sgd(slab: Any, slots: Any, grads: Any, minus_lr: Any, momentum: Any) -> None:
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, 2 * dim)
        row, grad = slab[slots[i]], grads[i]
        buffer = row[dim:]
        for j in range(dim):
            moved = buffer[j] * momentum + grad[j]
            buffer[j] = moved
            row[j] = fused(minus_lr, moved, row[j])


@njit(cache=True, nogil=True)
def adagrad_state(slab: Any, slots: Any, grads: Any, state_KD: Any) -> None:
    """Add the squared gradients to the state, and copy it out for the square root."""
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, 2 * dim)
        state, grad, out = slab[slots[i]][dim:], grads[i], state_KD[i]
        for j in range(dim):
            total = state[j] + grad[j] * grad[j]
            state[j] = total
            out[j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def adagrad_weights(slab: Any, slots: Any, grads: Any, root_KD: Any, minus_lr: Any, eps: Any) -> None:
    """`w -= lr * g / (root + eps)`."""
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        row, grad, root = slab[slots[i]], grads[i], root_KD[i]
        for j in range(dim):
            row[j] = fused(minus_lr, grad[j] / (root[j] + eps), row[j])


@njit(cache=True, nogil=True, error_model="numpy")
def rowwise_weights(slab: Any, slots: Any, grads: Any, root_K1: Any, minus_lr: Any, eps: Any) -> None:
    """`w -= lr * g / (root + eps)`, one root for each row."""
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        row, grad = slab[slots[i]], grads[i]
        denominator = root_K1[i, 0] + eps
        for j in range(dim):
            row[j] = fused(minus_lr, grad[j] / denominator, row[j])


@njit(cache=True, nogil=True)
def rowwise_state(slab: Any, slots: Any, dim: Any, means_K: Any, state_K1: Any) -> None:
    """Add each row's mean squared gradient to its one state, and copy it out for the square root."""
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, dim + 1)
        slot = slots[i]
        slab[slot, dim] += means_K[i]
        state_K1[i, 0] = slab[slot, dim]


@njit(cache=True, nogil=True)
def adam_state(slab: Any, slots: Any, grads: Any, rest1: Any, rest2: Any, second_KD: Any) -> None:
    """Move both moments by (1 - beta) of their distance to the gradient, and copy the second out."""
    dim = grads.shape[1]
    for i in range(slots.shape[0]):
        _prefetch_row(slab, slots, i + AHEAD, 3 * dim)
        row, grad, out = slab[slots[i]], grads[i], second_KD[i]
        first, second = row[dim : 2 * dim], row[2 * dim :]
        for j in range(dim):
            first[j] += (grad[j] - first[j]) * rest1
        for j in range(dim):
            moved = second[j] + (grad[j] * grad[j] - second[j]) * rest2
            second[j] = moved
            out[j] = moved


@njit(cache=True, nogil=True, error_model="numpy")
def adam_weights(slab: Any, slots: Any, root_KD: Any, minus_step_size: Any, eps: Any) -> None:
    dim = root_KD.shape[1]
    for i in range(slots.shape[0]):
        row, root = slab[slots[i]], root_KD[i]
        first = row[dim : 2 * dim]
        for j in range(dim):
            row[j] += minus_step_size * (first[j] / (root[j] + eps))
