"""Was the number of trainers changed? Ranks stand together, so that is a new attempt from a checkpoint."""

from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Count, Restart
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed


def judge(job: Job, status: Status, observed: Observed) -> Restart | None:
    batch = observed.batch_job(job.name, Role.TRAINER, status.attempt)
    if batch is None:
        return None
    have, want = (batch.get("spec") or {}).get("completions"), job.replicas(Role.TRAINER)
    if have == want:
        return None
    return Restart(reason=Reason.SCALED, message=f"{have} trainers become {want}", count=Count.NOTHING)
