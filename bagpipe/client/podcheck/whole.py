"""What Kubernetes asks of a pod as a whole: names that are there once, mounts of volumes that are there, and so on."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from . import reserved
from .shapes import describe
from .typed import Found, Place
from .values import is_subdomain

Raw = Mapping[str, Any]
_SPEC: Place = ("spec",)
_DOMAIN = re.compile(r"\.|(?=.{1,253}$)[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*\.?")
"""A search domain of DNS: underscores are allowed, and a dot at its end."""
_MOST_OF_SEARCHES = 2048
"""Characters of all search domains together."""
_OF_THE_OPERATOR = ("terminationMessagePath", "restartPolicy", "restartPolicyRules")
"""Fields of the container `bagpipe` by which the operator learns how its process has ended."""
_OF_A_LONG_RUN = ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")


def faults(template: Raw, claims: Collection[str] = ()) -> Iterator[Found]:
    """What is wrong with a pod template whose parts are right by themselves.

    Args:
        claims: volumes that whoever makes the pods adds to them, as a StatefulSet does with its claims.
    """
    spec = template.get("spec") or {}
    yield from _names(spec)
    yield from _taken(template)
    volumes = {**{name: {} for name in claims}, **{v["name"]: v for v in spec.get("volumes") or ()}}
    for place, container in _containers(spec):
        yield from _mounts(container, place, volumes)
        yield from _ports(container, place, at_home=not spec.get("hostNetwork"))
        yield from _user(container, place, spec)
        yield from _claimed(container, place, spec)
        yield from _lifecycle(container, place, spec)
    yield from _host_ports(spec)
    yield from _network(spec)
    if spec.get("ephemeralContainers"):
        yield Found((*_SPEC, "ephemeralContainers"), "a pod cannot be made with these", "leave them out")
    if spec.get("hostPID") and spec.get("shareProcessNamespace"):
        yield Found((*_SPEC, "shareProcessNamespace"), "cannot be true with hostPID", "keep one of them")


def _containers(spec: Raw) -> Iterator[tuple[Place, Raw]]:
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            yield (*_SPEC, field, index), container


def _twice(named: Iterable[tuple[Place, Any]], what: str) -> Iterator[Found]:
    seen = set()
    for place, name in named:
        if name in seen:
            yield Found(place, f"a second {what} {name!r}", "give each its own name")
        seen.add(name)


def _taken(template: Raw) -> Iterator[Found]:
    """Labels that belong to Kubernetes' controllers, and fields of the container `bagpipe` that the operator sets."""
    for key in sorted(reserved.KUBERNETES_LABELS & {*((template.get("metadata") or {}).get("labels") or {})}):
        yield Found(("metadata", "labels", key), "belongs to Kubernetes", "choose another name")
    for place, container in _containers(template.get("spec") or {}):
        for key in _OF_THE_OPERATOR if container["name"] == reserved.CONTAINER else ():
            if container.get(key) is not None:
                yield Found((*place, key), "set by the operator", "leave it out")


def _names(spec: Raw) -> Iterator[Found]:
    yield from _twice((((*place, "name"), c["name"]) for place, c in _containers(spec)), "container")
    named = ((*_SPEC, "volumes", i, "name") for i in range(len(spec.get("volumes") or ())))
    yield from _twice(zip(named, (v["name"] for v in spec.get("volumes") or ()), strict=True), "volume")
    for place, container in _containers(spec):
        stays = place[1] == "containers" or container.get("restartPolicy") == "Always"
        odd = next((field for field in _OF_A_LONG_RUN if container.get(field) is not None), None)
        if odd and not stays:
            yield Found((*place, odd), "an init container that ends cannot have one", "leave it out")


def _mounts(container: Raw, place: Place, volumes: Mapping[str, Raw]) -> Iterator[Found]:
    paths = []
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        here = (*place, "volumeMounts", index)
        if mount["name"] not in volumes:
            yield Found((*here, "name"), f"these pods have no volume {mount['name']!r}", _declare(volumes))
        if mount.get("subPath") and mount.get("subPathExpr"):
            yield Found((*here, "subPathExpr"), "subPath is set too", "keep one of them")
        if mount.get("recursiveReadOnly") not in (None, "", "Disabled") and not mount.get("readOnly"):
            yield Found((*here, "recursiveReadOnly"), "asks for readOnly: true", "set it")
        if mount.get("mountPropagation") == "Bidirectional" and not _is_privileged(container):
            yield Found((*here, "mountPropagation"), "Bidirectional is for privileged containers", "leave it out")
        paths.append(((*here, "mountPath"), mount["mountPath"]))
    for index, device in enumerate(container.get("volumeDevices") or ()):
        here = (*place, "volumeDevices", index)
        volume = volumes.get(device["name"])
        if volume is None:
            yield Found((*here, "name"), f"these pods have no volume {device['name']!r}", _declare(volumes))
        elif volume and not {"persistentVolumeClaim", "ephemeral"} & {*volume}:
            yield Found((*here, "name"), f"{device['name']!r} is no claim, so it is no device", "mount it instead")
        paths.append(((*here, "devicePath"), device["devicePath"]))
    seen: set[str] = set()
    for where, path in paths:
        if path in seen:
            yield Found(where, f"something else is at {path!r} already", "choose another path")
        seen.add(path)


def _declare(volumes: Collection[str]) -> str:
    named = ", ".join(name for name in volumes if not name.startswith("bagpipe-"))
    return "declare it in volumes" + (f"; there are {named}" if named else "")


