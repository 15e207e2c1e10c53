"""Conditions: setting and finding them. The transition time moves only when the status does."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One entry of `status.conditions`, as in Kubernetes' own API."""

    type: str
    status: bool
    reason: str
    message: str
    last_transition_time: dt.datetime

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Condition":
        return cls(
            type=raw["type"],
            status=raw["status"] == "True",
            reason=raw["reason"],
            message=raw.get("message", ""),
            last_transition_time=dt.datetime.fromisoformat(raw["lastTransitionTime"]),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "status": "True" if self.status else "False",
            "reason": self.reason,
            "message": self.message[:1024],
            "lastTransitionTime": self.last_transition_time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def find(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: tuple[Condition, ...], kind: str) -> bool:
    found = find(conditions, kind)
    return found is not None and found.status


def put(
    conditions: tuple[Condition, ...],
    kind: str,
    value: bool,
    reason: str,
    message: str,
    now: dt.datetime,
    *,
    always: bool = False,
) -> tuple[Condition, ...]:
    """`conditions` with this one set. One that was never true is written as false only on demand."""
    old = find(conditions, kind)
    if old is None:
        if not value and not always:
            return conditions
        return (
            *conditions,
            Condition(
                type=str(kind), status=value, reason=str(reason), message=message[:1024], last_transition_time=now
            ),
        )
    when = old.last_transition_time if old.status == value else now
    new = replace(old, status=value, reason=str(reason), message=message[:1024], last_transition_time=when)
    return tuple(new if c.type == kind else c for c in conditions)
