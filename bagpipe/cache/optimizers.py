"""Updates rows: records `[weights | state]` change in place, rounded exactly as torch rounds.

The compiled path (numpy slab) gives, to the bit, what torch's own optimizers give on a CPU with a
sparse gradient of distinct rows. What torch does was found by experiment:

- `param.add_(sparse, alpha=-lr)` is BLAS axpy: one fused rounding of `-lr * g + w`, at every width.
- A product of tensors, or of a tensor and a number, rounds before anything is added to it, as in
  SparseAdam's `-step_size * x`, and in Adagrad's `grad.pow(2)`.
- `sqrt` comes from MKL where torch has it, and is *not* correctly rounded (0.7 % of values are one
  unit off), so it cannot be compiled here. It is a pure function of the value, at any position and
  length; therefore the state is copied out, torch takes its root, and a second loop goes on.
- A mean over a row is torch's own reduction, for the same reason.

Momentum. torch's SGD keeps the *sum of sparse gradients* as momentum buffer: a row that was used once moves at every
later step, whether looked up or not, and the buffer grows with every step. Rows that lie on a server cannot move at
steps that do not use them. So momentum is lazy here: a row's buffer decays and moves the row only at steps that use the
row, starting from zero; for a row that is used at every step the two agree.

Adam follows `torch.optim.SparseAdam`: moments of a row change only when it is used, the bias correction
counts every step of the run.

Weight decay is decoupled and lazy: a row shrinks at the steps that use it, before its update. Clipping is row by row.

The learning rate is that of the step that produced the gradient, however late it is applied.

A slab on a GPU is updated in the same steps by torch's operations; there the rounding is the device's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.batch import Floats
from bagpipe.cache import kernels
from bagpipe.cache.kernels import accumulate, gather, gather_sums, scatter
from bagpipe.config.document import RowOptimizer
from bagpipe.rows.record import state_width

__all__ = ["BLOCK_ROWS", "RowUpdater", "accumulate", "gather", "gather_sums", "scatter"]

BLOCK_ROWS = 512
"""Rows updated at a time: few enough for copies of their state and gradients to stay in the processor's cache."""

NORM_EPS = 1e-6
"""What torch adds to a norm before it divides by it."""

LearningRate = Callable[[int], float]


