"""What Kubernetes asks of parts of a pod by themselves: handlers, sources, probes, selectors, resources, contexts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .quantity import parse
from .shapes import describe
from .typed import Found, Place, types
from .values import is_label_key, is_label_value, is_port_name

Raw = Mapping[str, Any]
_SIMPLE_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)


def _one_of(what: str, *names: str, none_is_fine: bool = False) -> Callable[[Raw, Place], Iterator[Found]]:
    """A rule: exactly one of these fields has a value; a field that we do not know counts as one."""

    def rule(value: Raw, place: Place) -> Iterator[Found]:
        there = [key for key in value if value[key] is not None and key not in _BESIDE]
        if len(there) > 1:
            yield Found(place, f"more than one {what}: {' and '.join(sorted(there))}", "keep one of them")
        elif not there and not none_is_fine:
            yield Found(place, f"no {what}", f"give it one of {', '.join(names)}")

    return rule


_BESIDE = frozenset(
    [
        "name",
        "prefix",
        "failureThreshold",
        "initialDelaySeconds",
        "periodSeconds",
        "successThreshold",
        "terminationGracePeriodSeconds",
        "timeoutSeconds",
    ]
)


def _variable(value: Raw, place: Place) -> Iterator[Found]:
    if value.get("value") and value.get("valueFrom") is not None:
        yield Found(place, f"variable {value['name']!r} has a value and a valueFrom", "keep one of them")


def _field(value: Raw, place: Place) -> Iterator[Found]:
    path = value["fieldPath"]
    of, bracket, rest = path.partition("['")
    keyed = bracket and of in ("metadata.labels", "metadata.annotations") and rest.endswith("']")
    whole = path in ("metadata.labels", "metadata.annotations") and "volumes" in place
    if not (keyed or whole or path in _SIMPLE_FIELDS):
        known = f"{', '.join(_SIMPLE_FIELDS)}, metadata.labels['KEY'], metadata.annotations['KEY']"
        yield Found((*place, "fieldPath"), f"a pod has no such field: {path[:60]!r}", f"it has {known}")


def _probe(value: Raw, place: Place) -> Iterator[Found]:
    yield from _one_of("handler", "exec", "grpc", "httpGet", "tcpSocket")(value, place)
    often = value.get("successThreshold") or 1
    if place[-1] != "readinessProbe" and often != 1:
        yield Found((*place, "successThreshold"), f"expected 1, found {describe(often)}", "leave it out")


def _port(value: Raw, place: Place) -> Iterator[Found]:
    port = value["port"]
    good = is_port_name(port) if isinstance(port, str) else 1 <= port <= 65535
    if not good:
        yield Found((*place, "port"), f"expected a port's name, or a number from 1 to 65535, found {describe(port)}")


def _toleration(value: Raw, place: Place) -> Iterator[Found]:
    operator = value.get("operator") or "Equal"
    if operator != "Exists" and not value.get("key"):
        yield Found(place, "a toleration without a key tolerates everything", "set operator: Exists, or a key")
    if operator == "Exists" and value.get("value"):
        yield Found((*place, "value"), "operator Exists looks at no value", "leave it out, or set operator: Equal")
    if value.get("tolerationSeconds") is not None and value.get("effect") != "NoExecute":
        yield Found(
            (*place, "tolerationSeconds"),
            "only a toleration of NoExecute ends",
            "set effect: NoExecute, or leave it out",
        )


def _label_requirement(value: Raw, place: Place) -> Iterator[Found]:
    yield from _values(value, place)
    for index, text in enumerate(value.get("values") or ()):
        if not is_label_value(text):
            yield Found(
                (*place, "values", index), f"no label has this value: {text[:60]!r}", "write one that it can have"
            )


def _node_requirement(value: Raw, place: Place) -> Iterator[Found]:
    if "matchFields" in place:
        if (
            value["key"] != "metadata.name"
            or value["operator"] not in ("In", "NotIn")
            or len(value.get("values") or ()) != 1
        ):
            yield Found(place, "fields of nodes are matched by metadata.name alone", "use In or NotIn with one value")
        return
    if not is_label_key(value["key"]):
        yield Found((*place, "key"), f"no label has this key: {value['key'][:60]!r}", "write a label's key")
    yield from _values(value, place)
    found: Sequence[str] = value.get("values") or ()
    if value["operator"] in ("Gt", "Lt") and not (len(found) == 1 and _is_whole(found[0])):
        yield Found(
            (*place, "values"), f"{value['operator']} takes one whole number, as text", 'write ["8"] for instance'
        )


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isascii() and text.lstrip("+-").isdigit()


def _values(value: Raw, place: Place) -> Iterator[Found]:
    operator, found = value["operator"], value.get("values")
    if operator in ("In", "NotIn") and not found:
        yield Found((*place, "values"), f"operator {operator} needs values", "add some, or use Exists")
    if operator in ("Exists", "DoesNotExist") and found:
        yield Found((*place, "values"), f"operator {operator} takes no values", "leave them out, or use In")


def _context(value: Raw, place: Place) -> Iterator[Found]:
    if value.get("allowPrivilegeEscalation") is not False:
        return
    added = (value.get("capabilities") or {}).get("add") or ()
    if value.get("privileged") or "CAP_SYS_ADMIN" in added:
        more = "all rights (privileged)" if value.get("privileged") else "CAP_SYS_ADMIN"
        name = "allowPrivilegeEscalation"
        yield Found((*place, name), f"{name} is false, and the container has {more}", f"set {name}: true too")


def _spread(value: Raw, place: Place) -> Iterator[Found]:
    if value.get("minDomains") is not None and value["whenUnsatisfiable"] != "DoNotSchedule":
        yield Found((*place, "minDomains"), "belongs to whenUnsatisfiable: DoNotSchedule", "set that, or leave it out")
    yield from _selecting(value, place)


def _selecting(value: Raw, place: Place) -> Iterator[Found]:
    """Of a term that picks pods: keys of the pod's own labels are added to a selector."""
    odd = next((key for key in ("matchLabelKeys", "mismatchLabelKeys") if value.get(key)), None)
    if odd and value.get("labelSelector") is None:
        yield Found((*place, odd), "adds to a labelSelector, and there is none", "set labelSelector too")


