"""The parts of a job document that the operator reads, and the shape each must have.

The API server has checked the typed parts against the CRD; the free-form ones (`podTemplate`, volumes,
affinity, ...) it takes as they are. Both are checked here, where they enter, so that everything behind
this module may rely on their types. What is not named here is looked at in the finished pods.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from .shapes import Fault, Flag, Many, Optional, Scalars, Shape, Table, Text, Whole, Words, describe

MOST_SECONDS = 315_360_000
"""Longest time that a setting in seconds may say: ten years."""
MOST_FAILURES = 10_000
MOST_SERVERS = 1000
MOST_TRAINERS = 10_000
MOST_DEFAULTS = 65_536
"""Longest pod settings of an installation, or of one of its classes."""

_ANY_TEXT = Text(empty=True)
_MAP = Table({})
_NAMED = Table({"name": Text()}, required=("name",))
_ENV = Table(
    {"name": Text(), "value": Optional(_ANY_TEXT), "valueFrom": Optional(_MAP)},
    required=("name",),
)
_MOUNT = Table({"name": Text(), "mountPath": Text()}, required=("name", "mountPath"))
_RESOURCES = Table({"requests": Optional(Scalars()), "limits": Optional(Scalars())})
_GRACE = Whole(1, MOST_SECONDS)

_CONTAINER = Table(
    {
        "name": Text(),
        "image": Optional(Text()),
        "args": Many(_ANY_TEXT),
        "command": Many(_ANY_TEXT),
        "env": Many(_ENV),
        "envFrom": Optional(Many(_MAP)),
        "ports": Many(Table({"containerPort": Whole(1, 65535)}, required=("containerPort",))),
        "resources": Optional(_RESOURCES),
        "securityContext": Optional(_MAP),
        "volumeMounts": Many(_MOUNT),
        "volumeDevices": Many(Table({"devicePath": Text()}, required=("devicePath",))),
    },
    required=("name",),
)
_POD_SPEC = Table(
    {
        "containers": Many(_CONTAINER),
        "initContainers": Many(_CONTAINER),
        "volumes": Many(_NAMED),
        "imagePullSecrets": Many(_NAMED),
        "hostAliases": Many(Table({"ip": Text()}, required=("ip",))),
        "tolerations": Optional(Many(_MAP)),
        "topologySpreadConstraints": Optional(Many(_MAP)),
        "nodeSelector": Optional(Words(removable=True)),
        "affinity": Optional(_MAP),
        "securityContext": Optional(_MAP),
        "terminationGracePeriodSeconds": _GRACE,
    }
)
_TEMPLATE = Table(
    {
        "metadata": Table({"labels": Words(removable=True), "annotations": Words(removable=True)}),
        "spec": _POD_SPEC,
    }
)
_CLAIM: dict[str, Shape] = {
    "size": Text(),
    "storageClassName": Optional(_ANY_TEXT),
    "accessMode": Text(among=("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")),
}
_POD_CONFIG: dict[str, Shape] = {
    "image": Optional(Text()),
    "imagePullPolicy": Optional(Text(among=("Always", "IfNotPresent", "Never"))),
    "resources": Optional(_RESOURCES),
    "nodeSelector": Optional(Words()),
    "tolerations": Optional(Many(_MAP)),
    "affinity": Optional(_MAP),
    "topologySpreadConstraints": Optional(Many(_MAP)),
    "priorityClassName": Optional(_ANY_TEXT),
    "schedulerName": Optional(_ANY_TEXT),
    "runtimeClassName": Optional(_ANY_TEXT),
    "serviceAccountName": Optional(_ANY_TEXT),
    "env": Optional(Many(_ENV)),
    "envFrom": Optional(Many(_MAP)),
    "imagePullSecrets": Optional(Many(_NAMED)),
    "initContainers": Optional(Many(_CONTAINER)),
    "hostAliases": Optional(Many(Table({"ip": Text()}, required=("ip",)))),
    "dnsConfig": Optional(_MAP),
    "securityContext": Optional(_MAP),
    "volumes": Optional(Many(_NAMED)),
    "volumeMounts": Optional(Many(_MOUNT)),
    "shmSize": Optional(Text()),
    "terminationGracePeriodSeconds": Optional(_GRACE),
    "labels": Optional(Words()),
    "annotations": Optional(Words()),
    "podTemplate": Optional(_TEMPLATE),
}
_SECONDS = Whole(0, MOST_SECONDS)
_RUN_POLICY = Table(
    {
        "backoffLimit": Optional(Whole(0, MOST_FAILURES)),
        "disruptionLimit": Optional(Whole(0, MOST_FAILURES)),
        "imagePolicy": Optional(Text(among=("Pinned", "Latest"))),
        "restartPolicy": Optional(Text(among=("OnFailure", "Never", "ExitCode"))),
        "activeDeadlineSeconds": Optional(Whole(1, MOST_SECONDS)),
        "startupDeadlineSeconds": Optional(Whole(1, MOST_SECONDS)),
        "ttlSecondsAfterFinished": Optional(_SECONDS),
        "cleanPodPolicy": Optional(Text(among=("All", "Running", "None"))),
        "partialStartSeconds": Optional(Whole(1, MOST_SECONDS)),
        "gang": Optional(Text(among=("Coscheduling", "Volcano", "None"))),
        "nodeLostSeconds": Optional(_SECONDS),
        "suspend": Optional(Flag()),
        "queueName": Optional(_ANY_TEXT),
        "workloadPriorityClass": Optional(_ANY_TEXT),
        "managedBy": Optional(_ANY_TEXT),
        "operatorClass": Optional(_ANY_TEXT),
        "jobClass": Optional(_ANY_TEXT),
        "inherit": Optional(Many(Text())),
        "networkPolicy": Optional(Text(among=("Ingress", "Isolated", "None"))),
    }
)
_SPEC = Table(
    {
        "batchSize": Optional(Whole(1, 2**63 - 1)),
        "allRoles": Optional(Table(_POD_CONFIG)),
        "oracle": Optional(Table(_POD_CONFIG)),
        "servers": Optional(
            Table(
                {
                    **_POD_CONFIG,
                    "replicas": Whole(1, MOST_SERVERS),
                    "storage": Optional(Text(among=("file", "memory"))),
                    "volumeClaim": Optional(Table(_CLAIM)),
                }
            )
        ),
        "trainers": Optional(
            Table({**_POD_CONFIG, "replicas": Whole(1, MOST_TRAINERS), "gpuProfile": Optional(Text())})
        ),
        "checkpoint": Optional(
            Table({"path": Optional(_ANY_TEXT), "volumeClaim": Optional(Table({**_CLAIM, "retain": Optional(Flag())}))})
        ),
        "transport": Optional(Table({"security": Optional(Text(among=("auto", "curve", "plain")))})),
        "runPolicy": Optional(_RUN_POLICY),
    }
)


def fault(spec: Any) -> Fault | None:
    """The first part of `spec` that is not as the operator must find it; none: all of it is."""
    found = _SPEC(spec, "spec")
    if found is None and isinstance(spec, Mapping) and _depth(spec) > _DEEPEST:
        return Fault("spec", f"at most {_DEEPEST} levels", "more")
    return found


def defaults_fault(sections: Any, path: str) -> Fault | None:
    """As `fault`, for the pod settings that an installation puts under those of its jobs, and which stand at `path`.

    A setting that has no effect there is a fault too.
    """
    if found := kept_defaults_fault(sections, path):
        return found
    for section, settings in sections.items():
        if odd := next((key for key in settings if key not in _POD_CONFIG), None):
            near = difflib.get_close_matches(str(odd), _POD_CONFIG, 1)
            expected = (
                f"{near[0]!r}" if near else "a setting that pods of every role have, such as 'env' or 'resources'"
            )
            return Fault(f"{path}.{section}", expected, describe(odd))
    return None


def kept_defaults_fault(sections: Any, path: str = "jobDefaults") -> Fault | None:
    """As `defaults_fault`, for the defaults with which a job has begun: one without effect is no fault there.

    An older release may have taken it, and a newer one must not end the job for it.

    They are copied into the status of every job that begins with them, so they may not be large.
    """
    if isinstance(sections, Mapping) and (odd := next((key for key in sections if key not in _SECTIONS), None)):
        return Fault(path, " or ".join(_SECTIONS), describe(odd))
    found = Table(dict.fromkeys(_SECTIONS, Table(_POD_CONFIG)))(sections, path)
    if found is None and (size := len(str(sections))) > MOST_DEFAULTS:
        return Fault(path, f"at most {MOST_DEFAULTS:,} characters", f"{size:,}")
    return found


_SECTIONS = ("allRoles", "oracle", "servers", "trainers")


_DEEPEST = 64


def _depth(value: Any) -> int:
    """Levels of maps and lists; counting ends just above `_DEEPEST`."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [child for item in level for child in _children(item)]
        depth += 1
    return depth


def _children(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, list | tuple) else ()
