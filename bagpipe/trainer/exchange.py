"""What trainers tell each other in a step: row gradients to owners, new rows to next users, dense gradients to all.

Both ends know from the plan who sends what and how much of it, so there is no size exchange and no
acknowledgement: a message is awaited exactly where the plan lists rows for it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

from bagpipe.batch import Floats
from bagpipe.errors import PeerLost
from bagpipe.net.messages import Exchange
from bagpipe.net.sockets import Connection, Listener
from bagpipe.net.wire import Frame, encode

Kind = Literal["gradients", "eager", "deferred", "dense", "dense_means"]


class PeerExchange:
    """One trainer's sockets to the others. Used by one thread.

    Args:
        connections: to each rank's listener; own place None.
        packed: whether floats are worth packing at present.
    """

    def __init__(
        self,
        listener: Listener,
        connections: Sequence[Connection | None],
        *,
        rank: int,
        attempt: int,
        deadline_seconds: float,
        packed: Callable[[], bool],
    ) -> None:
        self._listener, self._connections = listener, connections
        self._rank, self._attempt, self._deadline = rank, attempt, deadline_seconds
        self._packed = packed
        self._arrived: dict[tuple[int, Kind, int, int], list[Floats]] = {}

    def send(
        self, peer: int, step: int, kind: Kind, arrays: Sequence[Floats], bucket: int = 0, *, copied: bool = False
    ) -> None:
        """Hand arrays to the network; returns at once. They must not change afterwards unless they are `copied`."""
        connection = self._connections[peer]
        assert connection is not None
        connection.send_frames(self._encoded(step, kind, arrays, bucket), copied=copied)

    def send_to_all(self, step: int, kind: Kind, arrays: Sequence[Floats], bucket: int = 0) -> None:
        """The same to every other trainer, packed once."""
        frames = self._encoded(step, kind, arrays, bucket)
        for connection in self._connections:
            if connection is not None:
                connection.send_frames(frames)

    def receive(self, peer: int, step: int, kind: Kind, bucket: int = 0) -> list[Floats]:
        """The arrays that `peer` sent for this step.

        Raises:
            PeerLost: nothing came within the deadline, or the connection to the peer is gone.
        """
        key = (step, kind, peer, bucket)
        limit = time.monotonic() + self._deadline
        self._poll(0.0)
        while key not in self._arrived:
            self._poll(0.2)
            connection = self._connections[peer]
            lost = connection is not None and connection.lost
            if key not in self._arrived and (lost or time.monotonic() > limit):
                why = "its connection is gone" if lost else f"nothing came for {self._deadline:g} s"
                raise PeerLost(f"trainer {self._rank}: waited for {kind} of trainer {peer} at step {step}; {why}")
        return self._arrived.pop(key)

    def arrived(self, peer: int, step: int, kind: Kind, bucket: int = 0) -> bool:
        """Whether `receive` would return at once."""
        self._poll(0.0)
        return (step, kind, peer, bucket) in self._arrived

    def _encoded(self, step: int, kind: Kind, arrays: Sequence[Floats], bucket: int) -> list[Frame]:
        message = Exchange(attempt=self._attempt, step=step, source=self._rank, kind=kind, bucket=bucket)
        return encode(message, arrays, packed=self._packed())

    def _poll(self, timeout_seconds: float) -> None:
        for _, message, arrays in self._listener.poll(timeout_seconds):
            if isinstance(message, Exchange) and message.attempt == self._attempt:
                self._arrived[message.step, message.kind, message.source, message.bucket] = arrays
