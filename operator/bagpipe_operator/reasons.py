"""What each condition and each reason means, and what to do about it; `docs/reasons.md` is made of this.

python -m bagpipe_operator.reasons        prints the page
"""

from collections.abc import Mapping

from bagpipe_operator.names import Condition, Reason

Row = tuple[str, str]
"""What it means, and what to do."""

NOTHING = "nothing"

CONDITIONS: Mapping[Condition, str] = {
    Condition.SUSPENDED: "no pod of the job is left, and none is made: it is held, or waits in a queue",
    Condition.QUOTA_RESERVED: "Kueue has admitted the job; false: it waits, or nobody here serves its queue",
    Condition.SERVERS_READY: "all embedding servers are ready",
    Condition.RUNNING: "all pods of the present attempt have run; false: why they do not",
    Condition.RESTARTING: "a new attempt is being made; the reason is that of the end of the last one",
    Condition.RECONCILING: "the job is on its way to run, to stop, or to a new attempt; for tools that follow kstatus",
    Condition.STALLED: "the job has failed; for tools that follow kstatus",
    Condition.RECONCILED: "false: the API server does not take what the job needs, or somebody changes it back",
    Condition.MODEL_KEPT: "false: nothing of the job outlives its pods",
    Condition.COMPLETE: "the job has ended well",
    Condition.FAILED: "the job has ended otherwise; `Unknown`: the operator itself failed on it, and tries again",
}

HELD: Mapping[Reason, Row] = {
    Reason.SUSPENDED: ("`runPolicy.suspend` is true", "`bagpipe job resume NAME`"),
    Reason.WAITING_FOR_QUOTA: (
        "Kueue has not admitted the job; the message has its words",
        "wait, or ask whoever runs the queue",
    ),
    Reason.PREEMPTED: (
        "Kueue, or the scheduler, took the job's place for another one",
        "nothing: it queues again and goes on from its checkpoint",
    ),
    Reason.QUOTA_CHANGES: ("the job needs other quota than was reserved, and queues for it", NOTHING),
    Reason.QUOTA_RESERVED: ("Kueue has admitted the job", NOTHING),
    Reason.QUEUE_IGNORED: (
        "the job names a queue, or a priority in one, that nobody here serves; it runs without waiting for quota",
        "`kueue.enabled` in the operator's chart, or take the queue's name away",
    ),
    Reason.RESUMED: ("the job goes on from its last checkpoint", NOTHING),
}

