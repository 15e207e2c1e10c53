"""Time limits, and the moments at which they must be looked at again.

The active clock starts when all pods run for the first time, goes on through restarts, and stands
still while the job is held. The startup clock starts with each wait for all pods.
"""

import datetime as dt

from bagpipe_operator.api import Job
from bagpipe_operator.decision import Fail
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import Observed


def judge(job: Job, observed: Observed, now: dt.datetime) -> Fail | None:
    active, startup = active_end(job), startup_end(job)
    if active is not None and now >= active:
        return Fail(reason=Reason.DEADLINE, message=f"active for more than {job.run_policy.active_deadline_seconds} s")
    if startup is not None and now >= startup:
        reason, message = why_not_running(job, observed)
        if reason == Reason.STARTING:
            reason = Reason.STARTUP_DEADLINE
        return Fail(
            reason=reason, message=f"not all pods ran within {job.run_policy.startup_deadline_seconds} s: {message}"
        )
    return None


def active_end(job: Job) -> dt.datetime | None:
    limit, since = job.run_policy.active_deadline_seconds, job.status.running_since
    if limit is None or since is None:
        return None
    return since + dt.timedelta(seconds=limit - job.status.active_seconds)


def startup_end(job: Job) -> dt.datetime | None:
    since = job.status.starting_since
    return since + dt.timedelta(seconds=job.run_policy.startup_deadline_seconds) if since else None


def why_not_running(job: Job, observed: Observed) -> tuple[str, str]:
    """What holds the present attempt up, by the name Kubernetes gives it."""
    pods = [p for p in observed.pods if p.attempt == job.status.attempt]
    stuck = next((p for p in pods if p.stuck and not p.ended), None)
    if stuck:
        return stuck.stuck, f"{stuck.role} {stuck.index} ({stuck.name}): {stuck.stuck_message}"
    ready = sum(p.ready or p.phase == "Succeeded" for p in pods)
    return Reason.STARTING, f"{ready} of {job.pods_wanted} pods run, {len(pods)} exist"
