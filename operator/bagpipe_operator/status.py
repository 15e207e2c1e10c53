"""The status that follows from what was observed and decided: counts, phase, transitions, events."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bagpipe_operator import conditions, names, records, times
from bagpipe_operator.api import Job, Status
from bagpipe_operator.decision import Complete, Count, Event, Fail, Restart
from bagpipe_operator.names import Condition, Reason, Role
from bagpipe_operator.observe import Observed, Obstacle
from bagpipe_operator.podstate import Pod


def counted(job: Job, observed: Observed, status: Status, now: dt.datetime) -> Status:
    """With the numbers of pods by role, of the present attempt, and what follows from the phase.

    The pods of a job that has ended are on their way out, unless they are kept: none of them counts as active.
    """
    over = status.finished and job.run_policy.clean_pod_policy != "None"
    statuses: dict[str, Mapping[str, int]] = {}
    for role in Role:
        pods = observed.of_role(role, status.attempt)
        living = () if over else tuple(p for p in pods if not p.ended)
        statuses[names.SECTIONS[role]] = {
            "desired": job.replicas(role),
            "ready": sum(p.ready for p in living),
            "active": len(living),
            "succeeded": sum(p.phase == "Succeeded" for p in pods),
            "failed": sum(p.phase == "Failed" for p in pods),
            "restarts": sum(p.restarts for p in pods),
        }
    trainers = statuses[names.SECTIONS[Role.TRAINER]]
    status = replace(
        status,
        ready_pods={section: f"{numbers['ready']}/{numbers['desired']}" for section, numbers in statuses.items()},
        replica_statuses=statuses,
        trainer_replicas=trainers["active"] + trainers["succeeded"],
        selector=job.selector,
    )
    status = _for_tools(status, now)
    judged = tuple(replace(c, observed_generation=job.generation) for c in status.conditions)
    return _phased(job.status, replace(status, observed_generation=job.generation, conditions=judged), now)


def _for_tools(status: Status, now: dt.datetime) -> Status:
    """With the conditions by which tools that know no job tell progress from failure (kstatus).

    https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """
    reason = _reason(status) or status.phase
    if status.phase in ("Starting", "Restarting", STOPPING):
        status = status.put(conditions.true(Condition.RECONCILING, reason, f"the job is {status.phase}", now))
    else:
        status = status.put_if_known(conditions.false(Condition.RECONCILING, reason, f"the job is {status.phase}", now))
    failed = conditions.find(status.conditions, Condition.FAILED)
    if failed is not None and failed.status:
        return status.put(conditions.true(Condition.STALLED, failed.reason, failed.message, now))
    return status


def _phased(old: Status, new: Status, now: dt.datetime) -> Status:
    """With the reason of the phase, its age, and the time spent in those before."""
    new = replace(new, reason=_reason(new))
    if new.phase == old.phase and old.phase_time is not None:
        return new
    spent = max(int((now - old.phase_time).total_seconds()), 0) if old.phase_time else 0
    durations = {**old.durations, old.phase: old.durations.get(old.phase, 0) + spent} if spent else old.durations
    return replace(new, phase_time=now, durations=durations)


def _reason(status: Status) -> str:
    for kind in (Condition.COMPLETE, Condition.FAILED, Condition.DELETING, Condition.SUSPENDED, Condition.RESTARTING):
        found = conditions.find(status.conditions, kind)
        if found is not None and found.status:
            return found.reason
    running = conditions.find(status.conditions, Condition.RUNNING)
    return running.reason if running else ""


STOPPING = "Suspending"
"""Phase of a job whose pods a hold has told to go: the one that decides what comes next."""


def phase(status: Status, holding: bool = False) -> str:
    """One word for people; nothing decides by it, but for `STOPPING`."""
    if status.is_true(Condition.COMPLETE):
        return "Complete"
    if status.is_true(Condition.FAILED):
        return "Failed"
    if status.is_true(Condition.DELETING):
        return "Deleting"
    if status.is_true(Condition.SUSPENDED):
        suspended = next(c for c in status.conditions if c.type == Condition.SUSPENDED)
        return "Suspended" if suspended.reason == Reason.SUSPENDED else "Queued"
    if holding:
        return STOPPING
    if status.is_true(Condition.RESTARTING):
        return "Restarting"
    return "Running" if status.is_true(Condition.RUNNING) else "Starting"


def not_ahead(status: Status, now: dt.datetime) -> Status:
    """With no moment in the future: one that another machine's faster clock wrote counts as the present moment."""
    ahead: dict[str, Any] = {
        name: now for name in _STARTS if (when := getattr(status, name)) is not None and when > now
    }
    return replace(status, **ahead) if ahead else status


