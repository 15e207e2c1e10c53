"""Carrying decisions out: writes status, children, Kueue's Workload and events, in the order of `Decision`.

A crash at any point leaves a picture from which the same decision follows again. The first write of a child is
a create, and every later one names the UID it means, so that no object of somebody else is ever written to.
What the API server does not accept is remembered as an obstacle, for the next decision to judge.
"""

import asyncio
import datetime as dt
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bagpipe_operator import children, claims, curve, drift, event_body, gangs, names, patches, refusals, times
from bagpipe_operator.api import Job
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.cluster import Cluster, created_not_applied, path
from bagpipe_operator.decision import Decision, Deletion, Event
from bagpipe_operator.memory import Memory
from bagpipe_operator.names import Condition, Reason, Role
from bagpipe_operator.observe import (
    Contested,
    Key,
    Obstacle,
    Written,
    owner_of,
)
from bagpipe_operator.podstate import Raw
from bagpipe_operator.store import Store

log = logging.getLogger(__name__)

TOKEN_BYTES = 32
_STATUS_PATIENCE, _TOLD_AGAIN = 20.0, 1800.0
"""Seconds until a status that is not taken is told, and until it is told once more."""

_BASE = gangs.KINDS | {
    "ConfigMap",
    "Service",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PersistentVolumeClaim",
    "Workload",
}


class StatusRefused(Exception):
    """The API server refuses a status that we made, which is a fault of the operator."""


