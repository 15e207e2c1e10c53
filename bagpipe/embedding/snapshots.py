"""Takes a shard's snapshots as `SnapshotQueue` decides, on threads, and warns of a slow disk. Never blocks."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bagpipe.checkpoint.store import directory_of
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.snapshot import Snapshot
from bagpipe.embedding.snapshot_queue import Freeze, LetGo, SnapshotAction, SnapshotQueue, WriteFiles
from bagpipe.net.messages import SnapshotFiles

log = logging.getLogger(__name__)

SLOW_SECONDS = 10.0
"""A snapshot that takes longer is named in the log: once then, and each time that it has taken twice as long."""


class Snapshots:
    """The snapshots of one shard.

    Args:
        root: directory of the job's checkpoints.
        prefix: names this shard's files within each of them.
    """

    def __init__(
        self, stores: Sequence[RowStore], root: Path, prefix: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stores, self._root, self._prefix, self._clock = stores, root, prefix, clock
        self._queue = SnapshotQueue()
        self._frozen: dict[int, Snapshot] = {}
        self._begun = 0.0
        self._named_at = SLOW_SECONDS

    @property
    def idle(self) -> bool:
        """Whether no snapshot is under way or waits."""
        return not self._frozen

    @property
    def held_bytes(self) -> int:
        """Memory that snapshots under way take beside the shard's rows."""
        return sum(snapshot.held_bytes for snapshot in self._frozen.values())

    def due(self, step: int) -> None:
        """Take a snapshot of the rows as they are now."""
        self._act(self._queue.due(step))

    def due_again(self, step: int) -> None:
        """The rows are still those of this step, and a trainer waits for its snapshot, which a killed process had not
        finished: take it again.
        """
        if not self._queue.knows(step):
            log.info("the snapshot of step %d is taken again: nothing was written since", step + 1)
            self.due(step)

    def before_write(self, group: int, positions: npt.NDArray[np.int64]) -> None:
        """Before every write to the shard: put aside what it changes."""
        for snapshot in self._frozen.values():
            snapshot.before_write(group, positions)

    def poll(self) -> None:
        """Take note of a snapshot that is done, and warn of a slow disk."""
        writing = self._queue.writing
        if writing is None:
            return
        snapshot = self._frozen[writing]
        if snapshot.result is not None:
            if snapshot.result.error:
                log.warning("no checkpoint of step %d: %s", writing + 1, snapshot.result.error)
            self._act(self._queue.finished(snapshot.result))
            return
        seconds = self._clock() - self._begun
        if seconds > self._named_at:
            self._named_at *= 2
            log.warning(
                "the disk of %s is slow: %d of %d MB in %.0f s; training goes on, and the next checkpoint waits",
                snapshot.directory,
                snapshot.written_bytes // 1_000_000,
                snapshot.total_bytes // 1_000_000,
                seconds,
            )

    def status(self, step: int, *, passed: bool) -> SnapshotFiles:
        """What a trainer that asks for the snapshot of this step is told; `passed`: see `SnapshotQueue.status`."""
        self.poll()
        writing = self._frozen.get(step)
        return self._queue.status(
            step,
            passed=passed,
            written_bytes=writing.written_bytes if writing else 0,
            total_bytes=writing.total_bytes if writing else 0,
        )

    def _act(self, actions: Sequence[SnapshotAction]) -> None:
        for action in actions:
            match action:
                case Freeze(step):
                    directory = directory_of(self._root, step + 1)
                    self._frozen[step] = Snapshot(step, self._stores, directory, self._prefix)
                case WriteFiles(step):
                    self._begun, self._named_at = self._clock(), SLOW_SECONDS
                    self._frozen[step].write()
                case LetGo(step):
                    del self._frozen[step]
