"""Thin shells around zmq: a listener that many peers talk to, a connection to one of them.

Messages never block on sending: how much may be under way is bounded by the plan (a trainer's credit)
and by acknowledged write-backs, not by the sockets. A dead peer is noticed by the transport: zmq
exchanges heartbeats on its own thread, and a connection that stays down is `lost`. Each object is used
by one thread only; a process has one `Context`.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy.typing as npt
import zmq
from zmq.utils.monitor import recv_monitor_message

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError, ExitCode, PeerLost, WireError
from bagpipe.net.curve import CurveKeys
from bagpipe.net.delay import message_delay
from bagpipe.net.messages import PROTOCOL_VERSION, Hello, Message, Refused
from bagpipe.net.wire import Frame, decode, encode

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

CURVE_DIR = "BAGPIPE_CURVE_DIR"
LINGER_SECONDS = 5.0
"""How long a closing socket may take to hand over what was sent."""
COPIED_BYTES = 1 << 20
"""Frames up to this size are copied when they are sent. Without a copy, a thread of the interpreter must be woken to
let go of each: at 0.5 MiB that costs more, and takes the processor from the one that computes."""
CONNECT_SECONDS = 2.0
"""How long one try to connect may take. A pod that was replaced has a new address, and its old one answers nothing: the
name is looked up again with the next try, not after the kernel's two minutes."""


def check_hello(hello: Hello, *, job: str, attempt: int) -> Refused | None:
    """Refuse a peer of another version, job or attempt; None if it belongs here."""
    if hello.version != PROTOCOL_VERSION:
        return Refused(
            reason=f"{hello.role} {hello.index} speaks protocol {hello.version}, this one {PROTOCOL_VERSION}; "
            "run the same version of bagpipe everywhere",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if hello.job != job:
        return Refused(
            reason=f"{hello.role} {hello.index} belongs to job {hello.job!r}, this is {job!r}; check the addresses",
            exit_code=ExitCode.BAD_CONFIG,
        )
    if hello.attempt != attempt:
        return Refused(
            reason=f"{hello.role} {hello.index} is of attempt {hello.attempt}, this is attempt {attempt}",
            exit_code=ExitCode.TRANSIENT,
        )
    return None


class Context:
    """The process's zmq context and the settings every socket gets. Leaving it closes them all."""

    def __init__(self, transport: TransportConfig) -> None:
        self.transport = transport
        self._keys = _keys(transport)
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
        for thing in self._open:
            thing.close()
        if self._guard is not None:
            self._guard.stop()
        self._zmq.term()

    def listen(self, bind: str) -> "Listener":
        """Listen on `tcp://host:port`; port 0 takes any free one.

        Raises:
            ConfigError: the address cannot be bound.
        """
        socket = self._socket(zmq.ROUTER)
        if self._keys is not None:
            self._keys.serve(socket)
        # A peer that reconnects under its old identity takes the old connection's place.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(bind)
        except zmq.ZMQError as error:
            socket.close(0)
            raise ConfigError(f"cannot listen on {bind}: {error.strerror}; choose another port, or 0 for any") from None
        listener = Listener(socket)
        self._open.append(listener)
        return listener

    def connect(self, endpoint: str, *, peer: str) -> "Connection":
        """A connection to `endpoint`, made in the background and remade whenever it breaks."""
        socket = self._socket(zmq.DEALER)
        if self._keys is not None:
            self._keys.connect(socket)
        connection = Connection(socket, endpoint, peer, self.transport.dead_peer_seconds)
        self._open.append(connection)
        return connection

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._zmq.socket(kind)
        dead = int(self.transport.dead_peer_seconds * 1000)
        socket.copy_threshold = COPIED_BYTES
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, int(LINGER_SECONDS * 1000))
        socket.setsockopt(zmq.HEARTBEAT_IVL, max(100, dead // 5))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, dead)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, int(CONNECT_SECONDS * 1000))
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return socket


def _keys(transport: TransportConfig) -> CurveKeys | None:
    directory = os.environ.get(CURVE_DIR)
    if transport.security == "plain" or (transport.security == "auto" and not directory):
        return None
    if not directory:
        raise ConfigError(f"spec.transport.security is curve, but ${CURVE_DIR} is not set; point it at the job's keys")
    return CurveKeys.load(Path(directory))


class _Socket:
    """What both ends share: a zmq socket that is closed once and can be used in a `with`."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
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
    """Many peers, one socket (ROUTER). `peer` names one of them for the answer."""

    @property
    def endpoint(self) -> str:
        """The address it listens on, with the port it got."""
        return str(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def poll(self, timeout_seconds: float) -> list[tuple[bytes, Message, list[Array]]]:
        """Everything that has arrived, waiting at most so long for the first message.

        A malformed message is dropped and logged: one bad peer must not end a server.
        """
        arrived: list[tuple[bytes, Message, list[Array]]] = []
        if not self.socket.poll(int(timeout_seconds * 1000)):
            return arrived
        while True:
            try:
                peer, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return arrived
            try:
                message, arrays = decode([frame.buffer for frame in frames])
            except WireError as error:
                log.warning("dropped a message from %s: %s", peer.bytes.hex(), error)
                continue
            arrived.append((peer.bytes, message, arrays))

    def send(self, peer: bytes, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> bool:
        """Send to a peer that has spoken before, floats packed or not; False if it is gone."""
        return self.send_frames(peer, encode(message, arrays, packed=packed))

    def send_frames(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        self._delay()
        try:
            self.socket.send_multipart([peer, *frames], copy=False)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True


class Connection(_Socket):
    """One peer (DEALER). Sends never block; `receive` waits with a deadline."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str, peer: str, dead_seconds: float) -> None:
        super().__init__(socket)
        self.endpoint, self.peer = endpoint, peer
        self._dead_seconds = dead_seconds
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self._down_since: float | None = None
        self._made = 0
        self._told = 1
        socket.connect(endpoint)

    def __repr__(self) -> str:
        return f"Connection({self.peer} at {self.endpoint}, {'down' if self._down_since else 'up'})"

    def close(self) -> None:
        if not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close(0)
        super().close()

    @property
    def lost(self) -> bool:
        """The peer was there, and has been gone for `dead_peer_seconds`."""
        self._watch()
        return self._down_since is not None and time.monotonic() - self._down_since > self._dead_seconds

    def reconnected(self) -> bool:
        """Whether the connection was made anew since last asked: what was under way may be lost."""
        self._watch()
        again, self._told = self._made > self._told, max(self._told, self._made)
        return again

    def _watch(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._made += 1
                self._down_since = None
            elif event == zmq.EVENT_DISCONNECTED and self._down_since is None:
                self._down_since = time.monotonic()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise ConfigError(
                    f"{self.peer} at {self.endpoint} refused our key; every role needs the job's own keys"
                )

    def send(self, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> None:
        """`send_frames` of a message, its floats packed or not."""
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
        return bool(self.socket.poll(int(timeout_seconds * 1000)))

    def try_receive(self) -> tuple[Message, list[Array]] | None:
        """The next message, or None. Malformed ones are dropped and logged."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return None
            try:
                return decode([frame.buffer for frame in frames])
            except WireError as error:
                log.warning("dropped a message from %s: %s", self.peer, error)

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
    ready = {socket for socket, _ in poller.poll(int(timeout_seconds * 1000))}
    return [one for one in sockets if one.socket in ready]
