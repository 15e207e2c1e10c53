"""Time limits, and the moments at which they must be looked at again.

The active clock starts when all pods run for the first time, goes on through restarts, and stands
still while the job is held. The startup clock starts with each wait for all pods.
"""

import datetime as dt

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Fail
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import Observed
from bagpipe_operator.policies import obstacles


def judge(job: Job, status: Status, observed: Observed, now: dt.datetime) -> Fail | None:
    """The job's end at a time limit; none: it has time left, or no limit."""
    active, startup = active_end(job, status), startup_end(job, status)
    if active is not None and now >= active:
        words = f"active for more than {job.run_policy.active_deadline_seconds} s (activeDeadlineSeconds)"
        return Fail(reason=Reason.DEADLINE, message=words)
    if startup is not None and now >= startup:
        found = obstacles.why_not_running(job, status, observed, now)
        reason = Reason.STARTUP_DEADLINE if found.reason == Reason.STARTING else found.reason
        waited = f"not all pods ran within {job.run_policy.startup_deadline_seconds} s (startupDeadlineSeconds)"
        return Fail(reason=reason, message=f"{waited}: {found.message}")
    return None


def active_end(job: Job, status: Status) -> dt.datetime | None:
    """When `activeDeadlineSeconds` is over; none: there is no limit, or the clock stands still."""
    limit, since = job.run_policy.active_deadline_seconds, status.running_since
    if limit is None or since is None:
        return None
    return times.later(since, limit - status.active_seconds)


def startup_end(job: Job, status: Status) -> dt.datetime | None:
    """When the present wait for all pods is over; none: nothing is waited for."""
    since = status.starting_since
    return times.later(since, job.run_policy.startup_deadline_seconds) if since else None