def _downward(value: Raw, place: Place) -> Iterator[Found]:
    there = [key for key in ("fieldRef", "resourceFieldRef") if value.get(key) is not None]
    if len(there) != 1:
        yield Found(place, "both sources" if there else "no source", "give it fieldRef or resourceFieldRef")


def _amount_of(value: Raw, place: Place) -> Iterator[Found]:
    kind, _, name = value["resource"].partition(".")
    if kind not in ("limits", "requests") or not (name in _OWN or name.startswith("hugepages-")):
        known = ", ".join(f"limits.{one}" for one in _OWN)
        yield Found(
            (*place, "resource"),
            f"a container has no such amount: {value['resource'][:60]!r}",
            f"it has {known}, and the same of requests",
        )


def _image(value: Raw, place: Place) -> Iterator[Found]:
    if not value.get("reference"):
        yield Found((*place, "reference"), "expected a value, found nothing", "name the image")


_OWN = ("cpu", "memory", "ephemeral-storage")


def _profile(value: Raw, place: Place) -> Iterator[Found]:
    if (value["type"] == "Localhost") != bool(value.get("localhostProfile")):
        yield Found((*place, "localhostProfile"), "belongs to type Localhost, and only to it", "set both, or neither")


def _resources(value: Raw, place: Place) -> Iterator[Found]:
    """As the API server's validation of a container: known names, no negative amounts, requests within limits."""
    requests, limits = value.get("requests") or {}, value.get("limits") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if problem := amount_fault(name, amount):
                yield Found((*place, kind, name), *problem)
    huge = next((name for name in (*limits, *requests) if name.startswith("hugepages-")), None)
    if huge and not {"cpu", "memory"} & {*requests, *limits}:
        here = (*place, "limits" if huge in limits else "requests", huge)
        yield Found(here, "huge pages ask for cpu or memory beside them", "set one of them too")
    for name, amount in requests.items():
        asked, most = parse(amount) or Decimal(0), parse(limits[name]) if limits.get(name) is not None else None
        here = (*place, "requests", name)
        if most is not None and asked > most:
            yield Found(here, f"more than the limit: {amount} of {limits[name]}", "raise the limit, or ask for less")
        elif _is_counted(name) and asked != most:
            found = "no limit" if most is None else f"limit {limits[name]}, request {amount}"
            yield Found(
                here, f"{name} is not shared, so its limit must be its request: {found}", "set both to the same"
            )


def _is_counted(name: str) -> bool:
    """Extended resources such as `nvidia.com/gpu`, and huge pages."""
    return ("/" in name and "kubernetes.io/" not in name) or name.startswith("hugepages-")


def amount_fault(name: str, amount: Any) -> tuple[str, str] | None:
    """What is wrong with an amount of a resource of a container, and the remedy."""
    size = parse(amount)
    if "/" not in name and name not in ("cpu", "memory", "ephemeral-storage") and not name.startswith("hugepages-"):
        return "no resource of containers has this name", "use cpu, memory, ephemeral-storage, or a name with a domain"
    if "/" in name and (not is_label_key(name) or name.startswith("requests.")):
        return f"no resource has this name: {name[:60]!r}", "write a name such as nvidia.com/gpu"
    if size is not None and size < 0:
        return f"expected 0 or more, found {describe(amount)}", ""
    page = parse(name.partition("-")[2]) if name.startswith("hugepages-") else None
    if size is not None and page and size % page:
        return f"{name} come whole, found {describe(amount)}", f"write a multiple of {name.partition('-')[2]}"
    if size is not None and _is_counted(name) and size % 1:
        return f"{name} comes in whole numbers, found {describe(amount)}", ""
    return None


