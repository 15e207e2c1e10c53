"""What a session changes in the process that it is in, and puts back at its end."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """torch computes with the job's threads: the last bits of sums depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def with_environment(more: Mapping[str, str]) -> Iterator[None]:
    """Environment variables: the children's secrets, by which this process is let in too."""
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
