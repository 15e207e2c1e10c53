"""The objects a running job consists of, as pure functions of job, attempt and settings.

    ConfigMap        the job document, as `bagpipe run` takes it
    Services         one headless Service a role; addresses are published before pods are ready
    StatefulSet      embedding servers: ordinal = shard; OnDelete, for a new attempt replaces pods itself
    Jobs (Indexed)   oracle and trainers: index = rank; the first failure ends them, as all stand and fall together
    NetworkPolicy, PodDisruptionBudget, claims, PodGroup

Every object is owned by the BagpipeJob, so that deleting it needs no operator.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import yaml

from bagpipe_operator import defaults, gangs, names, podcheck
from bagpipe_operator.api import Job, SpecError
from bagpipe_operator.gangs import Gang
from bagpipe_operator.names import Role
from bagpipe_operator.pods import checkpoint_path, own_images, pod_template
from bagpipe_operator.settings import Settings

Object = dict[str, Any]


def base(job: Job, attempt: int, settings: Settings, trainers: int | None = None) -> list[Object]:
    """What stays while a job is held or restarts: configuration, addresses, rules, claims.

    Args:
        trainers: number of trainers of the attempt, where that may not be what the job asks for by now.
    """
    objects = [config_map(job, trainers), *(service(job, role, attempt) for role in Role), disruption_budget(job)]
    if job.run_policy.network_policy != "None":
        objects.append(network_policy(job))
    if (gang := gangs.KNOWN.get(job.run_policy.gang)) and job.run_policy.gang in settings.gang_schedulers:
        objects.append(pod_group(job, gang, settings))
    if job.checkpoint_claim is not None:
        objects.append(checkpoint_claim(job))
    return objects


def workers(job: Job, attempt: int, settings: Settings) -> list[Object]:
    """What makes pods: the servers' StatefulSet, the oracle's Job and the trainers' Job, in this order."""
    return [server_set(job, attempt, settings), oracle_job(job, attempt, settings), trainer_job(job, attempt, settings)]


def _object(
    job: Job,
    api: str,
    kind: str,
    name: str,
    role: Role | None = None,
    attempt: int | None = None,
    *,
    owned: bool = True,
) -> Object:
    labels = {**job.inherited(job.labels), **names.labels(job.name, role, attempt)}
    metadata: Object = {"name": name, "namespace": job.namespace, "labels": labels}
    if annotations := job.inherited(job.annotations):
        metadata["annotations"] = annotations
    if owned:
        metadata["ownerReferences"] = [owner_reference(job)]
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def owner_reference(job: Job) -> Object:
    """By which Kubernetes deletes an object with the job."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def document(job: Job, trainers: int | None = None) -> str:
    """The job as the roles read it. The run policy is the operator's business: a change of it must not reach them.

    A server that starts again within an attempt reads it anew, so it has the number of trainers of that attempt.
    """
    spec = {key: value for key, value in job.spec.items() if key != "runPolicy"}
    if trainers not in (None, job.replicas(Role.TRAINER)):
        spec["trainers"] = {**job.section(Role.TRAINER), "replicas": trainers}
    raw = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": job.name, "namespace": job.namespace},
        "spec": spec,
    }
    if path := checkpoint_path(job):
        raw["spec"] = {**spec, "checkpoint": {**spec["checkpoint"], "path": path}}
    return _as_yaml(raw)


_LARGE, _KEPT = 64 * 1024, 8
_texts: OrderedDict[str, str] = OrderedDict()
"""The newest large documents as YAML, by the digest of what they say."""


def _as_yaml(raw: Object) -> str:
    """A document as text. That of a large one is kept: to make it takes a second for each megabyte, at every look."""
    plain = json.dumps(raw, sort_keys=True)
    if len(plain) < _LARGE:
        return yaml.safe_dump(raw, sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    text = _texts.pop(digest, None) or yaml.safe_dump(raw, sort_keys=True)
    _texts[digest] = text
    while len(_texts) > _KEPT:
        _texts.popitem(last=False)
    return text


def config_map(job: Job, trainers: int | None = None) -> Object:
    """`NAME-config`: the job document, which every role reads; `trainers` as for `document`."""
    data = {names.CONFIG_KEY: document(job, trainers)}
    return {**_object(job, "v1", "ConfigMap", names.config_map(job.name)), "data": data}


def service(job: Job, role: Role, attempt: int) -> Object:
    """The selector names the attempt: a pod that is on its way out is no address of the next attempt."""
    port = names.PORTS[role]
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {names.LABEL_JOB: job.name, names.LABEL_ROLE: role.value, names.LABEL_ATTEMPT: str(attempt)},
        "ports": [{"name": role.value, "port": port, "targetPort": port, "protocol": "TCP"}],
    }
    return {**_object(job, "v1", "Service", names.service(job.name, role), role), "spec": spec}


def server_set(job: Job, attempt: int, settings: Settings, replicas: int | None = None) -> Object:
    """The embedding servers.

    Args:
        replicas: how many to run now; None: as many as the job asks for.

    Raises:
        SpecError: a setting of the pods belongs to the operator.
    """
    spec: Object = {
        "replicas": job.replicas(Role.SERVER) if replicas is None else replicas,
        "serviceName": names.service(job.name, Role.SERVER),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": {names.LABEL_JOB: job.name, names.LABEL_ROLE: Role.SERVER.value}},
        "template": pod_template(job, Role.SERVER, attempt, settings),
    }
    if (claim := job.server_claim) is not None:
        template = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "bagpipe-run"}}
        spec["volumeClaimTemplates"] = [{**template, "spec": _claim(claim)}]
        spec["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Delete", "whenScaled": "Retain"}
    return {**_object(job, "apps/v1", "StatefulSet", names.stateful_set(job.name), Role.SERVER, attempt), "spec": spec}


def _claim(claim: Any) -> Object:
    spec: Object = {
        "accessModes": [claim.get("accessMode") or defaults.CLAIM_ACCESS_MODE],
        "resources": {"requests": {"storage": claim.get("size") or defaults.CLAIM_SIZE}},
    }
    if claim.get("storageClassName"):
        spec["storageClassName"] = claim["storageClassName"]
    return spec


def _exit_rule(action: str, codes: tuple[int, ...]) -> Object:
    return {
        "action": action,
        "onExitCodes": {"containerName": names.CONTAINER, "operator": "In", "values": list(codes)},
    }


def oracle_job(job: Job, attempt: int, settings: Settings) -> Object:
    """The oracle's Job of this attempt. Raises `SpecError` as `pods.pod_template` does."""
    return _batch_job(job, Role.ORACLE, attempt, settings)


