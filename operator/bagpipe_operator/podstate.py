"""One pod as policies see it: where it is in its life, how its main container ended, and what keeps it from running.

Labels can be changed by anyone who may change pods, so they are hints: role, attempt and index are taken
from names and fields that cannot change (the owner's name, the pod's name, its command line) wherever
there are such.
"""

import datetime as dt
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bagpipe_operator import names, times
from bagpipe_operator.names import Reason, Role

Raw = Mapping[str, Any]

_ON_ITS_WAY = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons why a container waits that are no trouble; every other one is, whether we have heard of it or not."""
_DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "TerminationByKubelet": Reason.NODE_PRESSURE,
}
"""Reasons of a pod's `DisruptionTarget` condition."""
_NODE_ENDS = {
    "Evicted": Reason.NODE_PRESSURE,
    "Preempting": Reason.PREEMPTED,
    "NodeLost": Reason.NODE_LOST,
    "Shutdown": Reason.NODE_SHUTDOWN,
    "NodeShutdown": Reason.NODE_SHUTDOWN,
    "Terminated": Reason.NODE_SHUTDOWN,
    "OutOfcpu": Reason.REJECTED_BY_NODE,
    "OutOfmemory": Reason.REJECTED_BY_NODE,
    "OutOfpods": Reason.REJECTED_BY_NODE,
    "NodeAffinity": Reason.REJECTED_BY_NODE,
    "UnexpectedAdmissionError": Reason.REJECTED_BY_NODE,
}
"""Reasons of the status of a pod that its node ended or refused."""
_END_NOT_SEEN = frozenset({"ContainerStatusUnknown", "Unknown"})
"""Reasons of a container whose end no runtime saw, with a made-up exit code: its node began anew."""


_KUBELETS = frozenset({"startTime", "containerStatuses", "initContainerStatuses"})
"""What the kubelet of its node writes into a pod's status first."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod."""

    name: str
    uid: str
    role: Role
    attempt: int
    """-1: nothing says which."""
    attempt_told: bool = True
    """Whether something says so that nobody can change; else a label does."""
    index: int = 0
    phase: str = "Pending"
    ready: bool = False
    node: str = ""
    created: dt.datetime | None = None
    deleted_at: dt.datetime | None = None
    """When its grace period ends or ended; none: nobody asked it to go."""
    grace_seconds: int = 0
    """Between the request to end and `deleted_at`."""
    finalizers: tuple[str, ...] = ()
    """Who keeps it although it should go."""
    disruption: str = ""
    """Why the cluster took it away (preemption, eviction, node loss, ...); empty: it did not."""
    own_fault: str = ""
    """The kubelet's words, where it ended the pod for what the pod did: used more than its own limit allows."""
    exit_code: int | None = None
    """Of the main container: the present one's, or the last one's where it was restarted."""
    exit_reason: str = ""
    exit_message: str = ""
    exit_time: dt.datetime | None = None
    ended_in: str = ""
    """Another container that failed, where the main one never ran or had ended well; of a server also one that prepares
    it and is started again. `exit_code` is then that container's, and means nothing to the library."""
    node_words: str = ""
    """What the node said about the pod as a whole, where it said why it has failed."""
    result: str | None = None
    """Termination message of the main container, which ended well; none: it has not."""
    lingers: bool = False
    """The main container has ended, and others of a pod template keep the pod: it has ended as the main one did."""
    restarts: int = 0
    """How often the main container was started again, and of a server what prepares it after it had failed."""
    stuck: str = ""
    """Why it cannot start, as Kubernetes names it; empty: nothing is known to be wrong."""
    stuck_message: str = ""
    begun: bool = False
    """A container of it, perhaps one that only prepares it, has run: its node has all that was to be mounted."""
    beside: str = ""
    """Why it is not ready though the main container does not keep it: Kubernetes' words; empty: there are none."""
    claims: frozenset[str] = frozenset()
    """Names of the claims that it mounts, whoever made them."""
    scheduler: str = ""
    """Who should find a node for it, where nobody has said a word about it yet."""
    unseen: bool = False
    """It belongs to a node whose kubelet has not said a word about it yet."""

    @property
    def ended(self) -> bool:
        """No process of the library runs in it any more, nor ever will."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def gone_quiet(self) -> bool:
        """No process at all runs in it any more."""
        return self.ended and not self.lingers

    @property
    def taken(self) -> bool:
        """It was taken away or told to go, by the cluster or by a person."""
        return bool(self.disruption) or (self.deleted_at is not None and not self.own_fault)


def whole(text: object) -> int | None:
    """A label's value as a whole number; none: it is not one of at most nine digits, as we write them."""
    return int(text) if isinstance(text, str) and re.fullmatch("[0-9]{1,9}", text) else None


