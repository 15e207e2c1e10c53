"""What each condition and each reason means, and what to do about it: the tables of `docs/reasons.md`.

`python -m bagpipe_operator.reasons > docs/reasons.md` writes the page.
"""

import argparse
from collections.abc import Mapping

from bagpipe_operator.names import Condition, Reason

Row = tuple[str, str]
"""What it means, and what to do."""

NOTHING = "nothing"

CONDITIONS: Mapping[Condition, str] = {
    Condition.SUSPENDED: "no pod of the job is left, and none is made: it is held, or waits in a queue",
    Condition.QUOTA_RESERVED: "Kueue has admitted the job; false: it waits, or this installation serves no queues",
    Condition.SERVERS_READY: "all embedding servers are ready",
    Condition.RUNNING: "all pods of the present attempt have run; false: the reason says why they have not",
    Condition.RESTARTING: "a new attempt is being made; the reason is that of the end of the last one",
    Condition.RECONCILING: "the job is on its way to run, to stop, or to a new attempt; for tools that follow kstatus",
    Condition.STALLED: "the job has failed; for tools that follow kstatus",
    Condition.RECONCILED: (
        "the API server accepts what the job needs; false: it refuses an object, or something else changes one back"
    ),
    Condition.MODEL_KEPT: "checkpoints outlive the pods; false: the model is lost with the last pod",
    Condition.DELETING: "somebody has deleted the job, and a finalizer keeps it; its pods are ended, and none is made",
    Condition.COMPLETE: "the job has ended well",
    Condition.FAILED: "the job has failed; `Unknown`: the operator failed while it looked at the job, and tries again",
}

HELD: Mapping[Reason, Row] = {
    Reason.SUSPENDED: ("`runPolicy.suspend` is true", "`bagpipe job resume NAME`"),
    Reason.WAITING_FOR_QUOTA: (
        "Kueue has not admitted the job; the message says why, in Kueue's words",
        "wait, or ask the queue's administrator",
    ),
    Reason.PREEMPTED: (
        "Kueue, or the scheduler, took the job's place for another one",
        "nothing: the job queues again, and goes on from its checkpoint",
    ),
    Reason.QUOTA_CHANGES: ("the job needs another quota than the one that is reserved, and queues for it", NOTHING),
    Reason.QUOTA_RESERVED: ("Kueue has admitted the job", NOTHING),
    Reason.QUEUE_IGNORED: (
        "the job's queue is not served here, or it has a priority and no queue; it runs without waiting for quota",
        "set `kueue.enabled` in the operator's chart, or take the name out of the job",
    ),
    Reason.RESUMED: ("the job goes on from its last checkpoint", NOTHING),
}

