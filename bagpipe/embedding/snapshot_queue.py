"""Decides which snapshot is written now, which waits, and what a trainer is told of each. Pure: events in, actions out.

A snapshot is frozen at its step, whatever the disk does; its files are written one snapshot after the other.
While one is written, one more may wait. When a third becomes due, the disk is slower than the checkpoints
follow each other: the one that waits is given up for it, so that memory stays bounded and the newest state
is the one that is kept. The last snapshot of a run is therefore always written.
"""

from dataclasses import dataclass

from bagpipe.net.messages import SnapshotFiles

RESULTS_KEPT = 4
"""Finished snapshots whose files are remembered: trainer 0 may ask for one after the next has begun."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Put the shard's rows of now aside as those of `step`."""

    step: int


@dataclass(frozen=True, slots=True)
class WriteFiles:
    """Begin to write what was frozen for `step`."""

    step: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """What was frozen for `step` is not needed any more."""

    step: int


SnapshotAction = Freeze | WriteFiles | LetGo


class SnapshotQueue:
    """The snapshots of one shard, by step."""

    def __init__(self) -> None:
        self.writing: int | None = None
        self.waiting: int | None = None
        self._results: dict[int, SnapshotFiles] = {}

    def __repr__(self) -> str:
        return f"SnapshotQueue(writing={self.writing}, waiting={self.waiting}, done={sorted(self._results)})"

    def knows(self, step: int) -> bool:
        """Whether this process has taken the snapshot of this step, and can say what became of it."""
        return step in self._results or step in (self.writing, self.waiting)

    def due(self, step: int) -> list[SnapshotAction]:
        """The shard's rows are those of `step` now."""
        if self.writing is None:
            self.writing = step
            return [Freeze(step), WriteFiles(step)]
        given_up, self.waiting = self.waiting, step
        if given_up is None:
            return [Freeze(step)]
        why = f"the disk was still writing that of step {self.writing + 1} when that of step {step + 1} was due"
        self._keep(SnapshotFiles(step=given_up, done=False, lost=True, why_lost=why))
        return [LetGo(given_up), Freeze(step)]

    def finished(self, result: SnapshotFiles) -> list[SnapshotAction]:
        """The snapshot that was being written is on disk, or has failed."""
        self._keep(result)
        self.writing, self.waiting = self.waiting, None
        begin: list[SnapshotAction] = [] if self.writing is None else [WriteFiles(self.writing)]
        return [LetGo(result.step), *begin]

    def status(self, step: int, *, passed: bool, written_bytes: int = 0, total_bytes: int = 0) -> SnapshotFiles:
        """What a trainer that asks for this step is told.

        Args:
            passed: the moment of this step is over, so a snapshot that is not known here never will be.
            written_bytes, total_bytes: of the snapshot that is being written.
        """
        if (result := self._results.get(step)) is not None:
            return result
        if step == self.writing:
            return SnapshotFiles(step=step, done=False, written_bytes=written_bytes, total_bytes=total_bytes)
        if step == self.waiting and self.writing is not None:
            return SnapshotFiles(step=step, done=False, waits_for=self.writing)
        why = "the embedding server was restarted while it wrote it" if passed else ""
        return SnapshotFiles(step=step, done=False, lost=passed, why_lost=why)

    def _keep(self, result: SnapshotFiles) -> None:
        self._results[result.step] = result
        for old in sorted(self._results)[:-RESULTS_KEPT]:
            del self._results[old]
