"""Keeps what one trainer has sent to the others until they confirm it, and what has come in from them. Pure.

A connection that is reset loses what was on its way, and only the sender can send that again. So a message is kept
until its receiver confirms it, and a receiver that gets a message twice drops the second one.

A trainer confirms whole steps: "I need nothing of steps up to `through` any more". One number is the same for every
peer and travels in the header of every message, so confirming costs no message of its own where trainers talk both
ways. A peer that only sends is told in a message of its own every `CONFIRM_STEPS` steps (`due`).
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic, Literal, NamedTuple, TypeVar

Kind = Literal["gradients", "eager", "deferred", "dense", "dense_means", "collective", "store"]

CONFIRM_STEPS = 8
"""After so many steps a peer that we send nothing to is sent a confirmation of its own."""
KEPT_STEPS = 64
"""Most steps whose messages one peer may leave unconfirmed; bounds the memory kept for sending again."""
MOST_HERE = 1 << 14
"""Messages of one peer that may wait until this trainer takes them. They are of a few steps, with a few dozen messages
each; a peer that sends more only fills memory."""
MOST_HERE_BYTES = 256 << 20
"""Bytes of one peer's messages that may wait so in any case; a trainer with much memory allows more."""

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class Label(NamedTuple):
    """What identifies a message among all that a trainer gets in one attempt."""

    step: int
    kind: Kind
    source: int
    bucket: int = 0


class Delivery(Generic[Sent, Received]):
    """One trainer's messages to and from the others.

    Args:
        peers: ranks of the other trainers.
        most_bytes: of one peer's messages that may wait until they are taken.
    """

    def __init__(self, peers: Iterable[int], *, most_bytes: int = MOST_HERE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.through = -1
        """Last step of which this trainer needs nothing any more; every message to a peer says so."""
        self._kept: dict[int, deque[tuple[int, Sent]]] = {peer: deque() for peer in peers}
        self._told = dict.fromkeys(self._kept, self.through)
        """What each peer was last told of `through`."""
        self._heard = dict.fromkeys(self._kept, self.through)
        """Latest step of which each peer has sent anything."""
        self._here: dict[Label, tuple[Received, int]] = {}
        """With its bytes."""
        self._waiting, self._waiting_bytes = Counter[int](), Counter[int]()
        """How many of these each peer has sent, and their bytes."""
        self._taken: set[Label] = set()
        """Taken by `take`, of steps beyond `through`: a second delivery of these is dropped too."""

    def __repr__(self) -> str:
        kept = {peer: len(messages) for peer, messages in self._kept.items()}
        return f"Delivery(through={self.through}, here={len(self._here)}, {kept=})"

    # ── to the others ─────────────────────────────────────────────────────────────────────────────

    def sent(self, peer: int, step: int, message: Sent) -> None:
        """A message that says `through` was handed to the network; it is kept until `peer` confirms `step`."""
        self._kept[peer].append((step, message))
        self._told[peer] = self.through

    def told(self, peer: int) -> None:
        """`peer` was sent `through` in a message of its own."""
        self._told[peer] = self.through

    def kept(self, peer: int) -> list[Sent]:
        """What `peer` has not confirmed, in the order in which it was sent: all of it goes again after a reconnect."""
        return [message for _, message in self._kept[peer]]

    def room(self, peer: int, step: int) -> bool:
        """Whether a message of `step` may be sent to `peer`; else it is too many steps behind with confirming."""
        kept = self._kept[peer]
        return not kept or step - kept[0][0] < KEPT_STEPS

    def unconfirmed(self) -> list[int]:
        """Peers that have not confirmed everything."""
        return [peer for peer, kept in self._kept.items() if kept]

    def confirmed(self, peer: int, through: int) -> None:
        """`peer` said that it needs nothing of steps up to `through` any more."""
        kept = self._kept[peer]
        while kept and kept[0][0] <= through:
            kept.popleft()

    # ── from the others ───────────────────────────────────────────────────────────────────────────

    def arrived(self, label: Label, arrays: Received, num_bytes: int = 0) -> bool:
        """Take in a message of so many bytes; False if it was here before and is dropped."""
        self._heard[label.source] = max(self._heard[label.source], label.step)
        if label.step <= self.through or label in self._taken or label in self._here:
            return False
        self._waiting[label.source] += 1
        self._waiting_bytes[label.source] += num_bytes
        self._here[label] = arrays, num_bytes
        return True

    def full(self, peer: int, num_bytes: int = 0) -> str:
        """Why no message of so many bytes is taken in of a peer that has as much waiting here; empty: it is."""
        if self._waiting[peer] >= MOST_HERE:
            return f"{MOST_HERE} others of it wait already"
        waiting = self._waiting_bytes[peer]
        # One alone is always taken in: it may be the one that is awaited, and is bounded by itself.
        if waiting and waiting + num_bytes > self.most_bytes:
            return f"{waiting} bytes of it wait already, and with {num_bytes} more it would be over {self.most_bytes}"
        return ""

    def has(self, label: Label) -> bool:
        """Whether `take` has it."""
        return label in self._here

    def take(self, label: Label) -> Received:
        """Hand out a message that is here; a message is taken once."""
        self._taken.add(label)
        arrays, num_bytes = self._here.pop(label)
        self._waiting[label.source] -= 1
        self._waiting_bytes[label.source] -= num_bytes
        return arrays

    def done(self, through: int) -> None:
        """Nothing of steps up to `through` is needed any more."""
        if through > self.through:
            self.through = through
            self._taken = {label for label in self._taken if label.step > through}
            self._here = {label: message for label, message in self._here.items() if label.step > through}
            self._waiting, self._waiting_bytes = Counter[int](), Counter[int]()
            for label, (_, num_bytes) in self._here.items():
                self._waiting[label.source] += 1
                self._waiting_bytes[label.source] += num_bytes

    def due(self, *, every: int = CONFIRM_STEPS) -> list[int]:
        """Peers that sent messages which no message to them has confirmed for `every` steps."""
        return [
            peer for peer, told in self._told.items() if min(self._heard[peer], self.through) - told >= max(every, 1)
        ]
