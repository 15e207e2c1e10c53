"""Does anything of the job outlive its pods?

A job without a place for checkpoints trains to its end and loses its model with the last pod. That is right for a
trial; in any other job it is a mistake, so the condition `ModelKept` and a warning say it when the job starts.
"""

from bagpipe_operator import names
from bagpipe_operator.api import Job
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed, Obstacle, is_deleting
from bagpipe_operator.pods import checkpoint_path, pod_template
from bagpipe_operator.settings import Settings

_CURE = "set checkpoint.volumeClaim, or mount a volume at checkpoint.path"


def loss(job: Job, settings: Settings) -> str:
    """What is lost, and what would keep it; empty: checkpoints are kept."""
    path = checkpoint_path(job)
    if path is None:
        return f"checkpoints and the model are gone with the pods: {_CURE}"
    if job.checkpoint_claim is not None or all(
        _mounted(job, role, path, settings) for role in (Role.SERVER, Role.TRAINER)
    ):
        return ""
    return f"checkpoint.path {path} is in no volume that outlives the pods: {_CURE}"


def trouble(job: Job, observed: Observed) -> Obstacle | None:
    """Why the claim for checkpoints keeps none: somebody has deleted it, or its volume; none: it keeps them."""
    claim = observed.live.get(("PersistentVolumeClaim", names.checkpoint_claim(job.name)))
    if job.checkpoint_claim is None or claim is None:
        return None
    name = f"PersistentVolumeClaim {claim['metadata']['name']}"
    if (claim.get("status") or {}).get("phase") == "Lost":
        return Obstacle(reason=Reason.CLAIM_LOST, message=f"{name} has lost its volume, and the checkpoints with it")
    if is_deleting(claim):
        words = f"{name} is being deleted: it goes when no pod mounts it any more"
        return Obstacle(reason=Reason.CLAIM_GOES, message=words)
    return None


def _mounted(job: Job, role: Role, path: str, settings: Settings) -> bool:
    """Whether a volume that is more than a pod's own holds `path` in the pods of this role."""
    spec = pod_template(job, role, 0, settings)["spec"]
    main = next(c for c in spec["containers"] if c["name"] == names.CONTAINER)
    volumes = spec.get("volumes") or ()
    lasting = {v["name"] for v in volumes if not v.keys() & {"emptyDir", "configMap", "secret", "downwardAPI"}}
    mounts = main.get("volumeMounts") or ()
    return any(m["name"] in lasting and f"{path}/".startswith(m["mountPath"].rstrip("/") + "/") for m in mounts)