_STARTS = ("attempt_time", "starting_since", "running_since")


def stop_clock(status: Status, now: dt.datetime) -> Status:
    """With the active time counted up to now: the job is held or has ended."""
    ran = max(int((now - status.running_since).total_seconds()), 0) if status.running_since else 0
    return replace(status, running_since=None, starting_since=None, active_seconds=status.active_seconds + ran)


def not_running(status: Status, reason: str, message: str, now: dt.datetime) -> Status:
    """With `ServersReady` and `Running` false, for this reason, where they have been said before."""
    status = status.put_if_known(conditions.false(Condition.SERVERS_READY, reason, message, now))
    return status.put_if_known(conditions.false(Condition.RUNNING, reason, message, now))


def started(status: Status, now: dt.datetime) -> Status:
    """The first attempt begins, or the wait after a hold does; while all pods run nothing is waited for."""
    since = None if status.is_true(Condition.RUNNING) else status.starting_since or now
    return replace(status, attempt_time=status.attempt_time or now, starting_since=since)


def deleting(job: Job, status: Status, why: Obstacle, now: dt.datetime) -> Status:
    """Somebody has deleted the job, which says what keeps it; one that has ended keeps its end, and all else."""
    said = conditions.true(Condition.DELETING, why.reason, why.message, now)
    new = status.put(replace(said, observed_generation=job.generation))
    if status.finished:
        return new
    new = not_running(stop_clock(new, now), why.reason, why.message, now)
    new = new.put_if_known(conditions.false(Condition.RESTARTING, why.reason, why.message, now))
    return replace(new, phase=phase(new))


def running(status: Status, observed: Observed, now: dt.datetime) -> Status:
    """All pods of the attempt run."""
    pods = observed.of_role(Role.SERVER, status.attempt)
    servers = {p.uid: p.restarts for p in pods if p.deleted_at is None}
    status = replace(
        status,
        start_time=status.start_time or now,
        running_since=status.running_since or now,
        starting_since=None,
        server_pods=servers,
    )
    message = f"all pods of attempt {status.attempt} run"
    status = status.put_if_known(conditions.false(Condition.RESTARTING, Reason.PODS_READY, message, now))
    return status.put(conditions.true(Condition.RUNNING, Reason.PODS_READY, message, now))


def waiting(status: Status, obstacle: Obstacle, now: dt.datetime) -> Status:
    """Not all pods of the attempt run, and why.

    A pod whose image cannot be pulled says by turns what is wrong and that it waits: the first stands meanwhile.
    """
    said = conditions.find(status.conditions, Condition.RUNNING)
    if said is not None and (said.reason, obstacle.reason) == ("ErrImagePull", "ImagePullBackOff"):
        about, waits = (words.partition(": ")[0] for words in (said.message, obstacle.message))
        if about == waits:
            return status
    return status.put(conditions.false(Condition.RUNNING, obstacle.reason, obstacle.message, now))


def reconciled(status: Status, refusal: Obstacle | None, now: dt.datetime) -> Status:
    """Whether the API server took everything that the job needs."""
    if refusal is None:
        message = "the API server accepts what the job needs"
        return status.put_if_known(conditions.true(Condition.RECONCILED, Reason.ACCEPTED, message, now))
    return status.put(conditions.false(Condition.RECONCILED, refusal.reason, refusal.message, now))


def kept(status: Status, loss: str, now: dt.datetime, reason: str = Reason.NOTHING_KEPT) -> Status:
    """Whether anything outlives the pods; `loss` says what does not, and `reason` why."""
    if loss:
        return status.put(conditions.false(Condition.MODEL_KEPT, reason, loss, now))
    message = "checkpoints outlive the pods"
    return status.put_if_known(conditions.true(Condition.MODEL_KEPT, Reason.KEPT, message, now))


