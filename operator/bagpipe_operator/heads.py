"""The little that is asked of all jobs at once: where each is in its life."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

JobKey = tuple[str, str]
"""Namespace and name."""
_FINISHED = frozenset({"Complete", "Failed"})


@dataclass(frozen=True, slots=True)
class Head:
    """One job, without its settings and results."""

    namespace: str
    name: str
    uid: str
    phase: str
    since: str
    """Time since when it is in its phase, as the API server writes times; empty: unknown."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """Without a status, a job has been Pending since it was made."""
        meta, status = raw["metadata"], raw.get("status") or {}
        since = status.get("phaseTime") or meta.get("creationTimestamp") or ""
        return cls(meta["namespace"], meta["name"], meta.get("uid", ""), status.get("phase") or "Pending", since)

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.phase in _FINISHED

    @property
    def key(self) -> JobKey:
        """As queues and memories know the job."""
        return self.namespace, self.name
