"""Does anything of the job outlive its pods?

A job without a place for checkpoints trains to its end and loses its model with the last pod. For a trial that is
right, otherwise it is a bitter surprise, so it is said while there is time.
"""

from collections.abc import Mapping
from typing import Any

from bagpipe_operator import names
from bagpipe_operator.api import Job
from bagpipe_operator.names import Role
from bagpipe_operator.overlay import overlay
from bagpipe_operator.pods import checkpoint_path

_CURE = "set checkpoint.volumeClaim, or mount a volume at checkpoint.path"


def loss(job: Job) -> str:
    """What is lost, and what would keep it; empty: checkpoints are kept."""
    path = checkpoint_path(job)
    if path is None:
        return f"checkpoints and the model are gone with the pods: {_CURE}"
    if (
        job.checkpoint_claim is not None
        or "://" in path
        or all(_mounted(job, role, path) for role in (Role.SERVER, Role.TRAINER))
    ):
        return ""
    return f"checkpoint.path {path} is in no volume that outlives the pods: {_CURE}"


def _mounted(job: Job, role: Role, path: str) -> bool:
    """Whether a volume that is more than a pod's own holds `path` in the pods of this role."""
    section = overlay(job.spec.get("allRoles") or {}, job.section(role))
    spec: Mapping[str, Any] = (section.get("podTemplate") or {}).get("spec") or {}
    main: Mapping[str, Any] = next((c for c in spec.get("containers") or () if c["name"] == names.CONTAINER), {})
    volumes = (*(section.get("volumes") or ()), *(spec.get("volumes") or ()))
    lasting = {v["name"] for v in volumes if not v.keys() & {"emptyDir", "configMap", "secret", "downwardAPI"}}
    mounts = (*(section.get("volumeMounts") or ()), *(main.get("volumeMounts") or ()))
    return any(m["name"] in lasting and f"{path}/".startswith(m["mountPath"].rstrip("/") + "/") for m in mounts)