_WANTED = frozenset({Reason.SCALED, Reason.EDITED})
"""Reasons of a new attempt that somebody asked for."""

LONG_ENOUGH = 600
"""Seconds after which the end of an attempt is no reason to wait before the next."""


def in_a_row(status: Status, now: dt.datetime) -> int:
    """How many attempts have ended early in a row, where somebody's wish ends the present one: none, if it was long."""
    lasted = (now - (status.attempt_time or now)).total_seconds()
    return status.short_attempts if lasted < LONG_ENOUGH else 0


def restarted(status: Status, verdict: Restart, now: dt.datetime) -> Status:
    """A new attempt; the counters that the verdict names move."""
    was_running = status.is_true(Condition.RUNNING)
    lasted = (now - (status.attempt_time or now)).total_seconds()
    gave_way = verdict.reason == Reason.PARTLY_PLACED
    # Also what counts as nothing waits before it comes again: without a wait it would come as fast as pods end.
    bad, short = verdict.reason not in _WANTED, lasted < LONG_ENOUGH or gave_way
    status = replace(
        status,
        attempt=status.attempt + 1,
        restarts=status.restarts + verdict.crashes + (verdict.count is Count.FAILURE),
        disruptions=status.disruptions + (verdict.count is Count.DISRUPTION),
        short_attempts=(status.short_attempts + 1 if short else 1) if bad else in_a_row(status, now),
        attempt_time=now,
        starting_since=now if was_running or status.starting_since is None else status.starting_since,
        server_pods={},
        summary={},
    )
    if verdict.reason not in _WANTED:
        status = replace(
            status, last_failure=failure(verdict.reason, verdict.message, verdict.cause, status.attempt - 1, now)
        )
    status = not_running(status, verdict.reason, verdict.message, now)
    # Each restart is a transition of its own, though the last may not have come to an end.
    status = status.put_if_known(conditions.false(Condition.RESTARTING, verdict.reason, verdict.message, now))
    return status.put(conditions.true(Condition.RESTARTING, verdict.reason, verdict.message, now))


def failure(reason: str, message: str, cause: Pod | None, attempt: int, now: dt.datetime) -> dict[str, Any]:
    """The record that outlives the pods."""
    record: dict[str, Any] = {
        "time": times.text(now),
        "attempt": attempt,
        "reason": str(reason),
        "message": message[:1024],
    }
    if cause:
        record |= {"role": cause.role.value, "index": cause.index, "pod": cause.name}
        record |= {"node": cause.node} if cause.node else {}
        record |= {"exitCode": cause.exit_code} if cause.exit_code is not None else {}
        record |= {"lastWords": cause.exit_message.strip()[-1024:]} if cause.exit_message.strip() else {}
    return record


def ended(status: Status, verdict: Complete | Fail, observed: Observed, now: dt.datetime) -> Status:
    """Complete or Failed: from here on the status does not change."""
    progress = {key: value for key, value in status.progress.items() if key != "etaSeconds"}
    status = replace(stop_clock(status, now), completion_time=now, progress=progress)
    why = verdict.reason if isinstance(verdict, Fail) else Reason.COMPLETED
    status = status.put_if_known(conditions.false(Condition.RESTARTING, why, "the job has ended", now))
    if isinstance(verdict, Fail):
        record = failure(verdict.reason, verdict.message, verdict.cause, status.attempt, now)
        status = not_running(replace(status, last_failure=record, summary={}), verdict.reason, verdict.message, now)
        return status.put(conditions.true(Condition.FAILED, verdict.reason, verdict.message, now))
    status = with_result(status, observed)
    words = verdict.message + (_not_finite(status.summary) if status.summary else _UNREAD)
    status = not_running(status, Reason.COMPLETED, words, now)
    return status.put(conditions.true(Condition.COMPLETE, Reason.COMPLETED, words, now))


_UNREAD = "; its result is not known, as the oracle's pod had left none, or was gone before it was read"