def trainer_job(job: Job, attempt: int, settings: Settings) -> Object:
    """The trainers' Job of this attempt. Raises `SpecError` as `pods.pod_template` does."""
    return _batch_job(job, Role.TRAINER, attempt, settings)


def _batch_job(job: Job, role: Role, attempt: int, settings: Settings) -> Object:
    """Its first failure ends it: what follows is for the whole job to decide."""
    replicas = job.replicas(role)
    spec = {
        "completionMode": "Indexed",
        "completions": replicas,
        "parallelism": replicas,
        "backoffLimit": 0,
        "suspend": False,  # Said, so that it is put right where somebody else suspends it.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [_exit_rule("FailJob", names.PERMANENT_EXITS)]},
        "template": pod_template(job, role, attempt, settings),
    }
    name = names.batch_job(job.name, role, attempt)
    return {**_object(job, "batch/v1", "Job", name, role, attempt), "spec": spec}


def stopped(job: Job, role: Role, attempt: int, live: Mapping[str, Any]) -> Object:
    """A Job that is suspended: it ends its running pods and keeps those that ended, for their logs.

    As it was made, whatever the job says by now: pods must go also where no pod could be made of the job any more.
    """
    there = live.get("spec") or {}
    spec = {key: value for key, value in there.items() if key in _OF_A_JOB} | {"suspend": True}
    return {**_object(job, "batch/v1", "Job", live["metadata"]["name"], role, attempt), "spec": spec}


def without_servers(job: Job, attempt: int, live: Mapping[str, Any]) -> Object:
    """The StatefulSet of the servers scaled to zero, and else as it was made: see `stopped`. Claims stay."""
    spec = {key: value for key, value in (live.get("spec") or {}).items() if key in _OF_A_SET} | {"replicas": 0}
    return {**_object(job, "apps/v1", "StatefulSet", live["metadata"]["name"], Role.SERVER, attempt), "spec": spec}


_OF_A_SET = frozenset(
    {
        "serviceName",
        "podManagementPolicy",
        "updateStrategy",
        "selector",
        "template",
        "volumeClaimTemplates",
        "persistentVolumeClaimRetentionPolicy",
    }
)
"""Fields of a StatefulSet's spec that we set, besides the number of replicas."""

