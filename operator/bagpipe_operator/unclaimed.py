"""Jobs that nobody runs: of an operator's class that nobody serves, or left to a controller that is not there.

Only the operator of a job's class may write its status, so no condition can say that there is no such operator. But
every leader sees the jobs of all classes, and a job whose status stays empty is run by nobody: a leader that notices
posts an event. The event's name follows from the job, so that several leaders, and one after its restart, post it once.
Kubernetes forgets events after an hour, and `kubectl describe` must still explain the job the next morning, so the
event is posted again once it is forgotten.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from bagpipe_operator import event_body, times
from bagpipe_operator.api import RunPolicy
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster
from bagpipe_operator.heads import JobKey
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import is_deleting
from bagpipe_operator.podstate import Raw

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds in which an operator that lives has written a status, also after a change of leaders."""
_AGAIN = 600.0
_LOOK = 10.0


@dataclass
class _Unserved:
    """A job of another operator that has no status so far."""

    uid: str
    words: str
    due: float
    """When to post the event, by our own clock."""


class Unclaimed:
    """Remembers the jobs of other operators that have no status, and posts an event about each."""

    def __init__(self, cluster: Cluster, operator_class: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._class, self._clock = cluster, operator_class, clock
        self._jobs: dict[JobKey, _Unserved] = {}

    def see(self, raw: Raw) -> None:
        """A job that is not ours, as a watch shows it."""
        key, uid = _key(raw), raw["metadata"].get("uid", "")
        if raw.get("status") or is_deleting(raw):
            self._jobs.pop(key, None)
            return
        known = self._jobs.get(key)
        if known is None or known.uid != uid:
            words = _words(RunPolicy.for_whom(raw.get("spec")), self._class)
            self._jobs[key] = _Unserved(uid=uid, words=words, due=self._clock() + PATIENCE)

    def lost(self, raw: Raw) -> None:
        """It is gone from the API server."""
        self._jobs.pop(_key(raw), None)

    async def follow(self) -> None:
        """Look every few seconds for jobs that have waited for long enough; never returns."""
        while True:
            await asyncio.sleep(_LOOK)
            await self.tell()

    async def tell(self) -> None:
        """Post an event about each job that has waited for long enough: nobody runs it."""
        now = self._clock()
        for key, job in list(self._jobs.items()):
            if now >= job.due:
                job.due = now + _AGAIN
                await self._post(key, job)

    async def _post(self, key: JobKey, job: _Unserved) -> None:
        namespace, name = key
        involved = event_body.job(namespace, name, job.uid)
        body = event_body.about(involved, "Warning", Reason.NO_OPERATOR, job.words, times.now())
        body["metadata"] = {"name": f"{name}.no-operator.{job.uid[:8]}", "namespace": namespace}
        try:
            await self._cluster.create("Event", namespace, body)
        except ApiError as error:
            if error.outcome is not Outcome.EXISTS:
                log.warning("event not posted", extra={"job": f"{namespace}/{name}", "error": str(error)})


def _key(raw: Raw) -> JobKey:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def _words(policy: RunPolicy, ours: str) -> str:
    if not policy.is_of(policy.operator_class or ""):
        return f"runPolicy.managedBy leaves this job to {policy.managed_by!r}, which has written no status so far"
    asked = f"of class {policy.operator_class!r}" if policy.operator_class else "without a class"
    runs = f"of class {ours!r}" if ours else "without an operatorClass"
    return (
        f"no operator {asked} has looked at this job. Install one (operatorClass of its chart), or make the job anew "
        f"with another runPolicy.operatorClass; the operator that says this runs jobs {runs}"
    )
