"""Carrying decisions out: reads the store, asks `reconcile.desired`, acts in the order of `Decision`.

The status goes first and only if the job is still the one that was read. A crash at any point leaves
a picture from which the same decision follows again.
"""

import asyncio
import datetime as dt
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator import children, curve, names, progress
from bagpipe_operator.api import Job, format_time
from bagpipe_operator.cluster import ApiError, ApiUnavailable, Cluster, Conflict, Fenced, NotFound, path
from bagpipe_operator.decision import Decision, Event
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.names import Condition, Role
from bagpipe_operator.observe import Observed, Raw, is_deleting, observe
from bagpipe_operator.reconcile import desired
from bagpipe_operator.settings import Settings
from bagpipe_operator.store import JobKey, Store
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

_BASE = frozenset({"ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "Workload"})


@dataclass
class _Memory:
    """What this process knows of a job beyond the store; losing it costs a request, never an answer."""

    progress: Mapping[str, Any] | None = None
    lost_nodes: dict[str, dt.datetime] = field(default_factory=dict)
    applied: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Of each child: digest of what was applied last, digest of what the API server made of it."""


class Shell:
    """Reconciles jobs, one at a time each, several at once."""

    def __init__(
        self, cluster: Cluster, store: Store, queue: WorkQueue[JobKey], settings: Settings, metrics: Metrics
    ) -> None:
        self._cluster, self._store, self._queue = cluster, store, queue
        self._settings, self._metrics = settings, metrics
        self._memory: dict[JobKey, _Memory] = {}

    async def work(self) -> None:
        """One worker, for ever. Errors of the API server mean `later`; those of ours stop the process."""
        while True:
            key = await self._queue.get()
            self._metrics.queue.set(self._queue.depth)
            start, result = time.monotonic(), "ok"
            try:
                await self._reconcile(key)
                self._queue.done(key)
            except Conflict:
                # Seen too early: the watch will bring what is newer. No error, not even a late one.
                result = "conflict"
                self._queue.failed(key)
            except (ApiError, ApiUnavailable, Fenced) as error:
                result = "error"
                delay = self._queue.failed(key)
                log.warning(
                    "reconcile failed", extra={"job": "/".join(key), "error": str(error), "again_in": round(delay, 1)}
                )
            self._metrics.reconcile_seconds.labels(result).observe(time.monotonic() - start)

    async def _reconcile(self, key: JobKey) -> None:
        raw = self._store.job(key)
        if raw is None or is_deleting(raw):
            self._forget(key)
            return
        job = Job.of(raw)
        now = dt.datetime.now(dt.UTC)
        decision = desired(job, self._observe(job, key), self._settings, now)
        if decision is None:
            return
        await self._act(job, raw, decision)
        if decision.again_at is not None:
            self._queue.add_after(key, max((decision.again_at - now).total_seconds(), 0.0) + 0.05)

    def _forget(self, key: JobKey) -> None:
        self._memory.pop(key, None)
        self._queue.forget(key)

    def _observe(self, job: Job, key: JobKey) -> Observed:
        memory = self._memory.setdefault(key, _Memory())
        objects, pods = self._store.children(key)
        seen = observe(job.uid, objects, pods, memory.lost_nodes)
        flavors = self._store.cluster_scoped("ResourceFlavor") if job.queue else {}
        return Observed(
            live=seen.live,
            pods=seen.pods,
            strangers=seen.strangers,
            lost_nodes=seen.lost_nodes,
            flavors=flavors,
            priorities=self._store.cluster_scoped("WorkloadPriorityClass") if job.queue else {},
            progress=memory.progress,
        )

    async def _act(self, job: Job, raw: Raw, decision: Decision) -> None:
        changed = decision.status.to_dict() != (raw.get("status") or {})
        if changed:
            patch = children.status_patch(decision.status, job.resource_version)
            self._store.put(await self._cluster.patch_status(names.KIND, job.namespace, job.name, patch))
            self._measure(job, decision)
        for deletion in decision.delete:
            log.info(
                "delete",
                extra={
                    "job": f"{job.namespace}/{job.name}",
                    "object": f"{deletion.kind}/{deletion.name}",
                    "force": deletion.force,
                },
            )
        await asyncio.gather(
            *(self._cluster.delete(d.kind, job.namespace, d.name, d.uid, force=d.force) for d in decision.delete)
        )
        if decision.create_curve_secret:
            await self._create_secret(job)
        await asyncio.gather(*(self._apply(job, o) for o in decision.apply if o["kind"] in _BASE))
        await asyncio.gather(*(self._apply(job, o) for o in decision.apply if o["kind"] not in _BASE))
        if decision.workload_status is not None:
            await self._report_to_kueue(job, decision.workload_status)
        if changed:
            for event in decision.events:
                await self._post(job, event)
        if decision.delete_job:
            await self._cluster.delete(names.KIND, job.namespace, job.name, job.uid)
        if decision.look_at_nodes and self._settings.watch_nodes:
            await self._look_at(job, decision.look_at_nodes)

    async def _apply(self, job: Job, wanted: Mapping[str, Any]) -> None:
        """Skips what was applied before and still is as the API server then made it.

        It may write a quantity its own way, which then differs from what we say for ever.
        """
        applied = self._memory[job.namespace, job.name].applied
        key = (wanted["kind"], wanted["metadata"]["name"])
        live = self._store.children((job.namespace, job.name))[0]
        current = next((r for r in live if (r["kind"], r["metadata"]["name"]) == key), None)
        digest = _digest(wanted)
        if current is not None and applied.get(key) == (digest, _digest(_substance(current))):
            return
        result = await self._cluster.apply(wanted)
        self._store.put(result)
        applied[key] = (digest, _digest(_substance(result)))
        log.info("apply", extra={"job": f"{job.namespace}/{job.name}", "object": "/".join(key), "new": current is None})

    async def _create_secret(self, job: Job) -> None:
        """Made once; we may create secrets and not read them, so that it exists is learnt by trying."""
        public, secret = curve.keypair()
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": names.curve_secret(job.name),
                "namespace": job.namespace,
                "labels": names.labels(job.name),
                "ownerReferences": [children.owner_reference(job)],
            },
            "immutable": True,
            "stringData": {"public": public, "secret": secret},
        }
        try:
            await self._cluster.create("Secret", job.namespace, body)
        except Conflict:
            return

    async def _report_to_kueue(self, job: Job, status: Mapping[str, Any]) -> None:
        name = names.workload(job.name)
        live = next((r for r in self._store.children((job.namespace, job.name))[0] if r["kind"] == "Workload"), None)
        if live is None:
            return
        body = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "status": dict(status)}
        self._store.put(await self._cluster.patch_status("Workload", job.namespace, name, body))

    async def _look_at(self, job: Job, nodes: frozenset[str]) -> None:
        lost = self._memory[job.namespace, job.name].lost_nodes
        for name in nodes:
            since = await self._lost_since(name)
            if since is not None:
                lost[name] = since
        if nodes & lost.keys():
            self._queue.add((job.namespace, job.name))

    async def _lost_since(self, node: str) -> dt.datetime | None:
        try:
            raw = await self._cluster.get(f"/api/v1/nodes/{node}")
        except NotFound:
            return dt.datetime.now(dt.UTC)
        ready = next((c for c in raw["status"].get("conditions") or () if c["type"] == "Ready"), None)
        if ready is None or ready["status"] == "True":
            return None
        return dt.datetime.fromisoformat(ready["lastTransitionTime"])

    async def _post(self, job: Job, event: Event) -> None:
        now = dt.datetime.now(dt.UTC)
        involved = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{job.name}.", "namespace": job.namespace},
            "involvedObject": involved,
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": names.MANAGER},
            "firstTimestamp": format_time(now),
            "lastTimestamp": format_time(now),
            "count": 1,
        }
        try:
            await self._cluster.create("Event", job.namespace, body)
        except (ApiError, ApiUnavailable) as error:  # News is worth a try, not a retry: the status has it all.
            log.warning("event not posted", extra={"job": f"{job.namespace}/{job.name}", "error": str(error)})

    def _measure(self, job: Job, decision: Decision) -> None:
        new = decision.status
        log.info("status", extra={"job": f"{job.namespace}/{job.name}", "phase": new.phase, "attempt": new.attempt})
        if new.attempt > job.status.attempt and new.is_true(Condition.RESTARTING):
            self._metrics.restarts.labels(job.namespace, str(new.last_failure.get("reason", "Scaled"))).inc()
        if new.finished and not job.status.finished:
            last = next(c for c in new.conditions if c.status and c.type in (Condition.COMPLETE, Condition.FAILED))
            self._metrics.ended.labels(job.namespace, last.type, last.reason).inc()

    async def follow_progress(self) -> None:
        """Reads the last records of every running job's oracle, now and then; the status changes only if they did."""
        while True:
            await asyncio.sleep(self._settings.progress_seconds)
            for raw in list(self._store.jobs()):
                job = Job.of(raw)
                if job.ours and job.status.is_true(Condition.RUNNING):
                    await self._read_progress(job)

    async def _read_progress(self, job: Job) -> None:
        key = (job.namespace, job.name)
        oracle = next(
            (p for p in self._observe(job, key).of_role(Role.ORACLE, job.status.attempt) if p.phase == "Running"), None
        )
        if oracle is None:
            return
        url = path("Pod", job.namespace, oracle.name, "log")
        try:
            text = await self._cluster.text(url, container=names.CONTAINER, tailLines="20", limitBytes="20000")
        except (ApiError, ApiUnavailable):
            return
        found = progress.newest(text, int(job.spec.get("batchSize", 2048)))
        if found is not None and found != self._memory[key].progress:
            self._memory[key].progress = found
            self._queue.add(key)


def _substance(raw: Raw) -> dict[str, Any]:
    """What an apply can change."""
    meta = raw["metadata"]
    return {
        **{k: v for k, v in raw.items() if k not in ("metadata", "status")},
        "labels": meta.get("labels"),
        "uid": meta["uid"],
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()