def parse(raw: Raw, role: Role, attempt: int | None) -> Pod:
    """Read a pod of `role`; `attempt` is that of the Job that owns it, none if a StatefulSet does."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = meta.get("labels") or {}
    state, last, restarts = _main_container(status)
    main = state.get("terminated") or last.get("terminated") or {}
    phase, lingers = _phase(role, status, state)
    ended_in, failed = _failed_beside(status, main)
    if role is Role.SERVER:
        begins = _failed_before(spec, status)
        restarts += sum(container.get("restartCount") or 0 for container, _ in begins)
        if begins and not main and not failed:
            ended_in, failed = f"init container {begins[-1][0].get('name')}", begins[-1][1]
    ended = failed or main
    stuck, stuck_message = ("", "") if lingers else _why_stuck(status)
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        role=role,
        attempt=_attempt(spec, labels) if attempt is None else attempt,
        attempt_told=attempt is not None or _told_attempt(spec) is not None,
        index=_index(meta["name"], role, labels),
        phase=phase,
        ready=_condition(status, "Ready").get("status") == "True",
        node=spec.get("nodeName") or "",
        created=times.parse(meta.get("creationTimestamp")),
        deleted_at=times.parse(meta.get("deletionTimestamp")),
        grace_seconds=meta.get("deletionGracePeriodSeconds") or 0,
        finalizers=tuple(meta.get("finalizers") or ()),
        disruption=_disruption(status, ended, phase),
        own_fault=_own_fault(status),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason") or "",
        exit_message=ended.get("message") or "",
        exit_time=times.parse(ended.get("finishedAt")),
        ended_in=ended_in,
        node_words=_node_words(status),
        result=str(main.get("message") or "") if main.get("exitCode") == 0 else None,
        lingers=lingers,
        restarts=restarts,
        stuck=stuck,
        stuck_message=stuck_message,
        begun=any(_has_run(container) for container in _containers(status)),
        beside=_beside(status),
        claims=frozenset(_claims(meta["name"], spec)),
        scheduler=_silent_scheduler(spec, status),
        unseen=bool(spec.get("nodeName")) and phase == "Pending" and not (status.keys() & _KUBELETS),
    )


def lean(raw: Raw) -> dict[str, Any]:
    """A pod with no more than is read of it here and in `observe.py`; of any other object all of it.

    One job may have thousands of pods, each with a copy of a template of a megabyte.
    """
    if raw.get("kind") != "Pod":
        return dict(raw)
    meta, spec = raw["metadata"], raw.get("spec") or {}
    attempt = _told_attempt(spec)
    told = {} if attempt is None else {"args": ["--attempt", str(attempt)]}
    kept = {
        **{key: spec[key] for key in ("nodeName", "schedulerName") if key in spec},
        "containers": [{"name": names.CONTAINER, **told}],
        "initContainers": [
            {key: one[key] for key in ("name", "restartPolicy") if key in one}
            for one in spec.get("initContainers") or ()
        ],
        "volumes": [
            {"name": one.get("name"), key: one[key] if key == "persistentVolumeClaim" else {"volumeClaimTemplate": {}}}
            for one in spec.get("volumes") or ()
            for key in ("persistentVolumeClaim", "ephemeral")
            if one.get(key)
        ],
    }
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key in _LABELS}
    few = {key: value for key, value in meta.items() if key not in ("labels", "annotations", "managedFields")}
    return {**raw, "metadata": {**few, "labels": labels}, "spec": kept}


_LABELS = frozenset(
    {
        names.LABEL_MANAGED_BY,
        names.LABEL_JOB,
        names.LABEL_ROLE,
        names.LABEL_ATTEMPT,
        names.LABEL_POD_INDEX,
        names.LABEL_COMPLETION_INDEX,
    }
)


def _attempt(spec: Raw, labels: Raw) -> int:
    """From the command line that we gave it, which cannot change; the label where a template replaced that."""
    found = _told_attempt(spec)
    if found is None:
        found = whole(labels.get(names.LABEL_ATTEMPT))
    return -1 if found is None else found


def _told_attempt(spec: Raw) -> int | None:
    for container in spec.get("containers") or ():
        args = container.get("args") or () if container.get("name") == names.CONTAINER else ()
        for option, value in itertools.pairwise(args):
            if option == "--attempt" and (found := whole(value)) is not None:
                return found
    return None


def is_left(raw: Raw) -> bool:
    """Whether a pod is one that we had made, belongs to nobody any more, and may still run a process of the library.

    Its command line says that we made it, which nobody can change; a label says for which job.
    """
    owned = any(owner.get("controller") for owner in raw["metadata"].get("ownerReferences") or ())
    phase = (raw.get("status") or {}).get("phase")
    return not owned and phase not in ("Succeeded", "Failed") and _told_attempt(raw.get("spec") or {}) is not None


def attempt_of_template(template: Raw) -> int:
    """Of a pod template; -1: nothing says which."""
    return _attempt(template.get("spec") or {}, (template.get("metadata") or {}).get("labels") or {})


def _index(name: str, role: Role, labels: Raw) -> int:
    if role is Role.SERVER:
        return whole(name.rpartition("-")[2]) or 0
    return whole(labels.get(names.LABEL_COMPLETION_INDEX)) or 0


def _main_container(status: Raw) -> tuple[Raw, Raw, int]:
    for container in status.get("containerStatuses") or ():
        if container.get("name") == names.CONTAINER:
            return container.get("state") or {}, container.get("lastState") or {}, container.get("restartCount") or 0
    return {}, {}, 0


def _phase(role: Role, status: Raw, state: Raw) -> tuple[str, bool]:
    """The pod's phase, and whether it is the main container's while others keep the pod.

    Kubernetes calls a pod running as long as any container of it is. What we started may have ended long before, and
    nobody would hear of it. A server is started again in its pod, so that its phase is the pod's. A pod whose last
    container has ended is called running for a moment too; that its Job is then stopped would delete it with its log.
    """
    phase, ended = str(status.get("phase") or "Pending"), state.get("terminated")
    if role is Role.SERVER or not ended or phase in ("Succeeded", "Failed") or not _kept_by_another(status):
        return phase, False
    return "Failed" if ended.get("exitCode") else "Succeeded", True


def _containers(status: Raw) -> tuple[Raw, ...]:
    """What is said of each, in the order in which they begin."""
    return (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))


def _kept_by_another(status: Raw) -> bool:
    """Whether a container beside the main one has not ended, a sidecar among the init containers included."""
    listed = _containers(status)
    others = (container.get("state") or {} for container in listed if container.get("name") != names.CONTAINER)
    return any("terminated" not in state for state in others)


def _failed_beside(status: Raw, main: Raw) -> tuple[str, Raw]:
    """The other container that made this pod fail, and how it ended; where a pod is not restarted, one is enough."""
    if status.get("phase") != "Failed" or main.get("exitCode"):
        return "", {}
    found = (("initContainerStatuses", "init container"), ("containerStatuses", "container"))
    for key, what in found[1:] if main else found:
        for container in status.get(key) or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode"):
                return f"{what} {container.get('name')}", ended
    return "", {}


def _failed_before(spec: Raw, status: Raw) -> list[tuple[Raw, Raw]]:
    """Containers that prepare a pod and have failed, and how they last ended; the kubelet starts a server's again.

    One that stays beside the main container (`restartPolicy: Always`) prepares nothing.
    """
    prior = spec.get("initContainers") or ()
    beside = {container.get("name") for container in prior if container.get("restartPolicy") == "Always"}
    found = []
    for container in status.get("initContainerStatuses") or ():
        state, last = container.get("state") or {}, container.get("lastState") or {}
        ended = state.get("terminated") or last.get("terminated") or {}
        if ended.get("exitCode") and container.get("name") not in beside:
            found.append((container, ended))
    return found


def _node_words(status: Raw) -> str:
    """Reason and message of a pod that failed as a whole."""
    if status.get("phase") != "Failed" or not status.get("reason"):
        return ""
    return f"{status['reason']}: {status.get('message') or ''}".rstrip(": ")


def _condition(status: Raw, kind: str) -> Raw:
    listed: Iterable[Raw] = status.get("conditions") or ()
    return next((c for c in listed if c.get("type") == kind), {})


def _own_fault(status: Raw) -> str:
    """Over its own limit of storage or time: unlike pressure on a node, the kubelet marks that as no disruption."""
    if _condition(status, "DisruptionTarget").get("status") == "True":
        return ""
    message = str(status.get("message") or "")
    over_its_limit = status.get("reason") == "Evicted" and "exceed" in message
    return message if over_its_limit or status.get("reason") == "DeadlineExceeded" else ""


def _disruption(status: Raw, ended: Raw, phase: str) -> str:
    """Why the cluster took a pod away; empty: it did not."""
    target = _condition(status, "DisruptionTarget")
    if target.get("status") == "True":
        return str(_DISRUPTIONS.get(target.get("reason", ""), Reason.DISRUPTED))
    if _own_fault(status):
        return ""
    reason = status.get("reason") or ""
    if reason in _NODE_ENDS:
        return str(_NODE_ENDS[reason])
    if phase == "Failed" and ended.get("reason") in _END_NOT_SEEN:
        return str(Reason.NODE_LOST)
    refused = phase == "Failed" and reason and not ended  # A node has many reasons to refuse a pod, and gets new ones.
    return str(Reason.REJECTED_BY_NODE) if refused else ""


def _why_stuck(status: Raw) -> tuple[str, str]:
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if (waiting.get("reason") or "") not in _ON_ITS_WAY:
            return waiting["reason"], (waiting.get("message") or "") + _last_end(container)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return scheduled.get("reason") or Reason.UNSCHEDULABLE, scheduled.get("message") or ""
    return "", ""


def _last_end(container: Raw) -> str:
    """How its process ended before it waits to be started again."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended.get("exitCode"):
        return ""
    words = str(ended.get("message") or "").strip().splitlines()
    return f"; it exited with {ended['exitCode']}" + (f": {words[-1][:300]}" if words else "")


def _has_run(container: Raw) -> bool:
    return bool((container.get("state") or {}).keys() & {"running", "terminated"} or container.get("lastState"))


def _beside(status: Raw) -> str:
    """What a pod waits for beside the main container: one that prepares it or stands beside it, a readiness gate."""
    initialized, ready = _condition(status, "Initialized"), _condition(status, "Ready")
    if initialized.get("status") == "False":
        return str(initialized.get("message") or "")
    gates = ready.get("status") == "False" and ready.get("reason") == "ReadinessGatesNotReady"
    main_is_ready = any(c.get("ready") for c in _containers(status) if c.get("name") == names.CONTAINER)
    return str(ready.get("message") or "") if gates or (main_is_ready and ready.get("status") == "False") else ""


def _claims(pod: str, spec: Raw) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield str(claim.get("claimName"))
        elif volume.get("ephemeral"):  # Kubernetes makes a claim of this name for this pod alone.
            yield f"{pod}-{volume.get('name')}"


def _silent_scheduler(spec: Raw, status: Raw) -> str:
    silent = not spec.get("nodeName") and status.get("phase", "Pending") == "Pending"
    return spec.get("schedulerName") or "" if silent and not _condition(status, "PodScheduled") else ""
