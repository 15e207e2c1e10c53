"""The one decision: from a job and what exists to what should be. Pure; the clock is an argument.

Level-based: whatever happened, and however much of it was missed, the same picture gives the same
decision, and deciding again after it was carried out gives nothing to do.

    not ours                ──> nothing
    deleted, and still here ──> end its pods, unless Kubernetes does; say what keeps it; make nothing
    ended                   ──> keep the last lines of a failed job's pods, then clean up;
                                delete the job when its time to live is over
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

from bagpipe_operator import children, conditions, drift, gangs, kueue, names, pins, status, times
from bagpipe_operator.api import Job, SpecError, Status
from bagpipe_operator.decision import Complete, Decision, Deletion, Fail, Restart, Verdict
from bagpipe_operator.kueue import Admission
from bagpipe_operator.names import Condition, Reason, Role
from bagpipe_operator.observe import Observed, Obstacle, is_deleting
from bagpipe_operator.policies import (
    backoff,
    completion,
    deadlines,
    failure,
    finish,
    hold,
    keeping,
    last_lines,
    leaving,
    obstacles,
    partial,
    queues,
    scale,
    teardown,
)
from bagpipe_operator.settings import Settings


def desired(job: Job, observed: Observed, settings: Settings, now: dt.datetime) -> Decision | None:
    """What to do about `job`; none: nothing at all, it is another operator's."""
    if not job.run_policy.is_of(settings.operator_class):
        return None
    now = now.replace(microsecond=0)
    current = status.mended(job.status)
    # A higher attempt is seen only after the status was lost; numbers already used must not be used again.
    current = replace(current, attempt=max(current.attempt, observed.newest_attempt()))
    if job.deleted_at is None:
        decision = _decide(job, current, observed, settings, now)
    else:
        decision = _leave(job, current, observed, now)
    if not current.finished:
        final = status.counted(job, observed, decision.status, now)
        decision = replace(decision, status=final, events=status.events(job.status, final))
    else:
        decision = replace(decision, status=replace(decision.status, observed_generation=job.generation))
    if leaving.is_orphaning(job):
        return decision
    force, nodes, again = teardown.overdue(job, observed, now)
    return replace(
        decision,
        delete=(*decision.delete, *force),
        apply=_drifted(decision.apply, observed, now),
        look_at_nodes=nodes,
        again_at=times.earliest(decision.again_at, again),
    )


def _leave(job: Job, current: Status, observed: Observed, now: dt.datetime) -> Decision:
    """Deleted, and still here: nothing is made any more, and what holds processors or quota is given back."""
    delete, apply = leaving.stop(job, current, observed)
    new = status.deleting(job, current, leaving.why(job, observed, now), now)
    untaken = _untaken(observed, now)
    if untaken or not current.finished:
        new = status.reconciled(new, untaken, now)
    again = times.earliest(leaving.told_at(job, now), obstacles.look_again(observed, now))
    events = status.events(job.status, new)
    return Decision(status=new, delete=delete, apply=apply, events=events, again_at=again)


def _decide(job: Job, current: Status, observed: Observed, settings: Settings, now: dt.datetime) -> Decision:
    if current.finished:
        return _finished(job, current, observed, now)
    try:
        if job.fault:
            raise SpecError(job.fault)
        return _unfinished(job, current, observed, settings, now)
    except SpecError as error:
        return _end(current, Fail(reason=Reason.INVALID_SPEC, message=str(error)), observed, now)


def _finished(job: Job, current: Status, observed: Observed, now: dt.datetime) -> Decision:
    end = finish.end_of_life(job, current)
    if end is not None and now >= end:
        return Decision(status=current, delete_job=True)
    report = None
    if (workload := observed.workload) is not None:
        report = kueue.finished(workload, current.is_true(Condition.COMPLETE), current.phase, now)
    if pods := last_lines.wanted(job, current, observed, now):
        again = times.earliest(end, last_lines.deadline(current))
        return Decision(status=current, keep_logs=pods, workload_status=report, again_at=again)
    new = last_lines.recorded(job, current, observed)
    delete, apply = finish.clean(job, current, observed)
    news = last_lines.events(current, new)
    return Decision(status=new, delete=delete, apply=apply, workload_status=report, events=news, again_at=end)


