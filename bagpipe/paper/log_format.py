"""The trainers' log files: their names, the form of their lines, and the average times that they give.

The format is the original's (`INFO:root:` lines such as `Forward Time: 12.3ms`), so that both logs can be read alike.
Ours has one more line, `Iteration Time`; where it is missing, an iteration is the sum of its parts, or the older `Total
end to end time(ms)`. Pure, except that it reads the file.
"""

import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bagpipe.errors import DataError
from bagpipe.experiment.measure import TORCHREC
from bagpipe.lowlevel.atomic_files import how_to_mend

PARTS = ("Next Batch Time", "Forward Time", "Backward Time", "Dense Optim Time")
"""What an iteration consists of, one after the other."""
INSIDE = {
    "Get Emb Time": "Forward Time",
    "Sync Now Time": "Next Batch Time",
    "Sync Overlap Time": "Next Batch Time",
    "Sparse Optim Time": "Next Batch Time",
    "Cache Waiting Time": "Next Batch Time",
}
"""Times that are contained in a part."""
TOTAL = "Iteration Time"
WARM_UP = 10
"""Iterations not counted: compilation, first fetches. The paper's parser is not public, so this is our choice."""

_ITERATION = re.compile(r"Current Iter:? *(\d+)")
_TIME = re.compile(r"([A-Z][A-Za-z ]+ Time):? *([0-9.eE+-]+) *ms")
_LEGACY = re.compile(r"Total end to end time ?\(ms\):? *([0-9.eE+-]+)")
_LOSS = re.compile(r"\bLoss:? *([-+0-9.eE]+|nan|inf)")


def log_name(rank: int, prefix: str, kind: str, now: datetime) -> str:
    """`training_worker_{rank}_{HH:MM_Month_DD_YYYY}_{prefix}_{kind}.log`."""
    return f"training_worker_{rank}_{now:%H:%M_%B_%d_%Y}_{prefix}_{kind}.log"


@dataclass(slots=True)
class Iteration:
    """One iteration's times in milliseconds, by the name in the log."""

    times: dict[str, float] = field(default_factory=dict)
    loss: float | None = None

    @property
    def total(self) -> float | None:
        """Milliseconds of the whole iteration; None where the log does not give it."""
        if TOTAL in self.times:
            return self.times[TOTAL]
        if all(part in self.times for part in PARTS):
            return sum(self.times[part] for part in PARTS)
        return None


@dataclass(frozen=True, slots=True)
class WorkerLog:
    """What a log file holds."""

    iterations: tuple[Iteration, ...]
    average_ms: float | None = None
    """The average that the log itself states, where it has no iterations (TorchRec's)."""
    stated_iterations: int = 0

    @property
    def losses(self) -> list[float]:
        return [i.loss for i in self.iterations if i.loss is not None]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Average time of an iteration, warm-up left out."""

    mean_ms: float
    deviation_ms: float | None
    """Sample standard deviation; None where only an average is known."""
    iterations: int
    warm_up: int
    parts: dict[str, float]
    """Average milliseconds by name: the parts, and what is inside them."""

    def __str__(self) -> str:
        told = f"Average per iter time: {self.mean_ms:.3f} ms"
        if self.deviation_ms is None:
            return f"{told} over {self.iterations} iterations, as the log states; it has no standard deviation"
        excluded = f"the first {self.warm_up} excluded as warm-up" if self.warm_up else "none excluded as warm-up"
        return f"{told}\nStandard deviation: {self.deviation_ms:.3f} ms\nover {self.iterations} iterations, {excluded}"


def read_log(path: Path) -> WorkerLog:
    """Read a trainer's log, ours, the original's or TorchRec's.

    Raises:
        DataError: it cannot be read, or no iteration's time is in it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        remedy = how_to_mend(error) or "give a trainer's log file"
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    log = parse_lines(lines)
    if log.average_ms is None and not any(i.total is not None for i in log.iterations):
        raise DataError(
            f"{path}: expected a trainer's log with times of iterations ('Current Iter', '{PARTS[0]}'), found none; "
            "did the trainer end before its first iteration?"
        )
    return log


def parse_lines(lines: Iterable[str]) -> WorkerLog:
    """The iterations of a log. A time belongs to the last iteration that was named."""
    iterations: list[Iteration] = []
    legacy: list[float] = []
    stated: tuple[int, float] | None = None
    for line in lines:
        if found := TORCHREC.search(line):
            stated = (int(found["steps"]), float(found["mean"]))
        elif found := _LEGACY.search(line):
            legacy.append(float(found[1]))
        elif "Average" in line or "Total Time of" in line:
            continue
        elif _ITERATION.search(line):
            iterations.append(Iteration())
        elif iterations and (found := _TIME.search(line)):
            iterations[-1].times[found[1].strip()] = float(found[2])
        elif iterations and (found := _LOSS.search(line)):
            iterations[-1].loss = float(found[1])
    if legacy and not any(i.total is not None for i in iterations):
        iterations = [Iteration({TOTAL: ms}) for ms in legacy]
    if stated is not None and not iterations:
        return WorkerLog((), stated[1], stated[0])
    return WorkerLog(tuple(iterations))


def timing(log: WorkerLog, warm_up: int = WARM_UP) -> Breakdown:
    """Average and standard deviation, without the first `warm_up` iterations (at most half of a short log).

    Raises:
        DataError: no iteration has a time.
    """
    if log.average_ms is not None:
        return Breakdown(log.average_ms, None, log.stated_iterations, 0, {})
    timed = [i for i in log.iterations if i.total is not None]
    if not timed:
        raise DataError("no iteration of this log has a time")
    skipped = min(warm_up, len(timed) // 2)
    counted = timed[skipped:]
    totals = [t for i in counted if (t := i.total) is not None]
    deviation = statistics.stdev(totals) if len(totals) > 1 else 0.0
    parts = {}
    for name in (*PARTS, *INSIDE):
        known = [i.times[name] for i in counted if name in i.times and math.isfinite(i.times[name])]
        if known:
            parts[name] = sum(known) / len(counted)
    return Breakdown(statistics.fmean(totals), deviation, len(counted), skipped, parts)
