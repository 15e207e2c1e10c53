"""Sockets of ours, and of a stranger."""

from collections.abc import Iterator

import pytest
import zmq
from socket_world import FAST

from bagpipe.net.sockets import Context


@pytest.fixture
def context() -> Iterator[Context]:
    with Context(FAST) as made:
        yield made


@pytest.fixture
def outside() -> Iterator[zmq.Context]:
    """Where a stranger's sockets come from."""
    with zmq.Context() as made:
        yield made
