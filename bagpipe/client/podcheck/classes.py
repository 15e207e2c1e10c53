"""Presets of an installation by name: a job chooses one by `runPolicy.jobClass`.

A class holds what a platform team would otherwise ask its users to copy into each job: images, a GPU profile, pod
settings, and what jobs of this class may ask for. It lies over the installation's own defaults and under the job, and
its limits hold besides the installation's.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import spec_shape
from .limits import Limits
from .shapes import SpecError, Table, Text, describe

MOST_CLASSES = 100
_NAME = re.compile("[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_KEYS = ("description", "images", "gpuProfile", "defaults", "limits")
_IMAGES = ("trainer", "server")
_SHAPE = Table(
    {
        "description": Text(empty=True),
        "images": Table({name: Text() for name in _IMAGES}),
        "gpuProfile": Text(),
        "defaults": Table({}),
        "limits": Table({}),
    }
)


@dataclass(frozen=True, kw_only=True)
class JobClass:
    """One preset; what it leaves out is as the installation has it."""

    name: str = ""
    description: str = ""
    trainer_image: str = ""
    server_image: str = ""
    gpu_profile: str = ""
    """Profile of trainers where the job names none."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Pod settings under the job's own, over those of the installation (`Settings.job_defaults`)."""
    limits: Limits = field(default_factory=Limits)
    """What jobs of this class may not ask for more of, beside what no job may."""


def parse_classes(raw: Any, profiles: Container[str], where: str = "jobClasses") -> dict[str, JobClass]:
    """The classes in an installation's settings, by name.

    Args:
        profiles: names of the GPU profiles that there are.
        where: path of the classes.

    Raises:
        SpecError: names the class, what was expected and what was found.
    """
    if fault := Table({})(raw, where):
        raise SpecError(str(fault))
    if len(raw) > MOST_CLASSES:
        raise SpecError(f"{where}: expected at most {MOST_CLASSES} classes, found {len(raw)}")
    return {name: _parsed(name, body, profiles, where) for name, body in raw.items()}


def choose(
    classes: Mapping[str, JobClass], asked: str | None, default: str, where: str = "spec.runPolicy.jobClass"
) -> JobClass:
    """The class of a job that asks for this one, or for none; one without a name if it has none.

    Args:
        default: the class of jobs that ask for none; empty: they have none.
        where: what names it, for the message.

    Raises:
        SpecError: there is no such class; names those that there are.
    """
    name = asked or default
    if name and name not in classes:
        known = ", ".join(sorted(classes)) or "none"
        raise SpecError(f"{where}: no class {name!r} in this installation; known: {known}")
    return classes[name] if name else JobClass()


def _parsed(name: str, body: Any, profiles: Container[str], above: str) -> JobClass:
    where = f"{above}.{name}"
    if not _NAME.fullmatch(name):
        raise SpecError(f"{above}: expected names of at most 40 of a-z, 0-9 and -, found {name[:60]!r}")
    body = {} if body is None else body
    if fault := _SHAPE(body, where) or spec_shape.defaults_fault(body.get("defaults", {}), f"{where}.defaults"):
        raise SpecError(str(fault))
    for path, found, known in ((where, body, _KEYS), (f"{where}.images", body.get("images", {}), _IMAGES)):
        if unknown := sorted(set(found) - set(known)):
            raise SpecError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    profile, images = body.get("gpuProfile", ""), body.get("images", {})
    if profile and profile not in profiles:
        raise SpecError(f"{where}.gpuProfile: expected the name of a profile, found {describe(profile)}")
    return JobClass(
        name=name,
        description=body.get("description", ""),
        trainer_image=images.get("trainer", ""),
        server_image=images.get("server", ""),
        gpu_profile=profile,
        defaults=body.get("defaults", {}),
        limits=Limits.of(body.get("limits", {}), f"{where}.limits", f"the class {name}"),
    )
