"""The listening end: many peers, one socket. It returns the messages that its `Admission` allows; all others it answers
itself, counts and names in the log.
"""

from collections.abc import Sequence

import zmq

from bagpipe.errors import WireError
from bagpipe.net.admission import Admission, Speaker
from bagpipe.net.messages import Message, Refused, SayHello
from bagpipe.net.socket_end import SocketEnd
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import Array, Frame, decode, encode

MOST_AT_ONCE = 1000
"""Most messages that one `poll` takes in, so that a flood does not keep the listener's owner from everything else."""


class Listener(SocketEnd):
    """Many peers, one socket (ROUTER). `peer`, a socket's identity, names one of them for the answer."""

    def __init__(self, socket: "zmq.Socket[bytes]", admission: Admission | None) -> None:
        super().__init__(socket)
        self._admission = admission

    def admit(self, admission: Admission) -> None:
        """Admit these peers from now on. Messages that came earlier have waited, and are checked by the same rules."""
        self._admission = admission

    @property
    def admission(self) -> Admission:
        """The peers that are admitted, and what they may send."""
        if self._admission is None:
            raise RuntimeError("a listener was used before it was told whom to admit")
        return self._admission

    @property
    def endpoint(self) -> str:
        """The address it listens on, with the port it got."""
        return str(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def poll(self, timeout_seconds: float) -> list[tuple[bytes, Message, list[Array]]]:
        """Every message that has arrived and is allowed, waiting at most so long for the first one.

        All others are answered (`SayHello`, `Refused`) or dropped here, and counted: no peer can end a role.
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
        speaker = self.admission.speaker(peer)
        return str(speaker) if speaker is not None else "a peer that has not said Hello"

    def admitted(self) -> list[bytes]:
        """Everybody that has said a valid `Hello`."""
        return self.admission.identities()

    def turn_away(self, peer: bytes, refused: Refused) -> None:
        """Refuse a peer for a reason of the listener's owner, and every message of it before its next `Hello`."""
        self.refused.add(f"refused {self.name_of(peer)}: {refused.reason}")
        self.send(peer, refused)
        self.admission.forget(peer)

    def _lets_in(self, peer: bytes, message: Message) -> bool:
        verdict = self.admission.check(peer, message)
        if verdict is None or isinstance(verdict, Speaker):
            for before in self.admission.replaced():
                self.send(before, SayHello())
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
