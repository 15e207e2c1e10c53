"""Is the job done? When every trainer has ended well, and the oracle, which reports, has too."""

from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Complete
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed, job_condition


def judge(job: Job, status: Status, observed: Observed) -> Complete | None:
    attempt = status.attempt
    ended = [
        job_condition(observed.batch_job(job.name, role, attempt), "Complete") for role in (Role.TRAINER, Role.ORACLE)
    ]
    if not all(ended):
        return None
    return Complete(message=f"all {job.replicas(Role.TRAINER)} trainers and the oracle ended well")
