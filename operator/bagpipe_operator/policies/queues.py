"""Does this installation serve the queue that a job names?

The same document may go to several clusters, so a job may name a queue where no Kueue is. It runs there, as
Kubernetes' own Jobs do that bear Kueue's label without a Kueue; but it says so, for users who rely on a quota.
"""

from bagpipe_operator import names
from bagpipe_operator.api import Job
from bagpipe_operator.settings import Settings

_OURS = "runPolicy.queueName"


def ignored(job: Job, settings: Settings) -> str:
    """What of the job's wishes for a queue has no effect, and why; empty: everything has."""
    if not job.queue:
        priority = job.run_policy.workload_priority_class
        return (
            f"runPolicy.workloadPriorityClass {priority!r} has no effect without a queue: set {_OURS}"
            if priority
            else ""
        )
    if settings.kueue or (job.run_policy.gang == "Volcano" and job.run_policy.queue_name):
        return ""
    where = _OURS if job.run_policy.queue_name else f"the label {names.LABEL_QUEUE}"
    return (
        f"{where} names the queue {job.queue!r}, and this installation of the operator does not work with Kueue: "
        "the job runs without waiting for quota. Set kueue.enabled in the chart, or take the queue's name away"
    )