def _ports(container: Raw, place: Place, *, at_home: bool) -> Iterator[Found]:
    ports = [((*place, "ports", i), port) for i, port in enumerate(container.get("ports") or ())]
    yield from _twice((((*here, "name"), port["name"]) for here, port in ports if port.get("name")), "port")
    for here, port in ports:
        if not at_home and port.get("hostPort") not in (None, 0, port["containerPort"]):
            yield Found((*here, "hostPort"), "hostNetwork: the node's port is the container's", "leave it out")


def _is_privileged(container: Raw) -> bool:
    return bool((container.get("securityContext") or {}).get("privileged"))


def _host_ports(spec: Raw) -> Iterator[Found]:
    """A node has each of its ports once; init containers that end give theirs back."""
    stay = [c for c in _containers(spec) if c[0][1] == "containers" or c[1].get("restartPolicy") == "Always"]
    taken = (
        ((*place, "ports", i, "hostPort"), (port.get("hostIP") or "", port["hostPort"], port.get("protocol") or "TCP"))
        for place, container in stay
        for i, port in enumerate(container.get("ports") or ())
        if port.get("hostPort")
    )
    seen = set()
    for where, port in taken:
        if port in seen:
            yield Found(where, f"a second port {port[1]} of the node", "choose another, or leave it out")
        seen.add(port)


def _lifecycle(container: Raw, place: Place, spec: Raw) -> Iterator[Found]:
    here = (*place, "lifecycle")
    life = container.get("lifecycle") or {}
    grace = spec.get("terminationGracePeriodSeconds")
    for hook in ("postStart", "preStop"):
        seconds = ((life.get(hook) or {}).get("sleep") or {}).get("seconds")
        if seconds is not None and not 0 <= seconds <= (30 if grace is None else grace):
            words = f"expected a number from 0 to terminationGracePeriodSeconds, found {describe(seconds)}"
            yield Found((*here, hook, "sleep", "seconds"), words)
    if life.get("stopSignal") and not (spec.get("os") or {}).get("name"):
        yield Found((*here, "stopSignal"), "asks for the pod's os", "set os: {name: linux} in podTemplate.spec")


def _user(container: Raw, place: Place, spec: Raw) -> Iterator[Found]:
    """A node starts no process of root's in a container that must not have one."""
    own, pods = container.get("securityContext") or {}, spec.get("securityContext") or {}
    strict = own.get("runAsNonRoot") if own.get("runAsNonRoot") is not None else pods.get("runAsNonRoot")
    user = own.get("runAsUser") if own.get("runAsUser") is not None else pods.get("runAsUser")
    if strict and user == 0:
        where = (*place, "securityContext") if own.get("runAsUser") == 0 else (*_SPEC, "securityContext")
        yield Found(
            (*where, "runAsUser"),
            "0 is root, and runAsNonRoot is true: no node starts it",
            "set runAsNonRoot: false too",
        )


def _claimed(container: Raw, place: Place, spec: Raw) -> Iterator[Found]:
    known = {claim["name"] for claim in spec.get("resourceClaims") or ()}
    for index, claim in enumerate((container.get("resources") or {}).get("claims") or ()):
        if claim["name"] not in known:
            where = (*place, "resources", "claims", index, "name")
            yield Found(where, f"these pods have no resource claim {claim['name']!r}", "declare it in resourceClaims")


def _network(spec: Raw) -> Iterator[Found]:
    dns = spec.get("dnsConfig") or {}
    servers = dns.get("nameservers") or ()
    if spec.get("dnsPolicy") == "None" and not servers:
        yield Found((*_SPEC, "dnsPolicy"), "None leaves the pod without a name server", "set dnsConfig.nameservers")
    addresses = [((*_SPEC, "dnsConfig", "nameservers", i), text) for i, text in enumerate(servers)]
    addresses += [((*_SPEC, "hostAliases", i, "ip"), a["ip"]) for i, a in enumerate(spec.get("hostAliases") or ())]
    for place, text in addresses:
        try:
            ip_address(text)
        except ValueError:
            yield Found(place, f"expected an address such as 10.0.0.9, found {describe(text)}")
    named = [((*_SPEC, "dnsConfig", "searches", i), text) for i, text in enumerate(dns.get("searches") or ())]
    for i, alias in enumerate(spec.get("hostAliases") or ()):
        hosts = alias.get("hostnames") or ()
        named += [((*_SPEC, "hostAliases", i, "hostnames", j), text) for j, text in enumerate(hosts)]
    for place, text in named:
        good = _DOMAIN.fullmatch(text) if "searches" in place else is_subdomain(text)
        if not good:
            yield Found(place, f"expected a name such as db.example.com, found {describe(text)}")
    if len(" ".join(dns.get("searches") or ())) > _MOST_OF_SEARCHES:
        words = f"more than {_MOST_OF_SEARCHES} characters together"
        yield Found((*_SPEC, "dnsConfig", "searches"), words, "leave some out")
    for field, most in (("nameservers", 3), ("searches", 32)):
        if len(dns.get(field) or ()) > most:
            yield Found((*_SPEC, "dnsConfig", field), f"more than {most}", "leave some out")
    for index, option in enumerate(dns.get("options") or ()):
        if not option.get("name"):
            yield Found((*_SPEC, "dnsConfig", "options", index, "name"), "expected a value, found nothing", "set name")
