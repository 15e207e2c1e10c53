"""Progress of a running job, from the records that its oracle logs (one JSON object a line)."""

import json
from collections.abc import Mapping
from typing import Any

_NUMBERS = ("step", "totalSteps", "loss", "examplesPerSecond", "cacheHitRate", "etaSeconds", "lastCheckpoint")


def newest(log: str) -> Mapping[str, Any] | None:
    """The last progress record in a piece of log; none: there is no whole one."""
    found: dict[str, Any] = {}
    for line in log.splitlines():
        if not line.startswith("{"):
            continue
        try:
            record = json.loads(line)
        except ValueError:  # The first line of a piece may be half a line.
            continue
        if isinstance(record, dict):
            found |= {name: _plain(record[name]) for name in _NUMBERS if isinstance(record.get(name), int | float)}
    return found if "step" in found else None


def _plain(value: float) -> float | int:
    """Three decimals: a status that changes in the last digit alone is not worth a write."""
    return value if isinstance(value, int) else round(value, 3)
