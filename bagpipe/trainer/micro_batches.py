"""Cuts a slice of a batch into parts, which a trainer goes through one after the other for one update. Pure."""

import itertools
from dataclasses import replace

import numpy as np

from bagpipe.plan import BatchPlan, GroupPlan


def micro_batches(plan: BatchPlan, count: int) -> list[BatchPlan]:
    """The plan's examples in `count` parts of nearly equal size, in their order; fewer where examples are fewer.

    Part i of n examples is [i n // count, (i + 1) n // count). Its rows are the whole slice's: they are here once, and
    a row's gradient is the sum over the parts.
    """
    examples = int(plan.dense_BF.shape[0])
    if count == 1 or examples < 2:
        return [plan]
    ends = [number * examples // count for number in range(count + 1)]
    return [_part(plan, first, last) for first, last in itertools.pairwise(ends) if last > first]


def _part(plan: BatchPlan, first: int, last: int) -> BatchPlan:
    return replace(
        plan,
        first_example=plan.first_example + first,
        dense_BF=plan.dense_BF[first:last],
        labels_BL=plan.labels_BL[first:last],
        weights_B=None if plan.weights_B is None else plan.weights_B[first:last],
        groups_B=None if plan.groups_B is None else plan.groups_B[first:last],
        groups=tuple(_lookups(group, first, last, int(plan.dense_BF.shape[0])) for group in plan.groups),
    )


def _lookups(group: GroupPlan, first: int, last: int, examples: int) -> GroupPlan:
    if group.lengths_BT is None:
        each = group.inverse_N.size // examples
        return replace(group, inverse_N=group.inverse_N[first * each : last * each])
    begin, end = (int(group.lengths_BT[:n].sum(dtype=np.int64)) for n in (first, last))
    return replace(
        group,
        inverse_N=group.inverse_N[begin:end],
        lengths_BT=group.lengths_BT[first:last],
        weights_N=None if group.weights_N is None else group.weights_N[begin:end],
    )
