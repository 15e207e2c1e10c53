"""What a step does to the dense weights once their gradients are there: rate, then optimizer."""

from torch import nn

from bagpipe.config.recipe import DenseOptimizer
from bagpipe.trainer.dense import dense_optimizer
from bagpipe.trainer.schedules import DenseSchedule


class DenseUpdate:
    """The dense model's optimizer with everything of the recipe around it. Alike on every trainer.

    Raises:
        ConfigError: the model has no dense weights, or the recipe does not fit it.
    """

    def __init__(self, config: DenseOptimizer, model: nn.Module) -> None:
        self.optimizer = dense_optimizer(config, model.parameters())
        self._schedule = DenseSchedule(config.schedule, self.optimizer)

    def apply(self, step: int) -> None:
        """Update the weights with the gradients of `step` (from 0), and begin new ones from zero."""
        self._schedule.set(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
