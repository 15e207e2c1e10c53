"""What stands in the way of a job: refusals of our own writes, and whatever keeps its pods from running.

The first of these that has something to say gives the reason: the API server about our own writes, an older job of
this name whose objects are still there, kubelets and the scheduler in the pods' status, and the warnings of Kubernetes'
controllers (a Job or StatefulSet that may not make its pods, a volume that cannot be mounted or provisioned).
"""

import datetime as dt
from collections.abc import Iterable, Iterator

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Fail
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed, Obstacle, attempt_of, role_of
from bagpipe_operator.podstate import Pod, Raw
from bagpipe_operator.policies import backoff, keeping
from bagpipe_operator.warned import of_claim

SCHEDULER_SECONDS = 8
"""A pod that no scheduler has said a word about for so long has none."""
NODE_SECONDS = 20
"""A pod of which its node's kubelet has not said a word for so long is not known there."""
OVERDUE_SECONDS = 60
"""How long after its time to end a pod is only slow."""
TAKEN_SECONDS = 60
"""How often a job that runs tries again to make what somebody else's object took the name of."""
FINALIZER_SECONDS = 10
"""What is still there so long after it should have gone is held, and not only slow."""


def judge(observed: Observed) -> Fail | None:
    """A child that is refused for good ends the job: the same request gets the same answer."""
    for obstacle in _in_order(observed):
        if obstacle.final:
            return Fail(reason=obstacle.reason, message=obstacle.message)
    return None


def judge_queued(observed: Observed) -> Fail | None:
    """As `judge`, for a job that waits in a queue: without a Workload it would wait for ever."""
    if observed.workload is not None:
        return None
    found = next((o for (kind, _), o in sorted(observed.refused.items()) if kind == "Workload" and o.final), None)
    return Fail(reason=found.reason, message=found.message) if found else None


def refusal(observed: Observed) -> Obstacle | None:
    """What the API server does not accept of what the job needs; none: it took everything."""
    return next(iter(_in_order(observed)), None)


def _in_order(observed: Observed) -> list[Obstacle]:
    return [observed.refused[key] for key in sorted(observed.refused)]


def contested(observed: Observed, now: dt.datetime) -> Obstacle | None:
    """An object that somebody changes back whenever we have written it."""
    for (kind, name), found in sorted(observed.contested.items()):
        if found.last < found.until and now < found.over:
            message = f"{kind}/{name} is changed back whenever the operator has written it; it waits longer each time"
            return Obstacle(reason=Reason.CONTESTED, message=message)
    return None


def held_back(observed: Observed, now: dt.datetime) -> Obstacle | None:
    """An object that should be gone and that somebody's finalizer keeps, or a pod that does not end."""
    for what, since, finalizers in _going(observed):
        if now >= times.later(since, FINALIZER_SECONDS):
            words = f"{what} is being deleted and is kept by the finalizer {finalizers[0]}, which is not the operator's"
            return Obstacle(reason=Reason.HELD_BY_FINALIZER, message=words)
    return _overdue(observed, now)


def _overdue(observed: Observed, now: dt.datetime) -> Obstacle | None:
    """A pod whose time to end is over: until its node says that its process has ended, no other may take its place."""
    for pod in observed.pods:
        if pod.deleted_at is not None and not pod.gone_quiet and now >= times.later(pod.deleted_at, OVERDUE_SECONDS):
            where = f"node {pod.node} has not" if pod.node else "no node has"
            words = f"should have ended by {times.text(pod.deleted_at)}, and {where} said that it has"
            return Obstacle(reason=Reason.POD_NOT_ENDING, message=f"{_who(pod)} {words}")
    return None


def _going(observed: Observed) -> Iterator[tuple[str, dt.datetime, list[str]]]:
    """What is being deleted and has finalizers that Kubernetes does not take off: its name, since when, and those."""
    for (kind, name), raw in sorted(observed.live.items()):
        meta = raw["metadata"]
        foreign = _foreign(meta.get("finalizers") or ())
        if foreign and (since := times.parse(meta.get("deletionTimestamp"))) is not None:
            yield f"{kind}/{name}", since, foreign
    for pod in observed.pods:
        if pod.deleted_at is not None and (foreign := _foreign(pod.finalizers)):
            yield f"Pod/{pod.name}", pod.deleted_at, foreign


def _foreign(finalizers: Iterable[str]) -> list[str]:
    domains = ((name, name.rpartition("/")[0]) for name in finalizers)
    return [name for name, domain in domains if domain and not f".{domain}".endswith(".kubernetes.io")]


def why_not_running(job: Job, status: Status, observed: Observed, now: dt.datetime) -> Obstacle:
    """What holds the present attempt up, by the name that Kubernetes gives it."""
    pods = [p for p in observed.pods if p.attempt == status.attempt]
    return (
        refusal(observed)
        or held_back(observed, now)
        or _older_job(observed)
        or keeping.trouble(job, observed)
        or _without_volume(pods, observed)
        or _stuck(pods)
        or _warned(job, status, observed, pods)
        or _unscheduled(pods, now)
        or _unseen(pods, now)
        or _count(job, status, observed, now)
    )


def _older_job(observed: Observed) -> Obstacle | None:
    if not observed.orphans:
        return None
    listed = ", ".join(observed.orphans[:5])
    return Obstacle(
        reason=Reason.OLDER_JOB,
        message=f"objects of an older job of this name, or that a deletion had left, are still there: {listed}",
    )


def _stuck(pods: list[Pod]) -> Obstacle | None:
    stuck = [p for p in pods if p.stuck and not p.ended]
    # A process that ends again and again may only miss another one, which cannot start.
    pod = min(stuck, key=lambda p: p.stuck == "CrashLoopBackOff", default=None)
    return Obstacle(reason=pod.stuck, message=f"{_who(pod)}: {pod.stuck_message}") if pod else None


