"""What happens to a job that has ended: which of its pods are deleted, and when the job itself is."""

import datetime as dt
from typing import Any

from bagpipe_operator import children, gangs, times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Deletion
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed, is_deleting, job_condition
from bagpipe_operator.policies import teardown

_BULK = ("StatefulSet", "Job", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", *gangs.KINDS)


def clean(job: Job, status: Status, observed: Observed) -> tuple[tuple[Deletion, ...], tuple[dict[str, Any], ...]]:
    """Deletions and objects that end those pods which `cleanPodPolicy` does not keep."""
    policy = job.run_policy.clean_pod_policy
    old = teardown.stop(observed, status.attempt).delete
    if policy == "None":
        return old, ()
    if policy == "All":
        return _delete(observed, _BULK), ()
    gone = _delete(observed, ("StatefulSet", *gangs.KINDS))
    return (*old, *gone), _stopped_jobs(job, status.attempt, observed)


def _delete(observed: Observed, kinds: tuple[str, ...]) -> tuple[Deletion, ...]:
    return tuple(
        Deletion(kind=kind, name=name, uid=raw["metadata"]["uid"])
        for (kind, name), raw in observed.live.items()
        if kind in kinds and not is_deleting(raw)
    )


def _stopped_jobs(job: Job, attempt: int, observed: Observed) -> tuple[dict[str, Any], ...]:
    """Those of the present attempt that have not ended."""
    stopped = []
    for role in (Role.ORACLE, Role.TRAINER):
        live = observed.batch_job(job.name, role, attempt)
        if live is None or is_deleting(live):
            continue
        if job_condition(live, "Complete") or job_condition(live, "Failed"):
            continue
        stopped.append(children.stopped(job, role, attempt, live))
    return tuple(stopped)


def end_of_life(job: Job, status: Status) -> dt.datetime | None:
    """When the finished job is deleted; none: never."""
    ttl, ended = job.run_policy.ttl_seconds_after_finished, status.completion_time
    return times.later(ended, ttl) if ttl is not None and ended else None
