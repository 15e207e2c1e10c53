"""Checks what a job says about its pods, which only a cluster reads."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from bagpipe.client import podcheck
from bagpipe.client.installation import Installation
from bagpipe.client.podcheck.fields import KUBERNETES
from bagpipe.client.podcheck.typed import types
from bagpipe.config.load import JobFile
from bagpipe.errors import ConfigError


def check_pods(file: JobFile, installed: Installation | None = None) -> None:
    """Refuse a job that Kubernetes would refuse or never start, or its installation would not run.

    The words are those that the operator would use.

    Args:
        installed: the installation that will run the job, where that is known (`read_installation`).

    Raises:
        ConfigError: one line that names the setting, what is wrong with it, and what to do.
    """
    spec = msgspec.to_builtins(file.document).get("spec") or {}
    if fault := installed.fault(spec) if installed is not None else podcheck.job_fault(spec):
        raise ConfigError(fault)


def notes(file: JobFile) -> Iterator[str]:
    """What is not wrong for sure: fields in free-form parts that are like none that we know.

    A cluster's Kubernetes may be newer than our types, and an older one drops them without a word.
    """
    spec = msgspec.to_builtins(file.document).get("spec") or {}
    for section in ("allRoles", *podcheck.ROLES):
        for name, value in (spec.get(section) or {}).items():
            if kind := _FREE_FORM.get(name):
                for path in _unknown(value, kind, f"spec.{section}.{name}"):
                    yield f"{path}: Kubernetes {KUBERNETES} has no such field; a cluster that has none either drops it"


_FREE_FORM: Mapping[str, str] = {
    "affinity": "Affinity",
    "initContainers": "[]Container",
    "podTemplate": "PodTemplateSpec",
    "securityContext": "PodSecurityContext",
    "tolerations": "[]Toleration",
    "topologySpreadConstraints": "[]TopologySpreadConstraint",
    "volumeMounts": "[]VolumeMount",
    "volumes": "[]Volume",
}
"""Settings that the document does not type, by the type of Kubernetes' API that they have."""


def _unknown(value: Any, kind: str, path: str) -> Iterator[str]:
    """Paths of the fields in a value that its type has not."""
    if kind.startswith("[]"):
        for index, item in enumerate(value or ()):
            yield from _unknown(item, kind[2:], f"{path}[{index}]")
    elif (known := types().get(kind)) is not None and isinstance(value, Mapping):
        for key, item in value.items():
            if key in known:
                yield from _unknown(item, known[key].kind, f"{path}.{key}")
            else:
                yield f"{path}.{key}"
