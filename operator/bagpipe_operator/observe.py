"""What exists: a job's children as the API server shows them, sorted into what policies ask about.

Owner UID decides what belongs to a job, so that a job of the same name made later never adopts an
older one's pods. Pods hang below the Jobs and the StatefulSet; they are found by the job's label and
belong when their owner does.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator import names, podstate, times
from bagpipe_operator.names import Role
from bagpipe_operator.podstate import Pod, Raw

Key = tuple[str, str]
"""Kind and name of a child; the namespace is the job's."""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why something that the job needs was not made or does not start, in the words of the component that says so."""

    reason: str
    message: str
    final: bool = False
    """Whether trying again is of no use."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Digests of what was written to a child last, and of what the API server made of it."""

    asked: str
    answered: str


@dataclass(frozen=True, kw_only=True)
class Contested:
    """A child that is changed back after our writes: somebody else wants it otherwise."""

    count: int
    """Writes in a row that were taken back, each within ten minutes of the one before."""
    last: dt.datetime

    @property
    def until(self) -> dt.datetime:
        """When it is written again: a few times at once, as hands may slip, then later each time."""
        late = self.count - _FREE_REWRITES
        return times.later(self.last, min(10 * 2 ** min(late, 10), 300)) if late >= 0 else self.last

    @property
    def over(self) -> dt.datetime:
        """When it counts no more."""
        return times.later(self.last, _REMEMBERED)

    def again(self, now: dt.datetime) -> "Contested":
        """After one more such write."""
        return Contested(count=self.count + 1 if now < self.over else 1, last=now)


_FREE_REWRITES, _REMEMBERED = 4, 600


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the shell knows beyond the job's children: it was asked for, answered to a write, or read in a log."""

    lost_nodes: Mapping[str, dt.datetime] = field(default_factory=dict)
    """Nodes that are gone or unreachable, and since when, among those that policies asked about."""
    flavors: Mapping[str, Raw] = field(default_factory=dict)
    """Kueue's resource flavors by name, where the job has a queue."""
    priorities: Mapping[str, Raw] = field(default_factory=dict)
    """Kueue's priority classes by name, where the job has a queue."""
    progress: Mapping[str, Any] | None = None
    """Newest progress record of the oracle; none: nothing new was read."""
    refused: Mapping[Key, Obstacle] = field(default_factory=dict)
    """Children that the API server did not accept when we last wrote them."""
    warnings: Mapping[str, Obstacle] = field(default_factory=dict)
    """Newest warning about an object, by its UID: what controllers below us and kubelets could not do. Those about
    the namespace's claims are also here by their names (`warned.of_claim`)."""
    logs: Mapping[str, str] = field(default_factory=dict)
    """What came of keeping the logs of a job that failed, as its status shows it; empty: nothing yet."""
    written: Mapping[Key, Written] = field(default_factory=dict)
    contested: Mapping[Key, Contested] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Observed(Known):
    """A job's children. `live` holds them as read; the rest is what policies ask."""

    live: Mapping[Key, Raw] = field(default_factory=dict)
    ended: Mapping[Key, Raw] = field(default_factory=dict)
    """Batch Jobs that had ended when somebody deleted them: they are not made again in their attempt."""
    ended_pods: tuple[Pod, ...] = ()
    """Pods that had ended well when somebody deleted them: what they left as results still counts."""
    pods: tuple[Pod, ...] = ()
    orphans: tuple[str, ...] = ()
    """Objects that bear the job's label and another job's UID: an older job of this name has not ended so far. Pods too
    whose Job was deleted without them (`--cascade=orphan`): a second process of their rank must not be started."""

    def of_role(self, role: Role, attempt: int | None = None) -> tuple[Pod, ...]:
        """Pods of a role, of this attempt alone if one is given."""
        return tuple(p for p in self.pods if p.role is role and attempt in (None, p.attempt))

    @property
    def workload(self) -> Raw | None:
        """Kueue's Workload of this job."""
        return next((r for (kind, _), r in self.live.items() if kind == "Workload"), None)

    def newest_attempt(self) -> int:
        """Highest attempt among Jobs and servers; above the job's own, its status is lost or was read too early.

        A server that bears a higher number than the job would else be waited for in vain, and never be told to go.
        """
        jobs = (attempt_of(raw) for (kind, _), raw in (*self.live.items(), *self.ended.items()) if kind == "Job")
        servers = (p.attempt for p in self.of_role(Role.SERVER) if p.attempt_told)
        return max((*jobs, *servers), default=-1)

    def batch_jobs(self, role: Role) -> tuple[Raw, ...]:
        """The Jobs of a role, of all attempts."""
        return tuple(r for (kind, _), r in self.live.items() if kind == "Job" and role_of(r) == role)

    def batch_job(self, job: str, role: Role, attempt: int) -> Raw | None:
        """The Job of a role in this attempt; none: it was not made, or was deleted before it had ended."""
        key = ("Job", names.batch_job(job, role, attempt))
        return self.live.get(key) or self.ended.get(key)


_BATCH_JOB = re.compile(rf".*-({names.SECTIONS[Role.ORACLE]}|{names.SECTIONS[Role.TRAINER]})-([0-9]{{1,9}})")