NOT_RUNNING: Mapping[Reason | str, Row] = {
    Reason.NO_OPERATOR: (
        "an event, never a condition: for half a minute no operator of the job's `operatorClass` has given it a status",
        "install an operator of that class, or make the job anew with the class of one that is there",
    ),
    Reason.STARTING: (
        "pods are being made and started; the message counts them, and names one that another container keeps",
        "nothing, unless it lasts",
    ),
    Reason.PODS_READY: ("all pods run", NOTHING),
    Reason.PODS_NOT_READY: ("some servers are not ready", NOTHING),
    Reason.SERVERS_READY: ("all servers are ready", NOTHING),
    Reason.UNSCHEDULABLE: ("no node fits a pod; the message says what is missing", "add nodes, or ask for less"),
    Reason.NO_SCHEDULER: (
        "the scheduler that `schedulerName` names has not looked at a pod",
        "install that scheduler, or name another one",
    ),
    Reason.NODE_SILENT: (
        "a pod belongs to a node, by its `nodeName` or the scheduler's word, whose kubelet does not take it",
        "`kubectl get node NODE`: correct `nodeName`, or look at that node's kubelet",
    ),
    Reason.PARTLY_PLACED: (
        "some pods held nodes for `partialStartSeconds` while others found none; all nodes were given back",
        "free nodes, or use a queue or a gang scheduler",
    ),
    Reason.OLDER_JOB: (
        "objects of a deleted job of this name, or pods whose Job was deleted without them, are still there",
        "wait, or delete the pods that the message names; `kubectl get all -l bagpipe.dev/job=NAME`",
    ),
    Reason.QUOTA_EXCEEDED: (
        "a resource quota of the namespace is used up; the message names it",
        "raise it, or end something that uses it: the job goes on by itself",
    ),
    "FailedCreate": (
        "a pod may not be made: a quota, a limit range, a missing service account or priority class",
        "mend what the message names: the job goes on by itself",
    ),
    Reason.FORBIDDEN: ("the operator may not make what the job needs", "give its role the verb that the message names"),
    Reason.NAMESPACE_TERMINATING: (
        "the namespace is being deleted, and takes no new object",
        "nothing: the job goes with it; `kubectl get namespace NAME -o yaml` says what still holds it",
    ),
    Reason.HELD_BY_FINALIZER: (
        "the job, or an object of it, was deleted, and another program's finalizer keeps it; the message names both",
        "find out why the program that set the finalizer does not remove it; once it does, all goes on by itself",
    ),
    Reason.DELETED: (
        (
            "somebody has deleted the job a moment ago, or Kubernetes ends its objects before it "
            "(`--cascade=foreground`) or leaves them as they are (`--cascade=orphan`)"
        ),
        "nothing, unless it lasts: `Reconciled` then says which pod or object does not go",
    ),
    Reason.POD_NOT_ENDING: (
        "a pod was told to go, its time is over, and its node does not say that its process has ended",
        "`kubectl get node NODE`; `kubectl delete node NODE` once the machine is off for good: the job then goes on",
    ),
    Reason.API_ERROR: (
        "the API server, or a webhook in front of it, does not answer as it should",
        "look at the webhook that the message names",
    ),
    Reason.CONTESTED: (
        "something else changes an object back whenever the operator has written it",
        "`kubectl get KIND NAME -o yaml --show-managed-fields` names what changes it: stop that",
    ),
    Reason.BEYOND_LIMITS: (
        "more servers or trainers are asked for than this installation allows; the attempt goes on with what it has",
        "ask for fewer, or have `jobs.limits` in the operator's chart raised",
    ),
    Reason.ACCEPTED: ("the API server accepts what it had refused before", NOTHING),
    "FailedScheduling": ("the scheduler finds no node for a pod, and says why", "add nodes, or ask for less"),
    "FailedPrepareDynamicResources": (
        "a node cannot prepare a device that `resourceClaims` ask for",
        "look at that node's driver",
    ),
    "NetworkNotReady": ("a node's network plugin is not ready", "look at that node"),
    "FailedMount, FailedAttachVolume, FailedMapVolume": (
        "a volume's ConfigMap, Secret or disk is missing or elsewhere",
        "make it: the job goes on by itself",
    ),
    "ProvisioningFailed, FailedBinding": (
        "storage for a claim cannot be made",
        "look at the claim and its storage class",
    ),
    "VolumeResizeFailed": ("a claim cannot be made larger", "look at the claim and its storage class"),
    "ErrImagePull, ImagePullBackOff, InvalidImageName": (
        "an image cannot be pulled",
        "correct its name, or add `imagePullSecrets`",
    ),
    "ErrImageNeverPull": (
        "an image is not on the node, and `imagePullPolicy` is Never",
        "load it onto the nodes, or choose another policy",
    ),
    "FailedToRetrieveImagePullSecret": ("an image's pull secret is missing", "make it: the job goes on by itself"),
    "FailedCreatePodSandBox": (
        "a node cannot set up a pod, often for want of its network plugin",
        "look at that node",
    ),
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
    Reason.CLAIM_LOST: (
        "the volume of the claim for checkpoints is gone, and no pod that mounts it starts",
        "`kubectl describe pvc NAME-checkpoints`; suspend the job, delete the claim and resume: it begins at step 0",
    ),
    Reason.CLAIM_GOES: (
        "somebody has deleted the claim for checkpoints, which is gone once the last pod that mounts it has ended",
        "copy the checkpoints while the job runs; to keep the volume, set its reclaim policy to `Retain`",
    ),
    Reason.KEPT: ("checkpoints outlive the pods", NOTHING),
}