def with_result(status: Status, observed: Observed) -> Status:
    """With the oracle's result as soon as that is there: its pod may go before the last trainer ends."""
    found = _summary(observed, status.attempt)
    return replace(status, summary=found) if found else status


def _not_finite(summary: Mapping[str, Any]) -> str:
    """A word about results that are no numbers: a run may end well and have learnt nothing."""
    odd = summary.get(records.NOT_FINITE)
    if not isinstance(odd, Mapping) or not odd:
        return ""
    return "; no finite numbers: " + ", ".join(f"{path} is {word}" for path, word in sorted(odd.items())[:5])


def _summary(observed: Observed, attempt: int) -> Mapping[str, Any]:
    """What an oracle that ended well left as its termination message: a JSON object, without nulls.

    A merge patch, by which a status is written, would take a null for a wish to delete the key.
    """
    gone = (p for p in observed.ended_pods if p.role is Role.ORACLE and p.attempt == attempt)
    for pod in (*observed.of_role(Role.ORACLE, attempt), *gone):
        found = records.parse(pod.result) if pod.result is not None else None
        if found is not None:
            return records.without_nulls(found)
    return {}


def broken(status: Status, message: str, now: dt.datetime) -> Status:
    """The operator itself failed on this job: whether the job has failed is unknown until it gets over that."""
    return status.put(conditions.unknown(Condition.FAILED, Reason.INTERNAL_ERROR, message, now))


def mended(status: Status) -> Status:
    """The operator understands the job again."""
    kept = (c for c in status.conditions if c.type != Condition.FAILED or c.status is not None)
    return replace(status, conditions=tuple(kept))


_QUIET = frozenset({Reason.STARTING, Reason.COMPLETED})
"""Reasons why a job does not run that need nobody's attention."""
_ASKED_FOR = frozenset({Reason.SUSPENDED, Reason.QUOTA_CHANGES})
"""Reasons why a job stops that somebody's edit has."""
_TOLD = frozenset({Condition.RECONCILED, Condition.FAILED, Condition.MODEL_KEPT})
"""Conditions that are news when they are not true."""


def events(old: Status, new: Status) -> tuple[Event, ...]:
    """One for each condition that became true or changed its reason, each new obstacle, and a hold that ended."""
    before = {c.type: c for c in old.conditions}
    told = {c.reason for c in new.conditions if c.status and c.type != Condition.RECONCILING}
    result = []
    for c in new.conditions:
        if c.type in (Condition.RECONCILING, Condition.STALLED):
            continue  # They say again what other conditions say.
        was = before.get(c.type)
        if c.status:
            if (
                was is None
                or not was.status
                or (was.last_transition_time, was.reason)
                != (
                    c.last_transition_time,
                    c.reason,
                )
            ):
                result.append(_became_true(c))
        elif c.type == Condition.SUSPENDED and was is not None and was.status:
            result.append(Event(type="Normal", reason=Reason.RESUMED.value, message=c.message))
        elif c.type == Condition.RUNNING and c.reason not in _QUIET | told and (was is None or was.reason != c.reason):
            kind = "Normal" if c.reason in _ASKED_FOR else "Warning"
            result.append(Event(type=kind, reason=c.reason, message=f"not running: {c.message}"))
        elif _lost(was, c, new) or (
            (c.type in _TOLD or c.reason == Reason.QUEUE_IGNORED) and (was is None or was.reason != c.reason)
        ):
            result.append(Event(type="Warning", reason=c.reason, message=c.message))
    return tuple(result)


def _lost(was: conditions.Condition | None, c: conditions.Condition, new: Status) -> bool:
    """Whether this says that servers which were ready are not any more, while the attempt runs on."""
    servers = c.type == Condition.SERVERS_READY and was is not None and was.status is True
    return servers and new.is_true(Condition.RUNNING)


def _became_true(c: conditions.Condition) -> Event:
    bad = c.type in (Condition.FAILED, Condition.RESTARTING) or c.reason == Reason.HELD_BY_FINALIZER
    warning = bad and c.reason not in _WANTED
    reason = c.type if c.type in (c.reason, Condition.RUNNING) else c.reason
    return Event(type="Warning" if warning else "Normal", reason=str(reason), message=f"{c.type}: {c.message}")
