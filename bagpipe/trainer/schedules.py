"""The learning rate of a step: a function of the step's number alone, so a resume needs nothing else.

Our own schedules are formulas. torch's classes are stepped from the beginning over a stand-in optimizer, which has the
settings of the real one and nothing to train; the real one takes over the settings that they give it at each step.
"""

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch.optim import lr_scheduler

from bagpipe.config.recipe import OWN_SCHEDULES, TORCH_SCHEDULES, RowOptimizer, Schedule
from bagpipe.errors import ConfigError

LearningRate = Callable[[int], float]
"""From a step's number, which counts from 0 at the beginning of the run, to its learning rate."""

_SCHEDULED = ("lr", "momentum", "betas")
"""Settings that a class of torch may change."""


def factor(schedule: Schedule, step: int) -> float:
    """What `lr` is multiplied by at this step, for a schedule of our own with its `decay_steps` known."""
    if step < schedule.warmup_steps:
        return schedule.warmup_from + (1 - schedule.warmup_from) * (step + 1) / schedule.warmup_steps
    after = step - schedule.warmup_steps
    match schedule.name:
        case "step":
            changes = after // schedule.every if schedule.every else sum(m <= after for m in schedule.milestones)
            return schedule.gamma**changes
        case "cosine":
            return _between(schedule, (1 + math.cos(math.pi * _share(schedule, after))) / 2)
        case "polynomial":
            return _between(schedule, (1 - _share(schedule, after)) ** schedule.power)
    return 1.0


def _share(schedule: Schedule, after: int) -> float:
    """How much of the decay is done, 0 to 1."""
    assert schedule.decay_steps is not None, "the oracle has settled it"
    return min(after, schedule.decay_steps) / schedule.decay_steps


def _between(schedule: Schedule, left: float) -> float:
    return schedule.final_factor + (1 - schedule.final_factor) * left


def row_learning_rate(optimizer: RowOptimizer) -> LearningRate:
    """The rate of rows at each step.

    Raises:
        ConfigError: the schedule's class of torch refuses its arguments.
    """
    schedule, lr = optimizer.schedule, optimizer.lr
    if schedule == Schedule():
        return lambda step: lr
    if schedule.name in OWN_SCHEDULES:
        return lambda step: lr * factor(schedule, step)
    scheduled = TorchSchedule(schedule, torch.optim.SGD, [{"lr": lr}], "spec.embedding.optimizer.schedule")
    return lambda step: float(scheduled.groups(step)[0]["lr"])


class DenseSchedule:
    """Sets the rates of a dense optimizer's groups, each of which keeps its proportion to the others.

    Raises:
        ConfigError: the schedule's class of torch refuses its arguments.
    """

    def __init__(self, schedule: Schedule, optimizer: torch.optim.Optimizer) -> None:
        self._schedule, self._optimizer = schedule, optimizer
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._torch: TorchSchedule | None = None
        if schedule.name not in OWN_SCHEDULES:
            settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            self._torch = TorchSchedule(schedule, type(optimizer), settings, "spec.optimizer.schedule")

    def set(self, step: int) -> None:
        """Set the rates of this step, before its update."""
        groups = self._optimizer.param_groups
        if self._torch is not None:
            for group, scheduled in zip(groups, self._torch.groups(step), strict=True):
                group.update({name: scheduled[name] for name in _SCHEDULED if name in scheduled})
        elif self._schedule != Schedule():
            times = factor(self._schedule, step)
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate * times


class TorchSchedule:
    """A class of torch.optim.lr_scheduler over a stand-in optimizer, stepped up to whatever step is asked for.

    Args:
        settings: of each of the stand-in's groups.
        where: the setting, for messages.

    Raises:
        ConfigError: the class refuses its arguments.
    """

    def __init__(
        self, schedule: Schedule, kind: type[torch.optim.Optimizer], settings: Iterable[dict[str, Any]], where: str
    ) -> None:
        self._schedule, self._kind, self._settings, self._where = schedule, kind, list(settings), where
        self._begin()

    def __repr__(self) -> str:
        return f"TorchSchedule({self._schedule.name}, step={self._step})"

    def _begin(self) -> None:
        groups = [{**settings, "params": [torch.nn.Parameter(torch.zeros(1))]} for settings in self._settings]
        self._stand_in = self._kind(groups)  # type: ignore[call-arg]  # every class of torch.optim has a default rate
        self._scheduler = _build(self._schedule.name, self._schedule.args, self._stand_in, self._where)
        # It has no gradients, so nothing moves; torch warns of a schedule that is stepped before its optimizer.
        self._stand_in.step()
        self._step = 0

    def groups(self, step: int) -> list[dict[str, Any]]:
        """The settings of each group at this step. Quick where steps rise by one.

        Raises:
            ConfigError: the schedule ends before this step.
        """
        if step < self._step:
            self._begin()
        while self._step < step:
            try:
                self._scheduler.step()
            except (ArithmeticError, TypeError, ValueError) as error:
                raise ConfigError(f"{self._where}: {self._schedule.name} at step {self._step + 1}: {error}") from None
            self._step += 1
        return self._stand_in.param_groups


def _build(name: str, args: dict[str, Any], optimizer: torch.optim.Optimizer, where: str) -> lr_scheduler.LRScheduler:
    if name not in TORCH_SCHEDULES:
        raise ConfigError(f"{where}.args.schedulers: expected one of {', '.join(TORCH_SCHEDULES)}, found {name!r}")
    kind, arguments = getattr(lr_scheduler, name), dict(args)
    if "schedulers" in arguments:
        parts = arguments["schedulers"]
        if not isinstance(parts, list) or not all(
            isinstance(p, dict) and isinstance(p.get("name"), str) for p in parts
        ):
            raise ConfigError(f"{where}.args.schedulers: expected a list of {{name, args}}, found {parts!r}")
        arguments["schedulers"] = [_build(p["name"], p.get("args", {}), optimizer, where) for p in parts]
    if isinstance(arguments.get("lr_lambda"), str):
        arguments["lr_lambda"] = _function(arguments["lr_lambda"], where)
    try:
        made: lr_scheduler.LRScheduler = kind(optimizer=optimizer, **arguments)
    except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}.args: torch's {name}: {error}; give what its constructor takes") from None
    return made


def _function(path: str, where: str) -> Callable[[int], float]:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{where}.args.lr_lambda: expected package.module:function, found {path!r} ({error}); is it on PYTHONPATH?"
        ) from None
    if not callable(found):
        raise ConfigError(f"{where}.args.lr_lambda: {path} is no function")
    function: Callable[[int], float] = found
    return function
