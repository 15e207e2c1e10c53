"""What an installation lets its jobs ask for: images, size, volumes, accounts.

The limits are laid on the finished pod templates, so that no field of a job, `podTemplate` included, leads past them.
What the operator itself puts into a pod is always allowed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from .quantity import parse
from .shapes import Many, Scalars, SpecError, Table, Text, Whole, camel

_OUR_VOLUMES = ("configMap", "secret", "emptyDir", "persistentVolumeClaim")

SHAPE = Table(
    {
        "images": Many(Text()),
        "maxServers": Whole(1),
        "maxTrainers": Whole(1),
        "maxResources": Scalars(),
        "volumes": Many(Text()),
        "serviceAccounts": Many(Text()),
        "priorityClasses": Many(Text()),
    }
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of every job of an installation; what is empty or 0 bounds nothing."""

    images: tuple[str, ...] = ()
    """Beginnings of image names, one of which every container's image must have."""
    max_servers: int = 0
    max_trainers: int = 0
    max_resources: Mapping[str, Any] = field(default_factory=dict)
    """By resource, the most that one container may request or be limited to."""
    volumes: tuple[str, ...] = ()
    """Kinds of volumes beside those that the operator makes itself: csi, nfs, hostPath, ..."""
    service_accounts: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()
    whose: str = "this installation"
    """Who sets them, for messages."""

    @classmethod
    def of(cls, raw: Mapping[str, Any], where: str = "jobLimits", whose: str = "this installation") -> "Limits":
        """The limits in an installation's settings.

        Args:
            where: their path.
            whose: see the field of this name.

        Raises:
            SpecError: a key is unknown, or a value has another shape.
        """
        if fault := SHAPE(raw, where):
            raise SpecError(str(fault))
        by_key = {camel(f.name): f.name for f in fields(cls) if f.name != "whose"}
        if unknown := sorted(set(raw) - set(by_key)):
            raise SpecError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(by_key))}")
        for name, most in raw.get("maxResources", {}).items():
            amount(most, f"{where}.maxResources.{name}")
        values: dict[str, Any] = {
            by_key[key]: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
        }
        return cls(**values, whose=whose)

    def too_many(self, replicas: Mapping[str, int]) -> str:
        """Which replicas are more than allowed; empty: none.

        Args:
            replicas: how many `servers` and `trainers` a job asks for.
        """
        for name, most in (("servers", self.max_servers), ("trainers", self.max_trainers)):
            if most and replicas[name] > most:
                return f"spec.{name}.replicas: {self.whose} allows {most}, found {replicas[name]}"
        return ""

    def check(
        self, replicas: Mapping[str, int], templates: Mapping[str, Mapping[str, Any]], *, own_images: tuple[str, ...]
    ) -> None:
        """Refuse a job that asks for more.

        Args:
            replicas: as for `too_many`.
            templates: its finished pod templates by section: `oracle`, `servers`, `trainers`.
            own_images: those of the installation, which every job may use.

        Raises:
            SpecError: names the first thing that is too much, and what would be allowed.
        """
        if too_many := self.too_many(replicas):
            raise SpecError(too_many)
        for name, template in templates.items():
            for what, allowed, found in self._breaches(template["spec"], own_images):
                raise SpecError(f"spec.{name}: {what}: {self.whose} allows {allowed}, found {found}")

    def _breaches(self, spec: Mapping[str, Any], own_images: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        """(what, what is allowed, what was found) of everything in a pod that is not allowed."""
        for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
            name = container["name"]
            yield from self._foreign(container.get("image"), f"image of container {name!r}", own_images)
            yield from self._too_large(container.get("resources") or {}, f"of container {name!r}")
        yield from self._too_large(spec.get("resources") or {}, "of the pod")
        for volume in spec.get("volumes") or ():
            if volume.get("image"):
                yield from self._foreign(_reference(volume), f"image of volume {volume['name']!r}", own_images)
            kinds = [key for key in volume if key != "name"]
            if self.volumes and not set(kinds) <= {*self.volumes, *_OUR_VOLUMES}:
                known = ", ".join(sorted({*self.volumes, *_OUR_VOLUMES}))
                yield f"volume {volume['name']!r}", known, ", ".join(kinds)
        for name, allowed in (
            ("serviceAccountName", self.service_accounts),
            ("serviceAccount", self.service_accounts),  # Its old name, which Kubernetes still takes.
            ("priorityClassName", self.priority_classes),
        ):
            if allowed and spec.get(name) and spec[name] not in allowed:
                yield name, ", ".join(allowed), repr(spec[name])

    def _foreign(self, image: Any, what: str, own_images: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        found = str(image or "")
        if self.images and found not in own_images and not found.startswith(self.images):
            yield what, f"images that begin with {' or '.join(self.images)}", repr(found)

    def _too_large(self, resources: Mapping[str, Any], of: str) -> Iterator[tuple[str, str, str]]:
        for kind in ("requests", "limits"):
            for resource, asked in (resources.get(kind) or {}).items():
                most = self.max_resources.get(resource)
                where = f"resources.{kind}.{resource} {of}"
                if most is not None and amount(asked, where) > amount(most, f"jobLimits.maxResources.{resource}"):
                    yield where, f"at most {most}", str(asked)


def _reference(volume: Mapping[str, Any]) -> Any:
    """The image that a volume holds; what is no such volume has none."""
    source = volume["image"]
    return source.get("reference") if isinstance(source, Mapping) else None


def amount(quantity: Any, where: str) -> Decimal:
    """A quantity of Kubernetes as a number: `500m` is 0.5, `1Ki` is 1024.

    Raises:
        SpecError: it is none.
    """
    found = parse(quantity)
    if found is None:
        raise SpecError(f"{where}: expected a quantity such as 2 or 500Mi, found {str(quantity)[:40]!r}")
    return found
