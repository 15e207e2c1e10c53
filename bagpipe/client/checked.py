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


def read_defaults(values: Path | None, job_class: str | None = None) -> podcheck.Defaults:
    """What an installation lays under a job's pods: `jobs.defaults` of a values file of the operator's chart, and
    those of the job's class.

    Args:
        values: the file; None: nothing is known of the installation.
        job_class: the job's `runPolicy.jobClass`; None: the class that the file has for such jobs, if any.

    Raises:
        ConfigError: no such file, no YAML, no map where one belongs, or no such class.
    """
    if values is None:
        return ()
    document: Any = parse(read_text(values), shown(values)).value or {}
    jobs = _section(document, "jobs", shown(values), "jobs.defaults")
    found = [("jobDefaults", _section(jobs, "defaults", shown(values), "jobs.defaults"))]
    if name := job_class or jobs.get("defaultClass"):
        classes = _section(jobs, "classes", shown(values), "jobs.classes")
        if name not in classes:
            known = ", ".join(sorted(map(str, classes))) or "none"
            where = "spec.runPolicy.jobClass" if job_class else f"{shown(values)}: jobs.defaultClass"
            raise ConfigError(f"{where}: no class {name!r} in this installation; known: {known}")
        chosen = _section(classes, name, shown(values), f"jobs.classes.{name}")
        below = _section(chosen, "defaults", shown(values), f"jobs.classes.{name}.defaults")
        found.append((f"jobClasses.{name}.defaults", below))
    return found


def _section(values: Any, key: str, file: str, path: str) -> Mapping[str, Any]:
    """The map at a key of a values file; empty: there is none."""
    found = (values.get(key) or {}) if isinstance(values, Mapping) else values
    if not isinstance(found, Mapping):
        raise ConfigError(f"{file}: {path}: expected a map, as in a values file of the operator's chart")
    return found


def check_pods(file: JobFile, installed: podcheck.Defaults = ()) -> None:
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
