"""Gangs: schedulers that place all pods of an attempt or none, and how a job's pods say that they belong together.

Both know an object called PodGroup, each in an API group of its own; the operator calls their kinds as kubectl does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gang:
    """A gang scheduler, and how its PodGroups are named and joined."""

    kind: str
    """Of its PodGroup, with the API group."""
    api_version: str
    scheduler: str
    """Name under which it usually runs."""
    label: str = ""
    """Label of a pod that names its group."""
    annotation: str = ""
    """Annotation of a pod that names its group."""


KNOWN = {
    "Coscheduling": Gang(
        kind="PodGroup.scheduling.x-k8s.io",
        api_version="scheduling.x-k8s.io/v1alpha1",
        scheduler="scheduler-plugins-scheduler",
        label="scheduling.x-k8s.io/pod-group",
    ),
    "Volcano": Gang(
        kind="PodGroup.scheduling.volcano.sh",
        api_version="scheduling.volcano.sh/v1beta1",
        scheduler="volcano",
        annotation="scheduling.k8s.io/group-name",
    ),
}
KINDS = frozenset(gang.kind for gang in KNOWN.values())


def marked(template: Mapping[str, Any], gang: Gang, group: str) -> dict[str, Any]:
    """The pod template with its group's name and, unless another is named, its scheduler."""
    meta = template["metadata"]
    labels = {**meta["labels"], **({gang.label: group} if gang.label else {})}
    annotations = {**(meta.get("annotations") or {}), **({gang.annotation: group} if gang.annotation else {})}
    spec = {"schedulerName": gang.scheduler, **template["spec"]}
    return {**template, "metadata": {**meta, "labels": labels, "annotations": annotations}, "spec": spec}
