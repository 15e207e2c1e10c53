"""Is the job done? When every trainer has ended well, and the oracle, which reports, has too.

A Job of Kubernetes is complete when all containers of its pods have ended. One that a pod template added may never end,
or end badly after ours has ended well: it keeps no job from being done.
"""

from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Complete
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed, job_condition


def judge(job: Job, status: Status, observed: Observed) -> Complete | None:
    """The job's good end; none: a trainer or the oracle has not ended well so far."""
    if not all(_done(job, status.attempt, role, observed) for role in (Role.TRAINER, Role.ORACLE)):
        return None
    return Complete(message=f"all {job.replicas(Role.TRAINER)} trainers and the oracle ended well")


def _done(job: Job, attempt: int, role: Role, observed: Observed) -> bool:
    batch = observed.batch_job(job.name, role, attempt)
    if batch is None or job_condition(batch, "Complete"):
        return batch is not None
    well = [p for p in observed.of_role(role, attempt) if p.result is not None]
    kept = any(p.lingers or p.ended_in for p in well)  # Else Kubernetes will say in a moment that its Job is complete.
    return kept and len({p.index for p in well}) == (batch.get("spec") or {}).get("completions")
