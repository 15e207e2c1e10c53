"""A job that somebody has deleted, and that is still there: what ends its pods, and what is said.

Kubernetes takes a deleted object away once nobody's finalizer is on it. The operator never sets one, so a job goes
without it; but another program may have (GitOps, a backup, an operator that is gone), or Kubernetes itself, by the way
of deletion that was asked for:

    foregroundDeletion   Kubernetes deletes the job's objects, then the job: there is nothing to do
    orphan               the objects are to stay, without the job: nothing of them is touched
    another finalizer    Kubernetes touches no object before the job is gone, which may take days

In the last case the pods are told to go, trainers first, as if the job were held: who deletes a job wants its
processors back. So is quota. Claims, logs of ended pods and whatever costs nothing stay until the job goes, for the
finalizer may be there to read them. Nothing is made any more, and no finalizer is touched.
"""

import datetime as dt
from typing import Any

from bagpipe_operator import children, gangs, names, times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Deletion
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed, Obstacle, attempt_of, is_deleting, job_condition, role_of
from bagpipe_operator.podstate import Raw
from bagpipe_operator.policies import obstacles, teardown

_ORPHAN, _FOREGROUND = "orphan", "foregroundDeletion"
_NAMED = 5


def is_orphaning(job: Job) -> bool:
    """Whether the job is being deleted without its objects (`kubectl delete --cascade=orphan`)."""
    return job.deleted_at is not None and _ORPHAN in job.finalizers


def stop(job: Job, status: Status, observed: Observed) -> tuple[tuple[Deletion, ...], tuple[dict[str, Any], ...]]:
    """What ends the pods, and gives quota back once none is left: objects to delete, and objects to write."""
    if _ORPHAN in job.finalizers or _FOREGROUND in job.finalizers:
        return (), ()
    trainers, oracles = (_that_run(observed, role) for role in (Role.TRAINER, Role.ORACLE))
    if trainers:
        return teardown.deletions(trainers), ()
    servers = observed.live.get(("StatefulSet", names.stateful_set(job.name)))
    if servers is not None and not is_deleting(servers) and (servers.get("spec") or {}).get("replicas") != 0:
        return teardown.deletions(oracles), (children.without_servers(job, status.attempt, servers),)
    if oracles or observed.of_role(Role.SERVER):
        return teardown.deletions(oracles), ()
    quota = (raw for (kind, _), raw in observed.live.items() if kind == "Workload" or kind in gangs.KINDS)
    return teardown.deletions(quota), ()


def _that_run(observed: Observed, role: Role) -> list[Raw]:
    return [raw for raw in observed.batch_jobs(role) if _may_run(raw, observed)]


def _may_run(raw: Raw, observed: Observed) -> bool:
    """Whether a pod of this Job runs, or one may yet be made: one that has ended keeps its pods, for their logs."""
    role = role_of(raw)
    if any(p.attempt == attempt_of(raw) and not p.gone_quiet for p in observed.pods if p.role is role):
        return True
    over = is_deleting(raw) or (raw.get("spec") or {}).get("suspend")
    return not (over or job_condition(raw, "Complete") or job_condition(raw, "Failed"))


def told_at(job: Job, now: dt.datetime) -> dt.datetime | None:
    """When it is said that a finalizer keeps the job, as most are taken off at once; none: it is said."""
    when = times.later(job.deleted_at or now, obstacles.FINALIZER_SECONDS)
    return when if now < when else None


def why(job: Job, observed: Observed, now: dt.datetime) -> Obstacle:
    """What keeps the job, and whether its pods still run."""
    since = f"the job was deleted at {times.text(job.deleted_at or now)}"
    if _ORPHAN in job.finalizers:
        words = f"{since} without its objects (--cascade=orphan), which stay as they are; Kubernetes will take it away"
        return Obstacle(reason=Reason.DELETED, message=words)
    holders = [name for name in job.finalizers if name != _FOREGROUND]
    pods = "its pods are being ended" if any(not p.gone_quiet for p in observed.pods) else "no pod of it runs any more"
    if observed.orphans:
        pods += f"; left as they are, for they are not the job's: {', '.join(observed.orphans[:_NAMED])}"
    if not holders:
        words = f"{since} (--cascade=foreground): Kubernetes deletes its objects, then the job; {pods}"
        return Obstacle(reason=Reason.DELETED, message=words)
    more = f" and {len(holders) - _NAMED} more" if len(holders) > _NAMED else ""
    kept = f"kept by finalizers that are not the operator's: {', '.join(holders[:_NAMED])}{more}"
    reason = Reason.DELETED if told_at(job, now) else Reason.HELD_BY_FINALIZER
    return Obstacle(reason=reason, message=f"{since} and is {kept}; {pods}")
