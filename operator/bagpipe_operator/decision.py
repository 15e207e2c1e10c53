"""What a reconcile may decide: values only. `shell.py` carries them out in the order written here."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bagpipe_operator.api import Status
from bagpipe_operator.podstate import Pod


class Count(StrEnum):
    """Which counter a restart moves."""

    FAILURE = "failure"
    DISRUPTION = "disruption"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Fail:
    """The job ends."""

    reason: str
    message: str
    cause: Pod | None = None


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A new attempt from the last checkpoint."""

    reason: str
    message: str
    count: Count
    cause: Pod | None = None
    crashes: int = 0
    """Failures in the ending attempt besides this one (processes replaced in place): they count too."""


@dataclass(frozen=True, kw_only=True)
class Complete:
    """The job is done."""

    message: str


Verdict = Fail | Restart | Complete | None


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """One object to delete; the UID is a precondition, so that a newer one of the name is safe."""

    kind: str
    name: str
    uid: str
    force: bool = False
    """Without waiting for its node's word: only where the node is lost."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event to post once the status is written."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Status first, as it is the record that makes the rest repeatable; then deletions, then objects, then events."""

    status: Status
    delete: tuple[Deletion, ...] = ()
    apply: tuple[Mapping[str, Any], ...] = ()
    create_job_secret: bool = False
    workload_status: Mapping[str, Any] | None = None
    """Status patch of Kueue's Workload."""
    events: tuple[Event, ...] = ()
    delete_job: bool = False
    keep_logs: tuple[Pod, ...] = ()
    """Pods whose last lines are to be kept; what is decided once they are, or cannot be, ends these pods."""
    look_at_nodes: frozenset[str] = frozenset()
    """Nodes whose state decides what to do next; none of them was known to be lost."""
    again_at: dt.datetime | None = None
    """When to look again although nothing may have happened."""