def _without_volume(pods: list[Pod], observed: Observed) -> Obstacle | None:
    """Why a claim has no volume, where the scheduler says only that a pod waits for one."""
    for pod in pods:
        if pod.stuck != Reason.UNSCHEDULABLE or "persistentvolumeclaim" not in pod.stuck_message.lower():
            continue
        for claim in sorted(pod.claims):
            if found := observed.warnings.get(of_claim(claim)):
                message = f"{_who(pod)}: PersistentVolumeClaim {claim}: {found.message}"
                return Obstacle(reason=found.reason, message=message)
    return None


def of_servers(observed: Observed, attempt: int) -> str:
    """Why a server is not ready, in a few words that stay the same while it lasts; empty: nobody says."""
    stuck = (p for p in observed.of_role(Role.SERVER, attempt) if p.stuck and not p.ended)
    pod = next(stuck, None)
    if pod is None:
        return ""
    why = "ImagePullBackOff" if pod.stuck == "ErrImagePull" else pod.stuck  # The kubelet says both by turns.
    return f": {_who(pod)} does not start ({why})"


def _who(pod: Pod) -> str:
    return f"{pod.role} {pod.index} ({pod.name})"


def _unscheduled(pods: list[Pod], now: dt.datetime) -> Obstacle | None:
    for pod in pods:
        if pod.scheduler and now >= _silence_ends(pod):
            message = f"{_who(pod)}: no scheduler {pod.scheduler!r} has looked at it"
            return Obstacle(reason=Reason.NO_SCHEDULER, message=message)
    return None


def _unseen(pods: list[Pod], now: dt.datetime) -> Obstacle | None:
    """A pod template can name a node that there is not, and no scheduler looks at such a pod."""
    for pod in pods:
        if pod.unseen and now >= _silence_ends(pod):
            words = f"node {pod.node!r} has not said a word about it: is there such a node, and does its kubelet run?"
            return Obstacle(reason=Reason.NODE_SILENT, message=f"{_who(pod)}: {words}")
    return None


def _silence_ends(pod: Pod) -> dt.datetime:
    return times.later(pod.created or times.EPOCH, NODE_SECONDS if pod.unseen else SCHEDULER_SECONDS)


def look_again(observed: Observed, now: dt.datetime) -> dt.datetime | None:
    """When silence becomes telling, an object that nobody watches may be gone, or a contested one is written again."""
    waiting = (p for p in observed.pods if p.scheduler or p.unseen)
    silences = (_silence_ends(p) for p in waiting if now < _silence_ends(p))
    older = observed.orphans or any(o.reason == Reason.OLDER_JOB for o in observed.refused.values())
    ends = [when for found in observed.contested.values() for when in (found.until, found.over) if now < when]
    told = (times.later(since, FINALIZER_SECONDS) for _, since, _ in _going(observed))
    ends += [when for when in told if now < when]
    ends += [times.later(p.deleted_at, OVERDUE_SECONDS) for p in observed.pods if p.deleted_at and not p.gone_quiet]
    ends = [when for when in ends if now < when]
    taken = any(o.reason == Reason.NAME_TAKEN for o in observed.refused.values())
    return times.earliest(
        *silences, *ends, times.later(now, 5) if older else None, times.later(now, TAKEN_SECONDS) if taken else None
    )


def _warned(job: Job, status: Status, observed: Observed, pods: list[Pod]) -> Obstacle | None:
    """A warning counts only while what it is about is not as it should be: events outlive their causes."""
    have = {role: sum(p.role is role for p in pods) for role in Role}
    for (kind, name), raw in sorted(observed.live.items()):
        found = observed.warnings.get(raw["metadata"]["uid"])
        if found and _lacks_something(raw, job, status, have):
            return Obstacle(reason=found.reason, message=f"{kind} {name}: {found.message}")
    for pod in pods:
        if not pod.ready and not pod.ended and (found := observed.warnings.get(pod.uid)) and not _over(pod, found):
            return Obstacle(reason=found.reason, message=f"{_who(pod)}: {found.message}")
    return None


def _over(pod: Pod, warning: Obstacle) -> bool:
    """Whether a pod has got past what a warning about it says: all that is meant is told before its containers run."""
    return pod.begun or (warning.reason == "FailedScheduling" and bool(pod.node))


def _lacks_something(raw: Raw, job: Job, status: Status, have: dict[Role, int]) -> bool:
    role = role_of(raw)
    if raw["kind"] == "PersistentVolumeClaim":
        return (raw.get("status") or {}).get("phase") != "Bound"
    if role is None or (raw["kind"] == "Job" and attempt_of(raw) != status.attempt):
        return False
    return have[role] < job.replicas(role)


def _count(job: Job, status: Status, observed: Observed, now: dt.datetime) -> Obstacle:
    pods = [p for p in observed.pods if p.attempt == status.attempt]
    ready = sum(p.ready or p.phase == "Succeeded" for p in pods)
    waiting = next((f"; {_who(p)}: {p.beside}" for p in pods if p.beside and p.begun and not p.ended), "")
    if not pods and any(p.attempt < status.attempt and not p.gone_quiet for p in observed.pods):
        waiting = "; those of the attempt before are still ending"
    elif not pods and status.attempt_time is not None and now < (start := backoff.start_time(job, status)):
        waiting = f"; they are made at {times.text(start)}: the job waits longer after each attempt that ended early"
    message = f"{ready} of {job.pods_wanted} pods run, {len(pods)} exist{waiting}"
    return Obstacle(reason=Reason.STARTING, message=message)