NOT_RUNNING: Mapping[Reason | str, Row] = {
    Reason.NO_OPERATOR: (
        "an event alone: no operator of the job's `operatorClass` has written a status for half a minute",
        "install one of that class, or make the job anew without a mistake in it; `bagpipe job describe NAME`",
    ),
    Reason.STARTING: ("pods are being made and started; the message counts them", "nothing, unless it lasts"),
    Reason.PODS_READY: ("all pods run", NOTHING),
    Reason.PODS_NOT_READY: ("some servers are not ready", NOTHING),
    Reason.SERVERS_READY: ("all servers are ready", NOTHING),
    Reason.UNSCHEDULABLE: ("no node fits a pod; the message says what is missing", "add nodes, or ask for less"),
    Reason.NO_SCHEDULER: ("nobody serves `schedulerName`", "install that scheduler, or name another one"),
    Reason.PARTLY_PLACED: (
        "some pods had nodes for `partialStartSeconds` and the others found none; all were given back",
        "free nodes, or use a queue or a gang scheduler",
    ),
    Reason.OLDER_JOB: (
        "objects of a deleted job of this name are still there",
        "wait; `kubectl get all -l bagpipe.dev/job=NAME`",
    ),
    Reason.QUOTA_EXCEEDED: (
        "a resource quota of the namespace; the message names it",
        "raise it, or end something: the job goes on by itself",
    ),
    "FailedCreate": (
        "a pod may not be made: a quota, a limit range, a missing service account or priority class",
        "the message names it: the job goes on by itself",
    ),
    Reason.FORBIDDEN: ("the operator may not make what the job needs", "give the operator's role that verb"),
    Reason.NAMESPACE_TERMINATING: (
        "the namespace is being deleted, and takes no new object",
        "nothing: the job goes with it; `kubectl get namespace NAME -o yaml` says what still holds it",
    ),
    Reason.HELD_BY_FINALIZER: (
        "an object of the job is being deleted, and somebody else's finalizer keeps it; the message names both",
        "find out why whoever put it there does not take it off; the job goes on by itself",
    ),
    Reason.API_ERROR: (
        "the API server, or a webhook in front of it, does not answer as it should",
        "look at the webhook that the message names",
    ),
    Reason.CONTESTED: (
        "something else changes an object back whenever the operator has written it",
        "`kubectl get KIND NAME -o yaml --show-managed-fields` names it",
    ),
    Reason.BEYOND_LIMITS: (
        "more servers or trainers are asked for than this installation allows; the attempt goes on with what it has",
        "scale back, or ask whoever installed the operator",
    ),
    Reason.ACCEPTED: ("the API server takes again what it had refused", NOTHING),
    "FailedMount, FailedAttachVolume": (
        "a volume's ConfigMap, Secret or disk is missing or elsewhere",
        "make it: the job goes on by itself",
    ),
    "ProvisioningFailed, FailedBinding": (
        "storage for a claim cannot be made",
        "look at the claim and its storage class",
    ),
    "ErrImagePull, ImagePullBackOff, InvalidImageName, ErrImageNeverPull": (
        "an image cannot be pulled",
        "correct its name, or add `imagePullSecrets`",
    ),
    "FailedToRetrieveImagePullSecret": ("an image's pull secret is missing", "make it: the job goes on by itself"),
    "CreateContainerConfigError, CreateContainerError, RunContainerError": (
        "the kubelet cannot start a container, for this or any other reason that it gives; the message says which",
        "correct what it names",
    ),
    "RecreatingFailedPod": (
        "servers' pods are refused or ended by their node as soon as they are made",
        "`kubectl describe pod` of a server; look at its node",
    ),
    "CrashLoopBackOff": ("a server's process ends again and again", "`bagpipe job logs NAME --role server --previous`"),
    "SchedulingGated": ("the pod waits for Kueue to say where it goes", "look at the Workload"),
    Reason.NOTHING_KEPT: ("the model is lost with the last pod", "set `checkpoint.volumeClaim`, in a new job"),
    Reason.KEPT: ("checkpoints outlive the pods", NOTHING),
}

ENDS: Mapping[Reason, Row] = {
    Reason.COMPLETED: ("the job has ended well", NOTHING),
    Reason.INVALID_SPEC: (
        "a part of the document is not as it must be: path, expected, found",
        "correct it, and make the job anew",
    ),
    Reason.CHILD_REFUSED: (
        "the API server does not accept an object of the job, in its words",
        "as above, or ask whoever set the admission policy",
    ),
    Reason.NAME_TAKEN: (
        "an object of somebody else has a name that the job needs; it was not touched",
        "rename the job, or that object",
    ),
    Reason.PARTIAL_ADMISSION: ("Kueue admitted a part of the job's pods", "take partial admission off this Workload"),
    Reason.BAD_CONFIG: (
        "the library refuses the job's settings (exit 78); its words are in `status.lastFailure`",
        "correct them, and make the job anew",
    ),
    Reason.BAD_DATA: (
        "the data or the checkpoint cannot be used (exit 65); the words name the file",
        "correct the data, and make the job anew",
    ),
    Reason.BACKOFF_LIMIT: (
        "the job failed more often than `backoffLimit` says",
        "`status.lastFailure` has the last cause",
    ),
    Reason.DISRUPTION_LIMIT: (
        "pods were taken away more often than `disruptionLimit` says",
        "look at the nodes; give the job a priority class, or a higher limit",
    ),
    Reason.DEADLINE: (
        "the job was active for longer than `activeDeadlineSeconds`",
        "make a job with more time; it goes on where `checkpoint.path` lies in a volume of your own",
    ),
    Reason.STARTUP_DEADLINE: (
        "not all pods ran within `startupDeadlineSeconds`, and nobody says why",
        "`kubectl describe pod` of those that are missing",
    ),
    Reason.RESTART_POLICY: ("`restartPolicy` is Never, and a process failed", "`status.lastFailure` has the cause"),
    Reason.INTERNAL_ERROR: (
        "a fault of the operator about this job alone; it tries again",
        "report it, with the log line that names the job",
    ),
}

