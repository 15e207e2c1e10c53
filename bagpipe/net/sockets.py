"""Makes the sockets of a process: each gets the job's keys or token, its bounds and its heartbeats here.

Sending never blocks: how much may be under way is bounded by the plan (a trainer's credit) and by acknowledged
write-backs, not by the sockets. A dead peer is noticed by the transport: zmq exchanges heartbeats on its own thread,
and a connection that stays down is `lost`. Each object is used by one thread only; a process has one `Context`.
"""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

import zmq

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError
from bagpipe.net.admission import TOKEN_VARIABLE, Admission
from bagpipe.net.connection import COPIED_BYTES, Connection
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe.net.doorkeeper import LONGEST_TOKEN_BYTES, USERNAME, Doorkeeper
from bagpipe.net.endpoints import parse_endpoint
from bagpipe.net.listener import Listener
from bagpipe.net.socket_end import SocketEnd
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import FRAME_BYTES

log = logging.getLogger(__name__)

LONGEST_FRAME_BYTES = FRAME_BYTES + (64 << 10)
"""zmq drops a connection on which a longer frame is announced, before it takes memory for it."""
LINGER_SECONDS = 5.0
"""How long a closing socket may take to hand over what was sent."""
IDENTITY_BYTES = 16
MOST_WAITING = 10_000
"""Messages that a listener queues from and for one peer, many times what a role of the job has under way. Beyond that a
peer that only sends is slowed down by TCP, and answers to a peer that reads nothing are dropped."""
CONNECT_SECONDS = 2.0
"""How long one attempt to connect may take. A pod that was replaced has a new address, and its old one does not answer:
this way the name is looked up again at the next attempt, not after the kernel's two minutes."""


def job_token(environment: Mapping[str, str]) -> str:
    """The job's token; empty where there is none.

    Raises:
        ConfigError: it is longer than a handshake carries.
    """
    token = environment.get(TOKEN_VARIABLE, "")
    if (length := len(token.encode())) > LONGEST_TOKEN_BYTES:
        raise ConfigError(f"${TOKEN_VARIABLE}: expected at most {LONGEST_TOKEN_BYTES} bytes, found {length}")
    return token


class Context:
    """The process's zmq context and the settings every socket gets. Leaving it closes them all."""

    def __init__(self, transport: TransportConfig) -> None:
        self.transport = transport
        self.token = job_token(os.environ)
        self._keys = CurveKeys.of(transport, os.environ.get(CURVE_DIR))
        self._zmq = zmq.Context()
        self._open: list[Listener | Connection] = []
        self.doorkeeper: Doorkeeper | None = None
        if self._keys is not None or self.token:
            public_key = self._keys.public_bytes if self._keys is not None else b""
            self.doorkeeper = Doorkeeper(self._zmq, public_key=public_key, token=self.token.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket; messages that were sent still go out, for at most `LINGER_SECONDS`."""
        with ExitStack() as last_first:  # All of it is done, also where one part of it raises.
            # This closes sockets that never became a listener or a connection too: zmq waits for any that is left open.
            last_first.callback(self._zmq.destroy, milliseconds(LINGER_SECONDS))
            if self.doorkeeper is not None:
                last_first.callback(self.doorkeeper.stop)
            for thing in reversed(self._open):
                last_first.callback(thing.close)

    def listen(self, bind: str, admission: Admission | None = None) -> Listener:
        """Listen on `tcp://host:port`; port 0 takes any free one.

        Args:
            admission: the peers that are admitted; None: none, before `Listener.admit` is called.

        Raises:
            ConfigError: that is no address, or it cannot be bound.
        """
        endpoint = parse_endpoint(bind, listening=True)
        socket = self._socket(zmq.ROUTER)
        listener = Listener(socket, admission, self.transport.dead_peer_seconds)
        self._open.append(listener)
        if self._keys is not None:
            self._keys.serve(socket)
        elif self.token:
            socket.setsockopt(zmq.PLAIN_SERVER, 1)
        if self.doorkeeper is not None:
            self.doorkeeper.watch(socket)
        # A peer that reconnects under its old identity takes the old connection's place.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, MOST_WAITING)
        socket.setsockopt(zmq.RCVHWM, MOST_WAITING)
        socket.setsockopt(zmq.IPV6, int(endpoint.needs_ipv6()))
        try:
            socket.bind(str(endpoint))
        except zmq.ZMQError as error:
            listener.close()
            raise ConfigError(f"cannot listen on {bind}: {error.strerror}; choose another port, or 0 for any") from None
        if self.doorkeeper is None and not endpoint.is_loopback:
            log.warning(
                "listens on %s with neither key nor token: whoever reaches it can speak as a role of the job, and make "
                "this process keep what it sends; give every role the same $%s, or the keys in $%s",
                listener.endpoint,
                TOKEN_VARIABLE,
                CURVE_DIR,
            )
        return listener

    def connect(self, address: str, *, peer: str) -> Connection:
        """A connection to `tcp://host:port`, made in the background and remade whenever it breaks.

        Raises:
            ConfigError: that is no address.
        """
        endpoint = parse_endpoint(address, listening=False)
        socket = self._socket(zmq.DEALER)
        connection = Connection(socket, str(endpoint), peer, self.transport.dead_peer_seconds, self.token)
        self._open.append(connection)
        if self._keys is not None:
            self._keys.connect(socket)
        elif self.token:
            socket.setsockopt(zmq.PLAIN_USERNAME, USERNAME)
            socket.setsockopt(zmq.PLAIN_PASSWORD, self.token.encode())
        # An identity of our own, which nobody can guess: a listener knows us again when the connection is remade.
        socket.setsockopt(zmq.ROUTING_ID, b"b" + secrets.token_bytes(IDENTITY_BYTES))
        socket.setsockopt(zmq.IPV6, int(endpoint.needs_ipv6()))
        connection.open()
        return connection

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._zmq.socket(kind)
        dead = milliseconds(self.transport.dead_peer_seconds)
        socket.copy_threshold = COPIED_BYTES
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, milliseconds(LINGER_SECONDS))
        socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_FRAME_BYTES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, max(100, dead // 5))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, dead)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, milliseconds(CONNECT_SECONDS))
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return socket


AnySocket = TypeVar("AnySocket", bound=SocketEnd)


def wait(sockets: Sequence[AnySocket], timeout_seconds: float) -> list[AnySocket]:
    """The sockets that have a message, waiting at most so long for the first."""
    poller = zmq.Poller()
    for one in sockets:
        poller.register(one.socket, zmq.POLLIN)
    ready = {socket for socket, _ in poller.poll(milliseconds(timeout_seconds))}
    return [one for one in sockets if one.socket in ready]
