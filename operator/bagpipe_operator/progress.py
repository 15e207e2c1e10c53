"""Progress of a running job, from the records that its oracle logs (one JSON object a line)."""

from collections.abc import Mapping
from typing import Any

from bagpipe_operator import records

_WHOLE = {"step": "step", "total_steps": "totalSteps"}
_NUMBERS = {"loss": "loss", "examples_per_second": "examplesPerSecond", "cache_hit_rate": "cacheHitRate"}
_LONGEST_ETA = 10**9


def newest(log: str, batch_size: int) -> Mapping[str, Any] | None:
    """The last step record in a piece of log, in the status' words; none: there is no whole one."""
    for line in reversed(log.splitlines()):
        record = _parse(line)
        if record is None or not _is_whole(record.get("step")) or "event" in record:
            continue
        found: dict[str, Any] = {theirs: record[ours] for ours, theirs in _WHOLE.items() if _is_whole(record.get(ours))}
        found |= {theirs: _rounded(record[ours]) for ours, theirs in _NUMBERS.items() if _is_number(record.get(ours))}
        total, speed = found.get("totalSteps"), found.get("examplesPerSecond")
        if total is not None and speed is not None and speed > 0:
            found["etaSeconds"] = round(min(max((total - found["step"]) * batch_size / speed, 0), _LONGEST_ETA))
        return found
    return None


def _parse(line: str) -> Mapping[str, Any] | None:
    """The first line of a piece may be half a line, and others are for people."""
    return records.parse(line) if line.startswith("{") else None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float) -> float | int:
    """Four decimals: more is not worth a write."""
    return value if isinstance(value, int) else round(value, 4)
