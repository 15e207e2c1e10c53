"""Messages between trainers in a step: row gradients to owners, new rows to next users, dense gradients to all.

Both ends know from the plan who sends what and how much of it, so sizes are not exchanged: a message is awaited exactly
where the plan lists rows for it. What has not been confirmed is kept and sent again after a reconnect; `delivery.py`
decides which messages these are, and which are dropped because they came twice.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from bagpipe.errors import PeerLost
from bagpipe.net.array_forms import Form, difference
from bagpipe.net.connection import Connection, KeptFrames, keep_frames
from bagpipe.net.listener import Listener
from bagpipe.net.messages import Confirmed, Exchange, Refused
from bagpipe.net.wire import Array, encode
from bagpipe.trainer.delivery import MOST_HERE_BYTES, Delivery, Kind, Label

LOOK_SECONDS = 0.2
"""A trainer that waits or sends looks after its connections at this interval."""
LEAVE_SECONDS = 5.0
"""A trainer that leaves waits at most so long for the others to confirm its last messages."""


class PeerExchange:
    """One trainer's sockets to the others. Used by one thread.

    Args:
        connections: to each rank's listener; own place None.
        packed: whether floats are worth packing at present.
        most_bytes: of one peer's messages that may wait here until they are taken; what comes beyond is dropped.
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
        most_bytes: int = MOST_HERE_BYTES,
    ) -> None:
        self._listener = listener
        self._peers = {peer: c for peer, c in enumerate(connections) if c is not None}
        self._rank, self._attempt, self.deadline_seconds = rank, attempt, deadline_seconds
        self._packed = packed
        self._delivery: Delivery[KeptFrames, list[Array]] = Delivery(self._peers, most_bytes=most_bytes)
        self._news: list[Label] = []
        self._look_around: Callable[[], None] = self.look_after
        self._looked = time.monotonic()
        self.sent_again = 0
        """Messages that went a second time, after a reconnect."""

    def __repr__(self) -> str:
        return f"PeerExchange(rank={self._rank}, {self._delivery!r}, sent_again={self.sent_again})"

    # ── send ──────────────────────────────────────────────────────────────────────────────────────

    def send(
        self, peer: int, step: int, kind: Kind, arrays: Sequence[Array], bucket: int = 0, *, copied: bool = False
    ) -> None:
        """Hand arrays to the network; they must not change afterwards unless they are `copied`.

        Returns at once, unless the peer has confirmed nothing for `KEPT_STEPS` steps.

        Raises:
            PeerLost: the peer did not confirm earlier steps within the deadline.
        """
        self._send([peer], step, self._encoded(step, kind, arrays, bucket, copied=copied))

    def send_to_all(self, step: int, kind: Kind, arrays: Sequence[Array], bucket: int = 0) -> None:
        """Hand the same arrays to the network for every other trainer, encoded once; as `send`."""
        self._send(list(self._peers), step, self._encoded(step, kind, arrays, bucket, copied=False))

    def _encoded(self, step: int, kind: Kind, arrays: Sequence[Array], bucket: int, *, copied: bool) -> KeptFrames:
        message = Exchange(
            attempt=self._attempt,
            step=step,
            source=self._rank,
            kind=kind,
            bucket=bucket,
            through=self._delivery.through,
        )
        frames = encode(message, arrays, packed=self._packed(), attempt=self._attempt)
        return keep_frames(frames, copied=copied)

    def _send(self, peers: Sequence[int], step: int, frames: KeptFrames) -> None:
        for peer in peers:
            if not self._delivery.room(peer, step):
                self._wait(partial(self._delivery.room, peer, step), peer, "confirmation of messages", step)
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self.look_after()
            self._peers[peer].send_frames(frames)
            self._delivery.sent(peer, step, frames)

    # ── receive ───────────────────────────────────────────────────────────────────────────────────

    def receive(self, peer: int, step: int, kind: Kind, expected: Sequence[Form], bucket: int = 0) -> list[Array]:
        """The arrays that `peer` sent for this step.

        Args:
            expected: their types and shapes, as the receiver knows them from its plan or its model.

        Raises:
            PeerLost: nothing came within the deadline, the connection to the peer is gone, or it sent other arrays.
        """
        label = Label(step, kind, peer, bucket)
        self._poll(0.0)
        if not self._delivery.has(label):
            self._wait(partial(self._delivery.has, label), peer, kind, step)
        arrays = self._delivery.take(label)
        if why := difference(arrays, expected):
            raise PeerLost(
                f"trainer {self._rank}: trainer {peer} sent a message ({kind}) of step {step} with other arrays than "
                f"follow from the job: {why}; does it run the same model and code?"
            )
        return arrays

    def arrived(self, peer: int, step: int, kind: Kind, bucket: int = 0) -> bool:
        """Whether `receive` would return at once."""
        self._poll(0.0)
        return self._delivery.has(Label(step, kind, peer, bucket))

    def wait_for(self, peer: int, step: int, kind: Kind) -> None:
        """Wait until `receive` returns at once; it raises what `receive` does."""
        label = Label(step, kind, peer)
        self._wait(partial(self._delivery.has, label), peer, kind, step)

    def wait_until(self, ready: Callable[[], bool], what: str, step: int) -> None:
        """Wait for something that any of the others may say.

        Raises:
            PeerLost: it was not said within the deadline, or a connection is gone.
        """
        limit = time.monotonic() + self.deadline_seconds
        while not ready():
            self._poll(LOOK_SECONDS)
            self._look_around()
            lost = [peer for peer, connection in self._peers.items() if connection.lost]
            if lost or time.monotonic() > limit:
                why = f"trainer {lost[0]} is gone" if lost else f"nothing came for {self.deadline_seconds:g} s"
                raise PeerLost(f"trainer {self._rank}: waited for {what} at step {step}; {why}")

    def news(self) -> list[Label]:
        """Messages that have arrived since the last call, whether or not `receive` has returned them."""
        self._poll(0.0)
        news, self._news = self._news, []
        return news

    def while_waiting(self, look_around: Callable[[], None]) -> None:
        """Call this now and then in every wait, instead of `look_after` alone, which it must call."""
        self._look_around = look_around

    def _wait(self, ready: Callable[[], bool], peer: int, what: str, step: int) -> None:
        limit = time.monotonic() + self.deadline_seconds
        while not ready():
            self._poll(LOOK_SECONDS)
            if ready():
                return
            self._look_around()
            lost = self._peers[peer].lost
            if lost or time.monotonic() > limit:
                why = "its connection is gone" if lost else f"nothing came for {self.deadline_seconds:g} s"
                raise PeerLost(f"trainer {self._rank}: waited for {what} of trainer {peer} at step {step}; {why}")

    def _poll(self, timeout_seconds: float) -> None:
        for _, message, arrays in self._listener.poll(timeout_seconds):
            if not isinstance(message, Exchange | Confirmed):
                continue
            if message.attempt == self._attempt and message.source in self._peers:
                self._delivery.confirmed(message.source, message.through)
                if isinstance(message, Exchange):
                    self._take_in(Label(message.step, message.kind, message.source, message.bucket), arrays)
            else:
                self._listener.refused.add(
                    f"dropped a message of trainer {message.source} in attempt {message.attempt}: this is trainer "
                    f"{self._rank} in attempt {self._attempt}"
                )

    def _take_in(self, label: Label, arrays: list[Array]) -> None:
        num_bytes = sum(array.nbytes for array in arrays)
        if full := self._delivery.full(label.source, num_bytes):
            self._listener.refused.add(
                f"dropped a message ({label.kind}) of step {label.step} of trainer {label.source}: {full}, and "
                f"everything up to step {self._delivery.through} was taken"
            )
        elif self._delivery.arrived(label, arrays, num_bytes):
            self._news.append(label)

    # ── confirm, and send again ───────────────────────────────────────────────────────────────────

    def done(self, through: int) -> None:
        """This trainer has everything of steps up to `through`: the others may forget what they sent for them."""
        self._delivery.done(through)

    def look_after(self) -> None:
        """Take in what has come, send again what a reset may have lost, confirm where no message does. Never waits.

        Every wait calls it now and then: what a peer misses may be what it waits for.

        Raises:
            PeerLost: a peer does not listen to this trainer, and says why.
        """
        self._looked = time.monotonic()
        self._poll(0.0)
        for peer, connection in self._peers.items():
            # Answers to our Hello. Where the peer asks for it, which is answered there, messages were lost.
            while (received := connection.try_receive()) is not None:
                if isinstance(received[0], Refused):
                    raise PeerLost(f"trainer {self._rank}: trainer {peer} refused: {received[0].reason}")
            if connection.reconnected():
                again = self._delivery.kept(peer)
                for frames in again:
                    connection.send_frames(frames)
                self.sent_again += len(again)
                self._confirm(peer)
        for peer in self._delivery.due():
            self._confirm(peer)

    def leave(self, last_step: int) -> None:
        """Everything up to `last_step` is here; stay for up to `LEAVE_SECONDS` until the others have everything too.

        A peer that has not confirmed by then is not waited for: if it still misses something, it reports that itself.
        """
        self.done(last_step)
        for peer in self._delivery.due(every=1):
            self._confirm(peer)
        limit = time.monotonic() + min(LEAVE_SECONDS, self.deadline_seconds)
        while time.monotonic() < limit and any(not self._peers[p].lost for p in self._delivery.unconfirmed()):
            self._poll(LOOK_SECONDS / 4)
            self.look_after()

    def _confirm(self, peer: int) -> None:
        message = Confirmed(attempt=self._attempt, source=self._rank, through=self._delivery.through)
        self._peers[peer].send(message)
        self._delivery.told(peer)
