"""Kueue: the Workload that stands for a job in a queue, and what its admission means for the pods.

The contract of an external framework: we own the Workload, hold every pod until it is Admitted, add
the assigned flavors' labels and tolerations to the pods, and when it is Evicted end the pods first
and then give the reservation back ourselves. What a job asks for may change while it has a reservation:

    fewer trainers      the rest of the reservation is given back as `reclaimablePods`, and so are trainers that ended
    anything else       the job stops at a checkpoint, its Workload is deleted, and a new one queues for what it needs
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator import names, times
from bagpipe_operator.api import Job, SpecError
from bagpipe_operator.children import owner_reference
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed
from bagpipe_operator.pods import pod_template
from bagpipe_operator.settings import Settings

API_VERSION = "kueue.x-k8s.io/v1beta1"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What a Workload's status says of its admission."""

    admitted: bool = False
    evicted: bool = False
    reserved: bool = False
    message: str = ""
    """Why it was evicted, or is not admitted, in Kueue's words."""
    partial: str = ""
    """What was not admitted of what the Workload asks for, in words; empty: all of it was."""
    flavors: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    """Names of the flavors assigned to each role."""
    placed: frozenset[Role] = frozenset()
    """Roles whose pods Kueue sends to places of a topology."""


def admission(workload: Mapping[str, Any] | None) -> Admission:
    """Read a Workload; one that is absent is not admitted."""
    raw = workload or {}
    status = raw.get("status") or {}
    true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    assigned = [a for a in (status.get("admission") or {}).get("podSetAssignments") or () if a["name"] in set(Role)]
    evicted = "Evicted" in true
    return Admission(
        admitted="Admitted" in true and not evicted,
        evicted=evicted and "QuotaReserved" in true,
        reserved="QuotaReserved" in true,
        message=_words(raw, true),
        partial=_partial(_pod_sets(raw), assigned),
        flavors={Role(a["name"]): tuple(sorted(set((a.get("flavors") or {}).values()))) for a in assigned},
        placed=frozenset(Role(a["name"]) for a in assigned if a.get("topologyAssignment")),
    )


def _words(workload: Mapping[str, Any], true: Mapping[str, Mapping[str, Any]]) -> str:
    if "Evicted" in true and "QuotaReserved" in true:
        return str(true["Evicted"].get("message") or "")
    if (workload.get("spec") or {}).get("active") is False:
        return f"Workload {workload['metadata']['name']} was deactivated"
    listed = (workload.get("status") or {}).get("conditions") or ()
    return next((str(c.get("message") or "") for c in listed if c["type"] == "QuotaReserved"), "")


def _pod_sets(workload: Mapping[str, Any]) -> dict[str, int]:
    """Pods of each pod set."""
    return {s["name"]: int(s.get("count", 1)) for s in (workload.get("spec") or {}).get("podSets") or ()}


def _partial(asked: Mapping[str, int], assigned: Iterable[Mapping[str, Any]]) -> str:
    short = [a for a in assigned if a.get("count", asked.get(a["name"], 0)) < asked.get(a["name"], 0)]
    return ", ".join(f"{a['count']} of {asked[a['name']]} {names.SECTIONS[Role(a['name'])]}" for a in short)


def follows(job: Job, live: Mapping[str, Any], observed: Observed, attempt: int) -> bool:
    """Whether the quota that this Workload has reserved is what the job needs now, or more trainers than that."""
    have, spec = _pod_sets(live).get(Role.TRAINER.value, 0), live.get("spec") or {}
    needed = job.replicas(Role.TRAINER) - _ended(observed, attempt)
    asked = (live["metadata"].get("labels") or {}).get(names.LABEL_ASKED)
    same = asked is None or asked == _asked(job, have)  # None: made by a release that wrote no such label.
    return same and needed <= have - _reclaimed(live) and spec.get("queueName") == job.queue


def _ended(observed: Observed, attempt: int) -> int:
    return sum(p.phase == "Succeeded" and p.gone_quiet for p in observed.of_role(Role.TRAINER, attempt))


def _reclaimed(live: Mapping[str, Any]) -> int:
    listed = (live.get("status") or {}).get("reclaimablePods") or ()
    return next((int(r["count"]) for r in listed if r.get("name") == Role.TRAINER.value), 0)


def _asked(job: Job, trainers: int) -> str:
    """Digest of all that quota is counted by, with so many trainers: labels cannot hold more."""
    parts: list[Any] = [job.spec.get("allRoles") or {}]
    for role in Role:
        section = job.section(role)
        parts.append([role.value, trainers if role is Role.TRAINER else job.replicas(role)])
        parts.append({key: section.get(key) for key in (*_COUNTED, "gpuProfile")})
    parts[0] = {key: parts[0].get(key) for key in _COUNTED}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


