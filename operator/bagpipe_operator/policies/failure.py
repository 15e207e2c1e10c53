"""Did this attempt fail, why, and does that end the job?

    exit 65, 78                          the job fails at once: the same input gives the same end
    another container of its pod         a crash, whatever its exit code, which is not one of the library's
    a trainer or the oracle ended        all roles go back to the last checkpoint: a new attempt
      in any other way
    a server's process                   restarted within the attempt, on its files
    a server's pod without a claim       its rows are gone: a new attempt
    a crash                              counts towards `backoffLimit`
    preemption, drain, deletion, SIGTERM counts apart

If several pods ended, the reason is the first of these: a crash, a disruption, a lost pod, a transient
failure. A crash or a disruption of one pod explains why the others lost their peer.
"""

import datetime as dt
import re
from collections.abc import Iterable

from bagpipe_operator import times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Count, Fail, Restart, Verdict
from bagpipe_operator.names import PERMANENT_EXITS, Condition, Exit, Reason, Role
from bagpipe_operator.observe import Observed, has_ended, is_deleting, job_condition
from bagpipe_operator.podstate import Pod

_HARMLESS = frozenset({Exit.DONE, Exit.STOPPED})


def judge(job: Job, status: Status, observed: Observed) -> Verdict:
    """What the present attempt's pods say."""
    pods = tuple(p for p in observed.pods if p.attempt == status.attempt)
    permanent = _permanent(job, status, observed, pods)
    if permanent:
        return permanent
    crashes = in_place_crashes(status, pods)
    verdict = _planned(job, status, observed, pods, len(crashes)) or _servers(job, status, pods, len(crashes))
    return _limited(job, status, verdict, crashes)


def _limited(job: Job, status: Status, verdict: Restart | None, crashes: list[Pod]) -> Fail | Restart | None:
    """The verdict within the run policy: a restart, or the job's end if a limit or `restartPolicy` forbids one."""
    policy = job.run_policy
    limit = policy.disruption_limit
    if verdict and verdict.count is Count.DISRUPTION and status.disruptions >= limit:
        message = f"disrupted more than {limit} times: {verdict.message}"
        return Fail(reason=Reason.DISRUPTION_LIMIT, message=message, cause=verdict.cause)
    counted = verdict is not None and verdict.count is Count.FAILURE
    if not counted and not crashes:
        return verdict
    cause = verdict.cause if verdict and counted else crashes[-1]
    words = verdict.message if verdict and counted else describe(crashes[-1])
    total = status.restarts + len(crashes) + counted
    if policy.restart_policy == "Never":
        return Fail(reason=Reason.RESTART_POLICY, message=f"restartPolicy is Never: {words}", cause=cause)
    if policy.restart_policy == "ExitCode" and cause and not _worth_retrying(cause):
        return Fail(reason=Reason.CRASHED, message=f"restartPolicy is ExitCode: {words}", cause=cause)
    if total > policy.backoff_limit:
        message = f"{total} failures, backoffLimit {policy.backoff_limit}: {words}"
        return Fail(reason=Reason.BACKOFF_LIMIT, message=message, cause=cause)
    return verdict


def _worth_retrying(pod: Pod) -> bool:
    code = pod.exit_code
    return code is None or code in (Exit.TRANSIENT, Exit.STOPPED) or code > 127


def describe(pod: Pod) -> str:
    """One line for people: which process ended, where and how, and the last line of its termination message."""
    where = f" on {pod.node}" if pod.node else ""
    if pod.own_fault:
        return f"{pod.role} {pod.index} ({pod.name}{where}) was ended by its node: {pod.own_fault}"
    if pod.exit_code is None and pod.node_words:
        return f"{pod.role} {pod.index} ({pod.name}{where}) was ended or refused by its node: {pod.node_words}"
    whose = f"{pod.ended_in} " if pod.ended_in else ""
    how = whose + (f"exited with {pod.exit_code}" if pod.exit_code is not None else "went away")
    why = f" ({pod.exit_reason})" if pod.exit_reason not in ("", "Error", "Completed") else ""
    last = pod.exit_message.strip().splitlines()
    return f"{pod.role} {pod.index} ({pod.name}{where}) {how}{why}" + (f": {last[-1][:300]}" if last else "")


