"""What in a job's pods belongs to the operator, and is refused by name where a job sets it.

The names are those of `bagpipe_operator.names`: `tests/contract` compares them.
"""

from collections.abc import Mapping
from typing import Any

CONTAINER = "bagpipe"
ENV = frozenset({"BAGPIPE_CURVE_DIR", "BAGPIPE_TOKEN", "POD_NAME", "POD_INDEX", "JOB_COMPLETION_INDEX"})
LABELS = frozenset({"app.kubernetes.io/managed-by", "bagpipe.dev/job", "bagpipe.dev/role", "bagpipe.dev/attempt"})
KUBERNETES_LABELS = frozenset(
    {
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
        "apps.kubernetes.io/pod-index",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels by which Kubernetes' own controllers know their pods. Looked at before a job begins, as all in `whole.py`."""
VOLUMES = frozenset(
    {"bagpipe-config", "bagpipe-run", "bagpipe-tmp", "bagpipe-shm", "bagpipe-curve", "bagpipe-checkpoints"}
)


def fault(section: Mapping[str, Any], where: str) -> str | None:
    """The first thing in a role's settings, whose shape is right, that would silently break the wiring.

    Args:
        where: path of the settings, as `spec.trainers`.
    """
    template = section.get("podTemplate") or {}
    spec = template.get("spec") or {}
    main: Mapping[str, Any] = next((c for c in spec.get("containers") or () if c["name"] == CONTAINER), {})
    labels = (template.get("metadata") or {}).get("labels") or {}
    taken = {
        "env": ENV & {*_named(section, "env")},
        "labels": LABELS & {*(section.get("labels") or {})},
        "initContainers": {CONTAINER} & {*_named(section, "initContainers")},
        "volumes": VOLUMES & {*_named(section, "volumes")},
        "podTemplate.metadata.labels": LABELS & {*labels},
        "podTemplate.spec.volumes": VOLUMES & {*_named(spec, "volumes")},
        f"podTemplate.spec.containers[{CONTAINER}].env": ENV & {*_named(main, "env")},
    }
    for field, found in taken.items():
        if found:
            return f"{where}.{field}: {min(found)!r} belongs to the operator; choose another name"
    for key in ("restartPolicy", "subdomain", "hostname"):
        if key in spec:
            return f"{where}.podTemplate.spec.{key}: set by the operator; leave it out"
    return None


def _named(section: Mapping[str, Any], field: str) -> tuple[str, ...]:
    return tuple(item["name"] for item in section.get(field) or ())
