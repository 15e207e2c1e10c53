"""Keeps the last lines of a failed job's pods: reads each log, and writes one ConfigMap that belongs to the job.

Beside the workers, for a node that does not answer must delay no other job. What is kept of all pods together is
bounded, as an object may have a megabyte; each pod has the same share. A log that cannot be read is said in its place.
The ConfigMap bears no label by which the operator watches objects, so that the logs of a thousand failed jobs are not
in its memory: that it exists is remembered in the job's status.
"""

import asyncio
import logging
from collections.abc import Sequence

from bagpipe_operator import children, names
from bagpipe_operator.api import Job
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.heads import JobKey
from bagpipe_operator.memory import Memories
from bagpipe_operator.podstate import Pod
from bagpipe_operator.workqueue import WorkQueue
from bagpipe_operator.writer import NameTaken, Writer

log = logging.getLogger(__name__)

TOTAL_BYTES = 400_000
"""Of all logs of one job: the API server takes a megabyte, and 3 MB of JSON in which one byte may be six."""
_LINES = (1000, 100, 10)
_READ_BYTES = 262_144
"""The kubelet counts lines from the end and bytes from their beginning: where that cuts, fewer lines are asked for."""
_AT_ONCE, _READ_SECONDS, _AGAIN_SECONDS = 4, 10.0, 2.0
"""So many logs are read at once, of all jobs together. No job queues for more, so that each gets its turn beside one
with a thousand pods on nodes that do not answer."""
_ALL_SECONDS = 40.0
"""After which no more logs of a job are begun to read: what was read is kept before its pods are ended."""


class LogKeeper:
    """Keeps the logs of all jobs, in one task for each job that has just failed."""

    def __init__(self, cluster: Cluster, writer: Writer, queue: WorkQueue[JobKey], memories: Memories) -> None:
        self._cluster, self._writer, self._queue, self._memories = cluster, writer, queue, memories
        self._going: dict[str, asyncio.Task[None]] = {}
        """By the job's UID."""
        self._free = asyncio.Semaphore(_AT_ONCE)

    def begin(self, job: Job, pods: Sequence[Pod]) -> None:
        """Begin to keep these pods' logs, unless that has begun; the outcome brings the job back into the queue."""
        if job.uid not in self._going:
            task = asyncio.ensure_future(self._keep(job, pods))
            self._going[job.uid] = task
            task.add_done_callback(lambda _: self._going.pop(job.uid, None))

    async def idle(self) -> None:
        """Wait until no logs are being kept."""
        while self._going:
            await asyncio.wait(self._going.values())

    async def _keep(self, job: Job, pods: Sequence[Pod]) -> None:
        key, facts = (job.namespace, job.name), {"job": job.full_name}
        try:
            texts = await self._read_all(job, pods)
            data = {names.log_key(p.role, p.index): text for p, text in zip(pods, texts, strict=True)}
            await self._writer.keep(job, children.kept_logs(job, data))
            outcome = {"configMap": names.kept_logs(job.name)}
        except NameTaken as taken:
            outcome = {"message": f"logs not kept: {taken.obstacle.message}"}
        except ApiError as error:
            if error.outcome not in (Outcome.REFUSED, Outcome.FORBIDDEN, Outcome.ABSENT):
                log.info("logs not kept yet", extra={**facts, "error": str(error)})
                self._queue.add_after(key, _AGAIN_SECONDS)
                return
            outcome = {"message": f"logs not kept: ConfigMap/{names.kept_logs(job.name)}: {error.message}"[:1024]}
        except Exception:
            log.exception("logs not kept", extra=facts)
            outcome = {"message": "logs not kept: a fault of the operator; its log has the words"}
        memory = self._memories.known(key, job.uid)
        if memory is not None:
            memory.logs = outcome
            self._queue.add(key)

    async def _read_all(self, job: Job, pods: Sequence[Pod]) -> list[str]:
        """The ends of these pods' logs, or why they are not there, in the order of the pods."""
        most, turn = TOTAL_BYTES // len(pods), asyncio.Semaphore(_AT_ONCE)
        until = asyncio.get_running_loop().time() + _ALL_SECONDS

        async def one(pod: Pod) -> str:
            async with turn:
                return await self._read(job, pod, most, until)

        return await asyncio.gather(*(one(pod) for pod in pods))

    async def _read(self, job: Job, pod: Pod, most: int, until: float) -> str:
        """The end of a pod's log, or why it cannot be read."""
        try:
            async with self._free, asyncio.timeout(_READ_SECONDS):
                if asyncio.get_running_loop().time() >= until:
                    return end_of(f"(not read: other logs took {_ALL_SECONDS:g} s)\n", most)
                return end_of(await self._lines(job, pod), most)
        except TimeoutError:
            return f"(not read: no answer within {_READ_SECONDS:g} s)\n"
        except ApiError as error:
            return end_of(f"(not read: {error.message or error})\n", most)

    async def _lines(self, job: Job, pod: Pod) -> str:
        url, text = path("Pod", job.namespace, pod.name, "log"), ""
        for lines in _LINES:
            options = {"container": names.CONTAINER, "tailLines": str(lines), "limitBytes": str(_READ_BYTES)}
            text = await self._cluster.text(url, **options)
            if len(text.encode()) < _READ_BYTES:
                break
        return text


def end_of(text: str, most: int) -> str:
    """The last whole lines of at most `most` bytes; of a longer last line its end."""
    raw = text.encode(errors="replace")
    if len(raw) <= most:
        return text
    cut = raw[len(raw) - most :]
    _, newline, whole = cut.partition(b"\n")
    return (whole if newline and whole else cut).decode(errors="ignore")
