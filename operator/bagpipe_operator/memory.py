"""What this process knows of a job beyond the store; losing it costs a request, never an answer."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bagpipe_operator.api import Job
from bagpipe_operator.heads import JobKey
from bagpipe_operator.observe import Contested, Key, Known, Observed, Obstacle, Written, observe
from bagpipe_operator.store import Store


@dataclass
class Memory:
    """What is remembered of one job; fields without a word here are explained in `observe.Known`."""

    uid: str = ""
    """UID of the job: what is known of one job says nothing about the next one of its name."""
    progress: Mapping[str, Any] | None = None
    lost_nodes: dict[str, dt.datetime] = field(default_factory=dict)
    refused: dict[Key, Obstacle] = field(default_factory=dict)
    failing: dict[Key, dt.datetime] = field(default_factory=dict)
    """Children whose writes go wrong, and since when."""
    warnings: Mapping[str, Obstacle] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    written: dict[Key, Written] = field(default_factory=dict)
    contested: dict[Key, Contested] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)
    """UIDs of the children whose fields we own as applied ones (`Cluster.own_fields`)."""

    status_refused: dt.datetime | None = None
    """Since when the API server takes no status of this job, or when that is to be told again."""

    def not_ahead(self, now: dt.datetime) -> None:
        """After the clock was set back, what was remembered of the future counts as having happened just now."""
        self.failing = {key: min(when, now) for key, when in self.failing.items()}
        self.lost_nodes = {node: min(when, now) for node, when in self.lost_nodes.items()}
        for key, found in self.contested.items():
            if found.last > now:
                self.contested[key] = replace(found, last=now)


class Memories:
    """The memories of all jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_job: dict[JobKey, Memory] = {}

    def of(self, job: Job) -> Memory:
        """The memory of a job that is reconciled; a new one if there is none, or if another job had this name."""
        key = (job.namespace, job.name)
        if (known := self._by_job.get(key)) is None or known.uid != job.uid:
            known = self._by_job[key] = Memory(uid=job.uid)
        return known

    def known(self, key: JobKey, uid: str) -> Memory | None:
        """The memory of the job with this UID; none if it has gone, as it may have while a request was waited for."""
        found = self._by_job.get(key)
        return found if found is not None and found.uid == uid else None

    def forget(self, key: JobKey) -> None:
        """The job is gone."""
        self._by_job.pop(key, None)

    def observe(self, job: Job) -> Observed:
        """The job's children as the store has them, with what is remembered of the job."""
        key = (job.namespace, job.name)
        memory = self.known(key, job.uid) or Memory()
        children, pods = self._store.children(key)
        known = Known(
            lost_nodes=memory.lost_nodes,
            flavors=self._store.cluster_scoped("ResourceFlavor") if job.queue else {},
            priorities=self._store.cluster_scoped("WorkloadPriorityClass") if job.queue else {},
            progress=memory.progress,
            refused=memory.refused,
            warnings=memory.warnings,
            logs=memory.logs,
            written=memory.written,
            contested=memory.contested,
        )
        return observe(job.uid, children, pods, known, self._store.ended(key))