_COUNTED = ("resources", "nodeSelector", "affinity", "runtimeClassName", "initContainers", "podTemplate", "annotations")
"""Settings of pods by which Kueue counts, and chooses flavors and places."""


_PLACING = frozenset(
    {
        "affinity",
        "hostNetwork",
        "nodeSelector",
        "overhead",
        "priorityClassName",
        "resourceClaims",
        "resources",
        "runtimeClassName",
        "schedulerName",
        "tolerations",
        "topologySpreadConstraints",
    }
)
"""Fields of a pod by which quota is counted and nodes are found."""
_SIZE = frozenset({"name", "image", "resources", "restartPolicy", "ports"})
"""The same of a container; without an image it would be none."""


def _counted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a pod set says of its pods: all that Kueue, or an autoscaler that it asks, counts and places them by.

    The rest of a pod (variables, mounts, probes, ...) is nine tenths of it, and a queue may hold thousands of jobs.
    """
    kept = {key: value for key, value in spec.items() if key in _PLACING}
    for key in ("initContainers", "containers"):
        if listed := spec.get(key):
            kept[key] = [{k: v for k, v in one.items() if k in _SIZE} for one in listed]
    claims = [v for v in spec.get("volumes") or () if "persistentVolumeClaim" in v or "ephemeral" in v]
    return {**kept, "volumes": claims} if claims else kept


def workload(
    job: Job, settings: Settings, priorities: Mapping[str, Mapping[str, Any]], live: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The Workload: one pod set a role, without what an admission adds.

    Args:
        live: the one that is there; a priority that it has stands also when its class is deleted.
    """
    pod_sets = []
    for role in Role:
        template = pod_template(job, role, 0, settings)
        body = {"name": role.value, "count": job.replicas(role), "template": {"spec": _counted(template["spec"])}}
        request = _topology_request(template["metadata"].get("annotations") or {}, role)
        pod_sets.append({**body, "topologyRequest": request} if request else body)
    spec: dict[str, Any] = {"queueName": job.queue, "podSets": pod_sets}  # `active` is Kueue's and its administrators'.
    there = (live or {}).get("spec") or {}
    priority = job.run_policy.workload_priority_class or job.labels.get(names.LABEL_PRIORITY_CLASS)
    if priority:
        known = {"value": there.get("priority", 0)} if there.get("priorityClassName") == priority else None
        found = priorities.get(priority, known)
        if found is None:
            raise SpecError(f"spec.runPolicy.workloadPriorityClass: there is no {priority!r} in this cluster")
        spec |= {"priorityClassSource": "kueue.x-k8s.io/workloadpriorityclass", "priorityClassName": priority}
        spec["priority"] = int(found.get("value", 0))
    metadata = {
        "name": names.workload(job.name),
        "namespace": job.namespace,
        "labels": {
            **job.inherited(job.labels),
            **names.labels(job.name),
            names.LABEL_ASKED: _asked(job, job.replicas(Role.TRAINER)),
        },
        "ownerReferences": [owner_reference(job)],
    }
    return {"apiVersion": API_VERSION, "kind": "Workload", "metadata": metadata, "spec": spec}


_PODSET = "kueue.x-k8s.io/podset-"
_TOPOLOGY = {
    f"{_PODSET}required-topology": "required",
    f"{_PODSET}preferred-topology": "preferred",
    f"{_PODSET}unconstrained-topology": "unconstrained",
    f"{_PODSET}slice-required-topology": "podSetSliceRequiredTopology",
    f"{_PODSET}slice-size": "podSetSliceSize",
}
"""Annotations of a pod by which its user asks for places in a topology, and the fields of a request."""


def _topology_request(annotations: Mapping[str, str], role: Role) -> dict[str, Any]:
    """As Kueue's own integrations make it; empty: nothing is asked."""
    asked: dict[str, Any] = {theirs: annotations[key] for key, theirs in _TOPOLOGY.items() if key in annotations}
    if not asked:
        return {}
    if "unconstrained" in asked:
        asked["unconstrained"] = asked["unconstrained"] == "true"
    if "podSetSliceSize" in asked:
        if not asked["podSetSliceSize"].isdecimal():
            where = f"spec.{names.SECTIONS[role]}.annotations[{_PODSET}slice-size]"
            raise SpecError(f"{where}: expected a whole number, found {asked['podSetSliceSize']!r}")
        asked["podSetSliceSize"] = int(asked["podSetSliceSize"])
    index = names.LABEL_POD_INDEX if role is Role.SERVER else names.LABEL_COMPLETION_INDEX
    return {**asked, "podIndexLabel": index}


