"""What the oracle's machine tells the shell to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bagpipe.net.messages import Message, Refused
from bagpipe.oracle.service.ledger import Told, ToldStep


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a peer."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class TurnAway:
    """Refuse a peer that said `Hello`: it may say nothing more."""

    peer: bytes
    refused: Refused


@dataclass(frozen=True, slots=True)
class SendPlan:
    """Send an encoded plan to a trainer."""

    peer: bytes
    frames: Sequence[Any]


@dataclass(frozen=True, slots=True)
class StepFinished:
    """Every trainer has finished a training step: report it."""

    told: ToldStep


@dataclass(frozen=True, slots=True)
class SliceScored:
    """A trainer has scored its slice of a step of the evaluation: keep the logits."""

    told: Told


@dataclass(frozen=True, slots=True)
class NoteLeft:
    """Keep which trainers have nothing left to do, so that a successor of this process does not wait for them."""

    ranks: frozenset[int]


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """A role has given up: end with its reason."""

    refused: Refused


@dataclass(frozen=True, slots=True)
class Ignored:
    """Count a member's message that was ignored; the log names a few of them if there are very many."""

    text: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Write a line into the log."""

    text: str


Action = Send | TurnAway | SendPlan | StepFinished | SliceScored | NoteLeft | EndAttempt | Ignored | Warn
