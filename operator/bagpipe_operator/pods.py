"""The pod of one role: argv, environment, volumes, profile, and the user's settings on top.

Pure: (job, role, attempt, settings) -> pod template. What a role is told is the same as in a local
run; only addresses and paths differ. The result passes the `restricted` Pod Security profile unless
the user's own overlay asks for more.
"""

from collections.abc import Mapping
from typing import Any

from bagpipe_operator import defaults, gangs, names
from bagpipe_operator.api import Job, SpecError
from bagpipe_operator.names import Role
from bagpipe_operator.podcheck import reserved
from bagpipe_operator.podcheck.overlay import overlay
from bagpipe_operator.podcheck.profiles import Profile
from bagpipe_operator.podcheck.sketch import COPIED
from bagpipe_operator.settings import Settings

Raw = Mapping[str, Any]

_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_NO_SIDECARS = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}


def checkpoint_path(job: Job) -> str | None:
    """Where checkpoints go in every pod; none: nothing outlives the pods."""
    section = job.spec.get("checkpoint") or {}
    path: str | None = section.get("path")
    return path or (defaults.CHECKPOINT_PATH if job.checkpoint_claim is not None else None)


def profile_name(job: Job, settings: Settings) -> str:
    """The name of the trainers' profile: the job's, that of its class, or the one without a GPU."""
    return job.section(Role.TRAINER).get("gpuProfile") or settings.job_class.gpu_profile or defaults.GPU_PROFILE


def profile_of(job: Job, settings: Settings) -> Profile:
    """The trainers' profile."""
    name = profile_name(job, settings)
    try:
        return settings.profiles[name]
    except KeyError:
        known = ", ".join(sorted(settings.profiles))
        raise SpecError(f"spec.trainers.gpuProfile: no profile {name!r} in this installation; known: {known}") from None


def pod_template(job: Job, role: Role, attempt: int, settings: Settings) -> dict[str, Any]:
    """Pod template of `role` at `attempt`, every override applied, reserved fields put back."""
    section = _section(job, role, settings)
    if taken := reserved.fault(section, f"spec.{names.SECTIONS[role]}"):
        raise SpecError(taken)
    profile = profile_of(job, settings) if role is Role.TRAINER else Profile()
    ours = names.labels(job.name, role, attempt)
    template: dict[str, Any] = {
        "metadata": {
            "labels": {**job.inherited(job.labels), **(section.get("labels") or {}), **ours},
            "annotations": {
                **_NO_SIDECARS,
                **job.inherited(job.annotations),
                **(section.get("annotations") or {}),
            },
        },
        "spec": _pod_spec(job, role, attempt, section, profile, settings),
    }
    merged: dict[str, Any] = overlay(template, section.get("podTemplate") or {})
    merged["metadata"]["labels"].update(ours)
    if merged["spec"].get("hostNetwork"):  # Else it would resolve names as its node does, and find no peer.
        merged["spec"].setdefault("dnsPolicy", "ClusterFirstWithHostNet")
    gang = gangs.KNOWN.get(job.run_policy.gang)
    return gangs.marked(merged, gang, names.pod_group(job.name)) if gang else merged


def _section(job: Job, role: Role, settings: Settings) -> dict[str, Any]:
    """Settings of a role's pods: the installation's, those of the job's class, the job's; each for all roles first."""
    section: dict[str, Any] = {}
    for source in (*(below for _, below in settings.all_defaults), job.spec):
        for name in ("allRoles", names.SECTIONS[role]):
            section = overlay(section, source.get(name) or {})
    return section


def _pod_spec(job: Job, role: Role, attempt: int, section: Raw, profile: Profile, settings: Settings) -> dict[str, Any]:
    lost = job.run_policy.node_lost_seconds
    gone = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": lost}
        for what in ("not-ready", "unreachable")
    ]
    spec: dict[str, Any] = {
        "restartPolicy": "Always" if role is Role.SERVER else "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": section.get("terminationGracePeriodSeconds")
        or defaults.TERMINATION_GRACE_SECONDS,
        "securityContext": overlay(_pod_security(settings), section.get("securityContext") or {}),
        "containers": [_container(job, role, attempt, section, profile, settings)],
        "volumes": [*_volumes(job, role, section, profile), *(section.get("volumes") or ())],
        "tolerations": [*profile.tolerations, *(section.get("tolerations") or ()), *gone],
    }
    if role is not Role.SERVER:  # The StatefulSet sets its pods' subdomain itself.
        spec["subdomain"] = names.service(job.name, role)
    selector = {**profile.node_selector, **(section.get("nodeSelector") or {})}
    runtime_class = section.get("runtimeClassName") or profile.runtime_class_name
    spec |= {"nodeSelector": selector} if selector else {}
    spec |= {"runtimeClassName": runtime_class} if runtime_class else {}
    theirs = [s for s in section.get("imagePullSecrets") or () if s["name"] not in settings.image_pull_secrets]
    secrets = [*({"name": s} for s in settings.image_pull_secrets), *theirs]
    spec |= {"imagePullSecrets": secrets} if secrets else {}
    if prior := section.get("initContainers"):
        # Of a container that fails, the API server keeps the end of its log, as nobody else may read it in time.
        ours = {"securityContext": _RESTRICTED, "terminationMessagePolicy": "FallbackToLogsOnError"}
        spec["initContainers"] = [overlay(ours, c) for c in prior]
    spec |= {key: section[key] for key in COPIED if section.get(key)}
    return spec


