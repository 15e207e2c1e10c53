"""What a write that was not carried out means for the job: an obstacle, in the words of whoever refused it."""

from bagpipe_operator import names
from bagpipe_operator.api import Job
from bagpipe_operator.api_error import ApiError, Outcome
from bagpipe_operator.names import Reason
from bagpipe_operator.observe import Key, Obstacle, claimed_by_name, controller_of, is_deleting, owner_of
from bagpipe_operator.podstate import Raw

_PATIENCE = 5.0
"""Seconds in which an API server that is busy or starts anew gets over it."""

_TERMINATING = "because it is being terminated"
"""How the API server refuses a new object in a namespace that is being deleted."""

_LEFT = (
    "rename the job, or delete what was left: kubectl delete --namespace {job.namespace} jobs.batch,statefulsets,"
    "services,configmaps,secrets,networkpolicies,poddisruptionbudgets -l bagpipe.dev/job={job.name}"
)
"""What to do about the objects of a job that somebody deleted without them."""


def whose(job: Job, found: Raw) -> Obstacle | None:
    """Why an object that exists under a child's name is not this job's; none: it is."""
    if owner_of(found) == job.uid or claimed_by_name(found, job.name):
        return None
    what = "/".join((found["kind"], found["metadata"]["name"]))
    owner = controller_of(found)
    if owner.get("kind") == names.KIND and owner.get("name") == job.name:
        return Obstacle(reason=Reason.OLDER_JOB, message=f"{what} of an older job of this name is still there")
    if is_deleting(found):
        return Obstacle(reason=Reason.OLDER_JOB, message=f"{what} exists and is being deleted")
    labels = found["metadata"].get("labels") or {}
    if not owner and (labels.get(names.LABEL_MANAGED_BY), labels.get(names.LABEL_JOB)) == (names.MANAGER, job.name):
        left = "was left by a job of this name that was deleted without it (--cascade=orphan)"
        message = f"{what} {left}; {_LEFT.format(job=job)}"
        return Obstacle(reason=Reason.NAME_TAKEN, message=message, final=True)
    whose = f"belongs to {owner.get('kind')}/{owner.get('name')}" if owner else "was made by somebody else"
    message = f"{what} exists and {whose}; it was left as it is. Rename the job, or that object"
    return Obstacle(reason=Reason.NAME_TAKEN, message=message, final=True)


def obstacle(error: ApiError, key: Key, seconds: float) -> Obstacle | None:
    """What an answer to a write means for the job; none: nothing yet, the next try may succeed.

    Args:
        seconds: for how long writes of this object have gone wrong.
    """
    message = f"{'/'.join(key)}: {error.message}"
    if error.outcome is Outcome.REFUSED:
        return Obstacle(reason=Reason.CHILD_REFUSED, message=message, final=True)
    if error.outcome is Outcome.FORBIDDEN and _TERMINATING in error.message:
        return Obstacle(reason=Reason.NAMESPACE_TERMINATING, message=message)
    if error.outcome is Outcome.FORBIDDEN:
        over = "exceeded quota" in error.message
        return Obstacle(reason=Reason.QUOTA_EXCEEDED if over else Reason.FORBIDDEN, message=message)
    # Somebody's edit, or an object that has just gone, is over with the next try: what lasts is another thing.
    persists = error.outcome in (Outcome.LATER, Outcome.CHANGED, Outcome.EXISTS) and seconds >= _PATIENCE
    if error.outcome is Outcome.ABSENT or "webhook" in error.message or persists:
        return Obstacle(reason=Reason.API_ERROR, message=message)
    return None
