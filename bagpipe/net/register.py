"""How a server or trainer joins a job: say hello to the oracle, wait for the topology."""

import time
from collections.abc import Callable

from bagpipe.errors import BagpipeError, ConfigError, DataError, ExitCode, PeerLost, Stopped
from bagpipe.net.connection import Connection
from bagpipe.net.messages import Hello, Refused, Topology

HELLO_SECONDS = 5.0
"""A hello is repeated so often until the topology comes: the oracle may have been restarted."""


def refusal(refused: Refused) -> BagpipeError:
    """The error that a refused role ends with; the exit code tells whether a retry can help."""
    kinds: dict[int, type[BagpipeError]] = {ExitCode.BAD_CONFIG: ConfigError, ExitCode.BAD_DATA: DataError}
    return kinds.get(refused.exit_code, PeerLost)(refused.reason)


def register(oracle: Connection, hello: Hello, *, startup_seconds: float, stop: Callable[[], bool]) -> Topology:
    """Register and wait until every role has.

    Raises:
        PeerLost: no topology within `startup_seconds`.
        ConfigError, DataError: the oracle refused this role, its key or token, or cannot run the job.
        Stopped: asked to stop meanwhile.
    """
    name = f"{hello.role} {hello.index}"
    deadline = time.monotonic() + startup_seconds
    said = 0.0
    while time.monotonic() < deadline:
        if stop():
            raise Stopped(f"{name}: asked to stop before the job began")
        if time.monotonic() - said > HELLO_SECONDS:
            oracle.send(hello)
            said = time.monotonic()
        oracle.poll(0.2)
        oracle.reconnected()  # Raises where the oracle has refused our key or token.
        while (received := oracle.try_receive()) is not None:
            message, _ = received
            if isinstance(message, Topology):
                return message
            if isinstance(message, Refused):
                raise refusal(message)
    raise PeerLost(
        f"{name}: the oracle did not complete the job's start within {startup_seconds:g} s; "
        "is it running, and did every other role start?"
    )
