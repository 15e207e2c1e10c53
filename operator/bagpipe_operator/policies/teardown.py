"""Ending pods in the order that lets trainers write a checkpoint: trainers, then the oracle and the servers.

Used to hold a job and to make room for a new attempt. A Job is deleted with its pods in the
foreground: while any of its pods may still run, the Job is still there, so that "the Job is gone" is
"no such rank runs".
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from bagpipe_operator import times
from bagpipe_operator.api import Job
from bagpipe_operator.decision import Deletion
from bagpipe_operator.names import Role
from bagpipe_operator.observe import Observed, attempt_of, is_deleting
from bagpipe_operator.podstate import Pod, Raw


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How far the end of the older attempts has come."""

    delete: tuple[Deletion, ...] = ()
    trainers_gone: bool = False
    """Now the servers may go: the StatefulSet is scaled to zero, which no controller undoes."""
    all_gone: bool = False


def stop(observed: Observed, below: int) -> Ending:
    """What to do now about all attempts below `below`."""
    trainers = [r for r in observed.batch_jobs(Role.TRAINER) if attempt_of(r) < below]
    if trainers:
        return Ending(delete=deletions(trainers))
    oracles = [r for r in observed.batch_jobs(Role.ORACLE) if attempt_of(r) < below]
    servers = [p for p in observed.of_role(Role.SERVER) if p.attempt < below]
    return Ending(delete=deletions(oracles), trainers_gone=True, all_gone=not oracles and not servers)


def deletions(objects: Iterable[Raw]) -> tuple[Deletion, ...]:
    """Of those of these objects that nobody has told to go."""
    return tuple(
        Deletion(kind=raw["kind"], name=raw["metadata"]["name"], uid=raw["metadata"]["uid"])
        for raw in objects
        if not is_deleting(raw)
    )


def overdue(
    job: Job, observed: Observed, now: dt.datetime
) -> tuple[tuple[Deletion, ...], frozenset[str], dt.datetime | None]:
    """Pods that should be gone: those to remove by force, the nodes to look at, and when to look again.

    Force is for lost nodes alone: anywhere else the kubelet will tell when the process has ended, and
    until then a second pod for the rank must not exist.
    """
    late = [p for p in observed.pods if p.deleted_at is not None and not p.gone_quiet]
    force, nodes, again = [], set(), []
    for pod in late:
        assert pod.deleted_at is not None
        if now < pod.deleted_at:
            again.append(pod.deleted_at)
        elif pod.node in observed.lost_nodes:
            when = times.later(observed.lost_nodes[pod.node], job.run_policy.node_lost_seconds)
            if now >= when:
                force.append(_forced(pod))
            else:
                again.append(when)
        else:
            if pod.node:  # One that was never scheduled has none.
                nodes.add(pod.node)
            again.append(now + dt.timedelta(seconds=5))
    return tuple(force), frozenset(nodes), times.earliest(*again)


def _forced(pod: Pod) -> Deletion:
    return Deletion(kind="Pod", name=pod.name, uid=pod.uid, force=True)
