"""Every name, label, port, environment variable, condition and reason that the operator writes.

Names are pure functions of job, role, ordinal and attempt, so that an operator recognises what it
made before it was restarted. The longest one is a trainer's host name: 40 (job) + 10
(`-trainers-`) + attempt + index stays below 63 characters, which is why a job's name has at most 40.
"""

from enum import StrEnum

GROUP = "bagpipe.dev"
VERSION = "v1alpha1"
PLURAL = "bagpipejobs"
KIND = "BagpipeJob"
API_VERSION = f"{GROUP}/{VERSION}"
MANAGER = "bagpipe-operator"
"""Field manager of server-side apply, and the value of `managedBy` that means us."""

CONTAINER = "bagpipe"
"""Name of the main container in every pod: the one whose exit code counts."""

MAX_NAME = 40


class Role(StrEnum):
    """What a pod is."""

    ORACLE = "oracle"
    SERVER = "server"
    TRAINER = "trainer"


PORTS = {Role.ORACLE: 7700, Role.SERVER: 7701, Role.TRAINER: 7702}
SECTIONS = {Role.ORACLE: "oracle", Role.SERVER: "servers", Role.TRAINER: "trainers"}
"""Key of a role's settings under `spec`, and the suffix of its Service."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB = f"{GROUP}/job"
LABEL_ROLE = f"{GROUP}/role"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
LABEL_ASKED = f"{GROUP}/asked"
"""On a Workload: digest of what its quota was counted by."""
LABEL_POD_INDEX = "apps.kubernetes.io/pod-index"
LABEL_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

ANNOTATION_RELEASE = f"{GROUP}/release"
"""On the lease: the installation that holds it."""

CONFIG_DIR = "/etc/bagpipe"
CONFIG_KEY = "job.yaml"
RUN_DIR = "/var/lib/bagpipe"
TERMINATION_LOG = "/dev/termination-log"
"""File for a process's termination message, which Kubernetes puts into the pod's status: at most 4,096 bytes."""
CURVE_DIR = "/etc/bagpipe-curve"
ENV_CURVE_DIR = "BAGPIPE_CURVE_DIR"
ENV_TOKEN = "BAGPIPE_TOKEN"  # noqa: S105  # a name
"""Where `security: plain` has no keys, this keeps strangers out."""


class Exit:
    """Exit codes of the roles: what a pod's end means. `tests/contract` pins them to the library's."""

    DONE = 0
    BAD_DATA = 65
    SOFTWARE = 70
    TRANSIENT = 75
    BAD_CONFIG = 78
    STOPPED = 143


PERMANENT_EXITS = (Exit.BAD_DATA, Exit.BAD_CONFIG)


class Condition(StrEnum):
    """Types of a job's conditions."""

    SUSPENDED = "Suspended"
    QUOTA_RESERVED = "QuotaReserved"
    SERVERS_READY = "ServersReady"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    DELETING = "Deleting"
    """True once somebody has deleted the job, as long as something keeps it."""
    COMPLETE = "Complete"
    FAILED = "Failed"
    MODEL_KEPT = "ModelKept"
    """False if nothing of the job outlives its pods."""
    RECONCILING = "Reconciling"
    """For tools that know no job (kstatus, `helm --wait`, Flux): true while it is on its way to run."""
    STALLED = "Stalled"
    """For such tools: true if the job has failed."""
    RECONCILED = "Reconciled"
    """False while the API server does not accept what the job needs."""


