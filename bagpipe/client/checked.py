"""Checks what a job says about its pods, which only a cluster reads."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bagpipe.client import podcheck
from bagpipe.client.podcheck.fields import KUBERNETES
from bagpipe.client.podcheck.typed import types
from bagpipe.config.load import JobFile
from bagpipe.config.paths import shown
from bagpipe.config.yaml_lines import parse, read_text
from bagpipe.errors import ConfigError


def read_defaults(values: Path | None) -> Mapping[str, Any]:
    """What an installation lays under its jobs' pods: `jobs.defaults` of a values file of the operator's chart.

    Args:
        values: the file; None: nothing is known of the installation.

    Raises:
        ConfigError: no such file, no YAML, or no map where one belongs.
    """
    if values is None:
        return {}
    found: Any = parse(read_text(values), shown(values)).value or {}
    for key in ("jobs", "defaults"):
        found = (found.get(key) or {}) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{shown(values)}: jobs.defaults: expected a map, as in a values file of the operator's chart"
        )
    return found


def check_pods(file: JobFile, installed: Mapping[str, Any] | None = None) -> None:
    """Refuse a job whose pods Kubernetes would refuse or never start, with the words that the operator would use.

    Args:
        installed: what `read_defaults` returns of the installation that will run the job.

    Raises:
        ConfigError: one line that names the setting, what is wrong with it, and what to do.
    """
    spec = msgspec.to_builtins(file.document).get("spec") or {}
    if fault := podcheck.job_fault(spec, installed):
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