def _quantity_of(field: str) -> Callable[[Raw, Place], Iterator[Found]]:
    def rule(value: Raw, place: Place) -> Iterator[Found]:
        if value.get(field) is not None and (parse(value[field]) or 0) < 0:
            yield Found((*place, field), f"expected 0 or more, found {describe(value[field])}")

    return rule


def _claim(value: Raw, place: Place) -> Iterator[Found]:
    yield from _modes(value, place)
    size = ((value.get("resources") or {}).get("requests") or {}).get("storage")
    if size is None or (parse(size) or 0) <= 0:
        yield Found((*place, "resources", "requests", "storage"), "a claim asks for storage", "set 10Gi for instance")


_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


def _modes(value: Raw, place: Place) -> Iterator[Found]:
    for index, mode in enumerate(value.get("accessModes") or ()):
        if mode not in _MODES:
            yield Found((*place, "accessModes", index), f"expected {' or '.join(_MODES)}, found {describe(mode)}")


def _pod(value: Raw, place: Place) -> Iterator[Found]:
    yield from _constraint_pairs(value, place)
    if value.get("priority") and not value.get("priorityClassName"):
        yield Found((*place, "priority"), "the cluster computes it", "set priorityClassName instead")
    if value.get("overhead") and not value.get("runtimeClassName"):
        yield Found((*place, "overhead"), "the cluster takes it from the runtime class", "set runtimeClassName instead")
    if value.get("nodeName") and value.get("schedulingGates"):
        yield Found((*place, "nodeName"), "a pod with scheduling gates has no node so far", "keep one of them")
    if value.get("hostUsers") is False:
        for name in ("hostPID", "hostIPC", "hostNetwork"):
            if value.get(name):
                yield Found((*place, name), "hostUsers is false, so nothing of the node is shared", "keep one of them")


def _pod_context(value: Raw, place: Place) -> Iterator[Found]:
    seen = set()
    for index, item in enumerate(value.get("sysctls") or ()):
        if item["name"] in seen:
            yield Found((*place, "sysctls", index, "name"), f"a second {item['name']!r}", "keep one of them")
        seen.add(item["name"])
    for index, group in enumerate(value.get("supplementalGroups") or ()):
        if not 0 <= group < 2**31:
            where = (*place, "supplementalGroups", index)
            yield Found(where, f"expected a number from 0 to {2**31 - 1}, found {describe(group)}")


def _constraint_pairs(value: Raw, place: Place) -> Iterator[Found]:
    """Of a pod's spec: a topology is spread over once for each way."""
    seen = set()
    for index, item in enumerate(value.get("topologySpreadConstraints") or ()):
        pair = (item["topologyKey"], item["whenUnsatisfiable"])
        if pair in seen:
            yield Found((*place, "topologySpreadConstraints", index), f"a second {' with '.join(pair)}", "keep one")
        seen.add(pair)


_SOURCES = ("configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef")
_HANDLERS = ("exec", "httpGet", "sleep", "tcpSocket")
RULES: Mapping[str, Callable[[Raw, Place], Iterator[Found]]] = {
    "AppArmorProfile": _profile,
    "DownwardAPIVolumeFile": _downward,
    "EmptyDirVolumeSource": _quantity_of("sizeLimit"),
    "EnvFromSource": _one_of("source", "configMapRef", "secretRef"),
    "EnvVar": _variable,
    "EnvVarSource": _one_of("source", *_SOURCES),
    "HTTPGetAction": _port,
    "ImageVolumeSource": _image,
    "LabelSelectorRequirement": _label_requirement,
    "LifecycleHandler": _one_of("handler", *_HANDLERS),
    "NodeSelectorRequirement": _node_requirement,
    "ObjectFieldSelector": _field,
    "PersistentVolumeClaimSpec": _claim,
    "PodAffinityTerm": _selecting,
    "PodResourceClaim": _one_of("source", "resourceClaimName", "resourceClaimTemplateName"),
    "PodSecurityContext": _pod_context,
    "PodSpec": _pod,
    "Probe": _probe,
    "ResourceFieldSelector": _amount_of,
    "ResourceRequirements": _resources,
    "SeccompProfile": _profile,
    "SecurityContext": _context,
    "TCPSocketAction": _port,
    "Toleration": _toleration,
    "TopologySpreadConstraint": _spread,
    "Volume": _one_of("kind of volume", none_is_fine=True),
    "VolumeProjection": _one_of("source", "configMap", "downwardAPI", "secret", "serviceAccountToken"),
}
"""By type of Kubernetes' API."""


def faults(kind: str, value: Any, place: Place) -> Iterator[Found]:
    """What is wrong with a value of this type, which has its type's shape."""
    rule = RULES.get(kind)
    if rule is not None and kind in types():
        yield from rule(value, place)