class NameTaken(Exception):
    """The name that a child must have is taken by an object that is not this job's."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.message)
        self.obstacle = obstacle


class Writer:
    """Writes for one job at a time; several jobs at once."""

    def __init__(self, cluster: Cluster, store: Store, clock: Callable[[], dt.datetime]) -> None:
        self._cluster, self._store, self._clock = cluster, store, clock

    async def status(self, job: Job, raw: Raw, memory: Memory, decision: Decision) -> bool:
        """Write the job's status if it differs, and the job is still the one that was read; returns whether it did.

        Raises:
            StatusRefused: the API server does not accept such a status.
            ApiError: it was not written for another reason, a policy of the cluster included.
        """
        patch = patches.status(raw, decision.status)
        if patch is None:
            return False
        try:
            self._store.put(await self._cluster.patch_status(names.KIND, job.namespace, job.name, patch))
        except ApiError as error:
            if error.outcome in (Outcome.REFUSED, Outcome.FORBIDDEN, Outcome.LATER):
                await self._status_not_taken(raw, memory, error)
            if error.outcome is Outcome.REFUSED and not error.by_policy:
                raise StatusRefused(str(error)) from error
            raise
        memory.status_refused = None
        return True

    async def _status_not_taken(self, raw: Raw, memory: Memory, error: ApiError) -> None:
        """No condition can say so: an event does, after a while, and again later, as Kubernetes forgets events."""
        now = self._clock()
        if memory.status_refused is None:
            memory.status_refused = now
        if now >= times.later(memory.status_refused, _STATUS_PATIENCE):
            memory.status_refused = times.later(now, _TOLD_AGAIN - _STATUS_PATIENCE)
            words = f"the job's status cannot be written, and nothing is done for it meanwhile: {error.message}"
            await self._post(raw, Event(type="Warning", reason=Reason.API_ERROR, message=words))

    def forget_unwanted(self, job: Job, memory: Memory, decision: Decision) -> None:
        """Forget the obstacles to objects that are not wanted any more."""
        keys = {_key(o) for o in decision.apply} | {(d.kind, d.name) for d in decision.delete}
        keys |= {_secret_key(job)} if decision.create_job_secret else set()
        for known in (memory.refused, memory.failing):
            for key in known.keys() - keys:
                del known[key]

    async def delete(self, job: Job, memory: Memory, deletions: tuple[Deletion, ...]) -> list[ApiError]:
        """Delete these objects; returns the errors of those that should be tried again."""
        for d in deletions:
            facts = {"job": job.full_name, "object": f"{d.kind}/{d.name}", "force": d.force}
            log.info("delete", extra=facts)
        errors = await _errors(self._delete(job, memory, d) for d in deletions)
        for d in deletions:  # A job can run although something of it cannot be taken away.
            if (told := memory.refused.get((d.kind, d.name))) is not None:
                memory.refused[d.kind, d.name] = replace(told, final=False)
        return errors

    async def _delete(self, job: Job, memory: Memory, d: Deletion) -> ApiError | None:
        return await self._tried(memory, (d.kind, d.name), self._take_away(job, d))

    async def _take_away(self, job: Job, d: Deletion) -> None:
        if await self._cluster.delete(d.kind, job.namespace, d.name, d.uid, force=d.force):
            return
        if self._store.forget(d.kind, job.namespace, d.name, d.uid):
            raise ApiError(409, f"{d.kind}/{d.name} was gone already", "Conflict")

    async def the_job_is_there(self, job: Job, decision: Decision) -> None:
        """Before something is made once more: a job that is gone, and whose watch is late, gets no new objects.

        Raises:
            ApiError: it is gone, or another one bears its name.
        """
        known = (self._store.get(*(kind, job.namespace, name)) for kind, name in map(_key, decision.apply))
        if not job.status.phase or all(raw is not None for raw in known):
            return
        found = await self._cluster.find(names.KIND, job.namespace, job.name)
        if found is None or found["metadata"]["uid"] != job.uid:
            raise ApiError(409, f"the job {job.full_name} is gone", "Conflict")

    async def still_its_own(self, job: Job, decision: Decision) -> None:
        """Before anything of a job that is being deleted is ended: a deletion without its objects may have taken them.

        The watches of a job and of its children tell of that at different times, so both are asked for once more.

        Raises:
            ApiError: one of them is not the job's any more.
        """
        meant = {(d.kind, d.name) for d in decision.delete if d.kind != "Pod"} | {_key(o) for o in decision.apply}
        for kind, name in sorted(meant):
            found = await self._cluster.find(kind, job.namespace, name)
            if found is not None and owner_of(found) != job.uid:
                self._store.put(found)
                raise ApiError(409, f"{kind}/{name} is not the job's any more", "Conflict")

    async def children(self, job: Job, memory: Memory, decision: Decision) -> list[ApiError]:
        """Write the job's objects; returns the errors of those that should be tried again.

        What makes pods is written only once everything else is there.
        """
        base = [o for o in decision.apply if o["kind"] in _BASE]
        doing = [self._write(job, memory, o) for o in base]
        doing += [self._tried(memory, _secret_key(job), self._job_secret(job))] if decision.create_job_secret else []
        failed = await _errors(doing)
        if failed or memory.refused.keys() & {_key(o) for o in base}:
            return failed
        return await _errors(self._write(job, memory, o) for o in decision.apply if o["kind"] not in _BASE)

    async def _tried(self, memory: Memory, key: Key, doing: Awaitable[None]) -> ApiError | None:
        """Remembers what stands in the way; returns what should be tried again."""
        since = memory.failing.setdefault(key, self._clock())
        try:
            await doing
        except NameTaken as taken:
            memory.refused[key] = taken.obstacle
            return None
        except ApiError as error:
            obstacle = refusals.obstacle(error, key, (self._clock() - since).total_seconds())
            known = memory.refused.get(key)
            # Words about a server that does not answer differ each time and say the same.
            if obstacle is not None and not (known and known.reason == obstacle.reason == Reason.API_ERROR):
                memory.refused[key] = obstacle
            return error
        memory.refused.pop(key, None)
        memory.failing.pop(key, None)
        return None

    async def find_unlabelled(self, job: Job) -> None:
        """What a running attempt is made of, and seems to be gone, may only have lost the label by which it is watched.

        It is then kept as it was read, so that its labels are put right like anything else that was changed by hand.
        """
        if not job.status.is_true(Condition.RUNNING):
            return
        made = [("Job", names.batch_job(job.name, role, job.status.attempt)) for role in (Role.ORACLE, Role.TRAINER)]
        for kind, name in (*made, ("StatefulSet", names.stateful_set(job.name))):
            if self._store.get(kind, job.namespace, name) is not None:
                continue
            found = await self._cluster.find(kind, job.namespace, name)
            if found is not None and owner_of(found) == job.uid:
                meta = found["metadata"]
                labels = {**(meta.get("labels") or {}), names.LABEL_JOB: job.name}
                self._store.restore({**found, "metadata": {**meta, "labels": labels}})

    async def _write(self, job: Job, memory: Memory, wanted: Raw) -> ApiError | None:
        return await self._tried(memory, _key(wanted), self._put(job, memory, wanted))

    async def _put(self, job: Job, memory: Memory, wanted: Raw) -> None:
        key = _key(wanted)
        live = self._store.get(key[0], job.namespace, key[1])
        if live is not None and refusals.whose(job, live) is not None:
            live = None  # It bears our label and is not ours: the create finds out whose it is.
        if live is None and job.deleted_at is not None:
            return  # Nothing is made for a job that is going; what was to be changed has gone before it.
        await self._names_are_free(job, wanted, live)
        result = await (self._create(job, memory, wanted) if live is None else self._update(memory, wanted, live))
        self._store.put(result)
        self._remember(memory, key, drift.written(wanted, result))
        log.info("write", extra={"job": job.full_name, "object": "/".join(key), "new": live is None})

    def _remember(self, memory: Memory, key: Key, new: Written) -> None:
        """What was written, and whether it had been before: then somebody took it back."""
        old, memory.written[key] = memory.written.get(key), new
        if old is not None and old.asked == new.asked:
            now = self._clock()
            memory.contested[key] = memory.contested.get(key, Contested(count=0, last=now)).again(now)

    async def _create(self, job: Job, memory: Memory, wanted: Raw) -> Raw:
        try:
            return await self._cluster.create(wanted["kind"], job.namespace, wanted)
        except ApiError as error:
            if error.outcome is not Outcome.EXISTS:
                raise
            found = await self._cluster.find(wanted["kind"], job.namespace, wanted["metadata"]["name"])
            if found is None:  # Gone in between.
                raise
        obstacle = refusals.whose(job, found)
        if obstacle is not None:
            raise NameTaken(obstacle)
        return await self._update(memory, drift.settle(wanted, found), found)

    async def _update(self, memory: Memory, wanted: Raw, live: Raw) -> Raw:
        meta = live["metadata"]
        if meta["uid"] not in memory.applied:
            read = await self._cluster.find(wanted["kind"], meta["namespace"], meta["name"])
            if read is not None and read["metadata"]["uid"] == meta["uid"] and created_not_applied(read):
                await self._cluster.own_fields(read)
            memory.applied.add(meta["uid"])
        try:
            return await self._cluster.apply({**wanted, "metadata": {**wanted["metadata"], "uid": meta["uid"]}})
        except ApiError as error:
            if error.outcome is Outcome.CHANGED:  # Gone, or another one: the next try makes it, or says whose it is.
                self._store.forget(wanted["kind"], meta["namespace"], meta["name"], meta["uid"])
            raise

    async def _names_are_free(self, job: Job, wanted: Raw, live: Raw | None) -> None:
        """Before a StatefulSet makes pods, whose names, and those of their claims, follow from its own."""
        if wanted["kind"] != "StatefulSet":
            return
        if live is not None and wanted["spec"]["replicas"] <= live["spec"].get("replicas", 0):
            return
        found = await asyncio.gather(*(self._cluster.find("Pod", job.namespace, name) for name in claims.pods(wanted)))
        obstacle = next(filter(None, (claims.pod_in_the_way(pod, live) for pod in found)), None)
        if obstacle is None and (taken := claims.wanted(wanted)):
            there = await self._cluster.get(path("PersistentVolumeClaim", job.namespace))
            obstacle = claims.in_the_way(taken, there.get("items") or (), live)
        if obstacle is not None:
            raise NameTaken(obstacle)

    async def _job_secret(self, job: Job) -> None:
        """The job's keys, and its token for `security: plain`.

        Made once; we may create Secrets and not read them, so that it exists is learnt by trying.
        """
        public, secret = curve.keypair()
        metadata = {
            "name": names.job_secret(job.name, job.uid),
            "namespace": job.namespace,
            "labels": {**job.inherited(job.labels), **names.labels(job.name)},
            "annotations": job.inherited(job.annotations),
            "ownerReferences": [children.owner_reference(job)],
        }
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "immutable": True,
            "stringData": {"public": public, "secret": secret, "token": secrets.token_hex(TOKEN_BYTES)},
        }
        try:
            await self._cluster.create("Secret", job.namespace, body)
        except ApiError as error:
            if error.outcome is not Outcome.EXISTS:
                raise

    async def keep(self, job: Job, body: Raw) -> None:
        """Make an object that is never written again; one that this job has already is as good.

        Raises:
            NameTaken: somebody else's object bears the name.
        """
        kind, name = _key(body)
        try:
            await self._cluster.create(kind, job.namespace, body)
        except ApiError as error:
            if error.outcome is not Outcome.EXISTS:
                raise
            found = await self._cluster.find(kind, job.namespace, name)
            if found is None:  # Gone in between.
                raise
            if (obstacle := refusals.whose(job, found)) is not None:
                raise NameTaken(obstacle) from error

    async def report_to_kueue(self, job: Job, status: Mapping[str, Any]) -> None:
        """Write the Workload's status, if it is still the one that was read.

        Raises:
            ApiError: it was not written.
        """
        name = names.workload(job.name)
        live = self._store.get("Workload", job.namespace, name)
        if live is None:
            return
        body = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "status": dict(status)}
        self._store.put(await self._cluster.patch_status("Workload", job.namespace, name, body))

    async def internal_error(self, raw: Raw, words: str) -> None:
        """Tell a job that the operator failed on it."""
        namespace, name = raw["metadata"]["namespace"], raw["metadata"]["name"]
        patch = patches.internal_error(raw, words, dt.datetime.now(dt.UTC))
        if patch is None:
            return
        self._store.put(await self._cluster.patch_status(names.KIND, namespace, name, patch))
        await self._post(raw, Event(type="Warning", reason=Reason.INTERNAL_ERROR, message=words))

    async def events(self, raw: Raw, events: tuple[Event, ...]) -> None:
        """Post events about the job; one that is refused is logged and passed over."""
        for event in events:
            await self._post(raw, event)

    async def _post(self, raw: Raw, event: Event) -> None:
        meta = raw["metadata"]
        involved = event_body.job(meta["namespace"], meta["name"], meta["uid"])
        body = event_body.about(involved, event.type, event.reason, event.message, times.now())
        try:
            await self._cluster.create("Event", meta["namespace"], body)
        except ApiError as error:  # News is worth a try, not a retry: the status has it all.
            facts = {"job": f"{meta['namespace']}/{meta['name']}", "error": str(error)}
            log.warning("event not posted", extra=facts)


def _key(raw: Raw) -> Key:
    return raw["kind"], raw["metadata"]["name"]


def _secret_key(job: Job) -> Key:
    return "Secret", names.job_secret(job.name, job.uid)


async def _errors(doing: Iterable[Awaitable[ApiError | None]]) -> list[ApiError]:
    """Of all that is done at once."""
    return [error for error in await asyncio.gather(*doing) if error is not None]
