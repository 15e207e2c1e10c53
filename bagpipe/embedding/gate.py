"""In which order a shard may apply write-backs, answer fetches and take a snapshot. Pure.

Write-backs of one trainer arrive in order; those of different trainers do not. A snapshot of step c
must hold every trainer's write-backs up to c and none beyond: from the first write-back that is
flagged for c, later ones are held until all trainers have written c and the snapshot has begun.
Fetches that depend on write-backs not yet here are parked.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from bagpipe.embedding.watermark import Watermarks

Arrival = Literal["new", "old", "gap"]
WriteBackT = TypeVar("WriteBackT")
FetchT = TypeVar("FetchT")


@dataclass(slots=True)
class Gate(Generic[WriteBackT, FetchT]):
    """Decides; the caller supplies what applying, snapshotting and answering mean."""

    marks: Watermarks
    apply: Callable[[WriteBackT], None]
    snapshot: Callable[[int], None]
    answer: Callable[[FetchT], None]
    held: deque[tuple[int, int, bool, WriteBackT]] = field(default_factory=deque)
    taken: dict[int, int] = field(default_factory=dict)
    """Last step taken from each trainer by this process, applied or held."""
    parked: list[tuple[int, FetchT]] = field(default_factory=list)

    def write_back(self, rank: int, step: int, *, checkpoint: bool, what: WriteBackT) -> Arrival:
        """Take a trainer's next write-back: apply it now, or hold it back until a snapshot has begun.

        Trainers write back every step, in order. A gap means that what lies in it went down with an
        earlier process: taking the later one would pass for having the earlier, which would be lost.
        """
        last = self.taken.get(rank, int(self.marks.steps[rank]))
        if step != last + 1:
            return "old" if step <= last else "gap"
        self.taken[rank] = step
        self._admit(rank, step, checkpoint=checkpoint, what=what)
        return "new"

    def _admit(self, rank: int, step: int, *, checkpoint: bool, what: WriteBackT) -> None:
        due = self.marks.snapshot_due
        if due is not None and step > due:
            self.held.append((rank, step, checkpoint, what))
            return
        if checkpoint:
            self.marks.snapshot_due = step
        self.apply(what)
        self.marks.advance(rank, step)
        self._progress()

    def fetch(self, after: int, what: FetchT) -> None:
        """Answer now, or park until every watermark has reached `after`."""
        if self.marks.reached(after):
            self.answer(what)
        else:
            self.parked.append((after, what))

    def _progress(self) -> None:
        due = self.marks.snapshot_due
        if due is not None and self.marks.reached(due):
            self.snapshot(due)
            self.marks.snapshot_due = None
            held, self.held = self.held, deque()
            for rank, step, checkpoint, what in held:
                self._admit(rank, step, checkpoint=checkpoint, what=what)
        ready = [fetch for after, fetch in self.parked if self.marks.reached(after)]
        if ready:
            self.parked = [(after, fetch) for after, fetch in self.parked if not self.marks.reached(after)]
            for fetch in ready:
                self.answer(fetch)
