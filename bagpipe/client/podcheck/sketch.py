"""A role's pods as the operator makes them, as far as a job's own settings tell: what this library can know of them.

The operator checks its own finished pods. `tests/contract` holds that both are found to have the same faults.
"""

from collections.abc import Mapping
from typing import Any

from .overlay import overlay
from .profiles import Profile
from .reserved import CONTAINER

Raw = Mapping[str, Any]
COPIED = (
    "affinity",
    "topologySpreadConstraints",
    "priorityClassName",
    "schedulerName",
    "serviceAccountName",
    "hostAliases",
    "dnsConfig",
)
"""Settings of a role that go into its pods as they are."""
IMAGE = "bagpipe"
"""Stands for the installation's own image."""
_SIMPLIFIED = (
    "volumes",
    "tolerations",
    "nodeSelector",
    "runtimeClassName",
    "imagePullSecrets",
)
"""Settings to which an installation may add."""
_MOUNTS = {"bagpipe-config": "/etc/bagpipe", "bagpipe-run": "/var/lib/bagpipe", "bagpipe-tmp": "/tmp"}  # noqa: S108  # in a pod


def template(spec: Raw, name: str, section: Raw, profile: Profile | None = None) -> dict[str, Any]:
    """The pod template of the role whose settings, all layers of them, are `section`.

    Args:
        name: `oracle`, `servers` or `trainers`.
        profile: the trainers' GPU profile, where that is known.
    """
    profile = profile if name == "trainers" else None
    mounts = _mounts(spec, name, section)
    theirs = {**section, "volumes": [*({"name": v} for v in mounts), *(section.get("volumes") or ())]}
    pod = {key: theirs[key] for key in (*COPIED, *_SIMPLIFIED) if theirs.get(key)}
    root = {"runAsNonRoot": True, "runAsUser": 10001}
    pod["securityContext"] = overlay(root, section.get("securityContext") or {})
    restricted = {"securityContext": {"allowPrivilegeEscalation": False}}
    pod["containers"] = [{**_container(section, mounts, profile), **restricted}]
    if section.get("initContainers"):
        pod["initContainers"] = [overlay(restricted, c) for c in section["initContainers"]]
    own = {"metadata": {"labels": section.get("labels") or {}, "annotations": section.get("annotations") or {}}}
    made: dict[str, Any] = overlay({**own, "spec": pod}, section.get("podTemplate") or {})
    return made


def _mounts(spec: Raw, name: str, section: Raw) -> dict[str, str]:
    """Where the operator's own volumes are mounted, by name."""
    mounts = dict(_MOUNTS)
    if section.get("shmSize") or name == "trainers":
        mounts["bagpipe-shm"] = "/dev/shm"  # noqa: S108  # in a pod
    checkpoint = spec.get("checkpoint") or {}
    if checkpoint.get("volumeClaim") is not None:
        mounts["bagpipe-checkpoints"] = checkpoint.get("path") or "/checkpoints"
    if (spec.get("transport") or {}).get("security") != "plain":
        mounts["bagpipe-curve"] = "/etc/bagpipe-curve"
    return mounts


def _container(section: Raw, mounts: Mapping[str, str], profile: Profile | None) -> dict[str, Any]:
    ours = [{"name": name, "mountPath": path} for name, path in mounts.items()]
    container = {
        "name": CONTAINER,
        "image": section.get("image") or IMAGE,
        "env": list(section.get("env") or ()),
        "envFrom": list(section.get("envFrom") or ()),
        "volumeMounts": [*ours, *(section.get("volumeMounts") or ())],
    }
    resources = section.get("resources")
    if profile is not None and profile.gpus:
        resources = overlay({"limits": {"nvidia.com/gpu": str(profile.gpus)}}, resources or {})
    if resources:
        if profile is None and section.get(
            "gpuProfile"
        ):  # It brings the limit: how many GPUs that are, the installation knows.
            asked = {k: v for k, v in (resources.get("requests") or {}).items() if k == "nvidia.com/gpu"}
            resources = overlay({"limits": asked}, resources)
        container["resources"] = resources
    return container
