"""Decides when a shard stores write-backs, answers fetches and takes a snapshot. Pure: events in, actions out.

Each event is a checked request (`requests.py`); the gate answers with the actions that follow from it, in their order.
The process that carries them out may be killed between any two: what must outlive it is stored by actions
(`StoreRows`, `StoreMark`, `StoreDue`), and a new gate begins with what those left (`Gate.resume`).

- Write-backs of one trainer are taken in the order of their steps, each once. One that comes again is acknowledged
  again. One that comes too early is asked for again, together with those before it: a mark says that everything up to
  its step is stored. A write-back is acknowledged when its rows and its mark are stored, not before.
- A snapshot of step c holds every trainer's write-backs up to c and none beyond: from the first write-back that is
  flagged for c, later ones are held until all trainers have written c and the snapshot has begun.
- A fetch is answered once every trainer's mark has reached the step it depends on, and kept until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bagpipe.embedding.requests import FetchRequest, WriteBackRequest

MOST_HELD = 128
"""Steps by which a trainer's write-backs may be ahead of what is stored; clients stop at half of it."""


@dataclass(frozen=True, slots=True)
class StoreDue:
    """Remember that a snapshot of `step` is due; None: it has begun."""

    step: int | None


@dataclass(frozen=True, slots=True)
class StoreRows:
    """Put the write-back's records into the tables."""

    request: WriteBackRequest


@dataclass(frozen=True, slots=True)
class StoreMark:
    """Remember that the write-back of `rank` at `step` is in the tables."""

    rank: int
    step: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell the trainer that everything up to `step` is stored."""

    peer: bytes
    step: int


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Tell the trainer that write-backs beyond step `after` are missing here."""

    peer: bytes
    after: int


@dataclass(frozen=True, slots=True)
class StartSnapshot:
    """The rows are now those of `step`, of all trainers: freeze them."""

    step: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Read the rows that were asked for and send them."""

    request: FetchRequest


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the sender what is wrong with its request, which changed nothing."""

    peer: bytes
    reason: str


Action = StoreDue | StoreRows | StoreMark | Acknowledge | AskAgain | StartSnapshot | Answer | Refuse


class Gate:
    """The order of one shard's requests; `EmbeddingServer` carries the actions out.

    Args:
        marks: last step of each trainer whose write-back is stored.
        due: the step whose snapshot has not begun though it was flagged; None: none.
        most_waiting: fetches of one trainer that may wait at a time.
    """

    def __init__(self, marks: Sequence[int], due: int | None, *, most_waiting: int) -> None:
        self._marks, self._due, self._most_waiting = list(marks), due, most_waiting
        self._taken = list(marks)
        """Last step taken from each trainer by this process, stored or held."""
        self._held: list[WriteBackRequest] = []
        self._waiting: dict[tuple[int, int, int], FetchRequest] = {}
        """By rank, step and group: a fetch that is sent again takes its own place."""

    def __repr__(self) -> str:
        return f"Gate({self._marks}, due={self._due}, held={len(self._held)}, waiting={len(self._waiting)})"

    def resume(self) -> list[Action]:
        """What an earlier process left undone: it may have been killed just before a snapshot began."""
        return self._progress()

    def passed(self, step: int) -> bool:
        """Whether the moment of this step's snapshot is over."""
        return min(self._marks) >= step and self._due != step

    def rows_are_of(self, step: int) -> bool:
        """Whether the rows are those of this step, of all trainers, and of nothing later."""
        return self._due is None and all(mark == step for mark in self._marks)

    def write_back(self, request: WriteBackRequest) -> list[Action]:
        """A trainer's write-back has arrived."""
        rank, step = request.rank, request.step
        if step <= self._taken[rank]:
            return [Acknowledge(request.peer, self._marks[rank])]
        if step > self._taken[rank] + 1:
            return [AskAgain(request.peer, self._marks[rank])]
        if (reason := self._contradiction(request)) is not None:
            return [Refuse(request.peer, reason)]
        self._taken[rank] = step
        return self._take(request)

    def fetch(self, request: FetchRequest) -> list[Action]:
        """A trainer's fetch has arrived."""
        if min(self._marks) >= request.after:
            return [Answer(request)]
        key = (request.rank, request.step, request.rows.group)
        if key not in self._waiting and sum(rank == request.rank for rank, _, _ in self._waiting) >= self._most_waiting:
            return [Refuse(request.peer, f"expected at most {self._most_waiting} fetches of a trainer to wait")]
        self._waiting[key] = request
        return []

    def _contradiction(self, request: WriteBackRequest) -> str | None:
        """Why a write-back that is next in its trainer's order cannot be right."""
        rank, step = request.rank, request.step
        if step - self._marks[rank] > MOST_HELD:
            return f"expected at most {MOST_HELD} write-backs of a trainer to wait, found one more"
        if request.checkpoint and any(mark > step for mark in self._marks):
            return f"step {step} is flagged for a snapshot, but another trainer has gone on without one"
        if self._due is not None and step <= self._due and request.checkpoint != (step == self._due):
            return f"step {step} is flagged otherwise than another trainer's: a snapshot of {self._due} is due"
        return None

    def _take(self, request: WriteBackRequest) -> list[Action]:
        if self._due is not None and request.step > self._due:
            self._held.append(request)
            return []
        actions: list[Action] = []
        if request.checkpoint and self._due is None:
            self._due = request.step
            actions.append(StoreDue(request.step))
        self._marks[request.rank] = request.step
        actions += [
            StoreRows(request),
            StoreMark(request.rank, request.step),
            Acknowledge(request.peer, request.step),
        ]
        return actions + self._progress()

    def _progress(self) -> list[Action]:
        """What the marks allow now: a snapshot that is due, then what was held for it, then fetches."""
        actions: list[Action] = []
        lowest = min(self._marks)
        if self._due is not None and lowest >= self._due:
            actions += [StartSnapshot(self._due), StoreDue(None)]
            self._due = None
            held, self._held = self._held, []
            for request in held:
                actions += self._take(request)
            lowest = min(self._marks)
        ready = [key for key, fetch in self._waiting.items() if fetch.after <= lowest]
        return actions + [Answer(self._waiting.pop(key)) for key in ready]
