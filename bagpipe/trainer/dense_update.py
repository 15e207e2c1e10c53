"""Updates the dense weights once a step's gradients are there: clipping, rate, optimizer, average."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from bagpipe.config.recipe import DenseOptimizer
from bagpipe.trainer.dense import dense_optimizer
from bagpipe.trainer.dense_average import DenseAverage
from bagpipe.trainer.schedules import DenseSchedule


class DenseUpdate:
    """The dense model's optimizer and what the recipe adds to it. It does the same on every trainer.

    Raises:
        ConfigError: the recipe does not fit the model.
    """

    def __init__(self, config: DenseOptimizer, model: nn.Module) -> None:
        self.optimizer = dense_optimizer(config, model)
        """None: there is nothing to train."""
        kept = config.average if self.optimizer is not None else None
        self.average = DenseAverage(model, kept.decay) if kept is not None else None
        """None: the weights themselves are evaluated."""
        self._config = config
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._schedule = DenseSchedule(config.schedule, self.optimizer) if self.optimizer is not None else None

    def apply(self, step: int) -> None:
        """Update the weights with the gradients of `step` (from 0), and begin new ones from zero.

        A weight that the step did not use has the gradient zero, alike on any number of trainers.
        """
        if self.optimizer is None or self._schedule is None:
            return
        for parameter in self._parameters:
            if parameter.grad is None:  # no step has used it yet
                parameter.grad = torch.zeros_like(parameter)
        if self._config.clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self._config.clip_value)
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self._schedule.set(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        if self.average is not None:
            self.average.add()

    def pass_over(self) -> None:
        """A step is passed over: nothing changes, and gradients begin from zero."""
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=False)

    def evaluated(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated: the averages where they are kept."""
        return self.average.in_place() if self.average is not None else nullcontext()
