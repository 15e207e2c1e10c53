"""Learning rates as a plain PyTorch loop has them: a class of torch.optim.lr_scheduler, stepped after each step."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import lr_scheduler

from bagpipe.config.recipe import OWN_SCHEDULES, RowOptimizer, Schedule


def scheduler_of(schedule: Schedule, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """What the loop calls `step` of."""
    if schedule.name in OWN_SCHEDULES:
        return lr_scheduler.LambdaLR(optimizer, lambda step: _factor(schedule, step))
    return _torchs(schedule.name, schedule.args, optimizer)


def _torchs(name: str, args: dict[str, Any], optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if "schedulers" in args:
        args = {**args, "schedulers": [_torchs(p["name"], p.get("args", {}), optimizer) for p in args["schedulers"]]}
    made: lr_scheduler.LRScheduler = getattr(lr_scheduler, name)(optimizer=optimizer, **args)
    return made


def row_rates(optimizer: RowOptimizer) -> Iterator[float]:
    """The rate of each step, from step 0 on."""
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=optimizer.lr)
    scheduler = scheduler_of(optimizer.schedule, sgd)
    while True:
        yield float(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()


def _factor(s: Schedule, step: int) -> float:
    n = s.warmup_steps
    if n and step + 1 <= n:
        return s.warmup_from + (1 - s.warmup_from) * (step + 1) / n
    if s.name == "constant":
        return 1.0
    if s.name == "step":
        crossed = [m for m in s.milestones if step - n >= m] if s.milestones else range((step - n) // (s.every or 1))
        return s.gamma ** len(crossed)
    assert s.decay_steps
    done = 1.0 if step - n >= s.decay_steps else (step - n) / s.decay_steps
    left = (1 + math.cos(math.pi * done)) / 2 if s.name == "cosine" else (1 - done) ** s.power
    return s.final_factor + (1 - s.final_factor) * left