_OF_A_JOB = frozenset(
    {
        "completionMode",
        "completions",
        "parallelism",
        "backoffLimit",
        "podReplacementPolicy",
        "podFailurePolicy",
        "template",
    }
)
"""Fields of a Job's spec that we set."""


def network_policy(job: Job) -> Object:
    """Only the job's own pods reach its ports; `Isolated` also confines what they reach."""
    own = {"podSelector": {"matchLabels": {names.LABEL_JOB: job.name}}}
    spec: Object = {
        "podSelector": {"matchLabels": {names.LABEL_JOB: job.name}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [own]}],
    }
    if job.run_policy.network_policy == "Isolated":
        dns = {
            "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
            "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
        }
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": [{"to": [own]}, dns]}
    return {**_object(job, "networking.k8s.io/v1", "NetworkPolicy", names.network_policy(job.name)), "spec": spec}


def disruption_budget(job: Job) -> Object:
    """A drain takes one server at a time."""
    selector = {"matchLabels": {names.LABEL_JOB: job.name, names.LABEL_ROLE: Role.SERVER.value}}
    name = names.disruption_budget(job.name)
    return {
        **_object(job, "policy/v1", "PodDisruptionBudget", name, Role.SERVER),
        "spec": {"maxUnavailable": 1, "selector": selector},
    }


def check_gang(job: Job, settings: Settings) -> None:
    """Refuse a job whose gang scheduler this installation does not serve: its pods would wait for ever.

    Raises:
        SpecError: names the schedulers that there are.
    """
    asked = job.run_policy.gang
    if asked in gangs.KNOWN and asked not in settings.gang_schedulers:
        known = ", ".join(settings.gang_schedulers) or "none"
        raise SpecError(f"spec.runPolicy.gang: this installation does not serve {asked}; gangSchedulers: {known}")


def check_limits(job: Job, settings: Settings) -> None:
    """Refuse a job that asks for more than this installation gives.

    Raises:
        SpecError: names what is too much.
    """
    templates = {names.SECTIONS[role]: pod_template(job, role, 0, settings) for role in Role}
    for limits in settings.all_limits:
        limits.check(job.asked, templates, own_images=own_images(job, settings))


def check_pods(job: Job, settings: Settings) -> None:
    """Refuse a job whose pods Kubernetes would not take, or would never start (`podcheck`).

    Raises:
        SpecError: names the setting, what is wrong with it, and what to do.
    """
    for role in Role:
        section = names.SECTIONS[role]
        claims = ("bagpipe-run",) if role is Role.SERVER and job.server_claim is not None else ()
        layers = podcheck.layers_of(job.spec, section, settings.all_defaults)
        if fault := podcheck.pod_fault(pod_template(job, role, 0, settings), section, layers, claims):
            raise SpecError(fault)
    if fault := podcheck.settings_fault(job.spec, settings.all_defaults):
        raise SpecError(fault)


def pod_group(job: Job, gang: Gang, settings: Settings) -> Object:
    """All pods of an attempt, or none. With Volcano they stand in its queue by the priority of the trainers' pods."""
    spec: Object = {"minMember": job.pods_wanted}
    if gang is gangs.KNOWN["Volcano"]:
        # Of the finished pods, which `jobs.limits` bounds: what a job says elsewhere may not be what they have.
        priority = pod_template(job, Role.TRAINER, 0, settings)["spec"].get("priorityClassName")
        spec |= {"priorityClassName": priority} if priority else {}
        spec |= {"queue": job.run_policy.queue_name} if job.run_policy.queue_name else {}
    return {**_object(job, gang.api_version, gang.kind, names.pod_group(job.name)), "spec": spec}


def kept_logs(job: Job, data: Mapping[str, str]) -> Object:
    """The ConfigMap with a failed job's last lines: `data` by the name that `names.log_key` gives a process.

    It lacks the label by which children are watched: see `log_keeper.py`.
    """
    body = _object(job, "v1", "ConfigMap", names.kept_logs(job.name))
    del body["metadata"]["labels"][names.LABEL_MANAGED_BY]
    return {**body, "immutable": True, "data": dict(data)}


def checkpoint_claim(job: Job) -> Object:
    """The claim for checkpoints; with `retain: true` it has no owner, and so outlives the job."""
    claim = job.checkpoint_claim or {}
    owned = not claim.get("retain", defaults.CLAIM_RETAINED)
    return {
        **_object(job, "v1", "PersistentVolumeClaim", names.checkpoint_claim(job.name), owned=owned),
        "spec": _claim(claim),
    }