def _unfinished(asked: Job, current: Status, observed: Observed, settings: Settings, now: dt.datetime) -> Decision:
    job = scale.within(asked, current, observed, lambda: pins.applied(settings, current.pinned, asked).all_limits)
    done = completion.judge(job, current, observed)
    if done:
        return _end(current, done, observed, now)
    admission = kueue.admission(observed.workload) if settings.kueue and job.queue else None
    if admission is not None and admission.admitted and admission.partial:
        words = f"Kueue admitted {admission.partial}; a job runs with all of its pods or not at all"
        return _end(current, Fail(reason=Reason.PARTIAL_ADMISSION, message=words), observed, now)
    workload = observed.workload
    follows = workload is None or kueue.follows(job, workload, observed, current.attempt)
    held = hold.why(job, admission, follows=follows)
    if held and held[0] == Reason.WAITING_FOR_QUOTA and (refused := obstacles.judge_queued(observed)):
        return _end(current, refused, observed, now)
    if held and held[0] == Reason.WAITING_FOR_QUOTA and workload is None and current.start_time is None:
        children.check_pods(job, pins.applied(settings, current.pinned, job))  # Not hours later, when it has its quota.
    if held:
        return _hold(job, current, observed, pins.applied(settings, current.pinned, job), held, admission, now)
    current = status.not_ahead(_queued(job, current, admission, settings, now), now)
    # Also before its last pod had ended: what the hold had told to go is no loss that anybody else caused.
    resumed = current.is_true(Condition.SUSPENDED) or current.phase == status.STOPPING
    if resumed:
        current = _resumed(current, now)
    current = status.started(current, now)
    verdict = None if resumed else _judge(job, current, observed, settings, now)
    if isinstance(verdict, Fail | Complete):
        return _end(current, verdict, observed, now)
    if isinstance(verdict, Restart):
        current = status.restarted(current, verdict, now)
    # What ran once is not looked at again: a new release of the operator ends no job with a rule that it has learnt.
    unknown = current.start_time is None or pins.changed(job, current)
    current = pins.pinned(job, current, settings)
    taken = pins.applied(settings, current.pinned, job)
    if observed.batch_job(job.name, Role.TRAINER, current.attempt) is None:
        job = asked  # The next attempt is made of all that the job asks for, or not at all.
        if unknown:
            children.check_pods(job, taken)
    return _run(job, current, observed, taken, admission, scale.refusal(asked, taken.all_limits), now)


def _judge(job: Job, current: Status, observed: Observed, settings: Settings, now: dt.datetime) -> Verdict:
    if not current.is_true(Condition.RUNNING) and (refused := obstacles.judge(observed)):
        return refused  # A job that runs goes on without what was refused.
    return (
        failure.judge(job, current, observed)
        or pins.judge(job, current, observed)
        or deadlines.judge(job, current, observed, now)
        or partial.judge(job, current, observed, now)
        or scale.judge(job, current, observed, pins.applied(settings, current.pinned, job).all_limits)
    )


def _end(current: Status, verdict: Complete | Fail, observed: Observed, now: dt.datetime) -> Decision:
    final = status.ended(current, verdict, observed, now)
    return Decision(status=replace(final, phase=status.phase(final)), again_at=now)


