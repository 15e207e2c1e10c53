"""Changes of the whole process that a session makes, and undoes at its end."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with this number of threads, on which the last bits of sums depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def with_environment(more: Mapping[str, str]) -> Iterator[None]:
    """Inside, the process has these environment variables: the secrets by which the children admit it."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
