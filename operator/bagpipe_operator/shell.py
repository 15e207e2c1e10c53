"""The workers: a key from the queue, a decision from `reconcile.desired`, and the writer to carry it out.

An error ends the reconcile of that key alone: the key comes again, after a delay that grows each time. What the API
server refuses is an `ApiError`, whose outcome says what to do; any other exception is a fault of the operator, which is
told in the job's status, counted, and logged with the job's name.
"""

import datetime as dt
import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bagpipe_operator import conditions, names, times
from bagpipe_operator.api import Job
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.decision import Decision
from bagpipe_operator.heads import JobKey
from bagpipe_operator.log_keeper import LogKeeper
from bagpipe_operator.memory import Memories, Memory
from bagpipe_operator.metrics import Metrics
from bagpipe_operator.names import Condition
from bagpipe_operator.podstate import Raw
from bagpipe_operator.reconcile import desired
from bagpipe_operator.settings import Settings
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue
from bagpipe_operator.writer import Writer

log = logging.getLogger(__name__)

_ODD_SECONDS = 2.0
"""A conflict that has made us wait for so long is no longer the usual one with somebody's edit."""


class Shell:
    """Reconciles jobs: several at once, each in one worker at a time."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        queue: WorkQueue[JobKey],
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], dt.datetime] = times.now,
    ) -> None:
        self._cluster, self._store, self._queue = cluster, store, queue
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._writer = Writer(cluster, store, clock)
        self.memories = Memories(store)
        self.logs = LogKeeper(cluster, self._writer, queue, self.memories)

    async def work(self) -> None:
        """Run one worker; never returns."""
        while True:
            key = await self._queue.get()
            self._metrics.queue.set(self._queue.depth)
            start = time.monotonic()
            result = await self._attempt(key)
            self._metrics.reconcile_seconds.labels(result).observe(time.monotonic() - start)

    async def _attempt(self, key: JobKey) -> str:
        """Reconcile once; returns how it went, for the metrics."""
        try:
            await self._reconcile(key)
        except ApiError as error:
            if error.outcome in (Outcome.ABSENT, Outcome.CHANGED):
                await self._look_anew(key)
            return self._put_off(key, error)
        except Exception as error:
            await self._report_fault(key, error)
            self._queue.failed(key)
            return "internal error"
        self._queue.done(key)
        return "ok"

    def _put_off(self, key: JobKey, error: ApiError) -> str:
        delay = self._queue.failed(key, error.retry_after or 0.0)
        if error.outcome is Outcome.CHANGED and delay < _ODD_SECONDS:
            return "conflict"
        log.warning("reconcile failed", extra={"job": "/".join(key), "error": str(error), "again_in": round(delay, 1)})
        return "conflict" if error.outcome is Outcome.CHANGED else "error"

    async def _look_anew(self, key: JobKey) -> None:
        """Our copy of the job is stale: read it, as its watch may be late, and forget it if it is gone."""
        raw = self._store.job(key)
        try:
            found = await self._cluster.find(names.KIND, *key)
        except ApiError as error:
            log.warning("job not read", extra={"job": "/".join(key), "error": str(error)})
            return
        if found is not None:
            self._store.put(found)
        elif raw is not None:
            self._store.forget(names.KIND, *key, raw["metadata"]["uid"])

    async def _report_fault(self, key: JobKey, error: Exception) -> None:
        """Report a fault of the operator: in a metric, in the log, and in the job's status and events."""
        self._metrics.internal_errors.labels(type(error).__name__).inc()
        log.error("internal error", extra={"job": "/".join(key)}, exc_info=error)
        raw = self._store.job(key)
        if raw is None:
            return
        try:
            await self._writer.internal_error(raw, _words(error))
        except Exception as second:
            log.warning("internal error not told", extra={"job": "/".join(key), "error": str(second)})

    async def _reconcile(self, key: JobKey) -> None:
        raw = self._store.job(key)
        if raw is None:
            self.memories.forget(key)
            self._queue.forget(key)
            return
        job = Job.of(raw)
        now = self._clock()
        if job.status.attempt_time is not None and job.status.attempt_time > times.later(now, 1):
            facts = {"job": job.full_name, "ahead": (job.status.attempt_time - now).total_seconds()}
            log.warning("the status is ahead of this machine's clock", extra=facts)
        memory = self.memories.of(job)
        memory.not_ahead(now)
        await self._writer.find_unlabelled(job)
        decision = desired(job, self.memories.observe(job), self._settings, now)
        if decision is None:
            return
        await self._act(job, raw, memory, decision)
        if decision.again_at is not None:
            self._queue.add_after(key, max((decision.again_at - now).total_seconds(), 0.0) + 0.05)

    async def _act(self, job: Job, raw: Raw, memory: Memory, decision: Decision) -> None:
        changed = await self._writer.status(job, raw, memory, decision)
        if changed:
            self._measure(job, decision)
        try:
            await self._write(job, memory, decision)
        finally:
            if changed:
                await self._writer.events(raw, decision.events)
        if decision.keep_logs:
            self.logs.begin(job, decision.keep_logs)
        if decision.delete_job:
            await self._cluster.delete(names.KIND, job.namespace, job.name, job.uid)
        if decision.look_at_nodes and self._settings.watch_nodes:
            await self._look_at(job, memory, decision.look_at_nodes)

    async def _write(self, job: Job, memory: Memory, decision: Decision) -> None:
        before = dict(memory.refused)
        self._writer.forget_unwanted(job, memory, decision)
        if job.deleted_at is not None:
            await self._writer.still_its_own(job, decision)
        failed = await self._writer.delete(job, memory, decision.delete)
        if not failed:
            await self._writer.the_job_is_there(job, decision)
        failed += [] if failed else await self._writer.children(job, memory, decision)
        if memory.refused != before:
            self._queue.add((job.namespace, job.name))  # The decision is another one now.
        if decision.workload_status is not None:
            await self._writer.report_to_kueue(job, decision.workload_status)
        if failed:
            raise max(failed, key=lambda error: error.retry_after or 0.0)

    async def _look_at(self, job: Job, memory: Memory, nodes: frozenset[str]) -> None:
        for name in nodes:
            since = await self._lost_since(name)
            if since is not None:
                memory.lost_nodes[name] = since
        if nodes & memory.lost_nodes.keys():
            self._queue.add((job.namespace, job.name))

    async def _lost_since(self, node: str) -> dt.datetime | None:
        try:
            raw = await self._cluster.get(f"/api/v1/nodes/{node}")
        except ApiError as error:
            if error.outcome is Outcome.ABSENT:
                return self._clock()
            raise
        listed = (raw.get("status") or {}).get("conditions") or ()
        ready = next((c for c in listed if c.get("type") == "Ready"), None)
        if ready is None or ready.get("status") == "True":
            return None
        return times.parse(ready.get("lastTransitionTime"))

    def _measure(self, job: Job, decision: Decision) -> None:
        new = decision.status
        facts = {"job": job.full_name, "phase": new.phase, "reason": new.reason, "attempt": new.attempt}
        log.info("status", extra=facts)
        again = conditions.find(new.conditions, Condition.RESTARTING)
        if new.attempt > job.status.attempt and again is not None and again.status:
            self._metrics.restarts.labels(job.namespace, again.reason).inc()
        if new.finished and not job.status.finished:
            last = next(c for c in new.conditions if c.status and c.type in (Condition.COMPLETE, Condition.FAILED))
            self._metrics.ended.labels(job.namespace, last.type, last.reason).inc()
            for phase, seconds in new.durations.items():
                self._metrics.phase_seconds.labels(phase).observe(seconds)


def _words(error: Exception) -> str:
    """What went wrong and where, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"a fault of the operator, which tries again: {type(error).__name__}: {str(error)[:300]}{where}"