def _pod_security(settings: Settings) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": settings.run_as_user,
        "runAsGroup": settings.run_as_user,
        "fsGroup": settings.run_as_user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(
    job: Job, role: Role, attempt: int, section: Raw, profile: Profile, settings: Settings
) -> dict[str, Any]:
    port = names.PORTS[role]
    probe = {"tcpSocket": {"port": port}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3}
    container = {
        "name": names.CONTAINER,
        "image": _image(role, section, profile, settings),
        "imagePullPolicy": section.get("imagePullPolicy") or settings.image_pull_policy,
        "args": argv(job, role, attempt),
        "env": _environment(job, role, section, profile),
        "ports": [{"name": role.value, "containerPort": port, "protocol": "TCP"}],
        "readinessProbe": probe,
        # A role that fails writes none, so the end of its log becomes its message; the oracle writes the run's summary.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _RESTRICTED,
        "volumeMounts": [*_mounts(job, role, section, profile), *(section.get("volumeMounts") or ())],
    }
    if sources := section.get("envFrom"):
        container["envFrom"] = list(sources)
    resources = section.get("resources") or {}
    if profile.gpus:
        resources = overlay({"limits": {"nvidia.com/gpu": str(profile.gpus)}}, resources)
    if resources:
        container["resources"] = resources
    return container


def argv(job: Job, role: Role, attempt: int) -> list[str]:
    """The role's command line: the same that a local run uses (`tests/contract` parses it with the library)."""
    port = names.PORTS[role]
    common = [
        "--job",
        f"{names.CONFIG_DIR}/{names.CONFIG_KEY}",
        "--run-dir",
        names.RUN_DIR,
        "--bind",
        f"tcp://0.0.0.0:{port}",
    ]
    number = ["--attempt", str(attempt)]
    if role is Role.ORACLE:
        path = checkpoint_path(job)
        start = ["--checkpoint", "auto"] if path else []
        return [role.value, *common, *number, *start, "--echo-metrics", "--summary", names.TERMINATION_LOG]
    where = ["--oracle", names.oracle_address(job.name, job.namespace)]
    where += ["--advertise", names.advertised(job.name, job.namespace, role, attempt)]
    index = ["--shard", "$(POD_INDEX)"] if role is Role.SERVER else ["--rank", "$(JOB_COMPLETION_INDEX)"]
    stay = ["--stay"] if role is Role.SERVER else []  # The StatefulSet restarts what ends, also what ended well.
    return [role.value, *common, *where, *index, *number, *stay]


def own_images(job: Job, settings: Settings) -> tuple[str, ...]:
    """The images that the roles have where the job names none."""
    return tuple(_image(role, {}, profile_of(job, settings), settings) for role in Role)


def _image(role: Role, section: Raw, profile: Profile, settings: Settings) -> str:
    if section.get("image"):
        return str(section["image"])
    if role is not Role.TRAINER:
        return settings.server_image
    return profile.image or settings.trainer_image + profile.image_suffix


def _environment(job: Job, role: Role, section: Raw, profile: Profile) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = [{"name": "POD_NAME", "valueFrom": _field("metadata.name")}]
    if role is Role.SERVER:
        env.append({"name": "POD_INDEX", "valueFrom": _field(f"metadata.labels['{names.LABEL_POD_INDEX}']")})
    if uses_curve(job):
        env.append({"name": names.ENV_CURVE_DIR, "value": names.CURVE_DIR})
    else:
        where = {"name": names.job_secret(job.name, job.uid), "key": "token"}
        env.append({"name": names.ENV_TOKEN, "valueFrom": {"secretKeyRef": where}})
    theirs = [{"name": k, "value": v} for k, v in profile.env.items()]
    return [*env, *overlay({"env": theirs}, {"env": list(section.get("env") or ())})["env"]]


def _field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}


def uses_curve(job: Job) -> bool:
    """Whether the job's roles authenticate and encrypt, rather than show a token."""
    return ((job.spec.get("transport") or {}).get("security") or defaults.TRANSPORT_SECURITY) != "plain"


def _shm_size(role: Role, section: Raw, profile: Profile) -> str | None:
    default = profile.shm_size or defaults.TRAINER_SHM_SIZE if role is Role.TRAINER else None
    return section.get("shmSize") or default


def _volumes(job: Job, role: Role, section: Raw, profile: Profile) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "bagpipe-config", "configMap": {"name": names.config_map(job.name)}},
        {"name": "bagpipe-tmp", "emptyDir": {}},
    ]
    if role is not Role.SERVER or job.server_claim is None:
        volumes.append({"name": "bagpipe-run", "emptyDir": {}})
    if shm := _shm_size(role, section, profile):
        volumes.append({"name": "bagpipe-shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}})
    if job.checkpoint_claim is not None:
        volumes.append(
            {"name": "bagpipe-checkpoints", "persistentVolumeClaim": {"claimName": names.checkpoint_claim(job.name)}}
        )
    if uses_curve(job):
        volumes.append(
            {
                "name": "bagpipe-curve",
                "secret": {"secretName": names.job_secret(job.name, job.uid), "defaultMode": 0o440},
            }
        )
    return volumes


def _mounts(job: Job, role: Role, section: Raw, profile: Profile) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "bagpipe-config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "bagpipe-run", "mountPath": names.RUN_DIR},
        {"name": "bagpipe-tmp", "mountPath": "/tmp"},
    ]
    if _shm_size(role, section, profile):
        mounts.append({"name": "bagpipe-shm", "mountPath": "/dev/shm"})
    if job.checkpoint_claim is not None:
        mounts.append({"name": "bagpipe-checkpoints", "mountPath": checkpoint_path(job)})
    if uses_curve(job):
        mounts.append({"name": "bagpipe-curve", "mountPath": names.CURVE_DIR, "readOnly": True})
    return mounts