ENDS: Mapping[Reason, Row] = {
    Reason.COMPLETED: ("the job has ended well", NOTHING),
    Reason.INVALID_SPEC: (
        "a field of the document is wrong; the message has its path, what was expected and what was found",
        "correct it, and make the job anew",
    ),
    Reason.CHILD_REFUSED: (
        "the API server does not accept an object of the job; the message has its words",
        "correct the setting that it names, and make the job anew; or ask the admission policy's administrator",
    ),
    Reason.NAME_TAKEN: (
        "an object that the operator did not make has a name that the job needs; it was left as it is",
        "rename the job, or that object",
    ),
    Reason.PARTIAL_ADMISSION: ("Kueue admitted a part of the job's pods", "take partial admission off this Workload"),
    Reason.BAD_CONFIG: (
        "a setting, or the code of the model, is wrong (exit 78); `status.lastFailure.lastWords` says which",
        "correct it, and make the job anew",
    ),
    Reason.BAD_DATA: (
        "the data or a checkpoint cannot be used, or a loss is not finite (exit 65); `lastWords` says which",
        "correct the data or the recipe, and make the job anew",
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
        "make a job with more time; it goes on from the checkpoint if `checkpoint.path` is in a volume of your own",
    ),
    Reason.STARTUP_DEADLINE: (
        "not all pods ran within `startupDeadlineSeconds`, and Kubernetes gives no reason",
        "`kubectl describe pod` of those that are missing",
    ),
    Reason.RESTART_POLICY: ("`restartPolicy` is Never, and a process failed", "`status.lastFailure` has the cause"),
    Reason.INTERNAL_ERROR: (
        "the operator failed while it looked at this job, and tries again; other jobs are not affected",
        "report it, with the line of the operator's log that names the job",
    ),
}

ATTEMPTS: Mapping[Reason, Row] = {
    Reason.CRASHED: (
        "a process ended by itself, with an error",
        "read `status.lastFailure.lastWords`, its termination message",
    ),
    Reason.OOM_KILLED: ("a process used more memory than its limit", "raise the limit, or lower `cacheRows`"),
    Reason.OVER_ITS_LIMIT: ("a pod used more than its own limit of ephemeral storage or time", "raise that limit"),
    Reason.TRANSIENT: (
        "a process lost its peers (exit 75), and no other pod's end explains it",
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
    Reason.REJECTED_BY_NODE: (
        "a node refused a pod that was sent to it; the message has its words",
        "look at that node",
    ),
    Reason.POD_LOST: ("a pod or its Job was deleted", "find out who deletes it"),
    Reason.STOPPED: ("a process was told to stop (exit 143)", NOTHING),
    Reason.DISRUPTED: ("a pod was taken away for a reason that the operator does not know", "read the message"),
    Reason.SCALED: ("the number of trainers was changed", NOTHING),
    Reason.EDITED: ("the job was changed while it was suspended, and resumed before the operator saw that", NOTHING),
}

LEFT: Mapping[Reason, Row] = {
    Reason.LOGS_KEPT: (
        "the job failed and its pods were ended; the last lines of their logs are in the ConfigMap `NAME-logs`",
        "`bagpipe job logs NAME --role trainer --rank 1`",
    ),
    Reason.LOGS_NOT_KEPT: (
        "those lines could not be kept, for the reason in `status.logs`; the pods were ended all the same",
        "mend what the reason names before the next run",
    ),
}

OPERATOR: Mapping[Reason, Row] = {
    Reason.OTHER_INSTALLATION: (
        "an event on a pod of the operator: another installation of its class runs the jobs",
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
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(page(), end="")
