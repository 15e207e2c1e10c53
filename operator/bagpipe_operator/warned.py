"""Warnings that Kubernetes' own components posted about a job's objects: why a pod is not made, placed or started.

Pure: from a namespace's events to the newest warning about each object. Whether one still matters is for
`policies/obstacles.py` to judge, as an event outlives its cause by an hour.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bagpipe_operator import times
from bagpipe_operator.observe import Obstacle

SELECTOR = "type=Warning"
_CLAIM = "PersistentVolumeClaim"
_MEANINGFUL = frozenset(
    {
        "FailedCreate",
        "FailedMount",
        "FailedAttachVolume",
        "FailedMapVolume",
        "FailedPrepareDynamicResources",
        "NetworkNotReady",
        "FailedScheduling",
        "FailedBinding",
        "FailedCreatePodSandBox",
        "ProvisioningFailed",
        "VolumeResizeFailed",
        "RecreatingFailedPod",
        "FailedToRetrieveImagePullSecret",
    }
)


def newest(events: Iterable[Mapping[str, Any]]) -> dict[str, Obstacle]:
    """The newest warning by the UID of the object that it is about; a claim's also by its name (`of_claim`).

    A claim that a StatefulSet makes, or a user, is no object of the job's, and a pod knows it by its name.
    """
    found: dict[str, tuple[Any, Obstacle]] = {}
    for raw in events:
        about = raw.get("involvedObject") or {}
        if not about.get("uid") or raw.get("type") != "Warning" or raw.get("reason") not in _MEANINGFUL:
            continue
        when = _when(raw)
        names = (about["uid"], of_claim(about.get("name"))) if about.get("kind") == _CLAIM else (about["uid"],)
        for name in names:
            if name not in found or when >= found[name][0]:
                found[name] = (when, Obstacle(reason=raw["reason"], message=str(raw.get("message") or "")))
    return {name: obstacle for name, (_, obstacle) in found.items()}


def of_claim(name: object) -> str:
    """By which a warning about a claim of this name is found."""
    return f"{_CLAIM}/{name}"


def about_claims(warnings: Mapping[str, Obstacle]) -> dict[str, Obstacle]:
    """Those that are found by a claim's name."""
    return {key: obstacle for key, obstacle in warnings.items() if key.startswith(of_claim(""))}


def _when(raw: Mapping[str, Any]) -> Any:
    series = raw.get("series") or {}
    stamps = (series.get("lastObservedTime"), raw.get("lastTimestamp"), raw.get("eventTime"))
    created = (raw.get("metadata") or {}).get("creationTimestamp")
    return next((t for s in (*stamps, created) if (t := times.parse(s)) is not None), times.EPOCH)