def released(live: Mapping[str, Any], now: dt.datetime) -> dict[str, Any]:
    """Status of an evicted Workload whose pods are gone: the reservation is given back, and it queues again."""
    changed = {
        "QuotaReserved": ("False", "Pending", "The job's pods have ended"),
        "Admitted": ("False", "NoReservation", "The job's pods have ended"),
        "Requeued": ("True", "BagpipeJobStopped", "The job waits for quota again"),
    }
    status = {key: value for key, value in (live.get("status") or {}).items() if key != "admission"}
    return {**status, "admission": None, "reclaimablePods": None, "conditions": _conditions(live, changed, now)}


def finished(live: Mapping[str, Any], succeeded: bool, message: str, now: dt.datetime) -> dict[str, Any] | None:
    """Status of a finished job's Workload; none: it says so already."""
    if any(
        c["type"] == "Finished" and c["status"] == "True" for c in (live.get("status") or {}).get("conditions") or ()
    ):
        return None
    changed = {"Finished": ("True", "Succeeded" if succeeded else "Failed", message)}
    return {"conditions": _conditions(live, changed, now)}


def running(
    job: Job, observed: Observed, attempt: int, ready: bool, begun: bool, now: dt.datetime
) -> dict[str, Any] | None:
    """Status of an admitted job's Workload: whether all pods run, and what of the quota is not needed any more.

    With `waitForPodsReady` Kueue evicts a job that does not say that its pods run. None: it says so already.

    Args:
        begun: whether the present attempt's trainers were made: those of older attempts have ended by then.
    """
    live = observed.workload
    if live is None:
        return None
    given_back = _reclaimable(job, live, _ended(observed, attempt)) if begun else {}
    return {**_pods_ready(live, ready, now), **given_back} or None


def _pods_ready(live: Mapping[str, Any], ready: bool, now: dt.datetime) -> dict[str, Any]:
    listed = (live.get("status") or {}).get("conditions") or ()
    old = next((c for c in listed if c.get("type") == "PodsReady"), None)
    if (old or {}).get("status", "False") == ("True" if ready else "False"):
        return {}
    said = ("True", "PodsReady", "All pods run") if ready else ("False", "PodsNotReady", "Not all pods run")
    return {"conditions": _conditions(live, {"PodsReady": said}, now)}


def _reclaimable(job: Job, live: Mapping[str, Any], ended: int) -> dict[str, Any]:
    """What is given back cannot be taken again within an admission: the count only rises."""
    have, already = _pod_sets(live).get(Role.TRAINER.value, 0), _reclaimed(live)
    count = have - (job.replicas(Role.TRAINER) - ended)
    return {"reclaimablePods": [{"name": Role.TRAINER.value, "count": count}]} if count > already else {}


def _conditions(
    live: Mapping[str, Any], changed: Mapping[str, tuple[str, str, str]], now: dt.datetime
) -> list[dict[str, Any]]:
    kept = [c for c in (live.get("status") or {}).get("conditions") or () if c["type"] not in changed]
    new = [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message[:1024],
            "lastTransitionTime": times.text(now),
            "observedGeneration": live["metadata"].get("generation", 0),
        }
        for kind, (status, reason, message) in changed.items()
    ]
    return [*kept, *new]


def assign(
    template: dict[str, Any], job: Job, role: Role, admission: Admission, known: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put what an admission assigns into a pod template: the flavors' node labels and tolerations, a place's gate."""
    spec = template["spec"]
    for name in admission.flavors.get(role, ()):
        flavor = (known.get(name) or {}).get("spec") or {}
        if flavor.get("nodeLabels"):
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **flavor["nodeLabels"]}
        tolerated = spec.get("tolerations") or ()
        added = (t for t in flavor.get("tolerations") or () if t not in tolerated)
        spec["tolerations"] = [*tolerated, *added]
    if role in admission.placed:
        _gate(template, job, role)


def _gate(template: dict[str, Any], job: Job, role: Role) -> None:
    """The pod is scheduled once Kueue has put its place into it."""
    meta = template["metadata"]
    meta["labels"] = {**meta["labels"], _POD_SET_LABEL: role.value}
    theirs = meta.get("annotations") or {}
    implicit = {} if theirs.keys() & _TOPOLOGY.keys() else {f"{_PODSET}unconstrained-topology": "true"}
    meta["annotations"] = {**theirs, **implicit, _WORKLOAD_ANNOTATION: names.workload(job.name)}
    template["spec"]["schedulingGates"] = [*(template["spec"].get("schedulingGates") or ()), {"name": _GATE}]


_POD_SET_LABEL = "kueue.x-k8s.io/podset"
_WORKLOAD_ANNOTATION = "kueue.x-k8s.io/workload"
_GATE = "kueue.x-k8s.io/topology"
