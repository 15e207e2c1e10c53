"""Warnings that Kubernetes' own components posted about a job's objects: why a pod is not made, placed or started.

Pure: from a namespace's events to the newest warning about each object. Whether one still matters is for
`policies/obstacles.py` to judge, as an event outlives its cause by an hour.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bagpipe_operator import times
from bagpipe_operator.observe import Obstacle

SELECTOR = "type=Warning"
_MEANINGFUL = frozenset(
    {
        "FailedCreate",
        "FailedMount",
        "FailedAttachVolume",
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
    """The newest warning by the UID of the object that it is about."""
    found: dict[str, tuple[Any, Obstacle]] = {}
    for raw in events:
        uid = (raw.get("involvedObject") or {}).get("uid")
        if not uid or raw.get("type") != "Warning" or raw.get("reason") not in _MEANINGFUL:
            continue
        when = _when(raw)
        if uid not in found or when >= found[uid][0]:
            found[uid] = (when, Obstacle(reason=raw["reason"], message=str(raw.get("message") or "")))
    return {uid: obstacle for uid, (_, obstacle) in found.items()}


def _when(raw: Mapping[str, Any]) -> Any:
    series = raw.get("series") or {}
    stamps = (series.get("lastObservedTime"), raw.get("lastTimestamp"), raw.get("eventTime"))
    created = (raw.get("metadata") or {}).get("creationTimestamp")
    return next((t for s in (*stamps, created) if (t := times.parse(s)) is not None), times.EPOCH)
