"""Values of single fields that Kubernetes refuses although their type is right: choices, bounds, forms of names."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .shapes import describe
from .typed import Found, Place

CHOICES: Mapping[str, str] = {
    "AppArmorProfile.type": "Localhost RuntimeDefault Unconfined",
    "Container.imagePullPolicy": "Always IfNotPresent Never",
    "Container.restartPolicy": "Always Never OnFailure",
    "Container.terminationMessagePolicy": "File FallbackToLogsOnError",
    "ContainerPort.protocol": "TCP UDP SCTP",
    "ContainerResizePolicy.resourceName": "cpu memory",
    "ContainerResizePolicy.restartPolicy": "NotRequired RestartContainer",
    "HTTPGetAction.scheme": "HTTP HTTPS",
    "HostPathVolumeSource.type": "DirectoryOrCreate Directory FileOrCreate File Socket CharDevice BlockDevice",
    "ImageVolumeSource.pullPolicy": "Always IfNotPresent Never",
    "LabelSelectorRequirement.operator": "In NotIn Exists DoesNotExist",
    "NodeSelectorRequirement.operator": "In NotIn Exists DoesNotExist Gt Lt",
    "PersistentVolumeClaimSpec.volumeMode": "Filesystem Block",
    "PodOS.name": "linux windows",
    "PodSecurityContext.fsGroupChangePolicy": "OnRootMismatch Always",
    "PodSecurityContext.supplementalGroupsPolicy": "Merge Strict",
    "PodSpec.dnsPolicy": "ClusterFirst ClusterFirstWithHostNet Default None",
    "PodSpec.preemptionPolicy": "Never PreemptLowerPriority",
    "SeccompProfile.type": "Localhost RuntimeDefault Unconfined",
    "SecurityContext.procMount": "Default Unmasked",
    "Toleration.effect": "NoSchedule PreferNoSchedule NoExecute",
    "Toleration.operator": "Exists Equal Lt Gt",
    "TopologySpreadConstraint.nodeAffinityPolicy": "Honor Ignore",
    "TopologySpreadConstraint.nodeTaintsPolicy": "Honor Ignore",
    "TopologySpreadConstraint.whenUnsatisfiable": "DoNotSchedule ScheduleAnyway",
    "VolumeMount.mountPropagation": "None HostToContainer Bidirectional",
    "VolumeMount.recursiveReadOnly": "Disabled IfPossible Enabled",
}
"""An empty text says the same as nothing."""

_MODE, _PORT, _ID, _COUNT = (0, 0o777), (1, 65535), (0, 2**31 - 1), (0, 2**31 - 1)
BOUNDS: Mapping[str, tuple[int, int]] = {
    "ConfigMapVolumeSource.defaultMode": _MODE,
    "ContainerPort.containerPort": _PORT,
    "ContainerPort.hostPort": (0, 65535),
    "DownwardAPIVolumeFile.mode": _MODE,
    "DownwardAPIVolumeSource.defaultMode": _MODE,
    "GRPCAction.port": _PORT,
    "KeyToPath.mode": _MODE,
    "PodSecurityContext.fsGroup": _ID,
    "PodSecurityContext.runAsGroup": _ID,
    "PodSecurityContext.runAsUser": _ID,
    "PodSpec.activeDeadlineSeconds": (1, 2**31 - 1),
    "PodSpec.terminationGracePeriodSeconds": (0, 2**63 - 1),
    "PreferredSchedulingTerm.weight": (1, 100),
    "Probe.failureThreshold": _COUNT,
    "Probe.initialDelaySeconds": _COUNT,
    "Probe.periodSeconds": _COUNT,
    "Probe.successThreshold": _COUNT,
    "Probe.terminationGracePeriodSeconds": (1, 2**63 - 1),
    "Probe.timeoutSeconds": _COUNT,
    "ProjectedVolumeSource.defaultMode": _MODE,
    "SecretVolumeSource.defaultMode": _MODE,
    "SecurityContext.runAsGroup": _ID,
    "SecurityContext.runAsUser": _ID,
    "ServiceAccountTokenProjection.expirationSeconds": (600, 2**32),
    "TopologySpreadConstraint.maxSkew": (1, 2**31 - 1),
    "TopologySpreadConstraint.minDomains": (1, 2**31 - 1),
    "WeightedPodAffinityTerm.weight": (1, 100),
}

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_DNS_LABEL = re.compile(_LABEL)
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_DATA_KEY = re.compile(r"(?!\.\.?$)(?!\.\.)[-._a-zA-Z0-9]{1,253}")
_VARIABLE = re.compile(r"[ -<>-~]+")
_HOST = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(({_HOST}(\.{_HOST})*|\[[0-9a-fA-F:]+\])(:[0-9]+)?/)?{_PATH}(/{_PATH})*(:[A-Za-z0-9_][-.A-Za-z0-9_]{{0,127}})?"
    r"(@[A-Za-z][A-Za-z0-9]*([-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_SYSCTL = re.compile(r"(?=.{1,253}$)([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_HEADER = re.compile(r"[-A-Za-z0-9]+")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def is_label_key(text: str) -> bool:
    """Whether a label or annotation can have this key: a name, perhaps after a domain and a slash."""
    domain, slash, name = text.rpartition("/")
    return bool(_KEY_NAME.fullmatch(name)) and (not slash or bool(_SUBDOMAIN.fullmatch(domain)))


def is_subdomain(text: str) -> bool:
    """Whether an object can have this name."""
    return bool(_SUBDOMAIN.fullmatch(text))


def is_label_value(text: str) -> bool:
    """Whether a label can have this value."""
    return bool(_LABEL_VALUE.fullmatch(text))


def is_port_name(text: str) -> bool:
    """Whether a port can have this name."""
    return bool(_PORT_NAME.fullmatch(text))


def _is_inside(text: str) -> bool:
    return not text.startswith("/") and ".." not in text.split("/")


_LOWER = "lower-case letters, digits and '-', at most 63, as in my-name"
_NAME = "a name of an object: lower-case letters, digits, '-' and '.', as in my-name"
_LABEL_KEY = "a key such as team or example.com/team: letters, digits, '-', '_' and '.', at most 63 after the '/'"
_A_LABEL_VALUE = "at most 63 letters, digits, '-', '_' and '.', which begins and ends with a letter or digit"
_INSIDE = "a path inside the volume, without '/' at its beginning and without '..'"

Form = tuple[Callable[[str], Any], str]
_FORMS_BY: Mapping[str, Form] = {
    "Container.name Volume.name": (_DNS_LABEL.fullmatch, _LOWER),
    """PodSpec.serviceAccountName PodSpec.serviceAccount PodSpec.priorityClassName PodSpec.runtimeClassName
    PodSpec.nodeName PersistentVolumeClaimVolumeSource.claimName PersistentVolumeClaimSpec.storageClassName
    LocalObjectReference.name ConfigMapEnvSource.name SecretEnvSource.name ConfigMapKeySelector.name
    SecretKeySelector.name ConfigMapVolumeSource.name SecretVolumeSource.secretName ConfigMapProjection.name
    SecretProjection.name PodResourceClaim.resourceClaimName PodResourceClaim.resourceClaimTemplateName""": (
        is_subdomain,
        _NAME,
    ),
    "Toleration.key TopologySpreadConstraint.topologyKey PodAffinityTerm.topologyKey LabelSelectorRequirement.key": (
        is_label_key,
        _LABEL_KEY,
    ),
    "PodSchedulingGate.name PodReadinessGate.conditionType": (is_label_key, _LABEL_KEY),
    "HTTPHeader.name": (_HEADER.fullmatch, "letters, digits and '-'"),
    "Sysctl.name": (_SYSCTL.fullmatch, "a kernel parameter such as net.core.somaxconn"),
    "VolumeMount.mountPath": (lambda text: ":" not in text, "a path without ':'"),
    "Toleration.value": (is_label_value, _A_LABEL_VALUE),
    "ConfigMapKeySelector.key SecretKeySelector.key": (
        _DATA_KEY.fullmatch,
        "a key of a ConfigMap or Secret: letters, digits, '-', '_' and '.'",
    ),
    "EnvVar.name": (_VARIABLE.fullmatch, "printable characters without '='"),
    "EnvFromSource.prefix": (lambda text: not text or _VARIABLE.fullmatch(text), "printable characters without '='"),
    "ContainerPort.name": (is_port_name, "at most 15 lower-case letters, digits and '-', one of them a letter"),
    "VolumeMount.subPath VolumeMount.subPathExpr": (_is_inside, _INSIDE),
    "KeyToPath.path DownwardAPIVolumeFile.path ServiceAccountTokenProjection.path": (_is_inside, _INSIDE),
    "HostPathVolumeSource.path": (lambda text: ".." not in text.split("/"), "a path without '..'"),
    "NFSVolumeSource.path": (lambda text: text.startswith("/"), "an absolute path"),
    "Container.image": (_IMAGE.fullmatch, "an image's name such as registry.example.com/team/app:1.2, in lower case"),
    "EmptyDirVolumeSource.medium": (
        lambda text: text in ("", "Memory") or text.startswith("HugePages"),
        "Memory, or HugePages and a size",
    ),
}
FORMS: Mapping[str, Form] = {name: form for named, form in _FORMS_BY.items() for name in named.split()}

LABEL_MAPS = frozenset({"ObjectMeta.labels", "LabelSelector.matchLabels", "PodSpec.nodeSelector"})
ANNOTATION_MAPS = frozenset({"ObjectMeta.annotations"})


def faults(kind: str, value: Any, place: Place) -> Iterator[Found]:
    """What is wrong with one field of `Type.field`, whose value is of its type."""
    if kind in CHOICES and value and value not in (allowed := CHOICES[kind].split()):
        yield Found(place, f"expected {' or '.join(allowed)}, found {describe(value)}")
    elif kind in BOUNDS and not BOUNDS[kind][0] <= value <= BOUNDS[kind][1]:
        least, most = BOUNDS[kind]
        octal = BOUNDS[kind] == _MODE and set(str(value)) <= {*"01234567"}
        remedy = f"modes are decimal here: {int(str(value), 8)} for 0{value}" if octal else ""
        yield Found(place, f"expected a number from {least} to {most}, found {describe(value)}", remedy)
    elif kind in FORMS and value and not FORMS[kind][0](value):
        yield Found(place, f"expected {FORMS[kind][1]}, found {describe(value)}")
    elif kind in LABEL_MAPS or kind in ANNOTATION_MAPS:
        yield from _labels(value, place, valued=kind in LABEL_MAPS)


def _labels(labels: Mapping[str, str | None], place: Place, *, valued: bool) -> Iterator[Found]:
    for key, text in labels.items():
        if not is_label_key(key if valued else key.lower()):
            yield Found((*place, key), f"expected {_LABEL_KEY}, found {describe(key)}")
        elif valued and text is not None and not is_label_value(text):
            yield Found((*place, key), f"expected {_A_LABEL_VALUE}, found {describe(text)}")
    if not valued and sum(len(f"{key}{text}".encode("utf-8", "replace")) for key, text in labels.items()) > 256 * 1024:
        yield Found(place, "more than 256 KiB of annotations, which Kubernetes does not keep", "make them shorter")
