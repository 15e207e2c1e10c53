"""Is the job held, why, and are its pods gone yet?

A held job keeps its claims, addresses and configuration, and no pod. Its servers are scaled to zero
instead of deleted, so that their claims stay.
"""

from typing import Any

from bagpipe_operator import children, names
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Deletion
from bagpipe_operator.kueue import Admission
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import Observed
from bagpipe_operator.policies import teardown
from bagpipe_operator.settings import Settings


def why(job: Job, admission: Admission | None, *, follows: bool = True) -> tuple[Reason, str] | None:
    """Reason and message of the hold; none: the job may run.

    Args:
        follows: whether the admission is for what the job needs now.
    """
    if job.run_policy.suspend:
        return Reason.SUSPENDED, "spec.runPolicy.suspend is true"
    if admission is not None and admission.reserved and not follows:
        message = f"the job needs other quota than it has: it stops at a checkpoint and waits in queue {job.queue}"
        return Reason.QUOTA_CHANGES, message
    if admission is None or admission.admitted:
        return None
    if admission.evicted:
        return Reason.PREEMPTED, f"evicted from queue {job.queue}: {admission.message}"
    words = f": {admission.message}" if admission.message else ""
    return Reason.WAITING_FOR_QUOTA, f"waiting in queue {job.queue}{words}"


def stop(
    job: Job, status: Status, observed: Observed, settings: Settings
) -> tuple[tuple[Deletion, ...], tuple[dict[str, Any], ...], bool]:
    """What ends the pods of a held job: objects to delete, objects to write, and whether no pod is left."""
    ending = teardown.stop(observed, status.attempt + 1)
    servers = observed.live.get(("StatefulSet", names.stateful_set(job.name)))
    scaled: tuple[dict[str, Any], ...] = ()
    if servers is not None and ending.trainers_gone:
        scaled = (children.server_set(job, status.attempt, settings, replicas=0),)
    return ending.delete, scaled, ending.all_gone
