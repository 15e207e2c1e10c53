"""Rows and seconds that a batch took, for a user's own training loop."""

from dataclasses import dataclass

from bagpipe.trainer.step import Step


@dataclass(frozen=True, slots=True)
class Begun:
    """What bringing in a batch's rows took. Counts are rows of this trainer, times are seconds."""

    plans_ahead: int
    """Batches after this one whose plans have arrived."""
    fetched: int
    waited: float
    """For the plan, and for rows from the servers."""
    taken_in: float
    """The rest: values that came late from other trainers, and gathering."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What updating a batch's rows took, exchange with other trainers and write-back included."""

    written_back: int
    exchanged_now: int
    """Gradients and values to and from other trainers that the next batch needs."""
    exchanged_later: int
    """Values that travel under the next batch's compute."""
    synced: float
    """Seconds waited for gradients and values of other trainers."""
    updated: float
    """Seconds of everything else but handing rows to the servers."""


def begun_figures(step: Step, plans_ahead: int, seconds: float) -> Begun:
    """The figures of a batch that has begun, and took `seconds` to begin."""
    waited = step.watch.waits.get("plan", 0.0) + step.watch.waits.get("fetch", 0.0)
    fetched = sum(group.fetch_keys.size for group in step.plan.groups)
    return Begun(plans_ahead, fetched, waited, max(seconds - waited, 0.0))


def ended_figures(step: Step, seconds: float) -> Ended:
    """The figures of a batch that has ended, and whose update took `seconds`."""
    groups, waits = step.plan.groups, step.watch.waits
    transfers = [transfer for group in groups for transfer in (group.send, group.receive)]
    now = [lists for group in groups for lists in (group.grad_send, group.grad_recv)]
    now += [lists for t in transfers for lists in (t.eager_values, t.eager_records)]
    later = [lists for t in transfers for lists in (t.deferred_values, t.deferred_records)]
    synced = sum(waits.get(name, 0.0) for name in ("gradients", "eager", "deferred"))
    return Ended(
        written_back=sum(group.evict_keys.size for group in groups),
        exchanged_now=sum(lists.values.size for lists in now),
        exchanged_later=sum(lists.values.size for lists in later),
        synced=synced,
        updated=max(seconds - waits.get("gradients", 0.0), 0.0),
    )
