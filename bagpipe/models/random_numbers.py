"""Random numbers that a model draws by itself: from torch's generator, numpy's or Python's, which no checkpoint holds.

So they are seeded by what a resumed run knows too: by the job's seed when a model is built, and before each forward
pass of training by (seed, step, first example). torch's own `nn.Dropout`, and noise of a user's own, are then the same
in a resumed run, and others on each trainer.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from bagpipe.models import layers
from bagpipe.models.layers import hashed

_DRAWING = threading.Lock()
"""The generators belong to the process: where several trainers are threads of it, models are built one at a time."""


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Inside, random numbers depend on `seed` alone; afterwards the generators are as they were before."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        numbers, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002  # the generator that a model would use
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(pythons)


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
