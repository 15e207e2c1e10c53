"""How a role's pods look on a cluster: the part of the document that `bagpipe run` ignores.

Typed where the operator decides something by it, free-form where it is Kubernetes' own (affinity,
volumes, `podTemplate`), so that the resource's schema stays small. Part of the single source
(`bagpipe/config/document.py`).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bagpipe.config import bounds


class Section(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Common shape of every section: immutable, unknown keys refused."""


Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", max_length=32)]

Amount = str | bounds.WholeQuantity | bounds.BrokenQuantity
"""A quantity as people write it: `2`, `0.5`, `500m`, `4Gi`."""


class Resources(Section):
    """Compute resources of a container, in Kubernetes' quantities."""

    requests: Annotated[
        dict[str, Amount], Meta(description="What the scheduler reserves: cpu, memory, extended resources.")
    ] = {}
    limits: Annotated[dict[str, Amount], Meta(description="What the container may not exceed.")] = {}


class EnvVar(Section):
    """One environment variable."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=253,
            description="Name; the operator's own (BAGPIPE_CURVE_DIR, BAGPIPE_TOKEN, POD_NAME, POD_INDEX, JOB_COMPLETION_INDEX) are refused.",
        ),
    ]
    value: Annotated[str | None, Meta(description="Literal value.")] = None
    value_from: Annotated[dict[str, Any] | None, Meta(description="Source, as in a Kubernetes container.")] = None


class Reference(Section):
    """An object of the job's namespace, by name."""

    name: Annotated[str, Meta(min_length=1, max_length=253, description="Name of the object.")]
    optional: Annotated[bool, Meta(description="The pod starts without it too.")] = False


class PullSecret(Section):
    """A Secret with credentials of an image registry."""

    name: Annotated[str, Meta(min_length=1, max_length=253, description="Name of the Secret.")]


class EnvSource(Section):
    """All keys of a ConfigMap or a Secret as variables."""

    config_map_ref: Annotated[Reference | None, Meta(description="The ConfigMap.")] = None
    secret_ref: Annotated[Reference | None, Meta(description="The Secret.")] = None
    prefix: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Put before each name.")] = None


class HostAlias(Section):
    """A line of the pod's /etc/hosts."""

    ip: Annotated[str, Meta(min_length=1, max_length=64, description="Address.")]
    hostnames: Annotated[tuple[str, ...], Meta(description="Names of this address.")] = ()


class DnsOption(Section):
    """An option of the resolver."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="Name of the option, `ndots` for instance.")]
    value: Annotated[Annotated[str, Meta(max_length=64)] | None, Meta(description="Its value, as text.")] = None


class DnsConfig(Section):
    """Resolver settings of the pods, added to those of their DNS policy."""

    nameservers: Annotated[tuple[str, ...], Meta(description="Addresses of name servers.")] = ()
    searches: Annotated[tuple[str, ...], Meta(description="Domains in which short names are looked for.")] = ()
    options: Annotated[tuple[DnsOption, ...], Meta(description="Options of the resolver.")] = ()


class PodConfig(Section):
    """Cluster only: how pods look. `bagpipe run` ignores all of it, and says so."""

    image: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="Container image; none: the operator's (and the GPU profile's)."),
    ] = None
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, Meta(description="As in Kubernetes.")
    ] = None
    resources: Annotated[Resources | None, Meta(description="Requests and limits of the main container.")] = None
    node_selector: Annotated[
        dict[str, str], Meta(description="Node labels that must match; added to the profile's.")
    ] = {}
    tolerations: Annotated[
        tuple[dict[str, Any], ...], Meta(description="Taints that are tolerated; added to the profile's.")
    ] = ()
    affinity: Annotated[dict[str, Any] | None, Meta(description="Affinity, as in a Kubernetes pod.")] = None
    topology_spread_constraints: Annotated[tuple[dict[str, Any], ...], Meta(description="As in a Kubernetes pod.")] = ()
    priority_class_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="Priority class of the pods.")
    ] = None
    scheduler_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="Scheduler; none: the cluster's default.")
    ] = None
    runtime_class_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="Runtime class; none: the profile's.")
    ] = None
    service_account_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="Service account, for cloud identity; its token is not mounted."),
    ] = None
    env: Annotated[tuple[EnvVar, ...], Meta(description="Environment variables.")] = ()
    env_from: Annotated[tuple[EnvSource, ...], Meta(description="ConfigMaps and Secrets whose keys are variables.")] = ()
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...], Meta(description="Credentials of image registries; added to the operator's.")
    ] = ()
    init_containers: Annotated[
        tuple[dict[str, Any], ...],
        Meta(description="Containers that end before the main one starts, as in a Kubernetes pod; restricted unless they say otherwise."),
    ] = ()
    host_aliases: Annotated[tuple[HostAlias, ...], Meta(description="Lines of /etc/hosts.")] = ()
    dns_config: Annotated[DnsConfig | None, Meta(description="Resolver settings.")] = None
    security_context: Annotated[
        dict[str, Any] | None, Meta(description="Security context of the pods, laid over the operator's restricted one.")
    ] = None
    volumes: Annotated[tuple[dict[str, Any], ...], Meta(description="Volumes, as in a Kubernetes pod.")] = ()
    volume_mounts: Annotated[tuple[dict[str, Any], ...], Meta(description="Where the main container sees them.")] = ()
    shm_size: Annotated[
        Quantity | None,
        Meta(description="Size of /dev/shm (memory: it counts against the limit). Trainers: 1Gi, or the profile's."),
    ] = None
    termination_grace_period_seconds: Annotated[
        bounds.Time | None,
        Meta(description="Seconds between SIGTERM and SIGKILL; trainers write their checkpoint in them. none: 60."),
    ] = None
    labels: Annotated[dict[str, str], Meta(description="Labels added to the pods.")] = {}
    annotations: Annotated[dict[str, str], Meta(description="Annotations added to the pods.")] = {}
    pod_template: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Anything else of a pod template, laid over what the operator makes (lists of named things merge by name)."
        ),
    ] = None


class VolumeClaim(Section):
    """A persistent volume claim that the operator makes."""

    size: Annotated[Quantity, Meta(description="Requested size.")] = "10Gi"
    storage_class_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="Storage class; none: the cluster's default.")
    ] = None
    access_mode: Annotated[
        Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"],
        Meta(description="Checkpoints need ReadWriteMany unless all pods run on one node."),
    ] = "ReadWriteOnce"


class CheckpointClaim(VolumeClaim):
    """The claim that checkpoints are kept on."""

    retain: Annotated[bool, Meta(description="Keep the claim when the job is deleted.")] = False
