"""What is watched, and where it goes: every change becomes an entry of the store and a key in the queue.

Nothing is decided here and nothing is written to any object (no finalizer, no annotation), so that a job can be deleted
with the operator gone. No key is queued before every kind has been listed: a child that is not listed yet would
seem to be deleted.
"""

import asyncio
import logging
from collections.abc import Sequence

from bagpipe_operator import gangs, names
from bagpipe_operator.api import RunPolicy
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.podstate import Raw
from bagpipe_operator.settings import Settings
from bagpipe_operator.store import JobKey, Store
from bagpipe_operator.unclaimed import Unclaimed
from bagpipe_operator.watch import Watch
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

_CHILDREN = (
    "Pod",
    "Service",
    "ConfigMap",
    "PersistentVolumeClaim",
    "StatefulSet",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
_KUEUE = ("Workload", "ResourceFlavor", "WorkloadPriorityClass")
_CLUSTER_SCOPED = ("ResourceFlavor", "WorkloadPriorityClass")
_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"


class Intake:
    """Puts what the watches see into the store, and queues the jobs that it concerns."""

    def __init__(self, store: Store, queue: WorkQueue[JobKey], operator_class: str, unclaimed: Unclaimed) -> None:
        self._store, self._queue, self._class, self._unclaimed = store, queue, operator_class, unclaimed
        self._open = False

    def open(self) -> None:
        """Every kind has been listed: from now on keys are queued, and all jobs are looked at."""
        self._open = True
        self.wake()

    def wake(self) -> None:
        """Look at all jobs."""
        if self._open:
            for raw in list(self._store.jobs()):
                self._queue.add((raw["metadata"]["namespace"], raw["metadata"]["name"]))

    def put(self, kind: str, raw: Raw) -> None:
        raw = {**raw, "kind": kind}  # Items of a list lack it.
        if self._ours(raw):
            self._wake(self._store.put(raw))
        else:
            self._unclaimed.see(raw)

    def gone(self, kind: str, raw: Raw) -> None:
        raw = {**raw, "kind": kind}
        if self._ours(raw):
            self._wake(self._store.remove(raw))
        else:
            self._unclaimed.lost(raw)

    def listed(self, kind: str, namespace: str | None, items: Sequence[Raw], version: str | None) -> None:
        if version is None and kind != names.KIND:
            return  # An API server that is just starting may not know Kueue yet: no job stops for that.
        there = set()
        for raw in items:
            meta = raw["metadata"]
            there.add((meta.get("namespace", ""), meta["name"]))
            known = self._store.get(kind, meta.get("namespace", ""), meta["name"])
            if known is None or known["metadata"]["resourceVersion"] != meta["resourceVersion"]:
                self.put(kind, raw)
        for job in self._store.retain(kind, namespace, there, version):
            self._wake(job)
        if kind == names.KIND:
            self._unclaimed.retain(namespace, there)

    def _wake(self, job: JobKey | None) -> None:
        if self._open and job is not None:
            self._queue.add(job)

    def _ours(self, raw: Raw) -> bool:
        """A job of another operator is not kept: it is neither reconciled nor counted nor followed."""
        return raw["kind"] != names.KIND or RunPolicy.for_whom(raw.get("spec")).is_of(self._class)


class Watches:
    """All that one operator watches.

    Args:
        cluster: with a connection for each watch.
        pause: see `Watch`.
    """

    def __init__(self, cluster: Cluster, intake: Intake, settings: Settings, pause: float = 1.0) -> None:
        self._intake = intake
        selectors = {names.KIND: "", **dict.fromkeys(_CHILDREN, _SELECTOR)}
        selectors |= dict.fromkeys(_KUEUE, "") if settings.kueue else {}
        selectors |= {gangs.KNOWN[name].kind: _SELECTOR for name in settings.gang_schedulers}
        self.each = [
            Watch(cluster, kind, namespace, selector, intake, intake.wake, pause)
            for kind, selector in selectors.items()
            for namespace in ((None,) if kind in _CLUSTER_SCOPED or not settings.namespaces else settings.namespaces)
        ]

    async def follow(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self.each:
                tasks.create_task(watch.follow())
            for watch in self.each:
                await watch.listed.wait()
            log.info("synced", extra={"watches": len(self.each)})
            self._intake.open()

    def not_synced(self) -> str:
        """What has not been listed yet, and why; empty: all has."""
        return "; ".join(f"{w.kind}: {w.trouble or 'not listed yet'}" for w in self.each if not w.listed.is_set())

    def blind(self) -> str:
        """Why jobs must not be judged: kinds of which we may not see any more what becomes of them; empty: none."""
        return next((f"{w.kind} cannot be watched: {w.trouble}" for w in self.each if w.refused), "")
