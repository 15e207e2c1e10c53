"""Thin shells around zmq: a listener that many peers talk to, a connection to one of them.

Messages never block on sending: how much may be under way is bounded by the plan (a trainer's credit)
and by acknowledged write-backs, not by the sockets. A dead peer is noticed by the transport: zmq
exchanges heartbeats on its own thread, and a connection that stays down is `lost`. Each object is used
by one thread only; a process has one `Context`.

A listener passes on what its `Admission` lets through; the rest it answers itself, counts and names in the log. A
connection remembers the `Hello` that was sent through it, and says it again when the connection is made anew or the
peer asks: a listener that was restarted knows nobody.
"""

import logging
import os
import secrets
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy.typing as npt
import zmq
from msgspec import structs
from zmq.utils.monitor import recv_monitor_message

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError, PeerLost, WireError
from bagpipe.net.admission import TOKEN_VARIABLE, Admission, Speaker
from bagpipe.net.curve import CurveKeys
from bagpipe.net.delay import message_delay
from bagpipe.net.endpoints import parse_endpoint
from bagpipe.net.messages import Hello, Message, Refused, SayHello
from bagpipe.net.refusal_log import RefusalLog
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import FRAME_BYTES, Frame, decode, encode

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

CURVE_DIR = "BAGPIPE_CURVE_DIR"
LONGEST_FRAME_BYTES = FRAME_BYTES + (64 << 10)
"""zmq drops a connection on which a longer frame is announced, before it takes memory for it."""
LINGER_SECONDS = 5.0
"""How long a closing socket may take to hand over what was sent."""
COPIED_BYTES = 1 << 20
"""Frames up to this size are copied when they are sent. Without a copy, a thread of the interpreter must be woken to
let go of each: at 0.5 MiB that costs more, and takes the processor from the one that computes."""
IDENTITY_BYTES = 16
MOST_WAITING = 10_000
"""Messages that a listener keeps of and for one peer, many times what a role of the job has under way: a peer that only
sends is held up by TCP, and what one that reads nothing asked for is dropped."""
MOST_AT_ONCE = 1000
"""Messages that one `poll` of a listener returns, so that a flood does not keep its owner from everything else."""
CONNECT_SECONDS = 2.0
"""How long one try to connect may take. A pod that was replaced has a new address, and its old one answers nothing: the
name is looked up again with the next try, not after the kernel's two minutes."""


