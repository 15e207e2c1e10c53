"""Computes the time of an iteration from a run's records.

A record comes when the slowest trainer has finished a step, so the time between two records is what the whole
job needs for a step. The first steps fill caches and buffers; they are left out, and the table says how many.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bagpipe.errors import DataError

TORCHREC = re.compile(r"total of (?P<steps>\d+) iterations, torchrec takes on average (?P<mean>[0-9.]+) ?ms")
"""The line with which the TorchRec baseline's log ends."""
_DEVIATION = re.compile(r"[Ss]tandard deviation:? (?P<deviation>[\d.]+) ?ms")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of an iteration, in milliseconds."""

    mean_ms: float
    deviation_ms: float | None
    """Sample standard deviation over the records; None: not known."""
    median_ms: float | None
    steps: int
    """How many were measured."""
    skipped: int
    """How many were left out at the beginning."""
    hit_rate: float | None = None
    loss: float | None = None
    """Of the last step."""


@dataclass(frozen=True, slots=True)
class _Record:
    time: float
    step: int
    hit_rate: float | None
    loss: float | None


def timing(lines: Iterable[str], *, skip: int) -> Timing:
    """Read the oracle's records (`metrics.jsonl`, or its log on a cluster: other lines are ignored).

    Args:
        skip: steps at the beginning that do not count.

    Raises:
        DataError: fewer than two records after them.
    """
    records = list(_records(lines))
    # A restarted attempt goes back: what lies between its last record and the first one again is no iteration.
    pairs = [
        ((later.time - earlier.time) * 1000.0, later.step - earlier.step)
        for earlier, later in itertools.pairwise(records)
        if earlier.step >= skip and later.step > earlier.step
    ]
    if not pairs:
        last = records[-1].step if records else 0
        raise DataError(f"expected records of at least two steps after step {skip}, found {last} steps; train more")
    steps = sum(count for _, count in pairs)
    mean = sum(ms for ms, _ in pairs) / steps
    each = sorted(ms / count for ms, count in pairs)
    return Timing(
        mean_ms=mean,
        deviation_ms=_deviation(each),
        median_ms=each[len(each) // 2],
        steps=steps,
        skipped=skip,
        hit_rate=records[-1].hit_rate,
        loss=records[-1].loss,
    )


def torchrec_timing(text: str) -> Timing:
    """Read the end of a log of the TorchRec baseline.

    Raises:
        DataError: it does not end with the time of an iteration.
    """
    ends = list(TORCHREC.finditer(text))
    if not ends:
        raise DataError('expected a line "For a total of N iterations, torchrec takes on average X ms", found none')
    found = ends[-1]
    deviation = _DEVIATION.search(text, found.end())
    return Timing(
        mean_ms=float(found["mean"]),
        deviation_ms=float(deviation["deviation"]) if deviation else None,
        median_ms=None,
        steps=int(found["steps"]),
        skipped=0,
    )


def _records(lines: Iterable[str]) -> Iterator[_Record]:
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a killed process
            continue
        if isinstance(record.get("step"), int) and isinstance(record.get("time"), int | float):
            yield _Record(record["time"], record["step"], record.get("cache_hit_rate"), record.get("loss"))


def _deviation(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
