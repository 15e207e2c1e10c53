"""The end of a backward pass: where what needs all of its gradients runs, before `backward` returns."""

from collections.abc import Callable
from typing import Any

import torch


def at_the_end(callback: Callable[[], None]) -> None:
    """Run this when the backward pass in progress has nothing left to compute; several run in the order asked for.

    Torch has no public name for it; its own DDP and FSDP ask the engine too.
    """
    engine: Any = torch.autograd.Variable._execution_engine  # noqa: SLF001  # it has no public name
    engine.queue_callback(callback)
