"""Status patches, as pure functions of what is there and what should be."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from bagpipe_operator import conditions
from bagpipe_operator.api import Status
from bagpipe_operator.names import Condition, Reason

Raw = Mapping[str, Any]


def merge(old: Raw, new: Raw) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that makes `new` of `old`: what is not in `new` any more is set to null."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            if inner := merge(there, value):
                patch[key] = inner
        elif key not in old or there != value:
            patch[key] = value
    return patch


def status(raw: Raw, new: Status) -> dict[str, Any] | None:
    """Replaces the whole status, and only if the job is still the one that was read; none: it says so already."""
    patch = merge(raw.get("status") or {}, new.to_dict())
    return (
        {"metadata": {"resourceVersion": raw["metadata"].get("resourceVersion", "")}, "status": patch}
        if patch
        else None
    )


def internal_error(raw: Raw, words: str, now: dt.datetime) -> dict[str, Any] | None:
    """Says in the status that the operator itself failed on this job; none: it says so already, or the job has ended.

    Works on the object as it was read, since its status may be what the operator cannot read.
    """
    listed = [c for c in (raw.get("status") or {}).get("conditions") or () if isinstance(c, Mapping)]
    ended = (Condition.FAILED, Condition.COMPLETE)
    if any(c.get("type") in ended and c.get("status") == "True" for c in listed):
        return None
    new = conditions.unknown(Condition.FAILED, Reason.INTERNAL_ERROR, words, now).to_dict()
    new["observedGeneration"] = raw["metadata"].get("generation", 0)
    old = next((c for c in listed if c.get("type") == Condition.FAILED), None)
    if old is not None and (old.get("reason"), old.get("message")) == (new["reason"], new["message"]):
        return None
    kept = [dict(c) for c in listed if c.get("type") != Condition.FAILED]
    meta = {"resourceVersion": raw["metadata"].get("resourceVersion", "")}
    return {"metadata": meta, "status": {"conditions": [*kept, new]}}
