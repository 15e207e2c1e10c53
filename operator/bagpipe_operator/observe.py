"""What exists: a job's children as the API server shows them, sorted into what policies ask about.

Owner UID decides what belongs to a job, so that a job of the same name made later never adopts an
older one's pods. Pods hang below the Jobs and the StatefulSet; they are found by the job's label and
belong when their owner does.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator import names
from bagpipe_operator.api import parse_time
from bagpipe_operator.names import Role

Raw = Mapping[str, Any]
Key = tuple[str, str]
"""Kind and name of a child; the namespace is the job's."""

_STUCK = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
    }
)


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod: where it is in its life, and how its main container ended."""

    name: str
    uid: str
    role: Role
    attempt: int
    index: int = 0
    phase: str = "Pending"
    ready: bool = False
    node: str = ""
    created: dt.datetime | None = None
    deleted_at: dt.datetime | None = None
    """When its grace period ends or ended; none: nobody asked it to go."""
    grace_seconds: int = 0
    """Between the wish that it go and `deleted_at`."""
    disrupted: bool = False
    """The cluster took it away: preemption, eviction, drain, node loss."""
    exit_code: int | None = None
    """Of the main container: the present one's, or the last one's where it was restarted."""
    exit_reason: str = ""
    exit_message: str = ""
    exit_time: dt.datetime | None = None
    restarts: int = 0
    stuck: str = ""
    """Why it cannot start, as Kubernetes names it; empty: nothing is known to be wrong."""
    stuck_message: str = ""

    @property
    def ended(self) -> bool:
        """No process of it runs any more, nor ever will."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A job's children. `live` holds them as read; the rest is what policies ask."""

    live: Mapping[Key, Raw] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    strangers: tuple[str, ...] = ()
    """Objects that bear the job's label and another job's UID: an older job of this name is still going."""
    lost_nodes: Mapping[str, dt.datetime] = field(default_factory=dict)
    """Nodes that are gone or unreachable, and since when, among those that policies asked about."""
    flavors: Mapping[str, Raw] = field(default_factory=dict)
    """Kueue's resource flavors by name, where the job has a queue."""
    priorities: Mapping[str, Raw] = field(default_factory=dict)
    """Kueue's priority classes by name, where the job has a queue."""
    progress: Mapping[str, Any] | None = None
    """Newest progress record of the oracle; none: nothing new was read."""

    def of_role(self, role: Role, attempt: int | None = None) -> tuple[Pod, ...]:
        return tuple(p for p in self.pods if p.role is role and attempt in (None, p.attempt))

    @property
    def workload(self) -> Raw | None:
        """Kueue's Workload of this job."""
        return next((r for (kind, _), r in self.live.items() if kind == "Workload"), None)

    def newest_attempt(self) -> int:
        """Highest attempt among the children; above the job's own, the job was read from a stale cache."""
        attempts = [attempt_of(raw) for raw in self.live.values()] + [p.attempt for p in self.pods]
        return max(attempts, default=-1)

    def batch_jobs(self, role: Role) -> tuple[Raw, ...]:
        return tuple(r for (kind, _), r in self.live.items() if kind == "Job" and role_of(r) == role)

    def batch_job(self, job: str, role: Role, attempt: int) -> Raw | None:
        return self.live.get(("Job", names.batch_job(job, role, attempt)))


def attempt_of(raw: Raw) -> int:
    return int((raw["metadata"].get("labels") or {}).get(names.LABEL_ATTEMPT, -1))


def role_of(raw: Raw) -> Role | None:
    value = (raw["metadata"].get("labels") or {}).get(names.LABEL_ROLE)
    return Role(value) if value in set(Role) else None


def is_deleting(raw: Raw) -> bool:
    return "deletionTimestamp" in raw["metadata"]


def job_condition(raw: Raw | None, kind: str) -> Raw | None:
    """A true condition of a batch Job."""
    listed: Iterable[Raw] = ((raw or {}).get("status") or {}).get("conditions") or ()
    return next((c for c in listed if c["type"] == kind and c["status"] == "True"), None)


def observe(
    job_uid: str, children: Iterable[Raw], pods: Iterable[Raw], lost_nodes: Mapping[str, dt.datetime] | None = None
) -> Observed:
    """Keep what the job with this UID owns, directly or by a Job or StatefulSet that it owns.

    A claim for checkpoints that shall outlive the job has no owner and is taken over by name.
    """
    live: dict[Key, Raw] = {}
    strangers = []
    for raw in children:
        if _owner(raw) == job_uid or (raw["kind"] == "PersistentVolumeClaim" and not _owner(raw)):
            live[raw["kind"], raw["metadata"]["name"]] = raw
        else:
            strangers.append(f"{raw['kind']}/{raw['metadata']['name']}")
    owners = {raw["metadata"]["uid"] for raw in live.values()}
    mine = []
    for raw in pods:
        if role_of(raw) is not None and _owner(raw) in owners:
            mine.append(parse_pod(raw))
        else:
            strangers.append(f"Pod/{raw['metadata']['name']}")
    ordered = tuple(
        sorted(
            mine,
            key=lambda p: (p.role, p.attempt, p.index, p.created or dt.datetime.min.replace(tzinfo=dt.UTC), p.name),
        )
    )
    return Observed(live=live, pods=ordered, strangers=tuple(sorted(strangers)), lost_nodes=lost_nodes or {})


def _owner(raw: Raw) -> str:
    return next((o["uid"] for o in raw["metadata"].get("ownerReferences") or () if o.get("controller")), "")


def parse_pod(raw: Raw) -> Pod:
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = meta["labels"]
    state, last, restarts = _main_container(status)
    ended = state.get("terminated") or last.get("terminated") or {}
    stuck, stuck_message = _why_stuck(status)
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        role=Role(labels[names.LABEL_ROLE]),
        attempt=int(labels.get(names.LABEL_ATTEMPT, 0)),
        index=int(labels.get(names.LABEL_COMPLETION_INDEX, labels.get(names.LABEL_POD_INDEX, 0))),
        phase=status.get("phase", "Pending"),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()),
        node=spec.get("nodeName", ""),
        created=parse_time(meta.get("creationTimestamp")),
        deleted_at=parse_time(meta.get("deletionTimestamp")),
        grace_seconds=meta.get("deletionGracePeriodSeconds") or 0,
        disrupted=_is_disrupted(status),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", ""),
        exit_message=ended.get("message", ""),
        exit_time=parse_time(ended.get("finishedAt")),
        restarts=restarts,
        stuck=stuck,
        stuck_message=stuck_message,
    )


def _main_container(status: Raw) -> tuple[Raw, Raw, int]:
    for container in status.get("containerStatuses") or ():
        if container["name"] == names.CONTAINER:
            return container.get("state") or {}, container.get("lastState") or {}, container.get("restartCount", 0)
    return {}, {}, 0


def _is_disrupted(status: Raw) -> bool:
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost", "Shutdown", "NodeShutdown", "Terminated"):
        return True
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in status.get("conditions") or ())


def _why_stuck(status: Raw) -> tuple[str, str]:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            return waiting["reason"], waiting.get("message", "")
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", names.Reason.UNSCHEDULABLE), condition.get("message", "")
    return "", ""
