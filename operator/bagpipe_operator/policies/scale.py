"""Was the number of trainers changed? Ranks stand together, so that is a new attempt from a checkpoint.

More than the installation allows is no reason to end an attempt that runs: it goes on, and the refusal is told.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Count, Restart
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed, Obstacle
from bagpipe_operator.podcheck.limits import Limits


def judge(job: Job, status: Status, observed: Observed, limits: Iterable[Limits]) -> Restart | None:
    """The restart with another number of trainers; none: it is the same, or more than is allowed."""
    batch = observed.batch_job(job.name, Role.TRAINER, status.attempt)
    if batch is None or refusal(job, limits):
        return None
    have, want = (batch.get("spec") or {}).get("completions"), job.replicas(Role.TRAINER)
    if have == want:
        return None
    return Restart(reason=Reason.SCALED, message=f"{have} trainers become {want}", count=Count.NOTHING)


def within(job: Job, status: Status, observed: Observed, limits: Callable[[], Iterable[Limits]]) -> Job:
    """The job with the trainers that its present attempt has, where it asks for more than is allowed by now.

    All that looks at the attempt goes by that: when all its pods run, what its quota and its gang are.

    Args:
        limits: what the job may ask for; asked for only where the number is another one.
    """
    batch = observed.batch_job(job.name, Role.TRAINER, status.attempt)
    have = ((batch or {}).get("spec") or {}).get("completions")
    if have in (None, job.replicas(Role.TRAINER)) or refusal(job, limits()) is None:
        return job
    return replace(job, spec={**job.spec, "trainers": {**job.section(Role.TRAINER), "replicas": have}})


def refusal(job: Job, limits: Iterable[Limits]) -> Obstacle | None:
    """Why the job keeps the number that it has; none: each of the limits allows what it asks for."""
    too_many = next((found for each in limits if (found := each.too_many(job.asked))), "")
    return Obstacle(reason=Reason.BEYOND_LIMITS, message=too_many) if too_many else None