def _permanent(job: Job, status: Status, observed: Observed, pods: Iterable[Pod]) -> Fail | None:
    for pod in pods:
        if pod.exit_code in PERMANENT_EXITS and not pod.ended_in:
            reason = Reason.BAD_CONFIG if pod.exit_code == Exit.BAD_CONFIG else Reason.BAD_DATA
            return Fail(reason=reason, message=describe(pod), cause=pod)
    for role in (Role.ORACLE, Role.TRAINER):  # The pod itself may be gone: its Job remembers.
        batch = observed.batch_job(job.name, role, status.attempt)
        # `FailureTarget` says so first: `Failed` follows only once all of its pods have ended.
        condition = job_condition(batch, "Failed") or job_condition(batch, "FailureTarget")
        if condition and condition.get("reason") == "PodFailurePolicy":
            code = re.search(r"exit code (\d+)", condition.get("message") or "")
            reason = Reason.BAD_DATA if code and int(code[1]) == Exit.BAD_DATA else Reason.BAD_CONFIG
            return Fail(reason=reason, message=condition.get("message", ""))
    return None


def _crashed(pod: Pod) -> bool:
    """It ended by itself, and not because it was told to or lost a peer."""
    if pod.own_fault or (pod.ended_in and not pod.taken):
        return True
    return pod.exit_code is not None and pod.exit_code not in (*_HARMLESS, Exit.TRANSIENT) and not pod.taken


def in_place_crashes(status: Status, pods: Iterable[Pod]) -> list[Pod]:
    """Servers' processes that failed and were restarted within the attempt, or what prepares them, once for each time.

    A server that gave up waiting for late peers before all pods ran did not fail.
    """
    crashes = []
    for pod in pods:
        ended_badly = pod.ended_in or pod.exit_code not in (None, *_HARMLESS, Exit.TRANSIENT)
        if pod.role is Role.SERVER and ended_badly and not pod.taken:
            crashes += [pod] * (pod.restarts - status.server_pods.get(pod.uid, 0))
    return crashes


def _planned(job: Job, status: Status, observed: Observed, pods: tuple[Pod, ...], crashes: int) -> Restart | None:
    """The oracle and the trainers: one plan binds them, so the end of one is the end of the attempt."""
    running = status.is_true(Condition.RUNNING)
    for role in (Role.TRAINER, Role.ORACLE):
        batch = observed.batch_job(job.name, role, status.attempt)
        if batch is None and not running:
            continue  # Not made yet.
        # One that had ended stays what it was until it is gone, which may take until its pods are.
        if batch is None or (is_deleting(batch) and not has_ended(batch)):
            return Restart(
                reason=Reason.POD_LOST,
                message=f"the {role}'s Job was deleted",
                count=Count.DISRUPTION,
                crashes=crashes,
            )
        ended = job_condition(batch, "Failed") or {}
        if ended.get("reason") == "DeadlineExceeded":  # We set none: a policy of the cluster, or a person, did.
            message = f"Kubernetes ended the {role}'s Job at an activeDeadlineSeconds that is not the operator's"
            return Restart(reason=Reason.POD_LOST, message=message, count=Count.DISRUPTION, crashes=crashes)
    failed = tuple(p for p in pods if p.role is not Role.SERVER and (p.phase == "Failed" or _given_up(p, observed)))
    lost = [
        role
        for role in (Role.TRAINER, Role.ORACLE)
        if job_condition(observed.batch_job(job.name, role, status.attempt), "Failed")
        and not any(p.role is role for p in failed)
    ]
    return _explained(pods, failed, lost, running, crashes) if failed or lost else None


def _given_up(pod: Pod, observed: Observed) -> bool:
    """Whether a pod on a lost node was removed by force (see `teardown.overdue`) and a finalizer keeps it.

    A Job takes its finalizer off a pod that has failed, which no kubelet is there to say, or when it is deleted itself.
    Where no peer on another node fails for want of this pod, nothing else would ever end the attempt.
    """
    forced = pod.deleted_at is not None and pod.grace_seconds == 0
    return forced and not pod.ended and bool(pod.finalizers) and pod.node in observed.lost_nodes


