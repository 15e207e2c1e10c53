"""What this process knows of a job beyond the store; losing it costs a request, never an answer."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator.api import Job
from bagpipe_operator.observe import Contested, Key, Known, Observed, Obstacle, Written, observe
from bagpipe_operator.store import JobKey, Store


@dataclass
class Memory:
    """Of one job; the fields are those of `observe.Known`."""

    progress: Mapping[str, Any] | None = None
    lost_nodes: dict[str, dt.datetime] = field(default_factory=dict)
    refused: dict[Key, Obstacle] = field(default_factory=dict)
    failing: dict[Key, dt.datetime] = field(default_factory=dict)
    """Children whose writes go wrong, and since when."""
    warnings: Mapping[str, Obstacle] = field(default_factory=dict)
    logs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By the UID of the job: the next one of its name may come before this is forgotten."""
    written: dict[Key, Written] = field(default_factory=dict)
    contested: dict[Key, Contested] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)
    """UIDs of the children whose fields we own as applied ones (`Cluster.own_fields`)."""


class Memories:
    """Of all jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_job: dict[JobKey, Memory] = {}

    def of(self, key: JobKey) -> Memory:
        """For a reconcile, which forgets the memory of a job that is gone."""
        return self._by_job.setdefault(key, Memory())

    def known(self, key: JobKey) -> Memory | None:
        """For whoever comes back from waiting: none if the job has gone meanwhile."""
        return self._by_job.get(key)

    def forget(self, key: JobKey) -> None:
        self._by_job.pop(key, None)

    def observe(self, job: Job) -> Observed:
        key = (job.namespace, job.name)
        memory = self._by_job.get(key) or Memory()
        children, pods = self._store.children(key)
        known = Known(
            lost_nodes=memory.lost_nodes,
            flavors=self._store.cluster_scoped("ResourceFlavor") if job.queue else {},
            priorities=self._store.cluster_scoped("WorkloadPriorityClass") if job.queue else {},
            progress=memory.progress,
            refused=memory.refused,
            warnings=memory.warnings,
            logs=memory.logs.get(job.uid, {}),
            written=memory.written,
            contested=memory.contested,
        )
        return observe(job.uid, children, pods, known)
