"""The exponential moving average of the dense weights: kept beside them, in checkpoints too, and put in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from bagpipe.checkpoint.dense_files import DENSE_AVERAGE
from bagpipe.trainer.dense import read_weights, write_weights


class DenseAverage:
    """The average of every trained weight, as `torch.optim.swa_utils.AveragedModel` computes it; buffers have none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._rest = model, 1 - decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages: dict[str, torch.Tensor] = {}
        """Empty until the first step."""

    @torch.no_grad()
    def add(self) -> None:
        """Take in the weights after a step's update."""
        for name, weight in self._weights.items():
            if name in self._averages:
                self._averages[name].lerp_(weight, self._rest)
            else:
                self._averages[name] = weight.detach().clone()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averages instead of its weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, average in self._averages.items():
            weight = self._weights[name]
            weight.data, self._averages[name] = average, weight.data

    def save(self, directory: Path) -> list[str]:
        """Write the model with the averages in place; returns the file's name.

        Raises:
            OSError: the disk is full or failed.
        """
        with self.in_place():
            write_weights(self._model, directory / DENSE_AVERAGE)
        return [DENSE_AVERAGE]

    def load(self, directory: Path) -> None:
        """Load what `save` wrote.

        Raises:
            CheckpointError: the file is missing or corrupt, or of another model.
        """
        found = read_weights(self._model, directory / DENSE_AVERAGE)
        self._averages = {name: found[name].to(weight.device) for name, weight in self._weights.items()}
