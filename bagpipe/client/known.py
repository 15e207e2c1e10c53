"""A job's status as far as this command knows it: what has another type than expected is left out, and named.

The operator that wrote it may be older or newer than this command. Pure.
"""

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
_WORDS: Mapping[type | tuple[type, ...], str] = {
    str: "text",
    int: "a whole number",
    _NUMBER: "a number",
    dict: "a mapping",
}
_FIELDS: Mapping[str, Any] = {
    "phase": str,
    "reason": str,
    "phaseTime": str,
    "startTime": str,
    "attempt": int,
    "restarts": int,
    "disruptions": int,
    "progress": {
        "step": int,
        "totalSteps": int,
        "loss": _NUMBER,
        "examplesPerSecond": _NUMBER,
        "etaSeconds": _NUMBER,
        "lastCheckpoint": int,
    },
    "durations": {None: _NUMBER},
    "lastFailure": {"attempt": int, "time": str, "reason": str, "message": str, "lastWords": str},
    "logs": {"configMap": str, "message": str},
    "summary": dict,
}
"""Type of each field; of a mapping whose keys are names, that of each value under None."""
_CONDITION = {"type": str, "status": str, "reason": str, "message": str, "lastTransitionTime": str}
UNKNOWN = "Unknown"
"""The phase of a job whose phase this command cannot read."""


def known_status(job: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The readable part of a job's status, and a line for each field that is not readable.

    Every condition has a type, a status, and a reason, message and time, which may be empty. A field that is null is
    as one that is missing; one that this command does not know stays as it is.
    """
    odd: list[str] = []
    raw = job.get("status")
    if raw is not None and not isinstance(raw, Mapping):
        return {"phase": UNKNOWN}, [_line("status", "a mapping", raw)]
    status = _mapping(raw or {}, _FIELDS, "status", odd)
    if "phase" not in status and (raw or {}).get("phase") is not None:
        status["phase"] = UNKNOWN
    status["conditions"] = _conditions(status.get("conditions"), odd)
    return {key: value for key, value in status.items() if value != []}, odd


def _mapping(raw: Mapping[str, Any], fields: Mapping[Any, Any], path: str, odd: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in raw.items():
        kind = fields.get(key, fields.get(None))
        wanted = dict if isinstance(kind, Mapping) else kind
        if value is None:
            continue
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            odd.append(_line(f"{path}.{key}", _WORDS[wanted], value))
        else:
            found[key] = _mapping(value, kind, f"{path}.{key}", odd) if isinstance(kind, Mapping) else value
    return found


def _conditions(raw: Any, odd: list[str]) -> list[dict[str, Any]]:
    if raw is not None and not isinstance(raw, list):
        odd.append(_line("status.conditions", "a list", raw))
    found = []
    for index, one in enumerate(raw if isinstance(raw, list) else ()):
        path = f"status.conditions[{index}]"
        read = _mapping(one, _CONDITION, path, odd) if isinstance(one, Mapping) else {}
        if "type" in read and "status" in read:
            found.append({"reason": "", "message": "", "lastTransitionTime": "", **read})
        else:
            odd.append(_line(path, "a condition with type and status", one))
    return found


def _line(path: str, expected: str, found: Any) -> str:
    return f"{path}: expected {expected}, found {str(found)[:60]!r}; is the operator older or newer than this command?"
