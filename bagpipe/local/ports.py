"""Finds TCP ports of the loopback interface that are free, and that no other program is about to be given.

A port out of the system's own range may be given to any program between the moment when it is found and the moment
when its role listens there. These ports lie below that range, and processes with different numbers begin to look in
different places.
"""

import itertools
import os
import socket
from contextlib import suppress
from functools import cache

from bagpipe.errors import ConfigError

FIRST, END = 10_000, 32_000
"""Linux gives out ports from 32768, other systems from higher ones."""
APART = 64
"""Distance between the ports at which two processes with successive numbers begin to look: more than a run takes."""

_turns = itertools.count()


@cache
def loopback() -> str:
    """The host of this machine's loopback interface, as an address has it: `[::1]` where there is no IPv4."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return "[::1]"
        return "127.0.0.1"


def try_port(port: int) -> None:
    """Bind to this port of the loopback interface for a moment, without listening.

    Raises:
        OSError: another program listens there, or this user may not.
    """
    host = loopback()
    with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as zmq does: a port of closed connections is free
        probe.bind((host.strip("[]"), port))


def free_ports(count: int) -> list[int]:
    """Different ports on which no program listens; no call in this process gets one that an earlier call got.

    Raises:
        ConfigError: there are not so many.
    """
    found: list[int] = []
    for turn in itertools.islice(_turns, END - FIRST):
        if len(found) == count:
            break
        port = FIRST + (os.getpid() * APART + turn) % (END - FIRST)
        with suppress(OSError):
            try_port(port)
            found.append(port)
    if len(found) < count:
        raise ConfigError(
            f"{loopback()}: {count} free ports are needed, {len(found)} were found from {FIRST} to {END - 1}; "
            "choose others with oracle.port and servers.port"
        )
    return found
