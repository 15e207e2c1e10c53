"""Brings a torch learning-rate scheduler of a user's own loop to the step at which a resumed job goes on."""

import inspect
import warnings
from collections.abc import Sequence

import torch

from bagpipe.errors import ConfigError


def bring_forward(
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    steps: int,
) -> None:
    """Step a new scheduler as often as steps were trained, from the rates that it began with.

    A scheduler computes each rate from the one before, so this gives the same bits as an uninterrupted run.

    Args:
        rates: of the optimizer's groups when the scheduler was made.
        steps: number of steps trained.

    Raises:
        ConfigError: it depends on more than the number of steps.
    """
    needed = [
        name for name, p in inspect.signature(scheduler.step).parameters.items() if p.default is inspect.Parameter.empty
    ]
    if needed:
        raise ConfigError(
            f"attach: {type(scheduler).__name__} depends on {', '.join(needed)} and not on the step alone, so a "
            "resumed job cannot bring it back; keep its state yourself, and leave `scheduler` out"
        )
    if not steps:
        return
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of steps without an optimizer's step between them.
        for _ in range(steps):
            scheduler.step()
