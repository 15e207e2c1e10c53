"""Kueue: the Workload that stands for a job in a queue, and what its admission means for the pods.

The contract of an external framework: we own the Workload, hold every pod until it is Admitted, add
the assigned flavors' labels and tolerations to the pods, and when it is Evicted end the pods first
and then give the reservation back ourselves.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bagpipe_operator import names, times
from bagpipe_operator.api import Job, SpecError
from bagpipe_operator.children import owner_reference
from bagpipe_operator.names import Role
from bagpipe_operator.pods import pod_template
from bagpipe_operator.settings import Settings

API_VERSION = "kueue.x-k8s.io/v1beta1"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the Workload says."""

    admitted: bool = False
    evicted: bool = False
    reserved: bool = False
    message: str = ""
    flavors: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    """Names of the flavors assigned to each role."""


def admission(workload: Mapping[str, Any] | None) -> Admission:
    """The Workload's conditions and assignment; an absent one is not admitted."""
    status = (workload or {}).get("status") or {}
    true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    assigned = (status.get("admission") or {}).get("podSetAssignments") or ()
    flavors = {
        Role(a["name"]): tuple(sorted(set((a.get("flavors") or {}).values())))
        for a in assigned
        if a["name"] in set(Role)
    }
    evicted = "Evicted" in true
    return Admission(
        admitted="Admitted" in true and not evicted,
        evicted=evicted and "QuotaReserved" in true,
        reserved="QuotaReserved" in true,
        message=(true.get("Evicted") or {}).get("message") or "",
        flavors=flavors,
    )


def workload(job: Job, settings: Settings, priorities: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The Workload: one pod set a role, without what an admission adds."""
    pod_sets = []
    for role in Role:
        template = pod_template(job, role, 0, settings)
        pod_sets.append({"name": role.value, "count": job.replicas(role), "template": {"spec": template["spec"]}})
    spec: dict[str, Any] = {"queueName": job.queue, "podSets": pod_sets, "active": not job.run_policy.suspend}
    priority = job.run_policy.workload_priority_class or job.labels.get(names.LABEL_PRIORITY_CLASS)
    if priority:
        if priority not in priorities:
            raise SpecError(f"spec.runPolicy.workloadPriorityClass: there is no {priority!r} in this cluster")
        spec |= {"priorityClassSource": "kueue.x-k8s.io/workloadpriorityclass", "priorityClassName": priority}
        spec["priority"] = int(priorities[priority].get("value", 0))
    metadata = {
        "name": names.workload(job.name),
        "namespace": job.namespace,
        "labels": names.labels(job.name),
        "ownerReferences": [owner_reference(job)],
    }
    return {"apiVersion": API_VERSION, "kind": "Workload", "metadata": metadata, "spec": spec}


def released(live: Mapping[str, Any], now: dt.datetime) -> dict[str, Any]:
    """Status of an evicted Workload whose pods are gone: the reservation is given back, and it queues again."""
    changed = {
        "QuotaReserved": ("False", "Pending", "The job's pods have ended"),
        "Admitted": ("False", "NoReservation", "The job's pods have ended"),
        "Requeued": ("True", "BagpipeJobStopped", "The job waits for quota again"),
    }
    status = {key: value for key, value in (live.get("status") or {}).items() if key != "admission"}
    return {**status, "admission": None, "conditions": _conditions(live, changed, now)}


def finished(live: Mapping[str, Any], succeeded: bool, message: str, now: dt.datetime) -> dict[str, Any] | None:
    """Status of a finished job's Workload; none: it says so already."""
    if any(
        c["type"] == "Finished" and c["status"] == "True" for c in (live.get("status") or {}).get("conditions") or ()
    ):
        return None
    changed = {"Finished": ("True", "Succeeded" if succeeded else "Failed", message)}
    return {"conditions": _conditions(live, changed, now)}


def pods_ready(live: Mapping[str, Any], ready: bool, now: dt.datetime) -> dict[str, Any] | None:
    """Status that tells whether all pods run; none: it says so already.

    With `waitForPodsReady` Kueue evicts whoever does not say it in time, healthy or not.
    """
    listed = (live.get("status") or {}).get("conditions") or ()
    old = next((c for c in listed if c.get("type") == "PodsReady"), None)
    if (old or {}).get("status", "False") == ("True" if ready else "False"):
        return None
    said = ("True", "PodsReady", "All pods run") if ready else ("False", "PodsNotReady", "Not all pods run")
    return {"conditions": _conditions(live, {"PodsReady": said}, now)}


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


def assign(template: dict[str, Any], flavors: tuple[str, ...], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the assigned flavors' node labels and tolerations into a pod template."""
    spec = template["spec"]
    for name in flavors:
        flavor = (known.get(name) or {}).get("spec") or {}
        if flavor.get("nodeLabels"):
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **flavor["nodeLabels"]}
        tolerated = spec.get("tolerations") or ()
        added = (t for t in flavor.get("tolerations") or () if t not in tolerated)
        spec["tolerations"] = [*tolerated, *added]
