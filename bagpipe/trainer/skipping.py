"""Passes over a step whose loss or gradient is not finite (`notFinite: skip`), on all trainers or on none.

Rows that a trainer computed with are updated elsewhere, so all must know before the first row is updated. Row gradients
are therefore held back until backward has returned, and every trainer then tells the others whether what it made is
finite. A step that is passed over goes through the same messages as any other, but no row, no dense weight, no
optimizer state, no average and no buffer changes. Learning rates depend on the number of the step, so they go on.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from bagpipe.plan import BatchPlan
from bagpipe.trainer.finite import FiniteCheck

ELSEWHERE = "another trainer's loss or gradient is not finite"
"""The reason that a trainer gives whose own tensors are finite."""


class Skipping:
    """One trainer's part in passing over a step.

    Args:
        group: the trainers' process group; None: there is one trainer.
    """

    def __init__(
        self, model: nn.Module, finite: FiniteCheck, group: dist.ProcessGroup | None, device: torch.device
    ) -> None:
        self._finite, self._group, self._device = finite, group, device
        saved = model.state_dict().keys()
        self._buffers = [buffer for name, buffer in model.named_buffers() if name in saved]
        self._before: list[torch.Tensor] = []

    def begin(self) -> None:
        """A step begins: keep what its forward pass changes."""
        self._before = [buffer.clone() for buffer in self._buffers]

    def reason(self, plan: BatchPlan, rows: Sequence[torch.Tensor]) -> str | None:
        """After backward: why all trainers pass over this step; None: none of them does.

        Raises:
            Diverged: what the step began with is not finite here, so that no later step can be better.
        """
        own = self._finite.reason_to_skip(plan, rows, dict(zip(map(id, self._buffers), self._before, strict=True)))
        if not self._anybody(bool(own)):
            return None
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        return own or ELSEWHERE

    def _anybody(self, mine: bool) -> bool:
        if self._group is None or self._group.size() == 1:
            return mine
        broken = torch.tensor([float(mine)], device=self._device)
        self._group.allreduce([broken]).wait()
        return bool(broken.item())