class RowUpdater:
    """Applies one row optimizer to records of one width. Used by one thread at a time.

    Args:
        learning_rate: of each step; none: the optimizer's `lr` at every step.
    """

    def __init__(
        self,
        optimizer: RowOptimizer,
        embedding_dim: int,
        learning_rate: LearningRate | None = None,
    ) -> None:
        self.optimizer, self.dim = optimizer, embedding_dim
        self._state_end = embedding_dim + state_width(optimizer, embedding_dim)
        self._learning_rate = learning_rate or (lambda step: optimizer.lr)
        self._block = np.empty((BLOCK_ROWS, 1 if optimizer.name == "rowwise-adagrad" else embedding_dim), np.float32)

    def __repr__(self) -> str:
        return f"RowUpdater({self.optimizer.name}, dim={self.dim})"

    def apply(self, slab: Any, slots: Any, grads_KD: Any, step: int) -> None:
        """Update `slab[slots]` in place with the gradients of `step` (from 0); slots are distinct.

        All three are numpy arrays, or all are tensors of one device.
        """
        if slots.shape[0] == 0:
            return
        lr = self._learning_rate(step)
        if isinstance(slab, torch.Tensor):
            self._apply_torch(slab, slots, self._clipped(grads_KD), lr, step)
            return
        gradients = np.ascontiguousarray(grads_KD, np.float32)
        if self._clips:
            gradients = self._clipped(torch.from_numpy(gradients)).numpy()
        if self.optimizer.weight_decay:
            kernels.decay(slab, slots, self.dim, np.float32(1 - lr * self.optimizer.weight_decay))
        self._apply_compiled(slab, slots, gradients, lr, step)

    @property
    def _clips(self) -> bool:
        return self.optimizer.clip_value is not None or self.optimizer.clip_norm is not None

    def _clipped(self, grads_KD: torch.Tensor) -> torch.Tensor:
        """Gradients within the bounds of the recipe, as `torch.nn.utils.clip_grad_value_` and `clip_grad_norm_` would
        make them if every row were a parameter of its own.
        """
        if (bound := self.optimizer.clip_value) is not None:
            grads_KD = grads_KD.clamp(-bound, bound)
        if (bound := self.optimizer.clip_norm) is not None:
            norms_K1 = torch.linalg.vector_norm(grads_KD, dim=1, keepdim=True)
            grads_KD = grads_KD * (bound / (norms_K1 + NORM_EPS)).clamp(max=1.0)
        return grads_KD

    def _apply_compiled(self, slab: Floats, slots: npt.NDArray[Any], grads: Floats, lr: float, step: int) -> None:
        o, minus_lr = self.optimizer, np.float32(-lr)
        if o.name == "sgd" and o.momentum:
            kernels.momentum_sgd(slab, slots, grads, minus_lr, np.float32(o.momentum))
        elif o.name == "sgd":
            kernels.sgd(slab, slots, grads, minus_lr)
        else:
            for at in range(0, slots.shape[0], BLOCK_ROWS):
                part = slice(at, at + BLOCK_ROWS)
                self._apply_with_root(slab, slots[part], grads[part], lr, step)

    def _apply_with_root(self, slab: Floats, slots: npt.NDArray[Any], grads: Floats, lr: float, step: int) -> None:
        """The optimizers that divide by a root, one block of rows: state, torch's root, weights."""
        o, minus_lr, eps = self.optimizer, np.float32(-lr), np.float32(self.optimizer.eps)
        match o.name:
            case "adagrad":
                state = self._block[: slots.shape[0]]
                kernels.adagrad_state(slab, slots, grads, state)
                kernels.adagrad_weights(slab, slots, grads, _root(state), minus_lr, eps)
            case "rowwise-adagrad":
                state = self._block[: slots.shape[0]]
                means = torch.from_numpy(grads).pow(2).mean(dim=1).numpy()
                kernels.rowwise_state(slab, slots, self.dim, means, state)
                kernels.rowwise_weights(slab, slots, grads, _root(state), minus_lr, eps)
            case "adam":
                second = self._block[: slots.shape[0]]
                kernels.adam_state(slab, slots, grads, np.float32(1 - o.beta1), np.float32(1 - o.beta2), second)
                kernels.adam_weights(slab, slots, _root(second), np.float32(-_step_size(o, lr, step)), eps)

    def _apply_torch(
        self,
        slab: torch.Tensor,
        slots: torch.Tensor,
        grads: torch.Tensor,
        lr: float,
        step: int,
    ) -> None:
        o, dim = self.optimizer, self.dim
        index = slots.long()
        records = slab[index]
        weights, state = records[:, :dim], records[:, dim : self._state_end]
        if o.weight_decay:
            weights.mul_(1 - lr * o.weight_decay)
        match o.name:
            case "sgd" if o.momentum:
                state.mul_(o.momentum).add_(grads)
                weights.add_(state, alpha=-lr)
            case "sgd":
                weights.add_(grads, alpha=-lr)
            case "adagrad":
                state.add_(grads.pow(2))
                weights.add_(grads / state.sqrt().add_(o.eps), alpha=-lr)
            case "rowwise-adagrad":
                state.add_(grads.pow(2).mean(dim=1, keepdim=True))
                weights.add_(grads / state.sqrt().add_(o.eps), alpha=-lr)
            case "adam":
                first, second = state[:, :dim], state[:, dim:]
                first.add_(grads.sub(first).mul_(1 - o.beta1))
                second.add_(grads.pow(2).sub_(second).mul_(1 - o.beta2))
                weights.add_(first / second.sqrt().add_(o.eps) * -_step_size(o, lr, step))
        slab.index_copy_(0, index, records)


def _root(values: Floats) -> Floats:
    """torch's square root, in place (see the module's docstring)."""
    torch.from_numpy(values).sqrt_()
    return values


def _step_size(optimizer: RowOptimizer, lr: float, step: int) -> float:
    """Adam's bias-corrected learning rate; the run's first step counts as 1."""
    correction1 = 1 - optimizer.beta1 ** (step + 1)
    correction2 = 1 - optimizer.beta2 ** (step + 1)
    return lr * math.sqrt(correction2) / correction1
