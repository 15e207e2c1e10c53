"""Ending pods in the order that lets trainers write a checkpoint: trainers, then the oracle and the servers.

Used to hold a job and to make room for a new attempt. A Job is deleted with its pods in the
foreground: while any of its pods may still run, the Job is still there, so that "the Job is gone" is
"no such rank runs".
"""

import datetime as dt
from collections.abc import Iterable

from bagpipe_operator.api import Job
from bagpipe_operator.decision import Deletion
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed, Pod, Raw, attempt_of, is_deleting


def stop(observed: Observed, below: int) -> tuple[tuple[Deletion, ...], bool]:
    """What to delete now of all attempts below `below`, and whether nothing of them is left."""
    trainers = [r for r in observed.batch_jobs(Role.TRAINER) if attempt_of(r) < below]
    if trainers:
        return _jobs(trainers), False
    oracles = [r for r in observed.batch_jobs(Role.ORACLE) if attempt_of(r) < below]
    servers = [p for p in observed.of_role(Role.SERVER) if p.attempt < below]
    going = tuple(Deletion(kind="Pod", name=p.name, uid=p.uid) for p in servers if p.deleted_at is None)
    return _jobs(oracles) + going, not oracles and not servers


def _jobs(jobs: Iterable[Raw]) -> tuple[Deletion, ...]:
    return tuple(
        Deletion(kind="Job", name=raw["metadata"]["name"], uid=raw["metadata"]["uid"])
        for raw in jobs
        if not is_deleting(raw)
    )


def overdue(
    job: Job, observed: Observed, now: dt.datetime
) -> tuple[tuple[Deletion, ...], frozenset[str], dt.datetime | None]:
    """Pods that should be gone: those to remove by force, the nodes to look at, and when to look again.

    Force is for lost nodes alone: anywhere else the kubelet will tell when the process has ended, and
    until then a second pod for the rank must not exist.
    """
    late = [p for p in observed.pods if p.deleted_at is not None and not p.ended]
    patience = dt.timedelta(seconds=job.run_policy.node_lost_seconds)
    force, nodes, again = [], set(), []
    for pod in late:
        assert pod.deleted_at is not None
        if now < pod.deleted_at:
            again.append(pod.deleted_at)
        elif pod.node in observed.lost_nodes:
            when = observed.lost_nodes[pod.node] + patience
            if now >= when:
                force.append(_forced(pod))
            else:
                again.append(when)
        else:
            nodes.add(pod.node)
            again.append(now + dt.timedelta(seconds=5))
    return tuple(force), frozenset(nodes), min(again, default=None)


def _forced(pod: Pod) -> Deletion:
    return Deletion(kind="Pod", name=pod.name, uid=pod.uid, force=True)
