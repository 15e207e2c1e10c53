"""What a `BagpipeJob` says: the parts the operator decides by, parsed once into frozen values.

The document itself passes through to the roles untouched. Only what concerns a job's life on the
cluster is read here, and only after `spec_shape` has found every such part to be of its type.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bagpipe_operator import conditions as condition_list
from bagpipe_operator import defaults, names, times
from bagpipe_operator.names import Role
from bagpipe_operator.podcheck import shapes, spec_shape

SpecError = shapes.SpecError
camel = shapes.camel


@dataclass(frozen=True, kw_only=True)
class RunPolicy:
    """`spec.runPolicy`; defaults and meaning are the library's (config/document.py), pinned by `tests/contract`."""

    backoff_limit: int = 3
    disruption_limit: int = 100
    image_policy: str = "Pinned"
    restart_policy: str = "OnFailure"
    active_deadline_seconds: int | None = None
    startup_deadline_seconds: int = 1800
    ttl_seconds_after_finished: int | None = None
    clean_pod_policy: str = "Running"
    partial_start_seconds: int = 600
    gang: str = "None"
    node_lost_seconds: int = 60
    suspend: bool = False
    queue_name: str | None = None
    workload_priority_class: str | None = None
    managed_by: str | None = None
    operator_class: str | None = None
    job_class: str | None = None
    inherit: tuple[str, ...] = ()
    network_policy: str = "Ingress"

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "RunPolicy":
        """The policy of a document that `spec_shape` has found no fault with; what it leaves out has its default."""
        known = {name: raw[camel(name)] for name in cls.__dataclass_fields__ if raw.get(camel(name)) is not None}
        return cls(**{**known, "inherit": tuple(known.get("inherit", ()))})

    @classmethod
    def for_whom(cls, spec: Any) -> "RunPolicy":
        """Only the fields that say which operator runs the job, from a document that may be malformed."""
        policy = spec.get("runPolicy") if isinstance(spec, Mapping) else None
        found = policy if isinstance(policy, Mapping) else {}
        manager, operator = found.get("managedBy"), found.get("operatorClass")
        return cls(
            managed_by=manager if isinstance(manager, str) else None,
            operator_class=operator if isinstance(operator, str) else None,
        )

    def is_of(self, operator_class: str) -> bool:
        """Whether the operator of this class (empty: the one without) runs this job."""
        ours = self.managed_by in (None, names.MANAGER, f"{names.GROUP}/{names.MANAGER}")
        return ours and (self.operator_class or "") == operator_class


