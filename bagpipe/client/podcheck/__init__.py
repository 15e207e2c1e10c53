"""What Kubernetes would refuse of a job, or never start, found before anything is made.

`bagpipe job check` and `submit` look at a document with `job_fault`; the operator looks at each finished pod template
with `pod_fault` before it begins an attempt. What an API server admits and runs is not refused: where its releases
differ, it is asked. Library and operator never import each other, so the operator has this folder under a name of its
own, by a link (`operator/bagpipe_operator/podcheck`); modules in here import each other by relative names for this
reason, and nothing else but the standard library.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from . import job_rules, kinds, origin, profiles, reserved, sketch, spec_shape, values, whole
from .overlay import overlay
from .typed import Found, Place, misfits, parts

ROLES = ("oracle", "servers", "trainers")
Defaults = Sequence[tuple[str, Mapping[str, Any]]]
"""Pod settings that an installation lays under those of all jobs, or of the jobs of a class: each with the path at
which it stands, the lowest first."""
_ONCE = {"volumes": "name", "containers": "name", "initContainers": "name", "volumeMounts": "mountPath"}


def job_fault(spec: Mapping[str, Any], installed: Defaults = (), profile: profiles.Profile | None = None) -> str | None:
    """The first thing that no cluster would take or run of a document, in one line; None: nothing is known.

    Args:
        installed: what an installation lays under the job's settings, where that is known.
        profile: the trainers' GPU profile, where that is known.
    """
    below = (spec_shape.kept_defaults_fault(settings, path) for path, settings in installed)
    shapes = chain((spec_shape.fault(spec),), below)
    if shape := next(filter(None, shapes), None):
        return str(shape)
    for role in ROLES:
        layers = layers_of(spec, role, installed)
        taken = reserved.fault(_merged(layers), f"spec.{role}")
        if found := taken or pod_fault(template_of(spec, role, installed, profile), role, layers):
            return found
    return settings_fault(spec, installed)


def template_of(
    spec: Mapping[str, Any], role: str, installed: Defaults = (), profile: profiles.Profile | None = None
) -> dict[str, Any]:
    """The pod template of a role, as far as is known here; arguments as for `job_fault`."""
    return sketch.template(spec, role, _merged(layers_of(spec, role, installed)), profile)


def _merged(layers: Sequence[origin.Layer]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for _, layer in reversed(layers):
        section = overlay(section, layer)
    return section


def settings_fault(spec: Mapping[str, Any], installed: Defaults = ()) -> str | None:
    """As `job_fault`, of the settings that are not of a pod: paths, claims, names."""
    oracle = [layer for _, layer in layers_of(spec, "oracle", installed)]
    return next(job_rules.faults(spec, oracle), None)


def layers_of(spec: Mapping[str, Any], role: str, installed: Defaults = ()) -> tuple[origin.Layer, ...]:
    """The settings that make up a role's pods, the uppermost first, each with its path.

    Args:
        installed: what an installation lays under the job's settings.
    """
    sources = (("spec", spec), *reversed(installed))
    found = ((f"{where}.{name}", source.get(name)) for where, source in sources for name in (role, "allRoles"))
    return tuple((path, section) for path, section in found if section)


def pod_fault(
    template: Mapping[str, Any], role: str, layers: Sequence[origin.Layer], claims: Collection[str] = ()
) -> str | None:
    """The first thing in a finished pod template that Kubernetes refuses or never starts, in one line; None: nothing.

    Args:
        template: all layers over one another, and over what the operator says.
        role: `oracle`, `servers` or `trainers`.
        layers: as `layers_of` returns them, to say where the fault stands.
        claims: volumes that a StatefulSet adds.
    """
    kind = "PodTemplateSpec"
    if twice := next(_twice(layers), None):
        return twice
    found = next(misfits(template, kind), None)  # The others rely on there being none.
    found = found or next(
        chain(_of_parts(template, kind), _of_role(template, role), whole.faults(template, claims)), None
    )
    if found is None:
        return None
    path = origin.where(found.place, template, layers) or f"spec.{role}: {_dotted(found.place)}"
    return f"{path}: {found.problem}" + (f"; {found.remedy}" if found.remedy else "")


def _of_parts(template: Mapping[str, Any], kind: str) -> Iterator[Found]:
    for name, value, place in parts(template, kind):
        yield from values.faults(name, value, place)
        yield from kinds.faults(name, value, place)


def _of_role(template: Mapping[str, Any], role: str) -> Iterator[Found]:
    place = ("spec", "activeDeadlineSeconds")
    if role == "servers" and (template.get("spec") or {}).get(place[1]) is not None:
        yield Found(place, "pods that are started again cannot have one", "set runPolicy.activeDeadlineSeconds")


def _twice(layers: Sequence[origin.Layer]) -> Iterator[str]:
    """Names that are there twice in one list: the later one would hide the other in silence."""
    for path, section in layers:
        pod = (section.get("podTemplate") or {}).get("spec") or {}
        containers = [*(pod.get("containers") or ()), *(pod.get("initContainers") or ())]
        below = f"{path}.podTemplate.spec"
        lists = [(f"{path}.{name}", section.get(name), key) for name, key in _ONCE.items()]
        lists += [(f"{below}.{name}", pod.get(name), key) for name, key in _ONCE.items()]
        lists += [
            (f"{below}.containers[{c['name']}].volumeMounts", c.get("volumeMounts"), "mountPath") for c in containers
        ]
        for where, items, key in lists:
            seen: set[str] = set()
            for index, item in enumerate(items or ()):
                if item[key] in seen:
                    yield f"{where}[{index}].{key}: a second {item[key]!r}; give each its own {key}"
                seen.add(item[key])


def _dotted(place: Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
