"""The one decision: from a job and what exists to what should be. Pure; the clock is an argument.

Level-based: whatever happened, and however much of it was missed, the same picture gives the same
decision, and deciding again after it was carried out gives nothing to do.

    not ours, or going away ──> nothing
    ended                   ──> clean up; delete the job when its time to live is over
    done                    ──> Complete
    held                    ──> stop trainers, then the rest; Suspended when no pod is left
    failed                  ──> Failed, or the next attempt
    older attempts about    ──> stop them; nothing new until they are gone
    otherwise               ──> apply everything; Running when all pods are ready

An attempt is a number in the status and a label on every child. Raising it is the whole of a
restart: what bears a lower one is garbage.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bagpipe_operator import children, drift, kueue, names, status
from bagpipe_operator.api import Job, SpecError, Status
from bagpipe_operator.decision import Complete, Decision, Fail, Restart, Verdict
from bagpipe_operator.kueue import Admission
from bagpipe_operator.names import Condition, Reason, Role
from bagpipe_operator.observe import Observed, is_deleting
from bagpipe_operator.pods import uses_curve
from bagpipe_operator.policies import completion, deadlines, failure, finish, hold, scale, teardown
from bagpipe_operator.settings import Settings

_FIRST_DELAY, _LONGEST_DELAY = 10, 300
_COUNTED = frozenset({Reason.CRASHED, Reason.OOM_KILLED, Reason.TRANSIENT})


def desired(job: Job, observed: Observed, settings: Settings, now: dt.datetime) -> Decision | None:
    """What to do about `job`; none: nothing at all, it is not ours or on its way out."""
    if job.deleting or not job.ours:
        return None
    now = now.replace(microsecond=0)
    if observed.newest_attempt() > job.status.attempt:
        # Seen only after the status was lost; numbers already used must not be used again.
        job = replace(job, status=replace(job.status, attempt=observed.newest_attempt()))
    decision = _decide(job, observed, settings, now)
    if not job.status.finished:
        final = status.counted(job, observed, decision.status)
        decision = replace(decision, status=final, events=status.events(job.status, final))
    force, nodes, again = teardown.overdue(job, observed, now)
    return replace(
        decision,
        delete=(*decision.delete, *force),
        apply=_drifted(decision.apply, observed),
        look_at_nodes=nodes,
        again_at=_earliest(decision.again_at, again),
    )


def _decide(job: Job, observed: Observed, settings: Settings, now: dt.datetime) -> Decision:
    if job.status.finished:
        return _finished(job, observed, settings, now)
    try:
        return _unfinished(job, observed, settings, now)
    except SpecError as error:
        return _end(job, Fail(reason=Reason.INVALID_SPEC, message=str(error)), observed, now)


def _finished(job: Job, observed: Observed, settings: Settings, now: dt.datetime) -> Decision:
    end = finish.end_of_life(job)
    if end is not None and now >= end:
        return Decision(status=job.status, delete_job=True)
    try:
        delete, apply = finish.clean(job, observed, settings)
    except SpecError:  # It ended because of that; nothing was ever made.
        delete, apply = (), ()
    report = None
    if (workload := observed.workload) is not None:
        report = kueue.finished(workload, job.status.is_true(Condition.COMPLETE), job.status.phase, now)
    return Decision(status=job.status, delete=delete, apply=apply, workload_status=report, again_at=end)


def _unfinished(job: Job, observed: Observed, settings: Settings, now: dt.datetime) -> Decision:
    done = completion.judge(job, observed)
    if done:
        return _end(job, done, observed, now)
    admission = kueue.admission(observed.workload) if settings.kueue and job.queue else None
    held = hold.why(job, admission)
    if held:
        return _hold(job, observed, settings, held, admission, now)
    job = replace(job, status=_admitted(job.status, admission, now))
    resumed = job.status.is_true(Condition.SUSPENDED)
    if resumed:
        job = replace(job, status=_resumed(job, now))
    job = replace(job, status=status.started(job.status, now))
    verdict = None if resumed else _judge(job, observed, now)
    if isinstance(verdict, Fail | Complete):
        return _end(job, verdict, observed, now)
    if isinstance(verdict, Restart):
        job = replace(job, status=status.restarted(job.status, verdict, now))
    return _run(job, observed, settings, admission, now)


def _judge(job: Job, observed: Observed, now: dt.datetime) -> Verdict:
    return failure.judge(job, observed) or deadlines.judge(job, observed, now) or scale.judge(job, observed)


def _end(job: Job, verdict: Complete | Fail, observed: Observed, now: dt.datetime) -> Decision:
    final = status.ended(job.status, verdict, observed, now)
    return Decision(status=replace(final, phase=status.phase(final)), again_at=now)


def _hold(
    job: Job,
    observed: Observed,
    settings: Settings,
    held: tuple[Reason, str],
    admission: Admission | None,
    now: dt.datetime,
) -> Decision:
    delete, apply, gone = hold.stop(job, observed, settings)
    reason, message = held
    new = status.stop_clock(job.status, now)
    new = status.not_running(new, reason, message, now)
    report = None
    if gone:
        new = new.with_condition(Condition.RESTARTING, False, reason, message, now)
        new = new.with_condition(Condition.SUSPENDED, True, reason, message, now)
        if admission is not None and admission.evicted and observed.workload is not None:
            report = kueue.released(observed.workload, now)
    if admission is not None and not admission.reserved:
        new = new.with_condition(Condition.QUOTA_RESERVED, False, reason, message, now)
    if settings.kueue and job.queue:
        apply = (*apply, kueue.workload(job, settings, observed.priorities))
    new = replace(new, phase=status.phase(new, holding=True))
    return Decision(status=new, delete=delete, apply=apply, workload_status=report)


def _admitted(old: Status, admission: Admission | None, now: dt.datetime) -> Status:
    if admission is None:
        return old
    return old.with_condition(Condition.QUOTA_RESERVED, True, Reason.QUOTA_RESERVED, "admitted by Kueue", now)


def _resumed(job: Job, now: dt.datetime) -> Status:
    """Back from a hold: what ran before was an attempt, the next needs a number of its own."""
    new = job.status.with_condition(
        Condition.SUSPENDED, False, Reason.RESUMED, "the job goes on from its last checkpoint", now
    )
    if job.status.attempt_time is None:
        return new
    return replace(new, attempt=new.attempt + 1, attempt_time=now, server_pods={})


def _run(job: Job, observed: Observed, settings: Settings, admission: Admission | None, now: dt.datetime) -> Decision:
    ending = teardown.stop(observed, job.status.attempt)
    start = _start_time(job.status)
    new = _progressed(job, observed, now)
    apply = children.base(job, new.attempt)
    wanted = children.workers(job, new.attempt, settings)  # Built in any case: what cannot be built fails now.
    ready = ending.all_gone and not observed.strangers and now >= start
    if ready:
        for role, template in zip((Role.SERVER, Role.ORACLE, Role.TRAINER), wanted, strict=True):
            flavors = (admission.flavors if admission else {}).get(role, ())
            kueue.assign(template["spec"]["template"], flavors, observed.flavors)
        apply += wanted
    elif ending.trainers_gone and ("StatefulSet", names.stateful_set(job.name)) in observed.live:
        apply.append(children.server_set(job, new.attempt, settings, replicas=0))
    if admission is not None:
        apply.append(kueue.workload(job, settings, observed.priorities))
    again = _earliest(
        start if now < start else None,
        deadlines.active_end(replace(job, status=new)),
        deadlines.startup_end(replace(job, status=new)),
    )
    if observed.strangers:
        again = _earliest(again, now + dt.timedelta(seconds=5))
    first = ready and observed.batch_job(job.name, Role.TRAINER, new.attempt) is None
    return Decision(
        status=replace(new, phase=status.phase(new)),
        delete=ending.delete,
        apply=tuple(apply),
        create_curve_secret=first and uses_curve(job),
        again_at=again,
    )


def _progressed(job: Job, observed: Observed, now: dt.datetime) -> Status:
    """Conditions of an attempt that is under way. Running is said once an attempt, not with every probe."""
    new, attempt = job.status, job.status.attempt
    pods = [p for p in observed.pods if p.attempt == attempt and p.deleted_at is None]
    servers = [p for p in pods if p.role is Role.SERVER and p.ready]
    if len(servers) >= job.replicas(Role.SERVER):
        new = new.with_condition(
            Condition.SERVERS_READY, True, Reason.SERVERS_READY, f"{len(servers)} servers are ready", now
        )
    else:
        message = f"{len(servers)} of {job.replicas(Role.SERVER)} servers are ready"
        new = new.with_condition(Condition.SERVERS_READY, False, Reason.PODS_NOT_READY, message, now)
    up = {role: sum(p.role is role and (p.ready or p.phase == "Succeeded") for p in pods) for role in Role}
    if observed.progress is not None:
        new = replace(new, progress=observed.progress)
    if new.is_true(Condition.RUNNING):
        return new
    if all(up[role] >= job.replicas(role) for role in Role):
        return status.running(new, observed, now)
    reason, message = deadlines.why_not_running(replace(job, status=new), observed)
    if reason == Reason.STARTING:
        return new
    return new.with_condition(Condition.RUNNING, False, reason, message, now, always=True)


def _start_time(current: Status) -> dt.datetime:
    """The first restart after a failure comes at once, later ones wait longer each time; disruptions never wait."""
    assert current.attempt_time is not None
    last = current.last_failure
    failed = last.get("attempt") == current.attempt - 1 and last.get("reason") in _COUNTED
    if not failed or current.restarts <= 1:
        return current.attempt_time
    delay = min(_FIRST_DELAY * 2 ** min(current.restarts - 2, 10), _LONGEST_DELAY)
    return current.attempt_time + dt.timedelta(seconds=delay)


def _drifted(apply: tuple[Mapping[str, Any], ...], observed: Observed) -> tuple[Mapping[str, Any], ...]:
    """Only what is missing or differs; what is being deleted is waited for."""
    result = []
    for wanted in apply:
        live = observed.live.get((wanted["kind"], wanted["metadata"]["name"]))
        if live is not None and is_deleting(live):
            continue
        settled = drift.settle(wanted, live)
        if drift.differs(settled, live):
            result.append(settled)
    return tuple(result)


def _earliest(*times: dt.datetime | None) -> dt.datetime | None:
    return min((t for t in times if t is not None), default=None)