@dataclass(frozen=True, kw_only=True)
class Status:
    """`status` of a job: written by the operator alone, in one request, and only when it differs."""

    observed_generation: int = 0
    phase: str = "Pending"
    reason: str = ""
    """Why the phase is what it is: the reason of the condition behind it."""
    phase_time: dt.datetime | None = None
    """When the phase became what it is."""
    durations: Mapping[str, int] = field(default_factory=dict)
    """Seconds spent in each phase before the present one."""
    attempt: int = 0
    restarts: int = 0
    disruptions: int = 0
    short_attempts: int = 0
    """Attempts in a row that ended early; the back-off grows with them."""
    start_time: dt.datetime | None = None
    """When the job ran for the first time."""
    starting_since: dt.datetime | None = None
    """Start of the present wait for all pods; the startup deadline counts from here."""
    attempt_time: dt.datetime | None = None
    """When the present attempt was decided; the back-off counts from here."""
    running_since: dt.datetime | None = None
    """Start of the present stretch of active time; none while held."""
    active_seconds: int = 0
    """Active time of earlier stretches."""
    completion_time: dt.datetime | None = None
    pinned: Mapping[str, Any] = field(default_factory=dict)
    """What this job took from the operator's settings when it began (`pins.py`)."""
    server_pods: Mapping[str, int] = field(default_factory=dict)
    """UIDs of the servers' pods when this attempt first ran, and how often each had been restarted by then."""
    ready_pods: Mapping[str, str] = field(default_factory=dict)
    """`ready/desired` by role, for people."""
    replica_statuses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    trainer_replicas: int = 0
    selector: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    last_failure: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    """Where the last lines of the pods are that the job's failure ended, or why they were not kept."""
    conditions: tuple[condition_list.Condition, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Status":
        """The status as the API server shows it; fields that this release does not know are passed over."""
        known = {name: raw[camel(name)] for name in cls.__dataclass_fields__ if raw.get(camel(name)) is not None}
        for name in _TIMES & known.keys():
            known[name] = times.parse(known[name])
        known["conditions"] = tuple(condition_list.Condition.of(c) for c in known.get("conditions", ()))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """As the API server keeps it; what says nothing is left out."""
        raw: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name in _TIMES:
                value = times.text(value) if value else None
            elif name == "conditions":
                value = [c.to_dict() for c in value]
            if value is not None and (value or isinstance(value, int)):
                raw[camel(name)] = value
        return raw

    def is_true(self, kind: names.Condition) -> bool:
        """Whether the condition of this type is there and true."""
        return condition_list.is_true(self.conditions, kind)

    @property
    def finished(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.is_true(names.Condition.COMPLETE) or self.is_true(names.Condition.FAILED)

    def put(self, condition: condition_list.Condition) -> "Status":
        """With this condition in place of the one of its type."""
        return replace(self, conditions=condition_list.put(self.conditions, condition))

    def put_if_known(self, condition: condition_list.Condition) -> "Status":
        """As `put`, unless there is none of its type: what never was needs no denial."""
        known = condition_list.find(self.conditions, condition.type) is not None
        return self.put(condition) if known else self

    def without(self, kind: names.Condition) -> "Status":
        """With no condition of this type: there is nothing more to say about it."""
        return replace(self, conditions=tuple(c for c in self.conditions if c.type != kind))


_NOT_INHERITED = (f"{names.GROUP}/", "kueue.x-k8s.io/")
_TIMES = frozenset({"start_time", "starting_since", "attempt_time", "running_since", "completion_time", "phase_time"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `BagpipeJob` as read from the API server."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    deleted_at: dt.datetime | None
    """When somebody deleted it; none: nobody has."""
    finalizers: tuple[str, ...]
    """What keeps it after that, none of them ours; those of Kubernetes say which deletion was asked for."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    run_policy: RunPolicy
    status: Status
    """As the API server shows it: what was, before the present decision."""
    fault: str = ""
    """What is wrong with the document; `spec` and `run_policy` are then empty, but for who manages the job."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Job":
        """The job from the object as it was read; a malformed document gives one whose `fault` says what is wrong."""
        meta, spec = raw["metadata"], raw.get("spec") or {}
        fault = spec_shape.fault(spec)
        policy = RunPolicy.of(spec.get("runPolicy") or {}) if fault is None else RunPolicy.for_whom(spec)
        return cls(
            name=meta["name"],
            namespace=meta["namespace"],
            uid=meta["uid"],
            generation=meta.get("generation", 0),
            resource_version=meta.get("resourceVersion", ""),
            deleted_at=times.parse(meta["deletionTimestamp"]) or times.EPOCH if "deletionTimestamp" in meta else None,
            finalizers=tuple(meta.get("finalizers") or ()),
            labels=meta.get("labels") or {},
            annotations=meta.get("annotations") or {},
            spec=spec if fault is None else {},
            run_policy=policy,
            status=Status.of(raw.get("status") or {}),
            fault=str(fault or ""),
        )

    def section(self, role: Role) -> Mapping[str, Any]:
        """The settings of a role, such as `spec.trainers`; empty: the document has none."""
        return self.spec.get(names.SECTIONS[role]) or {}

    def replicas(self, role: Role) -> int:
        """How many pods of a role the document asks for."""
        return 1 if role is Role.ORACLE else int(self.section(role).get("replicas", defaults.REPLICAS))

    @property
    def asked(self) -> dict[str, int]:
        """As `replicas`, by the names of the document's sections."""
        return {names.SECTIONS[role]: self.replicas(role) for role in Role}

    @property
    def pods_wanted(self) -> int:
        """How many pods the document asks for, all roles together."""
        return sum(self.replicas(role) for role in Role)

    @property
    def queue(self) -> str | None:
        """Kueue's queue: from the run policy, or the label that Kueue's users know."""
        return self.run_policy.queue_name or self.labels.get(names.LABEL_QUEUE)

    def inherited(self, of: Mapping[str, str]) -> dict[str, str]:
        """Which of the job's own labels or annotations its children bear too; never one that we or Kueue act on."""
        keys = self.run_policy.inherit
        prefixes = tuple(key[:-1] for key in keys if key.endswith("/*"))
        asked = {k: v for k, v in of.items() if k in keys or k.startswith(prefixes)}
        return {k: v for k, v in asked.items() if k != names.LABEL_MANAGED_BY and not k.startswith(_NOT_INHERITED)}

    @property
    def checkpoint_claim(self) -> Mapping[str, Any] | None:
        """The claim for checkpoints that the operator makes, perhaps empty: all its settings have defaults."""
        found: Mapping[str, Any] | None = (self.spec.get("checkpoint") or {}).get("volumeClaim")
        return found

    @property
    def server_claim(self) -> Mapping[str, Any] | None:
        """What each server's claim is like, perhaps empty; none: its rows are gone with its pod."""
        found: Mapping[str, Any] | None = self.section(Role.SERVER).get("volumeClaim")
        return found

    @property
    def servers_durable(self) -> bool:
        """Whether a server's rows outlive its pod: kept in files on a claim, not in its memory or an emptyDir."""
        storage = self.section(Role.SERVER).get("storage") or defaults.SERVER_STORAGE
        return self.server_claim is not None and storage == "file"

    @property
    def selector(self) -> str:
        """Label selector of the trainers' pods, as `kubectl scale` and autoscalers take it."""
        wanted = names.labels(self.name, Role.TRAINER)
        return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))

    @property
    def full_name(self) -> str:
        """`namespace/name`, for logs."""
        return f"{self.namespace}/{self.name}"