def _explained(
    pods: tuple[Pod, ...], failed: tuple[Pod, ...], lost: list[Role], running: bool, crashes: int
) -> Restart:
    """In this order: a crash, a disruption, a lost pod, a transient failure: each explains those behind it."""
    crashed = [p for p in failed if _crashed(p)]
    if crashed:
        first = min(crashed, key=_when)
        return Restart(
            reason=_kind_of_crash(first), message=describe(first), count=Count.FAILURE, cause=first, crashes=crashes
        )
    disruption = _disruption(pods, failed)
    if disruption:
        asked = Reason.STOPPED if disruption.exit_code == Exit.STOPPED else Reason.DISRUPTED
        reason = disruption.disruption or asked
        message = describe(disruption)
        return Restart(reason=reason, message=message, count=Count.DISRUPTION, cause=disruption, crashes=crashes)
    if lost:
        message = f"a pod of the {lost[0]} was deleted"
        return Restart(reason=Reason.POD_LOST, message=message, count=Count.DISRUPTION, crashes=crashes)
    first = min(failed, key=_when)
    count = Count.FAILURE if running else Count.NOTHING  # Before all pods run, peers may simply be late.
    return Restart(reason=Reason.TRANSIENT, message=describe(first), count=count, cause=first, crashes=crashes)


def _kind_of_crash(pod: Pod) -> Reason:
    if pod.own_fault:
        return Reason.OVER_ITS_LIMIT
    return Reason.OOM_KILLED if pod.exit_reason == "OOMKilled" else Reason.CRASHED


def _when(pod: Pod) -> dt.datetime:
    """When it began to end."""
    asked = pod.deleted_at - dt.timedelta(seconds=pod.grace_seconds) if pod.deleted_at else times.NEVER
    return min(asked, pod.exit_time or times.NEVER)


def _disruption(pods: tuple[Pod, ...], failed: tuple[Pod, ...]) -> Pod | None:
    """The pod that was taken away or told to stop before any other ended by itself.

    When one trainer ends, its Job deletes the others: those were taken away too, but later.
    """
    alone = min((_when(p) for p in failed if not p.taken and p.exit_code == Exit.TRANSIENT), default=times.NEVER)
    taken = [p for p in pods if (p.taken or p.exit_code == Exit.STOPPED) and (p.disruption or _when(p) <= alone)]
    return min(taken, key=lambda p: (not p.disruption, _when(p)), default=None)


def _servers(job: Job, status: Status, pods: tuple[Pod, ...], crashes: int) -> Restart | None:
    """Rows are lost with a pod that has no claim, and with a process that keeps them in memory."""
    known = status.server_pods
    if not known or not status.is_true(Condition.RUNNING):
        return None
    servers = {p.uid: p for p in pods if p.role is Role.SERVER}
    if over := next((p for p in servers.values() if p.own_fault), None):
        return Restart(
            reason=Reason.OVER_ITS_LIMIT, message=describe(over), count=Count.FAILURE, cause=over, crashes=crashes
        )
    if not job.servers_durable:
        gone = [uid for uid in known if uid not in servers or servers[uid].taken or servers[uid].ended]
        if gone:
            pod = servers.get(gone[0])
            message = (
                describe(pod)
                if pod
                else "a server's pod is gone, and its rows with it (servers.volumeClaim would keep them)"
            )
            return Restart(
                reason=Reason.SERVER_LOST, message=message, count=Count.DISRUPTION, cause=pod, crashes=crashes
            )
    if job.section(Role.SERVER).get("storage") == "memory":
        for pod in servers.values():
            if pod.restarts > known.get(pod.uid, 0):
                return Restart(
                    reason=Reason.SERVER_LOST,
                    message=describe(pod),
                    count=Count.FAILURE,
                    cause=pod,
                    crashes=max(crashes - 1, 0),
                )
    return None
