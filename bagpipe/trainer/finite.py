"""Ends a training that has diverged at the step whose loss or gradient is not a finite number, and names the tensor.

What is not finite spreads: one step later every weight is NaN, and so is every later checkpoint. So the loss is checked
before its gradients leave, gradients before the step is reported (a checkpoint of the step needs the reports of all
trainers), and dense weights before they are saved. It is enough to check a tensor's sum, which is NaN or infinite if
any of its elements is.

Where such steps are passed over instead (`skipping.py`), a run ends only if weights or rows are not finite when a step
begins: no later step could be better.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from bagpipe.errors import Diverged
from bagpipe.plan import BatchPlan, GroupPlan
from bagpipe.tables import TableLayout, WidthGroup

Named = tuple[str, torch.Tensor]
NOTHING: Mapping[int, torch.Tensor] = {}
WEIGHTS = ("dense weight", "buffer", "a row of")
"""The names of tensors that exist before a step begin with one of these."""
_REMEDY = (
    "lower the learning rates, look at the examples of this step, or set spec.notFinite: skip to pass over such steps; "
    "earlier checkpoints are as they were"
)
_NO_REMEDY = "lower the learning rates: no later step can be better; earlier checkpoints are as they were"


class FiniteCheck:
    """Checks one trainer's tensors.

    Args:
        policy: stop ends the run at any tensor that is not finite, skip only where weights or rows are not; continue
            only keeps dense weights that are not finite out of checkpoints.
    """

    def __init__(
        self, model: nn.Module, layout: TableLayout, *, rank: int, policy: Literal["stop", "skip", "continue"]
    ) -> None:
        self._model, self._layout, self._rank, self._policy = model, layout, rank, policy
        self._stops = policy == "stop"
        self._broken: tuple[float, torch.Tensor | None] | None = None
        """The first loss of this step that is not finite, and the outputs it was made of."""

    def loss(self, plan: BatchPlan, loss: float, logits_BL: torch.Tensor | None, rows: Sequence[torch.Tensor]) -> None:
        """Check the loss of this trainer's slice of a step, or of a part of it; policy skip only remembers it.

        Args:
            logits_BL: None where a loop of the user's own does not tell them.

        Raises:
            Diverged: it is NaN or infinite; names where that came from.
        """
        if self._policy == "skip" and self._broken is None and not math.isfinite(loss):
            self._broken = loss, None if logits_BL is None else logits_BL.detach()
        if self._stops and not math.isfinite(loss):
            first = _first(self._causes_of_a_loss(plan, logits_BL, rows)) or "the loss itself"
            raise Diverged(
                f"{self._step(plan)}: the loss is {loss}; the first tensor that is not finite: {first}; {_REMEDY}",
                weights_are=first.startswith(WEIGHTS),
            )

    def gradients(self, plan: BatchPlan, rows: Sequence[torch.Tensor]) -> None:
        """Check the gradients of rows (summed over trainers where they are owned here) and of dense weights (averaged).

        Raises:
            Diverged: one is NaN or infinite.
        """
        grads = [t.grad for t in (*rows, *self._model.parameters()) if t.grad is not None]
        if not self._stops or _sums_are_finite(grads):
            return
        first = _first(self._gradients(plan, rows))
        if first is not None:  # otherwise only the sum overflowed
            raise Diverged(f"{self._step(plan)}: {first} is not finite; {_REMEDY}")

    def reason_to_skip(self, plan: BatchPlan, rows: Sequence[torch.Tensor], before: Mapping[int, torch.Tensor]) -> str:
        """Which of this trainer's losses and gradients is not finite; empty: all are finite.

        Args:
            before: by the `id` of a buffer, its values before the step.

        Raises:
            Diverged: weights or rows with which the step began are not finite.
        """
        broken, self._broken = self._broken, None
        grads = [t.grad for t in (*rows, *self._model.parameters()) if t.grad is not None]
        if broken is None and _sums_are_finite(grads):
            return ""
        first = _first(self._gradients(plan, rows))
        said = f"{first} is not finite"
        if broken is not None:
            loss, logits = broken
            first = _first(self._causes_of_a_loss(plan, logits, rows, before)) or "the loss itself"
            said = f"the loss is {loss}; the first tensor that is not finite: {first}"
        if first is not None and first.startswith(WEIGHTS):
            raise Diverged(f"{self._step(plan)}: {said}; {_NO_REMEDY}", weights_are=True)
        return "" if first is None else f"{self._step(plan)}: {said}"

    def savable(self, plan: BatchPlan) -> bool:
        """Whether the dense weights after this step may become a checkpoint.

        Raises:
            Diverged: they may not, and that ends the run.
        """
        if _sums_are_finite([p.detach() for p in self._model.parameters()]):
            return True
        first = _first((f"dense weight {name}", p.detach()) for name, p in self._model.named_parameters())
        if first is not None and self._policy != "continue":
            raise Diverged(f"{self._step(plan)}: {first} is not finite after the update; {_NO_REMEDY}")
        return first is None

    def _step(self, plan: BatchPlan) -> str:
        return f"trainer {self._rank}: step {plan.step + 1}"

    def _causes_of_a_loss(
        self,
        plan: BatchPlan,
        logits_BL: torch.Tensor | None,
        rows: Sequence[torch.Tensor],
        before: Mapping[int, torch.Tensor] = NOTHING,
    ) -> Iterator[Named]:
        """In the order in which a forward pass meets them; buffers as they were `before` it."""
        for number in range(plan.dense_BF.shape[1]):
            values_B = plan.dense_BF[:, number]
            broken = np.flatnonzero(~np.isfinite(values_B))
            if broken.size:
                example = plan.first_example + int(broken[0])
                yield f"dense feature {number} of example {example} of the batch", torch.from_numpy(values_B[broken])
        yield from ((f"dense weight {name}", p.detach()) for name, p in self._model.named_parameters())
        yield from ((f"buffer {name}", before.get(id(b), b)) for name, b in self._model.named_buffers())
        for group, part, leaf in zip(self._layout.groups, plan.groups, rows, strict=False):
            yield f"a row of {_of_which_feature(group, part, leaf.detach())}", leaf.detach()
        if logits_BL is not None:
            yield f"the output of {type(self._model).__name__}", logits_BL.detach()

    def _gradients(self, plan: BatchPlan, rows: Sequence[torch.Tensor]) -> Iterator[Named]:
        for group, part, leaf in zip(self._layout.groups, plan.groups, rows, strict=False):
            if leaf.grad is not None:
                yield f"the gradient of a row of {_of_which_feature(group, part, leaf.grad)}", leaf.grad
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None:
                yield f"the gradient of dense weight {name}", parameter.grad


def _sums_are_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """One pass over each, and on a GPU one wait for all."""
    if not tensors:
        return True
    return bool(torch.isfinite(torch.stack([_real(t).sum(dtype=torch.float32) for t in tensors])).all())


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, of a complex tensor its real and imaginary parts."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _first(tensors: Iterable[Named]) -> str | None:
    return next((name for name, t in tensors if not bool(torch.isfinite(t).all())), None)


def _of_which_feature(group: WidthGroup, part: GroupPlan, values_KD: torch.Tensor) -> str:
    """The feature that first looks up a row whose values are not finite."""
    broken = torch.nonzero(~torch.isfinite(values_KD).all(dim=1)).flatten().tolist()
    lookups = np.flatnonzero(np.isin(part.inverse_N, broken))
    features = group.feature_names
    if not lookups.size:
        return f"width {group.embedding_dim}"
    if part.lengths_BT is None:
        return f"feature {features[int(lookups[0]) % len(features)]}"
    ends = np.cumsum(part.lengths_BT.reshape(-1))
    return f"feature {features[int(np.searchsorted(ends, lookups[0], side='right')) % len(features)]}"
