"""TCP ports of the loopback interface that are free, and that nobody else is about to be given.

A port out of the system's own range may be given to any program between the moment when it is found and the moment
when its role listens there. These ports lie below that range, and processes with different numbers begin to look in
different places.
"""

import itertools
import os
import socket

from bagpipe.errors import ConfigError

LOOPBACK = "127.0.0.1"
FIRST, END = 10_000, 32_000
"""Linux gives out ports from 32768, other systems from higher ones."""
APART = 64
"""From where one process begins to where the next one does: more ports than a run takes."""

_turns = itertools.count()


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on; no call in this process gets one that an earlier call got.

    Raises:
        ConfigError: there are not so many.
    """
    found: list[int] = []
    for turn in itertools.islice(_turns, END - FIRST):
        if len(found) == count:
            break
        port = FIRST + (os.getpid() * APART + turn) % (END - FIRST)
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise ConfigError(
            f"{LOOPBACK}: {count} free ports are needed, {len(found)} were found from {FIRST} to {END - 1}; "
            "choose others with oracle.port and servers.port"
        )
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