def _hold(
    job: Job,
    current: Status,
    observed: Observed,
    settings: Settings,
    held: tuple[Reason, str],
    admission: Admission | None,
    now: dt.datetime,
) -> Decision:
    delete, apply, gone = hold.stop(job, current, observed, settings)
    reason, message = held
    new = status.stop_clock(current, now)
    new = status.reconciled(status.not_running(new, reason, message, now), _untaken(observed, now), now)
    report = None
    if gone:
        new = new.put_if_known(conditions.false(Condition.RESTARTING, reason, message, now))
        new = new.put(conditions.true(Condition.SUSPENDED, reason, message, now))
        if admission is not None and admission.evicted and observed.workload is not None:
            report = kueue.released(observed.workload, now)
    else:  # Why it stops is said also where a lost status has said nothing before.
        new = new.put(conditions.false(Condition.RUNNING, reason, message, now))
    if admission is not None and not admission.reserved:
        new = new.put_if_known(conditions.false(Condition.QUOTA_RESERVED, reason, message, now))
    leaving = gone and reason in (Reason.QUOTA_CHANGES, Reason.SUSPENDED)  # What it needs next, another Workload asks.
    if leaving and observed.workload is not None and not is_deleting(observed.workload):
        meta = observed.workload["metadata"]
        delete, report = (*delete, Deletion(kind="Workload", name=meta["name"], uid=meta["uid"])), None
    if settings.kueue and job.queue and not leaving:
        apply = (*apply, kueue.workload(job, settings, observed.priorities, observed.workload))
    if (
        job.checkpoint_claim is not None
        and ("PersistentVolumeClaim", names.checkpoint_claim(job.name)) in observed.live
    ):
        apply = (*apply, children.checkpoint_claim(job))  # Whether it is kept may have changed.
    new = replace(new, phase=status.phase(new, holding=True))
    delete = (*delete, *_unwanted(job, observed))
    again = obstacles.look_again(observed, now)
    return Decision(status=new, delete=delete, apply=apply, workload_status=report, again_at=again)


def _queued(job: Job, old: Status, admission: Admission | None, settings: Settings, now: dt.datetime) -> Status:
    """With what Kueue has to say about a job that may run; without a queue that is nothing."""
    if admission is not None:
        return old.put(conditions.true(Condition.QUOTA_RESERVED, Reason.QUOTA_RESERVED, "admitted by Kueue", now))
    if ignored := queues.ignored(job, settings):
        return old.put(conditions.false(Condition.QUOTA_RESERVED, Reason.QUEUE_IGNORED, ignored, now))
    return old.without(Condition.QUOTA_RESERVED)


def _resumed(current: Status, now: dt.datetime) -> Status:
    """Back from a hold: what ran before was an attempt, the next needs a number of its own."""
    message = "the job goes on from its last checkpoint"
    new = current.put_if_known(conditions.false(Condition.SUSPENDED, Reason.RESUMED, message, now))
    if current.attempt_time is None:
        return new
    early = status.in_a_row(current, now)
    return replace(new, attempt=new.attempt + 1, attempt_time=now, short_attempts=early, server_pods={}, summary={})


def _run(
    job: Job,
    current: Status,
    observed: Observed,
    settings: Settings,
    admission: Admission | None,
    too_much: Obstacle | None,
    now: dt.datetime,
) -> Decision:
    ending = teardown.stop(observed, current.attempt)
    start = backoff.start_time(job, current)
    begun = observed.batch_job(job.name, Role.TRAINER, current.attempt) is not None
    new = _progressed(job, current, observed, settings, too_much, now)
    if not begun:
        children.check_gang(job, settings)
        children.check_limits(job, settings)
    trainers = observed.batch_job(job.name, Role.TRAINER, new.attempt) or {}
    have = (trainers.get("spec") or {}).get("completions")  # Not what the job asks for, where that is too much.
    apply = children.base(job, new.attempt, settings, have)
    wanted = children.workers(job, new.attempt, settings)  # Built in any case: what cannot be built fails now.
    # What has begun goes on, whatever the clock says: a leader's may be behind that of the one before.
    ready = begun or (ending.all_gone and not observed.orphans and now >= start)
    if ready:
        for role, template in zip((Role.SERVER, Role.ORACLE, Role.TRAINER), wanted, strict=True):
            kueue.assign(template["spec"]["template"], job, role, admission or Admission(), observed.flavors)
        apply += wanted
    elif ending.trainers_gone and ("StatefulSet", names.stateful_set(job.name)) in observed.live:
        apply.append(children.server_set(job, new.attempt, settings, replicas=0))
    if admission is not None:
        apply.append(kueue.workload(job, settings, observed.priorities, observed.workload))
    again = times.earliest(
        start if now < start else None,
        deadlines.active_end(job, new),
        deadlines.startup_end(job, new),
        given_back if (given_back := partial.end(job, new)) is not None and now < given_back else None,
        obstacles.look_again(observed, now),
    )
    return Decision(
        status=replace(new, phase=status.phase(new)),
        delete=(*ending.delete, *_unwanted(job, observed)),
        apply=tuple(apply),
        create_job_secret=ready and not begun,
        workload_status=kueue.running(job, observed, new.attempt, new.is_true(Condition.RUNNING), begun, now)
        if admission
        else None,
        again_at=again,
    )


