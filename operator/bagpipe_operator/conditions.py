"""Conditions of a job: one value each, as in Kubernetes' own API. Transition times move only when the status does."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bagpipe_operator import times

_STATUS = {True: "True", False: "False", None: "Unknown"}
_VALUE: Mapping[str, bool | None] = {"True": True, "False": False, "Unknown": None}
LONGEST_MESSAGE = 1024


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One entry of `status.conditions`."""

    type: str
    status: bool | None
    """None: unknown."""
    reason: str
    message: str
    last_transition_time: dt.datetime
    observed_generation: int = 0
    """Generation of the spec that this was judged by."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Condition":
        """From an entry of `status.conditions`."""
        return cls(
            type=raw["type"],
            status=_VALUE.get(raw["status"]),
            reason=raw["reason"],
            message=raw.get("message", ""),
            last_transition_time=times.parse(raw["lastTransitionTime"]) or times.EPOCH,
            observed_generation=raw.get("observedGeneration", 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """As an entry of `status.conditions`."""
        return {
            "type": self.type,
            "status": _STATUS[self.status],
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": times.text(self.last_transition_time),
            "observedGeneration": self.observed_generation,
        }


def true(kind: str, reason: str, message: str, now: dt.datetime) -> Condition:
    """A condition of type `kind` that is true since `now`."""
    return _made(kind, True, reason, message, now)


def false(kind: str, reason: str, message: str, now: dt.datetime) -> Condition:
    """A condition of type `kind` that is false since `now`."""
    return _made(kind, False, reason, message, now)


def unknown(kind: str, reason: str, message: str, now: dt.datetime) -> Condition:
    """A condition of type `kind` of which nobody knows since `now` whether it is true."""
    return _made(kind, None, reason, message, now)


def _made(kind: str, status: bool | None, reason: str, message: str, now: dt.datetime) -> Condition:
    return Condition(
        type=str(kind),
        status=status,
        reason=str(reason),
        message=message[:LONGEST_MESSAGE],
        last_transition_time=now,
    )


def find(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """The condition of this type; none: there is none."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: tuple[Condition, ...], kind: str) -> bool:
    """Whether the condition of this type is there and true."""
    found = find(conditions, kind)
    return found is not None and found.status is True


def put(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """`conditions` with this one in place of the one of its type, whose time it keeps if its status is the same."""
    old = find(conditions, new.type)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = replace(new, last_transition_time=old.last_transition_time)
    return tuple(new if c.type == new.type else c for c in conditions)
