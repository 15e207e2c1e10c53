"""Passes over a step whose loss or gradient is not finite (`notFinite: skip`), on all trainers or on none.

Rows that a trainer computed with are updated elsewhere, so all must know before the first row is updated. Row gradients
are therefore held back until backward has returned, and every trainer then tells the others whether what it made is
finite. A step that is passed over goes through the same messages as any other, but no row, no dense weight, no
optimizer state, no average and no buffer changes. Learning rates depend on the number of the step, so they go on.
"""

from collections.abc import Iterator, Sequence

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
        self._model, self._finite, self._group, self._device = model, finite, group, device
        self._saved = model.state_dict().keys()
        self._before: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """A step begins: keep what its forward pass changes."""
        self._before = {name: buffer.clone() for name, buffer in self._buffers()}

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As they are now: a forward pass may put another tensor in a buffer's place."""
        return ((name, buffer) for name, buffer in self._model.named_buffers() if name in self._saved)

    def reason(self, plan: BatchPlan, rows: Sequence[torch.Tensor]) -> str | None:
        """After backward: why all trainers pass over this step; None: none of them does.

        Raises:
            Diverged: what the step began with is not finite here, so that no later step can be better.
        """
        before = {id(buffer): self._before[name] for name, buffer in self._buffers()}
        own = self._finite.reason_to_skip(plan, rows, before)
        if not self._anybody(bool(own)):
            return None
        for name, buffer in self._buffers():
            buffer.data = self._before[name]  # Its shape may have been another.
        return own or ELSEWHERE

    def _anybody(self, mine: bool) -> bool:
        if self._group is None or self._group.size() == 1:
            return mine
        broken = torch.tensor([float(mine)], device=self._device)
        self._group.allreduce([broken]).wait()
        return bool(broken.item())
