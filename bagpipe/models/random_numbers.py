"""Random numbers that a model draws by itself: from torch's generator, numpy's or Python's, which no checkpoint holds.

So they are seeded by what a resumed run knows too: by the job's seed when a model is built, and before each forward
pass of training by (seed, step, first example). torch's own `nn.Dropout`, and noise of a user's own, are then the same
in a resumed run, and others on each trainer.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bagpipe.models import layers
from bagpipe.models.layers import hashed

_DRAWING = threading.Lock()
"""The generators belong to the process: where several trainers are threads of it, models are built one at a time."""


class Draws:
    """Random numbers that depend on `seed` alone, drawn from the process's generators in one stretch or several.

    A stretch goes on where the one before it has ended; outside, the generators are as if nothing had been drawn.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._left: _States | None = None
        """Where the last stretch has ended; None: there was none yet."""

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Inside, random numbers are drawn from this run of them."""
        with _DRAWING:
            others = _States.now()
            if self._left is None:
                _seed_all(self._seed)
            else:
                self._left.restore()
            try:
                yield
            finally:
                self._left = _States.now()
                others.restore()


@dataclass(frozen=True, slots=True)
class _States:
    """Of the three generators on the host."""

    torchs: torch.Tensor
    numpys: Any
    pythons: Any

    @classmethod
    def now(cls) -> "_States":
        return cls(torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002  # the generator that a model would use

    def restore(self) -> None:
        torch.set_rng_state(self.torchs)
        np.random.set_state(self.numpys)  # noqa: NPY002
        random.setstate(self.pythons)


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    random.seed(seed)


def step_setter(model: nn.Module, seed: int, device: torch.device) -> Callable[[int, int], None]:
    """A function of (step, first example of the slice), to be called before the forward pass of a slice in training.

    For a process of our own: in a program of the user's the generators are the user's (`layers.step_setter`).
    """
    set_dropout = layers.step_setter(model, seed)

    def set_step(step: int, first_example: int) -> None:
        set_dropout(step, first_example)
        seed_step(seed, step, first_example, device)

    return set_step


def seed_step(seed: int, step: int, first_example: int, device: torch.device) -> None:
    """Before the forward pass of a slice of a step: what is drawn from here on depends on these numbers alone."""
    mixed = hashed(hashed(hashed(seed) + step) + first_example)
    with _DRAWING:
        torch.default_generator.manual_seed(mixed)
        if device.type == "cuda":
            with torch.cuda.device(device):  # It seeds the current one, and a trainer may use another.
                torch.cuda.manual_seed(mixed)
        np.random.seed(mixed % (1 << 32))  # noqa: NPY002  # the generator that a model would use
        random.seed(mixed)
