"""The operator's own settings: one YAML file (a ConfigMap of the chart), read once at start.

Images and GPU profiles are data: a new kind of node needs a line in a values file, not a release.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from bagpipe_operator import gangs, podcheck
from bagpipe_operator.api import SpecError, camel
from bagpipe_operator.podcheck import spec_shape
from bagpipe_operator.podcheck.classes import JobClass, choose, parse_classes
from bagpipe_operator.podcheck.limits import Limits
from bagpipe_operator.podcheck.profiles import Profile, load_profiles, parse_profiles
from bagpipe_operator.podcheck.shapes import check_types, describe


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that may differ between two installations."""

    trainer_image: str = "bagpipe-trainer:0.1.0"
    server_image: str = "bagpipe-server:0.1.0"
    """Image of the oracle and the embedding servers: no torch in it."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    job_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Pod settings under those of every job, in a job's own sections: `allRoles`, `oracle`, `servers`, `trainers`."""
    job_limits: Limits = field(default_factory=Limits)
    """What no job may ask for more of."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    job_classes: Mapping[str, JobClass] = field(default_factory=dict)
    """Presets that a job chooses by `runPolicy.jobClass`."""
    default_job_class: str = ""
    """The class of jobs that name none; empty: they have none."""
    job_class: JobClass = field(default_factory=JobClass)
    """The one that the job in hand has (`for_class`); no key of the settings file."""
    operator_class: str = ""
    """Jobs with this `runPolicy.operatorClass` are ours; empty: those without one."""
    release: str = ""
    """Namespace and name of the installation, to tell one from another."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all."""
    kueue: bool = False
    """Watch and write Kueue's Workloads; jobs with a queue are held until admitted."""
    gang_schedulers: tuple[str, ...] = ()
    """Gang schedulers whose PodGroups this cluster has: Coscheduling, Volcano."""
    watch_nodes: bool = True
    """Whether the operator may read nodes; without it pods of lost nodes wait for an administrator."""
    workers: int = 8
    """Jobs reconciled at once."""
    progress_seconds: int = 15
    """How often a running job's progress is read from its oracle's log; 0: never."""
    warning_seconds: int = 5
    """How often the warnings about jobs that do not run yet are read from their namespaces' events; 0: never."""
    lease_namespace: str = "bagpipe-system"
    lease_name: str = "bagpipe-operator"
    lease_seconds: float = 15.0
    renew_seconds: float = 4.0
    listen_port: int = 8080
    run_as_user: int = 10001

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Settings":
        """The settings in a document; what it leaves out has its default.

        Raises:
            SpecError: a key is unknown, or a value is none that its key may have.
        """
        by_key = {camel(f.name): f.name for f in fields(cls) if f.name != "job_class"}
        unknown = sorted(set(raw) - set(by_key))
        if unknown:
            raise SpecError(f"operator settings: unknown key {unknown[0]!r}; known: {', '.join(sorted(by_key))}")
        values: dict[str, Any] = {
            by_key[key]: tuple(value) if isinstance(value, list) else value
            for key, value in raw.items()
            if value is not None
        }
        for name in values.get("gang_schedulers", ()):
            if name not in gangs.KNOWN:
                known = ", ".join(gangs.KNOWN)
                raise SpecError(f"operator settings: gangSchedulers: unknown {name!r}; known: {known}")
        if fault := spec_shape.defaults_fault(values.get("job_defaults", {}), "jobDefaults"):
            raise SpecError(f"operator settings: {fault}")
        check_types(cls, values, "operator settings")
        if "job_limits" in values:
            values["job_limits"] = Limits.of(values["job_limits"])
        values["profiles"] = {**load_profiles(), **parse_profiles(raw.get("profiles") or {})}
        if "job_classes" in values:
            values["job_classes"] = parse_classes(values["job_classes"], values["profiles"])
        made = cls(**values)
        if made.default_job_class:
            made.for_class(made.default_job_class, "operator settings: defaultJobClass")
        if made.renew_seconds * 3 >= made.lease_seconds * 2:
            raise SpecError(
                f"operator settings: renewSeconds: expected less than two thirds of leaseSeconds "
                f"({made.lease_seconds:g}), found {made.renew_seconds:g}"
            )
        return made

    def for_class(self, name: str | None, where: str = "spec.runPolicy.jobClass") -> "Settings":
        """The settings for a job of this class; None: of the default class, if there is one.

        Raises:
            SpecError: there is no such class; names those that there are.
        """
        found = choose(self.job_classes, name, self.default_job_class, where)
        return replace(
            self,
            job_class=found,
            trainer_image=found.trainer_image or self.trainer_image,
            server_image=found.server_image or self.server_image,
        )

    @property
    def all_defaults(self) -> podcheck.Defaults:
        """Pod settings under those of the job in hand."""
        classes = self.job_class
        return (("jobDefaults", self.job_defaults), (f"jobClasses.{classes.name}.defaults", classes.defaults))

    @property
    def all_limits(self) -> tuple[Limits, ...]:
        """What the job in hand may ask for: each of them holds."""
        return self.job_limits, self.job_class.limits

    @classmethod
    def load(cls, path: Path | None) -> "Settings":
        """The settings in a YAML file; None: the defaults.

        Raises:
            SpecError: as `of`, or the file holds no map.
            OSError, yaml.YAMLError: the file cannot be read.
        """
        raw = (yaml.safe_load(path.read_text()) or {}) if path else {}
        if not isinstance(raw, Mapping):
            raise SpecError(f"operator settings: expected a map, found {describe(raw)}")
        return cls.of(raw)
