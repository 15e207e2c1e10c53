"""Progress of a running job, from the records that its oracle logs (one JSON object a line)."""

import json
from collections.abc import Mapping
from typing import Any

_FIELDS = {
    "step": "step",
    "total_steps": "totalSteps",
    "loss": "loss",
    "examples_per_second": "examplesPerSecond",
    "cache_hit_rate": "cacheHitRate",
}


def newest(log: str, batch_size: int) -> Mapping[str, Any] | None:
    """The last step record in a piece of log, in the status' words; none: there is no whole one."""
    for line in reversed(log.splitlines()):
        record = _parse(line)
        if record is None or not isinstance(record.get("step"), int) or "event" in record:
            continue
        found = {
            theirs: _plain(record[ours])
            for ours, theirs in _FIELDS.items()
            if isinstance(record.get(ours), int | float)
        }
        total, speed = found.get("totalSteps"), found.get("examplesPerSecond")
        if total is not None and speed:
            found["etaSeconds"] = round((total - found["step"]) * batch_size / speed)
        return found
    return None


def _parse(line: str) -> dict[str, Any] | None:
    """The first line of a piece may be half a line, and others are for people."""
    try:
        record = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _plain(value: float) -> float | int:
    """Four decimals: more is not worth a write."""
    return value if isinstance(value, int) else round(value, 4)