def _unwanted(job: Job, observed: Observed) -> tuple[Deletion, ...]:
    """What an edit of the run policy, or of the queue's label, took away."""
    gone = {
        ("NetworkPolicy", names.network_policy(job.name)): job.run_policy.network_policy == "None",
        ("Workload", names.workload(job.name)): not job.queue,
        **{(gang.kind, names.pod_group(job.name)): job.run_policy.gang != name for name, gang in gangs.KNOWN.items()},
    }
    live = {key: observed.live[key] for key, unwanted in gone.items() if unwanted and key in observed.live}
    return tuple(
        Deletion(kind=kind, name=name, uid=raw["metadata"]["uid"])
        for (kind, name), raw in live.items()
        if not is_deleting(raw)
    )


def _progressed(
    job: Job, current: Status, observed: Observed, settings: Settings, too_much: Obstacle | None, now: dt.datetime
) -> Status:
    """Conditions of an attempt that is under way. Running is said once an attempt, not with every probe."""
    new = status.reconciled(current, _untaken(observed, now) or too_much, now)
    if gone := keeping.trouble(job, observed):
        new = status.kept(new, gone.message, now, gone.reason)
    else:
        new = status.kept(new, keeping.loss(job, settings), now)
    new = status.with_result(_servers_counted(job, new, observed, now), observed)
    if observed.progress is not None:
        new = replace(new, progress=observed.progress)
    if new.is_true(Condition.RUNNING):
        return new
    pods = _standing(observed, new.attempt)
    up = {role: sum(p.role is role and (p.ready or p.phase == "Succeeded") for p in pods) for role in Role}
    if all(up[role] >= job.replicas(role) for role in Role):
        return status.running(new, observed, now)
    return status.waiting(new, obstacles.why_not_running(job, new, observed, now), now)


def _untaken(observed: Observed, now: dt.datetime) -> Obstacle | None:
    return obstacles.refusal(observed) or obstacles.held_back(observed, now) or obstacles.contested(observed, now)


def _standing(observed: Observed, attempt: int) -> list[Any]:
    return [p for p in observed.pods if p.attempt == attempt and p.deleted_at is None]


def _servers_counted(job: Job, current: Status, observed: Observed, now: dt.datetime) -> Status:
    ready = sum(p.role is Role.SERVER and p.ready for p in _standing(observed, current.attempt))
    wanted = job.replicas(Role.SERVER)
    if ready >= wanted:
        message = f"{ready} servers are ready"
        return current.put(conditions.true(Condition.SERVERS_READY, Reason.SERVERS_READY, message, now))
    message = f"{ready} of {wanted} servers are ready{obstacles.of_servers(observed, current.attempt)}"
    return current.put_if_known(conditions.false(Condition.SERVERS_READY, Reason.PODS_NOT_READY, message, now))


def _drifted(apply: tuple[Any, ...], observed: Observed, now: dt.datetime) -> tuple[Mapping[str, Any], ...]:
    """Only what is missing or differs; what is being deleted, or changed back and forth, is waited for.

    A batch Job that somebody deleted after it had ended is not missing.

    What the API server made of our last write is no difference: it may write a quantity its own way.
    """
    result = []
    for wanted in apply:
        key = (wanted["kind"], wanted["metadata"]["name"])
        live = observed.live.get(key)
        contested = observed.contested.get(key)
        if live is None and key in observed.ended:
            continue
        if (live is not None and is_deleting(live)) or (contested is not None and now < contested.until):
            continue
        settled = drift.settle(wanted, live)
        if live is None or (drift.differs(settled, live) and observed.written.get(key) != drift.written(settled, live)):
            result.append(settled)
    return tuple(result)