class Reason(StrEnum):
    """Reasons of conditions and events: for machines; the message is for people."""

    # holding
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUOTA_RESERVED = "QuotaReserved"
    PREEMPTED = "Preempted"
    QUOTA_CHANGES = "QuotaChanges"
    QUEUE_IGNORED = "QueueIgnored"
    NO_OPERATOR = "NoOperator"
    # starting and running
    STARTING = "Starting"
    PODS_READY = "PodsReady"
    PODS_NOT_READY = "PodsNotReady"
    SERVERS_READY = "ServersReady"
    CLAIM_LOST = "ClaimLost"
    CLAIM_GOES = "ClaimBeingDeleted"
    NOTHING_KEPT = "NothingOutlivesPods"
    KEPT = "CheckpointsKept"
    UNSCHEDULABLE = "Unschedulable"
    PARTLY_PLACED = "PartlyPlaced"
    POD_NOT_ENDING = "PodNotEnding"
    NODE_SILENT = "NodeSilent"
    NO_SCHEDULER = "NoScheduler"
    OLDER_JOB = "OlderJobEnding"
    # what the API server or a controller said to something that the job needs
    QUOTA_EXCEEDED = "QuotaExceeded"
    FORBIDDEN = "Forbidden"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    HELD_BY_FINALIZER = "HeldByFinalizer"
    DELETED = "Deleted"
    API_ERROR = "ApiServerError"
    CHILD_REFUSED = "ChildRefused"
    CONTESTED = "Contested"
    BEYOND_LIMITS = "BeyondLimits"
    NAME_TAKEN = "NameTaken"
    ACCEPTED = "Accepted"
    # ends
    COMPLETED = "Completed"
    BAD_CONFIG = "BadConfig"
    BAD_DATA = "BadData"
    INVALID_SPEC = "InvalidSpec"
    BACKOFF_LIMIT = "BackoffLimitExceeded"
    DISRUPTION_LIMIT = "DisruptionLimitExceeded"
    DEADLINE = "DeadlineExceeded"
    STARTUP_DEADLINE = "StartupDeadlineExceeded"
    RESTART_POLICY = "RestartPolicyNever"
    PARTIAL_ADMISSION = "PartialAdmission"
    OTHER_INSTALLATION = "OtherInstallation"
    INTERNAL_ERROR = "InternalError"
    # failures of one attempt
    CRASHED = "Crashed"
    OOM_KILLED = "OOMKilled"
    TRANSIENT = "TransientFailure"
    DISRUPTED = "Disrupted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    NODE_PRESSURE = "NodePressure"
    NODE_SHUTDOWN = "NodeShutdown"
    REJECTED_BY_NODE = "RejectedByNode"
    OVER_ITS_LIMIT = "OverItsLimit"
    STOPPED = "Stopped"
    POD_LOST = "PodLost"
    SERVER_LOST = "ServerVolumeLost"
    SCALED = "Scaled"
    EDITED = "Edited"
    # what is left of a job that failed
    LOGS_KEPT = "LogsKept"
    LOGS_NOT_KEPT = "LogsNotKept"


def config_map(job: str) -> str:
    """ConfigMap with the job document."""
    return f"{job}-config"


def service(job: str, role: Role) -> str:
    """Headless Service of a role; the StatefulSet of the servers bears the same name."""
    return f"{job}-{SECTIONS[role]}"


def stateful_set(job: str) -> str:
    """StatefulSet of the embedding servers."""
    return service(job, Role.SERVER)


def batch_job(job: str, role: Role, attempt: int) -> str:
    """Job of the oracle or the trainers: a template cannot change, so each attempt has its own."""
    return f"{job}-{SECTIONS[role]}-{attempt}"


def network_policy(job: str) -> str:
    """NetworkPolicy by which only the job's own pods reach its ports."""
    return f"{job}-peers"


def disruption_budget(job: str) -> str:
    """PodDisruptionBudget of the embedding servers."""
    return f"{job}-servers"


def job_secret(job: str, uid: str) -> str:
    """With a part of the job's UID: the operator cannot read Secrets, so no other may be taken for ours."""
    return f"{job}-curve-{uid[:8]}"


def checkpoint_claim(job: str) -> str:
    """Claim for checkpoints."""
    return f"{job}-checkpoints"


def kept_logs(job: str) -> str:
    """ConfigMap with the last lines of the pods that a failed job's end took away."""
    return f"{job}-logs"


def log_key(role: Role, index: int) -> str:
    """Where in that ConfigMap the lines of one process stand."""
    return f"{role.value}-{index}.log"


def workload(job: str) -> str:
    """Kueue's Workload that stands for the job in a queue."""
    return f"bagpipejob-{job}"


def pod_group(job: str) -> str:
    """PodGroup of all the job's pods, for a gang scheduler."""
    return f"{job}-gang"


def oracle_address(job: str, namespace: str) -> str:
    """Where every other role finds the oracle: `tcp://host:port`."""
    return f"tcp://{service(job, Role.ORACLE)}.{namespace}.svc:{PORTS[Role.ORACLE]}"


def advertised(job: str, namespace: str, role: Role, attempt: int) -> str:
    """Where a pod is reached; `$(...)` is filled in by the kubelet from the container's environment."""
    host = "$(POD_NAME)" if role is Role.SERVER else f"{batch_job(job, role, attempt)}-$(JOB_COMPLETION_INDEX)"
    return f"tcp://{host}.{service(job, role)}.{namespace}.svc:{PORTS[role]}"


def labels(job: str, role: Role | None = None, attempt: int | None = None) -> dict[str, str]:
    """Labels of a child; the watch selects on the first."""
    result = {LABEL_MANAGED_BY: MANAGER, LABEL_JOB: job}
    if role is not None:
        result[LABEL_ROLE] = role.value
    if attempt is not None:
        result[LABEL_ATTEMPT] = str(attempt)
    return result
