"""Which pods' last lines are kept before a failed job's end takes the pods away, and what came of it.

A job that fails at a deadline, or because one process of it did, has pods that still run and know why. Ending them
ends their logs. So their last lines go into a ConfigMap first, which belongs to the job. That is tried for a minute at
most: what cannot be kept is said, and never holds resources any longer.
"""

import datetime as dt
from dataclasses import replace

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Event
from bagpipe_operator.names import Condition, Reason
from bagpipe_operator.observe import Observed
from bagpipe_operator.podstate import Pod

SECONDS = 60
"""How long pods of a failed job are left for their logs."""


def deadline(status: Status) -> dt.datetime | None:
    """When pods are ended without their logs."""
    return times.later(status.completion_time, SECONDS) if status.completion_time else None


def wanted(job: Job, status: Status, observed: Observed, now: dt.datetime) -> tuple[Pod, ...]:
    """Pods whose logs are still to be kept; none: nothing is to be waited for."""
    end = deadline(status)
    if status.logs or observed.logs or end is None or not times.later(end, -2 * SECONDS) <= now < end:
        return ()  # Also where the clock was set back by more than the wait: nobody can say how long it has been.
    return _passing(job, status, observed)


def recorded(job: Job, status: Status, observed: Observed) -> Status:
    """The status with the outcome of keeping the logs, once that is known or cannot be waited for any longer."""
    if status.logs:
        return status
    if observed.logs:
        return replace(status, logs=observed.logs)
    if not _passing(job, status, observed):
        return status
    return replace(status, logs={"message": f"the logs of this job's pods could not be kept within {SECONDS} s"})


def events(old: Status, new: Status) -> tuple[Event, ...]:
    """One event when the outcome becomes known."""
    if old.logs == new.logs:
        return ()
    if name := new.logs.get("configMap"):
        words = f"the last lines of the pods that were ended are in ConfigMap {name}; `bagpipe job logs` prints them"
        return (Event(type="Normal", reason=Reason.LOGS_KEPT, message=words),)
    return (Event(type="Warning", reason=Reason.LOGS_NOT_KEPT, message=new.logs.get("message", "")),)


def _passing(job: Job, status: Status, observed: Observed) -> tuple[Pod, ...]:
    """Pods of a failed job whose logs go with its end: those that run, and with `All` every one."""
    policy = job.run_policy.clean_pod_policy
    if policy == "None" or not status.is_true(Condition.FAILED):
        return ()
    pods = (p for p in observed.pods if p.attempt == status.attempt)
    return tuple(p for p in pods if policy == "All" or not p.gone_quiet or p.deleted_at is not None)
