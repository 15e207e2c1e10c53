"""What a model draws by itself depends on the step and the slice alone, on whichever device it is drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from bagpipe.models.random_numbers import seed_step


def test_the_generator_of_the_trainers_own_gpu_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch seeds the current GPU, which is the first one, also in a trainer that uses the second."""
    current, seeded = [0], []

    @contextmanager
    def within(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", within)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append((current[-1], seed)))
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        for rank in (0, 1):
            seed_step(3, 5, 0, torch.device("cuda", rank))
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
    assert [device for device, _ in seeded] == [0, 1] and len({seed for _, seed in seeded}) == 1