ATTEMPTS: Mapping[Reason, Row] = {
    Reason.CRASHED: ("a process ended by itself", "its last words are in `status.lastFailure`"),
    Reason.OOM_KILLED: ("a process used more memory than its limit", "raise the limit, or lower `cacheRows`"),
    Reason.OVER_ITS_LIMIT: ("a pod used more than its own limit of ephemeral storage or time", "raise that limit"),
    Reason.TRANSIENT: (
        "a process lost its peers (exit 75), and nobody says why",
        "look at the network, and at the other pods' logs",
    ),
    Reason.SERVER_LOST: ("a server's rows are gone with its pod or process", "give servers a `volumeClaim`"),
    Reason.EVICTED: ("the eviction API took a pod, a drain for instance", NOTHING),
    Reason.NODE_LOST: ("a node is gone or unreachable, or began anew under its pods", NOTHING),
    Reason.NODE_PRESSURE: (
        "a node ran out of memory, disk or process numbers",
        "set requests, so that the scheduler knows",
    ),
    Reason.NODE_SHUTDOWN: ("a node was shut down", NOTHING),
    Reason.REJECTED_BY_NODE: ("a node refused a pod that was sent to it; the message has its words", "look at it"),
    Reason.POD_LOST: ("a pod or its Job was deleted", "find out who deletes"),
    Reason.STOPPED: ("a process was told to stop (exit 143)", NOTHING),
    Reason.DISRUPTED: ("a pod was taken away for a reason that the operator does not know", "the message has it"),
    Reason.SCALED: ("the number of trainers was changed", NOTHING),
    Reason.EDITED: ("the job was changed while it was suspended, and resumed before the operator saw that", NOTHING),
}

LEFT: Mapping[Reason, Row] = {
    Reason.LOGS_KEPT: (
        "the last lines of the pods that a failed job's end took away are in the ConfigMap `NAME-logs`",
        "`bagpipe job logs NAME --role trainer --rank 1`",
    ),
    Reason.LOGS_NOT_KEPT: (
        "they could not be kept, for the reason in `status.logs`; the pods were ended all the same",
        "what it names, before the next run",
    ),
}

OPERATOR: Mapping[Reason, Row] = {
    Reason.OTHER_INSTALLATION: (
        "on a pod of the operator: another installation runs its jobs",
        "uninstall one of them, or give one an `operatorClass`",
    ),
}

TABLES: Mapping[str, Mapping[Reason, Row] | Mapping[Reason | str, Row]] = {
    "Held": HELD,
    "Does not run, or not yet": NOT_RUNNING,
    "Has ended": ENDS,
    "An attempt ended": ATTEMPTS,
    "Left of a job that failed": LEFT,
    "The operator itself": OPERATOR,
}


def page() -> str:
    """`docs/reasons.md`."""
    lines = [
        "# Conditions and reasons",
        "",
        "Generated by `python -m bagpipe_operator.reasons`; do not edit. See also [the operator](operator.md).",
        "",
        "| condition | true means |",
        "|---|---|",
        *(f"| `{kind}` | {means} |" for kind, means in CONDITIONS.items()),
    ]
    for title, rows in TABLES.items():
        lines += ["", f"## {title}", "", "| reason | what it means | what to do |", "|---|---|---|"]
        for names_, (means, cure) in rows.items():
            reasons = ", ".join(f"`{name}`" for name in str(names_).split(", "))
            lines.append(f"| {reasons} | {means} | {cure} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
