"""What is read now and then beside the watches: progress, in the logs of running jobs' oracles, and warnings about jobs
that do not start, in the events of their namespaces.

A job may go away during any request, so its memory is asked for again after each; and an error about one
job is logged and passed over.
"""

import asyncio
import logging

from bagpipe_operator import defaults, names, progress, warned
from bagpipe_operator.api import Job
from bagpipe_operator.api_error import ApiError
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.heads import Head, JobKey
from bagpipe_operator.memory import Memories
from bagpipe_operator.names import Condition, Role
from bagpipe_operator.podstate import Raw
from bagpipe_operator.store import Store
from bagpipe_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)


class ProgressReader:
    """Reads the last records of every running job's oracle; a job is reconciled only if they changed."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[JobKey], memories: Memories) -> None:
        self._cluster, self._store, self._queue, self._memories = cluster, store, queue, memories

    async def follow(self, seconds: float) -> None:
        """Read every `seconds`, several jobs at once, so that a slow log delays no other job; never returns."""
        reading: set[JobKey] = set()
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(key: JobKey) -> None:
            try:
                async with free:
                    if (raw := self._store.job(key)) is not None:
                        await self.read(raw)
            finally:
                reading.discard(key)

        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(seconds)
                for head in self._store.heads():
                    if head.key not in reading and head.phase == "Running":
                        reading.add(head.key)
                        tasks.create_task(one(head.key))

    async def read(self, raw: Raw) -> None:
        """Read the progress of one job, if it runs."""
        try:
            await self._read(Job.of(raw))
        except ApiError as error:  # A pod that has just gone, or a node that is not reached: next time.
            log.debug("progress not read", extra={"job": raw["metadata"]["name"], "error": str(error)})
        except Exception:
            facts = {"job": f"{raw['metadata'].get('namespace')}/{raw['metadata'].get('name')}"}
            log.exception("progress not read", extra=facts)

    async def _read(self, job: Job) -> None:
        if not job.status.is_true(Condition.RUNNING):
            return
        oracles = self._memories.observe(job).of_role(Role.ORACLE, job.status.attempt)
        oracle = next((p for p in oracles if p.phase == "Running"), None)
        if oracle is None:
            return
        url = path("Pod", job.namespace, oracle.name, "log")
        text = await self._cluster.text(url, container=names.CONTAINER, tailLines="20", limitBytes="20000")
        found = progress.newest(text, job.spec.get("batchSize") or defaults.BATCH_SIZE)
        key = (job.namespace, job.name)
        memory = self._memories.known(key, job.uid)
        if found is not None and memory is not None and found != memory.progress:
            memory.progress = found
            self._queue.add(key)


class WarningReader:
    """Lists the warnings of each namespace with a job that does not run; a job is looked at only if its own changed."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[JobKey], memories: Memories) -> None:
        self._cluster, self._store, self._queue, self._memories = cluster, store, queue, memories

    async def follow(self, seconds: float) -> None:
        """Read every `seconds`; never returns."""
        while True:
            await asyncio.sleep(seconds)
            await self.read_all()

    async def read_all(self) -> None:
        """Read the warnings of all waiting jobs, with one list for each namespace that has some."""
        waiting: dict[str, list[Head]] = {}
        for head in self._store.heads():
            if head.phase in _WAITING:
                waiting.setdefault(head.namespace, []).append(head)
        for namespace, jobs in waiting.items():
            try:
                await self._read(namespace, jobs)
            except ApiError as error:
                log.warning("warnings not read", extra={"namespace": namespace, "error": str(error)})
            except Exception:
                log.exception("warnings not read", extra={"namespace": namespace})

    async def _read(self, namespace: str, jobs: list[Head]) -> None:
        found = warned.newest(await self._events(namespace))
        claims = warned.about_claims(found)
        for head in jobs:
            memory = self._memories.known(head.key, head.uid)
            mine = claims | {uid: found[uid] for uid in self._store.child_uids(head.key) if uid in found}
            if memory is not None and mine != memory.warnings:
                memory.warnings = mine
                self._queue.add(head.key)

    async def _events(self, namespace: str) -> list[Raw]:
        """All warnings of a namespace, in pages: a busy one holds an hour's worth of them."""
        events: list[Raw] = []
        more: dict[str, str] = {}
        for _ in range(_PAGES):
            page = await self._cluster.get(path("Event", namespace), fieldSelector=warned.SELECTOR, limit="500", **more)
            events += page.get("items") or ()
            more = {"continue": (page.get("metadata") or {}).get("continue") or ""}
            if not more["continue"]:
                break
        return events


_AT_ONCE = 20
"""Logs read at once: with those of `log_keeper.py` fewer than the connections to the API server, so that reconciling
always has some."""
_PAGES = 10
_WAITING = frozenset({"Starting", "Restarting"})
