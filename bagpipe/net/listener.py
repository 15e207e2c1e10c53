"""The listening end: many peers, one socket. It returns the messages that its `Admission` allows; all others it answers
itself, counts and names in the log.
"""

from collections.abc import Sequence

import zmq

from bagpipe.errors import WireError
from bagpipe.net.admission import Admission, Held, Speaker
from bagpipe.net.contests import Contests
from bagpipe.net.messages import Message, Ping, Refused
from bagpipe.net.socket_end import SocketEnd
from bagpipe.net.waits import milliseconds
from bagpipe.net.wire import Array, Frame, decode, encode

MOST_AT_ONCE = 1000
"""Most messages that one `poll` takes in, so that a flood does not keep the listener's owner from everything else."""
MOST_BYTES_AT_ONCE = 256 << 20
"""A `poll` takes in no more once it has so many bytes: its owner may drop what it has, and must not run out of memory
before.
"""


class Listener(SocketEnd):
    """Many peers, one socket (ROUTER). `peer`, a socket's identity, names one of them for the answer."""

    def __init__(self, socket: "zmq.Socket[bytes]", admission: Admission | None, dead_seconds: float) -> None:
        super().__init__(socket)
        self._admission = admission
        self._contests = Contests(dead_seconds, self._is_there)

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
        num_bytes = 0
        for _ in range(MOST_AT_ONCE):
            if num_bytes >= MOST_BYTES_AT_ONCE:
                break
            try:
                identity, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            peer = identity.bytes
            num_bytes += sum(len(frame) for frame in frames)
            try:
                message, arrays = decode([frame.buffer for frame in frames], attempt=self.admission.attempt)
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
        if isinstance(verdict, Held):
            held, verdict = verdict, self._contests.decide(peer, verdict)
            if verdict is None:
                self.admission.forget(held.holder)
                return self._lets_in(peer, message)
        if verdict is None or isinstance(verdict, Speaker):
            return True
        why = verdict.reason or "it must say Hello first"
        self.refused.add(f"refused a {type(message).__name__} of {self.name_of(peer)}: {why}")
        self.send(peer, verdict)
        return False

    def _is_there(self, peer: bytes) -> bool:
        """Whether a peer's connection is; it is, too, where the peer reads nothing of what waits for it already."""
        return self._sent([peer, *self.encoded(Ping())]) != zmq.EHOSTUNREACH

    def send(self, peer: bytes, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> bool:
        """Send to a peer that has spoken before, floats packed or not; False if it is gone or reads nothing."""
        return self.send_frames(peer, self.encoded(message, arrays, packed=packed))

    def encoded(self, message: Message, arrays: Sequence[Array] = (), *, packed: bool = False) -> list[Frame]:
        """For `send_frames`."""
        return encode(message, arrays, packed=packed, attempt=self.admission.attempt)

    def send_frames(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        self._delay()
        return self._sent([peer, *frames]) == 0

    def _sent(self, frames: Sequence[Frame]) -> int:
        """0, or why the frames were dropped: `EHOSTUNREACH`, the peer is gone; `EAGAIN`, it reads nothing."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return int(error.errno)
        return 0
