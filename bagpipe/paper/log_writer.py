"""Writes a trainer's log file: the original's lines, and one of our own for the whole iteration.

Names and lines are read back by `bagpipe.paper.log_format`.
"""

import logging
import time
from datetime import datetime
from pathlib import Path

import torch

from bagpipe.api import BagCache
from bagpipe.errors import StorageError
from bagpipe.paper.log_format import log_name

_AVERAGES = {
    "Next Batch Time": "Average Next Batch time",
    "Forward Time": "Average Forward time",
    "Get Emb Time": "Average Get Emb time",
    "Backward Time": "Average Backward time",
    "Dense Optim Time": "Average Dense Optim time",
    "Sync Now Time": "Average Cache Sync Critial Path time",  # as the original spells it
    "Cache Waiting Time": "Average Cache Waiting time",
    "Sparse Optim Time": "Average Sparse Optim time",
}


class Clock:
    """Times of one iteration in milliseconds, part after part.

    Args:
        device: waited for at each mark; None: the host's clock alone.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self.times: dict[str, float] = {}
        self._begun = self._last = time.perf_counter()

    def start(self) -> None:
        """A new iteration begins."""
        self.times = {}
        self._begun = self._last = self._now()

    def mark(self, part: str) -> None:
        """Count the time since the last mark as `part`."""
        now = self._now()
        self.times[part] = self.times.get(part, 0.0) + (now - self._last) * 1e3
        self._last = now

    @property
    def total(self) -> float:
        """Milliseconds from the start to the last mark."""
        return (self._last - self._begun) * 1e3

    def _now(self) -> float:
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class WorkerLogger:
    """One trainer's log file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = logging.getLogger()
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._total = 0.0

    @classmethod
    def open(cls, folder: Path, rank: int, prefix: str, kind: str, now: datetime) -> "WorkerLogger":
        """Begin a file; it is the process's log from here on.

        Raises:
            StorageError: it cannot be written.
        """
        path = folder / log_name(rank, prefix, kind, now)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            logging.basicConfig(filename=path, filemode="w", encoding="utf-8", level=logging.INFO, force=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another --log-dir") from None
        return cls(path)

    def say(self, line: object) -> None:
        self._log.info("%s", line)

    def begin(self, number: int, cache: BagCache) -> None:
        """Iteration `number` has its batch. The times that are logged here are parts of its `Next Batch Time`."""
        begun, ended, layout = cache.begun, cache.ended, cache.topology.layout
        ahead = begun.plans_ahead if begun is not None else 0
        self.say(f"prefetch queue size {ahead}")
        # Rows are requested as soon as their plan is here, so the two queues are one.
        self.say(f"prefetch_completed_signal queue size {ahead}")
        self.say(f"Iter cleanup {max(number - 1, 0)}")
        self.say(f"Current Iter {number}")
        if begun is not None:
            self._time("Cache Waiting Time", begun.waited * 1e3)
        if ended is None or begun is None:
            return
        dim = layout.groups[0].embedding_dim
        self.say(f"Sync Now Shape {torch.Size([ended.exchanged_now, dim])}")
        self.say(f"Sync Later Shape {torch.Size([ended.exchanged_later, dim])}")
        self._time("Sync Now Time", ended.synced * 1e3)
        self._time("Sparse Optim Time", ended.updated * 1e3)
        if number > 1:
            self._time("Sync Overlap Time", begun.taken_in * 1e3)

    def iteration(self, number: int, loss: float, clock: Clock) -> None:
        """Iteration `number` is done."""
        self.say(f"Loss {loss}")
        times = dict(clock.times)
        # Looking embeddings up is part of the forward pass, as in the original.
        times["Forward Time"] += times["Get Emb Time"]
        for name, milliseconds in times.items():
            self._time(name, milliseconds)
        self._time("Iteration Time", clock.total)
        self._total += clock.total

    def end(self, iterations: int) -> None:
        """Averages and the total, as the original ends its logs."""
        for name, title in _AVERAGES.items():
            if name in self._sums:
                self.say(f"{title}: {self._sums[name] / self._counts[name]}ms")
        self.say(f"Total Time of {iterations} iterations: {self._total}ms")

    def close(self) -> None:
        logging.shutdown()

    def _time(self, name: str, milliseconds: float) -> None:
        self.say(f"{name}: {milliseconds}ms")
        self._sums[name] = self._sums.get(name, 0.0) + milliseconds
        self._counts[name] = self._counts.get(name, 0) + 1
