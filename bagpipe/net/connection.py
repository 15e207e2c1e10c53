"""The connecting end: one peer. It remembers the `Hello` that was sent through it, and sends it again when the
connection was remade or the peer asks for it: a listener that was restarted knows no peer.
"""

import logging
import math
import time
from collections.abc import Sequence

import zmq
from msgspec import structs
from zmq.utils.monitor import recv_monitor_message

from bagpipe.errors import ConfigError, PeerLost, WireError
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.curve import CURVE_DIR
from bagpipe.net.form import form
from bagpipe.net.messages import Hello, Message, SayHello
from bagpipe.net.socket_end import SocketEnd
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import UNTOLD, Array, Frame, decode, encode

log = logging.getLogger(__name__)

COPIED_BYTES = 1 << 20
"""Frames up to this size are copied when they are sent. Without a copy, a thread of the interpreter must be woken to
release each: at 0.5 MiB that costs more, and takes the processor from the thread that computes."""

CROSSING_SECONDS = 1.0
"""A listener that does not know us asks for our `Hello` once for each message, so several such questions may cross our
first answer. They are answered together, so long after it; none is ignored, because the message it came for is lost."""

_REFUSALS = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
KeptFrames = list[zmq.Frame]
"""An encoded message that can be sent more than once, to any number of peers, without another copy."""


def keep_frames(frames: Sequence[Frame], *, copied: bool) -> KeptFrames:
    """An encoded message to be sent now and perhaps again.

    Args:
        copied: copy all frames, so that the arrays may change afterwards. Otherwise only small ones are copied, and the
            arrays must not change as long as the result is kept.
    """
    return [zmq.Frame(frame, copy=copied or len(frame) < COPIED_BYTES) for frame in frames]


class Connection(SocketEnd):
    """One peer (DEALER). Sends never block; `receive` waits with a deadline."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str, peer: str, dead_seconds: float, token: str) -> None:
        super().__init__(socket)
        self.endpoint, self.peer = endpoint, peer
        self._dead_seconds, self._token = dead_seconds, token
        self._hello: Hello | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._down_since: float | None = None
        self._handshakes = 0
        self._asked = False
        """Whether the peer has asked for our `Hello` since it was sent last."""
        self._answered_at = -math.inf
        """When it was sent last because the peer asked."""
        self._remade = False

    def __repr__(self) -> str:
        return f"Connection({self.peer} at {self.endpoint}, {'down' if self._down_since else 'up'})"

    def open(self) -> None:
        """Begin to connect."""
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
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
        """Whether, since the last call, the connection was remade or the peer did not know us any more: messages that
        were under way may be lost. A `Hello` has been sent again already.
        """
        self._watch()
        again, self._remade = self._remade, False
        return again

    def _watch(self) -> None:
        self._answer()
        while self._monitor is not None and self._monitor.poll(0):
            told = recv_monitor_message(self._monitor)
            event, value = told["event"], told["value"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._handshakes += 1
                if self._handshakes > 1:
                    self._introduce_again()
                self._down_since = None
            elif event == zmq.EVENT_DISCONNECTED and self._down_since is None:
                self._down_since = time.monotonic()
            elif self._handshakes and event in _REFUSALS:
                pass  # It has admitted us before, so another process listens at its address now: our peer is gone.
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise ConfigError(
                    f"{self.peer} at {self.endpoint} refused our key or token; start every role with the job's own "
                    f"(${CURVE_DIR}, ${TOKEN_VARIABLE})"
                )
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                raise ConfigError(
                    f"{self.peer} at {self.endpoint} expects another kind of proof than this role has; start every "
                    f"role with the same ${CURVE_DIR}, ${TOKEN_VARIABLE} and spec.transport.security"
                )

    def _answer(self) -> None:
        """Send `Hello` if the peer has asked for it, but at most once in `CROSSING_SECONDS`."""
        if self._asked and time.monotonic() - self._answered_at > CROSSING_SECONDS:
            self._asked, self._answered_at = False, time.monotonic()
            self._introduce_again()

    def _introduce_again(self) -> None:
        """The connection was remade, or the listener was: say who we are, and let the owner know."""
        if self._down_since is not None:
            log.info("connected to %s again after %.1f s", self.peer, time.monotonic() - self._down_since)
        self._remade = True
        if self._hello is not None:
            self.send(self._hello)

    @property
    def _attempt(self) -> int:
        """The attempt that is said here, once it was told who we are."""
        return UNTOLD if self._hello is None else self._hello.attempt

    def remember(self, hello: Hello) -> Hello:
        """From now on send this when the connection is remade; returned with our form and the job's token in it."""
        self._hello = structs.replace(hello, form=form(), token=self._token)
        return self._hello

    def send(self, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> None:
        """`send_frames` of a message, its floats packed or not. A `Hello` is completed and remembered."""
        if isinstance(message, Hello):
            message = self.remember(message)
        self.send_frames(encode(message, arrays, packed=packed, attempt=self._attempt))

    def send_frames(self, frames: Sequence[Frame] | KeptFrames) -> None:
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
                message, arrays = decode([frame.buffer for frame in frames], attempt=self._attempt)
            except WireError as error:
                self.refused.add(f"dropped a message of {self.peer}: {error}")
                continue
            if not isinstance(message, SayHello):
                return message, arrays
            if message.reason:
                self.refused.add(f"{self.peer} does not listen to this process yet: {message.reason}")
            self._asked = True
            self._answer()

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