class Context:
    """The process's zmq context and the settings every socket gets. Leaving it closes them all."""

    def __init__(self, transport: TransportConfig) -> None:
        self.transport = transport
        self.token = os.environ.get(TOKEN_VARIABLE, "")
        self._keys = CurveKeys.of(transport, os.environ.get(CURVE_DIR))
        self._zmq = zmq.Context()
        self._open: list[Listener | Connection] = []
        self._guard = self._keys.guard(self._zmq) if self._keys is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket; what was sent still goes out within `LINGER_SECONDS`, and no longer is waited."""
        for thing in self._open:
            thing.close()
        if self._guard is not None:
            self._guard.stop()
        # Also what was opened and never became a listener or a connection: a socket left open would be waited for.
        self._zmq.destroy(milliseconds(LINGER_SECONDS))

    def listen(self, bind: str) -> "Listener":
        """Listen on `tcp://host:port`; port 0 takes any free one.

        Raises:
            ConfigError: that is no address, or it cannot be bound.
        """
        endpoint = parse_endpoint(bind, listening=True)
        socket = self._socket(zmq.ROUTER)
        listener = Listener(socket)
        self._open.append(listener)
        if self._keys is not None:
            self._keys.serve(socket)
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
        return listener

    def connect(self, address: str, *, peer: str) -> "Connection":
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


class _Socket:
    """What both ends share: a zmq socket that is closed once and can be used in a `with`."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
        self.refused = RefusalLog()
        """What came here and was dropped or refused."""
        self._delay = message_delay()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; what was sent still goes out within `LINGER_SECONDS`. Closing again does nothing."""
        if not self.socket.closed:
            self.socket.close()


AnySocket = TypeVar("AnySocket", bound=_Socket)


class Listener(_Socket):
    """Many peers, one socket (ROUTER). `peer`, a socket's identity, names one of them for the answer."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        super().__init__(socket)
        self.admission: Admission | None = None
        """Set before the first `poll` by every role; None lets everything through (tests)."""

    @property
    def endpoint(self) -> str:
        """The address it listens on, with the port it got."""
        return str(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def poll(self, timeout_seconds: float) -> list[tuple[bytes, Message, list[Array]]]:
        """Everything that has arrived and may be said, waiting at most so long for the first message.

        The rest is answered (`SayHello`, `Refused`) or dropped here, and counted: no peer can end a role.
        """
        arrived: list[tuple[bytes, Message, list[Array]]] = []
        if not self.socket.poll(milliseconds(timeout_seconds)):
            return arrived
        for _ in range(MOST_AT_ONCE):
            try:
                identity, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            peer = identity.bytes
            try:
                message, arrays = decode([frame.buffer for frame in frames])
            except WireError as error:
                self.refused.add(f"dropped a message of {self.name_of(peer)}: {error}")
                continue
            if self._lets_in(peer, message):
                arrived.append((peer, message, arrays))
        return arrived

    def name_of(self, peer: bytes) -> str:
        """Whom an identity was admitted as, for people."""
        speaker = self.admission.speaker(peer) if self.admission is not None else None
        return str(speaker) if speaker is not None else "a peer that has not said Hello"

    def admitted(self) -> list[bytes]:
        """Everybody that has said a valid `Hello`."""
        return self.admission.identities() if self.admission is not None else []

    def turn_away(self, peer: bytes, refused: Refused) -> None:
        """Tell a peer that its owner has a reason to refuse it, and let it say nothing before its next `Hello`."""
        self.refused.add(f"refused {self.name_of(peer)}: {refused.reason}")
        self.send(peer, refused)
        if self.admission is not None:
            self.admission.forget(peer)

    def _lets_in(self, peer: bytes, message: Message) -> bool:
        verdict = self.admission.check(peer, message) if self.admission is not None else None
        if verdict is None or isinstance(verdict, Speaker):
            return True
        why = "it must say Hello first" if isinstance(verdict, SayHello) else verdict.reason
        self.refused.add(f"refused a {type(message).__name__} of {self.name_of(peer)}: {why}")
        self.send(peer, verdict)
        return False

    def send(self, peer: bytes, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> bool:
        """Send to a peer that has spoken before, floats packed or not; False if it is gone or reads nothing."""
        return self.send_frames(peer, encode(message, arrays, packed=packed))

    def send_frames(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        self._delay()
        try:
            self.socket.send_multipart([peer, *frames], zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True


class Connection(_Socket):
    """One peer (DEALER). Sends never block; `receive` waits with a deadline."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str, peer: str, dead_seconds: float, token: str) -> None:
        super().__init__(socket)
        self.endpoint, self.peer = endpoint, peer
        self._dead_seconds, self._token = dead_seconds, token
        self._hello: Hello | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._down_since: float | None = None
        self._handshakes = 0
        self._asked_in = 0
        """The handshake since which the peer has asked for a `Hello`; later questions crossed our answer."""
        self._remade = False

    def __repr__(self) -> str:
        return f"Connection({self.peer} at {self.endpoint}, {'down' if self._down_since else 'up'})"

    def open(self) -> None:
        """Begin to connect."""
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self.socket.connect(self.endpoint)

    def close(self) -> None:
        if not self.socket.closed and self._monitor is not None:
            self.socket.disable_monitor()
            self._monitor.close(0)
        super().close()

    @property
    def lost(self) -> bool:
        """The peer was there, and has been gone for `dead_peer_seconds`."""
        self._watch()
        return self._down_since is not None and time.monotonic() - self._down_since > self._dead_seconds

    def reconnected(self) -> bool:
        """Whether the connection was made anew since last asked, or the peer did not know us any more: what was
        under way may be lost. A `Hello` was said again already.
        """
        self._watch()
        again, self._remade = self._remade, False
        return again

    def _watch(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._handshakes += 1
                if self._handshakes > 1:
                    self._introduce_again()
                self._down_since = None
            elif event == zmq.EVENT_DISCONNECTED and self._down_since is None:
                self._down_since = time.monotonic()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise ConfigError(
                    f"{self.peer} at {self.endpoint} refused our key; every role needs the job's own keys"
                )

    def _introduce_again(self) -> None:
        """The connection was remade, or the listener was: say who we are, and let the owner know."""
        down = time.monotonic() - self._down_since if self._down_since is not None else 0.0
        log.info("connected to %s again after %.1f s", self.peer, down)
        self._remade = True
        if self._hello is not None:
            self.send(self._hello)

    def remember(self, hello: Hello) -> Hello:
        """From now on this is what is said when the connection is remade; returned with the job's token in it."""
        self._hello = structs.replace(hello, token=self._token)
        return self._hello

    def send(self, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> None:
        """`send_frames` of a message, its floats packed or not. A `Hello` gets the job's token, and is remembered."""
        if isinstance(message, Hello):
            message = self.remember(message)
        self.send_frames(encode(message, arrays, packed=packed))

    def send_frames(self, frames: "Sequence[Frame] | KeptFrames") -> None:
        """Queue an encoded message; returns at once. Its arrays must not change until they are on the wire.

        Raises:
            ConfigError: the peer refused our key.
            PeerLost: there is no way to the peer any more.
        """
        self._delay()
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            self._watch()
            raise PeerLost(f"cannot send a message to {self.peer}: {self.endpoint} is gone") from None

    def poll(self, timeout_seconds: float) -> bool:
        """Whether a message is there, waiting at most so long."""
        return bool(self.socket.poll(milliseconds(timeout_seconds)))

    def try_receive(self) -> tuple[Message, list[Array]] | None:
        """The next message, or None. Malformed ones are dropped and counted; `SayHello` is answered here."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return None
            try:
                message, arrays = decode([frame.buffer for frame in frames])
            except WireError as error:
                self.refused.add(f"dropped a message of {self.peer}: {error}")
                continue
            if not isinstance(message, SayHello):
                return message, arrays
            if self._asked_in < self._handshakes:
                self._asked_in = self._handshakes
                self._introduce_again()

    def receive(self, timeout_seconds: float, *, waiting_for: str, step: int | None) -> tuple[Message, list[Array]]:
        """The next message.

        Raises:
            PeerLost: none came in time, or the peer has been gone for `dead_peer_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        at = f" at step {step}" if step is not None else ""
        while (received := self.try_receive()) is None:
            if self.lost:
                raise PeerLost(f"waited for {waiting_for} from {self.peer}{at}, but {self.endpoint} is gone")
            if time.monotonic() >= deadline:
                raise PeerLost(f"waited {timeout_seconds:g} s for {waiting_for} from {self.peer}{at}; nothing came")
            self.poll(min(0.2, max(0.0, deadline - time.monotonic())))
        return received


KeptFrames = list[zmq.Frame]
"""An encoded message that can be sent more than once, to any number of peers, without another copy."""


def keep_frames(frames: Sequence[Frame], *, copied: bool) -> KeptFrames:
    """An encoded message to be sent now and perhaps again.

    Args:
        copied: its arrays may change afterwards; else not as long as the result is kept. Small ones are copied anyway.
    """
    return [zmq.Frame(frame, copy=copied or len(frame) < COPIED_BYTES) for frame in frames]


def wait(sockets: Sequence[AnySocket], timeout_seconds: float) -> list[AnySocket]:
    """The sockets that have a message, waiting at most so long for the first."""
    poller = zmq.Poller()
    for one in sockets:
        poller.register(one.socket, zmq.POLLIN)
    ready = {socket for socket, _ in poller.poll(milliseconds(timeout_seconds))}
    return [one for one in sockets if one.socket in ready]
