"""Ends connections that take up a listener without getting through its handshake.

A peer that has not shown the job's key or token can still open connections, and libzmq takes from each a frame as long
as those of the job's own messages, megabytes, and keeps it for up to half a minute. So connections are looked at until
their handshake is over. One that has brought more than a handshake has is ended, and the oldest is, where very many
have not got through.

The kernel counts what a connection has carried both ways. Nobody is sent more than a greeting, and one reply to a key,
before token or key is shown; and an honest peer sends no message before it was sent the word that ends the handshake,
which its own kernel acknowledges before, or with, whatever it sends then. So a peer that has sent much and was sent
little is none of the job's.
"""

import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

HANDSHAKE_BYTES = 4096
"""More than a peer has to say in a handshake: a greeting of 64 bytes, and a token (some 330) or keys (some 520)."""
SENT_TO_ANYBODY = {"PLAIN": 64, "CURVE": 64 + 170}
"""Bytes that a peer is sent before it has shown token or key, by mechanism: a greeting, and CURVE's WELCOME."""
MOST_UNFINISHED = 1024
"""Handshakes that may be under way at a listener; each takes a descriptor and some 10 KiB."""
LOOK_SECONDS = 0.02
"""Handshakes under way are looked at so often, or so seldom that it takes a tenth of this thread's time."""

_COUNTS = struct.Struct("=QQ")
_COUNTS_AT = 120
"""Where Linux's `struct tcp_info` has the bytes that were acknowledged, and those that were received."""


@dataclass(slots=True)
class Handshakes:
    """The connections of one listener whose handshakes are under way. Used by one thread.

    Args:
        port: the listener's.
        mechanism: of its handshakes.
    """

    port: int
    mechanism: str
    _under_way: dict[int, Any] = field(default_factory=dict)
    """By descriptor, in the order in which they came: the address of the other end."""
    _look_at: float = 0.0

    def __len__(self) -> int:
        return len(self._under_way)

    def accepted(self, descriptor: int) -> str:
        """A connection was accepted; returns why the oldest was ended, if there are too many now."""
        seen = _seen(descriptor)
        if seen is None or seen.port != self.port:
            return ""  # It has ended already, and its descriptor may be another's.
        self._under_way.pop(descriptor, None)
        self._under_way[descriptor] = seen.peer
        while len(self) > MOST_UNFINISHED:
            oldest, peer = next(iter(self._under_way.items()))
            if self._brought(oldest, peer) is not None:
                return self._end(oldest, f"{MOST_UNFINISHED} later ones are in their handshakes too")
            del self._under_way[oldest]
        return ""

    def patience(self) -> float | None:
        """Seconds until `look` is due; None: nothing is under way."""
        return max(0.0, self._look_at - time.monotonic()) if self._under_way else None

    def look(self) -> list[str]:
        """If it is due, look at all that are under way; returns why each that was ended was."""
        begun = time.monotonic()
        if not self._under_way or begun < self._look_at:
            return []
        told = []
        for descriptor, peer in list(self._under_way.items()):
            received = self._brought(descriptor, peer)
            if received is None:
                del self._under_way[descriptor]
            elif received > HANDSHAKE_BYTES:
                told.append(self._end(descriptor, f"it has sent {received} bytes, and neither key nor token"))
        self._look_at = time.monotonic() + max(LOOK_SECONDS, 10 * (time.monotonic() - begun))
        return told

    def _brought(self, descriptor: int, peer: Any) -> int | None:
        """Bytes that a connection has brought within its handshake; None: that is over, or the connection is."""
        seen = _seen(descriptor)
        if seen is None or seen.peer != peer or seen.acknowledged > SENT_TO_ANYBODY[self.mechanism]:
            return None
        return seen.received

    def _end(self, descriptor: int, why: str) -> str:
        peer = self._under_way.pop(descriptor)
        _seen(descriptor, end=peer)
        return f"ended a connection of {peer[0]} to port {self.port}: {why}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A connection at one moment."""

    port: int
    """This end's."""
    peer: Any
    """The other end's address."""
    acknowledged: int
    received: int
    """Bytes that have arrived at the other end, and here."""


def _seen(descriptor: int, *, end: Any = None) -> _Seen | None:
    """libzmq's connection as it is now; None: there is none, or the kernel does not count its bytes.

    It is looked at through a copy of the descriptor, which refers to one and the same connection however soon libzmq
    closes its own, and is closed at once, so that a connection that libzmq has closed is over.

    Args:
        end: the other end's address: if it is still the same, the connection is ended.
    """
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    with connection:
        try:
            counts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS_AT + _COUNTS.size)
            seen = _Seen(
                connection.getsockname()[1], connection.getpeername(), *_COUNTS.unpack_from(counts, _COUNTS_AT)
            )
            if seen.peer == end:
                connection.shutdown(socket.SHUT_RDWR)
        except (OSError, struct.error):
            return None
    return seen
