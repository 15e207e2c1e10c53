"""What an installation of the operator makes of a job, read from the values file that it was installed with.

The operator judges jobs by the same functions (`podcheck`); here they judge a job before it is sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bagpipe.client import podcheck
from bagpipe.client.podcheck import sketch, spec_shape
from bagpipe.client.podcheck.classes import JobClass, choose, parse_classes
from bagpipe.client.podcheck.limits import Limits
from bagpipe.client.podcheck.profiles import Profile, load_profiles, parse_profiles
from bagpipe.client.podcheck.shapes import SpecError
from bagpipe.config.paths import shown
from bagpipe.config.yaml_lines import parse, read_text
from bagpipe.errors import ConfigError

T = TypeVar("T")
_OF_JOBS = ("classes", "defaultClass", "defaults", "imagePullSecrets", "limits", "runAsUser")
"""Keys of the chart's `jobs`."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The parts of an installation's values that decide which jobs it takes."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    classes: Mapping[str, JobClass] = field(default_factory=dict)
    default_class: str = ""
    profiles: Mapping[str, Profile] = field(default_factory=load_profiles)
    gang_schedulers: tuple[str, ...] = ()
    operator_class: str = ""

    def fault(self, spec: Mapping[str, Any]) -> str | None:
        """Why this installation would not run a job with this specification, in one line; None: it would.

        The parts that the library types have been checked before.
        """
        try:
            return self._judged(spec)
        except SpecError as error:
            return str(error)

    def _judged(self, spec: Mapping[str, Any]) -> str | None:
        policy = spec.get("runPolicy") or {}
        if (asked := policy.get("operatorClass") or "") != self.operator_class:
            whose = f"of the class {self.operator_class!r}" if self.operator_class else "without one"
            return f"spec.runPolicy.operatorClass: this installation runs jobs {whose}, found {asked or None!r}"
        chosen = choose(self.classes, policy.get("jobClass"), self.default_class)
        profile = self._profile((spec.get("trainers") or {}).get("gpuProfile") or chosen.gpu_profile or "cpu")
        below = (("jobs.defaults", self.defaults), (f"jobs.classes.{chosen.name}.defaults", chosen.defaults))
        if fault := podcheck.job_fault(spec, below, profile):
            return fault
        gang = policy.get("gang") or "None"
        if gang != "None" and gang not in self.gang_schedulers:
            known = ", ".join(self.gang_schedulers) or "none"
            return f"spec.runPolicy.gang: this installation does not serve {gang}; gangSchedulers: {known}"
        own = (sketch.IMAGE, *((profile.image,) if profile.image else ()))
        templates = {role: podcheck.template_of(spec, role, below, profile) for role in podcheck.ROLES}
        replicas = {role: (spec.get(role) or {}).get("replicas", 1) for role in podcheck.ROLES}
        for limits in (self.limits, chosen.limits):
            limits.check(replicas, templates, own_images=own)
        return None

    def _profile(self, name: str) -> Profile:
        if name not in self.profiles:
            known = ", ".join(sorted(self.profiles))
            raise SpecError(f"spec.trainers.gpuProfile: no profile {name!r} in this installation; known: {known}")
        return self.profiles[name]


def read_installation(values: Path | None) -> Installation | None:
    """The installation that has this values file of the operator's chart.

    Args:
        values: the file; None: nothing is known of the installation.

    Raises:
        ConfigError: no such file, no YAML, or something in it that the operator would not start with.
    """
    if values is None:
        return None
    file = shown(values)
    document: Any = parse(read_text(values, "a values file of the operator's chart"), file).value or {}
    jobs = _map(document, "jobs", f"{file}: jobs", _OF_JOBS)
    profiles = {**load_profiles(), **_parsed(parse_profiles, _map(document, "profiles", f"{file}: profiles"), file)}
    defaults = _map(jobs, "defaults", f"{file}: jobs.defaults")
    if fault := spec_shape.defaults_fault(defaults, "jobs.defaults"):
        raise ConfigError(f"{file}: {fault}")
    classes = _map(jobs, "classes", f"{file}: jobs.classes")
    found = Installation(
        defaults=defaults,
        limits=_parsed(lambda raw: Limits.of(raw, "jobs.limits"), _map(jobs, "limits", f"{file}: jobs.limits"), file),
        classes=_parsed(lambda raw: parse_classes(raw, profiles, "jobs.classes"), classes, file),
        default_class=str(jobs.get("defaultClass") or ""),
        profiles=profiles,
        gang_schedulers=tuple(map(str, document.get("gangSchedulers") or ())),
        operator_class=str(document.get("operatorClass") or ""),
    )
    _parsed(lambda _: choose(found.classes, None, found.default_class, "jobs.defaultClass"), {}, file)
    return found


def _map(values: Any, key: str, path: str, known: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The map at a key; empty: there is none."""
    found = (values.get(key) or {}) if isinstance(values, Mapping) else values
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: expected a map, as in a values file of the operator's chart")
    if known and (unknown := sorted(map(str, set(found) - set(known)))):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return found


def _parsed(parser: Callable[[Mapping[str, Any]], T], raw: Mapping[str, Any], file: str) -> T:
    try:
        return parser(raw)
    except SpecError as error:
        raise ConfigError(f"{file}: {error}") from None