def attempt_of(raw: Raw) -> int:
    """Of a batch Job, from its name, which nobody can change; -1: it is none of ours."""
    found = _BATCH_JOB.fullmatch(raw["metadata"]["name"])
    return int(found[2]) if found else -1


def role_of(raw: Raw) -> Role | None:
    """Of a StatefulSet or a batch Job; none: it is none of ours."""
    if raw["kind"] == "StatefulSet":
        return Role.SERVER
    found = _BATCH_JOB.fullmatch(raw["metadata"]["name"])
    return next((r for r in (Role.ORACLE, Role.TRAINER) if found and names.SECTIONS[r] == found[1]), None)


def is_deleting(raw: Raw) -> bool:
    """Whether an object has been asked to go, and is still there."""
    return "deletionTimestamp" in raw["metadata"]


def job_condition(raw: Raw | None, kind: str) -> Raw | None:
    """A true condition of a batch Job."""
    listed: Iterable[Raw] = ((raw or {}).get("status") or {}).get("conditions") or ()
    return next((c for c in listed if c.get("type") == kind and c.get("status") == "True"), None)


def has_ended(raw: Raw) -> bool:
    """Whether a batch Job is over, well or not, or a pod has ended well."""
    if raw["kind"] == "Pod":
        return (raw.get("status") or {}).get("phase") == "Succeeded"
    return raw["kind"] == "Job" and any(job_condition(raw, kind) for kind in ("Complete", "Failed"))


def observe(
    job_uid: str,
    children: Iterable[Raw],
    pods: Iterable[Raw],
    known: Known | None = None,
    ended: Iterable[Raw] = (),
) -> Observed:
    """Keep what the job with this UID owns, directly or by a Job or StatefulSet that it owns.

    A claim for checkpoints that outlives its job has no owner; it belongs to whichever job has its name now.
    """
    live: dict[Key, Raw] = {}
    orphans = []
    for raw in children:
        if owner_of(raw) == job_uid or (raw["kind"] == "PersistentVolumeClaim" and not owner_of(raw)):
            live[raw["kind"], raw["metadata"]["name"]] = raw
        elif _of_older_job(raw):
            orphans.append(f"{raw['kind']}/{raw['metadata']['name']}")
    gone = tuple(ended)
    over = {("Job", raw["metadata"]["name"]): raw for raw in gone if raw["kind"] == "Job" and owner_of(raw) == job_uid}
    there = {raw["metadata"]["uid"]: raw for raw in live.values() if raw["kind"] in ("Job", "StatefulSet")}
    owners = there | {raw["metadata"]["uid"]: raw for raw in over.values()}
    mine = []
    for raw in pods:
        # A process that outlives its Job is an orphan, which the next attempt waits for.
        pod = _pod(raw, owners if has_ended(raw) else there)
        if pod is not None:
            mine.append(pod)
        elif _of_older_job(raw) or podstate.is_left(raw):
            orphans.append(f"Pod/{raw['metadata']['name']}")
    return Observed(
        **vars(known or Known()),
        live=live,
        ended=over,
        ended_pods=tuple(pod for raw in gone if raw["kind"] == "Pod" and (pod := _pod(raw, owners)) is not None),
        pods=tuple(sorted(mine, key=_order)),
        orphans=tuple(sorted(orphans)),
    )


def _pod(raw: Raw, owners: Mapping[str, Raw]) -> Pod | None:
    """A pod below one of these Jobs and StatefulSets, by UID; none: it belongs to none of them."""
    owner = owners.get(owner_of(raw))
    role = role_of(owner) if owner is not None else None
    if owner is None or role is None:
        return None
    return podstate.parse(raw, role, attempt_of(owner) if owner["kind"] == "Job" else None)


def _order(pod: Pod) -> tuple[Any, ...]:
    return pod.role, pod.attempt, pod.index, pod.created or dt.datetime.min.replace(tzinfo=dt.UTC), pod.name


def controller_of(raw: Raw) -> Raw:
    """The owner reference of the controller that an object belongs to; empty: it belongs to none."""
    return next((o for o in raw["metadata"].get("ownerReferences") or () if o.get("controller")), {})


def owner_of(raw: Raw) -> str:
    """UID of the controller that owns an object; empty: none does."""
    return str(controller_of(raw).get("uid", ""))


def _of_older_job(raw: Raw) -> bool:
    """Whether another job of this name made it. An object that only bears our labels is somebody else's business."""
    job, owner = (raw["metadata"].get("labels") or {}).get(names.LABEL_JOB), controller_of(raw)
    if owner.get("kind") == names.KIND:
        return bool(owner.get("name") == job)
    return owner.get("kind") in ("Job", "StatefulSet") and str(owner.get("name")).startswith(f"{job}-")


def claimed_by_name(raw: Raw, job: str) -> bool:
    """Whether a claim without an owner was left by an earlier job of this name, for the next one."""
    labels = raw["metadata"].get("labels") or {}
    ours = (labels.get(names.LABEL_MANAGED_BY), labels.get(names.LABEL_JOB)) == (names.MANAGER, job)
    return raw["kind"] == "PersistentVolumeClaim" and not raw["metadata"].get("ownerReferences") and ours
