"""Does the job hold nodes in vain, because some of its pods find none?

Jobs that each got a part of what they need wait for one another for ever. A gang scheduler (`runPolicy.gang`) or a
queue keeps it from happening; without them a job gives all its nodes back after a while, and tries again later.
"""

import datetime as dt

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Count, Restart
from bagpipe_operator.names import Condition, Reason
from bagpipe_operator.observe import Observed
from bagpipe_operator.policies import backoff, obstacles


def judge(job: Job, status: Status, observed: Observed, now: dt.datetime) -> Restart | None:
    """The restart that gives all nodes back; none: the job has all its nodes or none, or may wait longer."""
    placed, ends = _placed(status, observed), end(job, status)
    if ends is None or now < ends or not 0 < placed < job.pods_wanted:
        return None
    why = obstacles.why_not_running(job, status, observed, now)
    waited = job.run_policy.partial_start_seconds
    message = f"{placed} of {job.pods_wanted} pods have had nodes for {waited} s, the others found none: {why.message}"
    return Restart(reason=Reason.PARTLY_PLACED, message=message, count=Count.NOTHING)


def _placed(status: Status, observed: Observed) -> int:
    return sum(bool(p.node) and not p.ended for p in observed.pods if p.attempt == status.attempt)


def end(job: Job, status: Status) -> dt.datetime | None:
    """When the present attempt's pods have waited long enough; none: they all run."""
    if status.is_true(Condition.RUNNING) or status.attempt_time is None:
        return None
    return times.later(backoff.start_time(job, status), job.run_policy.partial_start_seconds)
