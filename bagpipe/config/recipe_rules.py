"""Rules of a training recipe: optimizers and their schedules."""

import difflib
import itertools
from collections.abc import Iterator, Sequence

from bagpipe.config.given import Finding, without_effect
from bagpipe.config.recipe import (
    OWN_SCHEDULES,
    TORCH_SCHEDULES,
    DenseOptimizer,
    DenseOverride,
    RowOptimizer,
    Schedule,
    TableOverride,
    changed_optimizer,
)
from bagpipe.config.schedule_args import argument_findings

ROW_OPTIMIZER_SETTINGS = {
    "sgd": {"momentum"},
    "adagrad": {"eps", "initialAccumulator"},
    "rowwise-adagrad": {"eps", "initialAccumulator"},
    "adam": {"eps", "beta1", "beta2"},
}
"""Which settings only some row optimizers have."""
_WARMUP = ("warmupSteps", "warmupFrom")


def row_optimizer_findings(prefix: str, optimizer: RowOptimizer) -> Iterator[Finding]:
    """Everything that is wrong with a row optimizer."""
    useless = set().union(*ROW_OPTIMIZER_SETTINGS.values()) - ROW_OPTIMIZER_SETTINGS[optimizer.name]
    yield from without_effect(prefix, optimizer, useless, f"on {optimizer.name}")
    yield from schedule_findings(f"{prefix}.schedule", optimizer.schedule)


def table_override_findings(
    prefix: str, optimizer: RowOptimizer, overrides: Sequence[TableOverride]
) -> Iterator[Finding]:
    """Everything that is wrong with overrides of tables, whose names are not known yet.

    A change without a name may be one of what an earlier override made of the same table.
    """
    bases = [optimizer]
    for number, override in enumerate(overrides):
        change, where = override.optimizer, f"{prefix}[{number}]"
        tried = [list(row_optimizer_findings(f"{where}.optimizer", changed_optimizer(base, change))) for base in bases]
        if all(tried):
            yield from tried[0]
        if override == TableOverride(override.tables):
            yield where, "changes nothing; give optimizer, initScale, frozen or initFrom, or remove it"
        if change.name is not None:
            bases.append(changed_optimizer(optimizer, change))


def dense_optimizer_findings(prefix: str, optimizer: DenseOptimizer) -> Iterator[Finding]:
    """Everything that is wrong with the dense optimizer."""
    if optimizer.name != "sgd":
        yield from without_effect(prefix, optimizer, ("momentum",), f"on {optimizer.name}; it needs sgd")
    yield from schedule_findings(f"{prefix}.schedule", optimizer.schedule)
    for number, override in enumerate(optimizer.overrides):
        if override == DenseOverride(override.parameters):
            yield f"{prefix}.overrides[{number}]", "changes nothing; give lr, weightDecay or frozen, or remove it"


def schedule_findings(prefix: str, schedule: Schedule) -> Iterator[Finding]:
    """Everything that is wrong with a schedule."""
    name, every = schedule.name, set().union(*OWN_SCHEDULES.values())
    if name in TORCH_SCHEDULES:
        because = f"with torch's {name}, which takes all of it from args"
        yield from without_effect(prefix, schedule, {*every, *_WARMUP}, because)
        yield from argument_findings(f"{prefix}.args", name, schedule.args)
        return
    if name not in OWN_SCHEDULES:
        yield f"{prefix}.name", _unknown(name)
        return
    yield from without_effect(prefix, schedule, every - set(OWN_SCHEDULES[name]), f"with schedule {name}")
    yield from without_effect(prefix, schedule, ("args",), f"with schedule {name}; it is for classes of torch")
    if not schedule.warmup_steps:
        yield from without_effect(prefix, schedule, ("warmupFrom",), "without warmupSteps")
    if name == "step" and (schedule.every is None) == (not schedule.milestones):
        yield prefix, "schedule step: expected either every or milestones; give one of them"
    if any(a >= b for a, b in itertools.pairwise(schedule.milestones)):
        yield f"{prefix}.milestones", f"expected rising steps, found {list(schedule.milestones)}; put them in order"


def _unknown(name: str) -> str:
    if name == "ReduceLROnPlateau":
        return (
            "ReduceLROnPlateau needs a metric at each step; a schedule here depends on the step alone, choose another"
        )
    names = [*OWN_SCHEDULES, *TORCH_SCHEDULES]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"or a class of torch: {', '.join(TORCH_SCHEDULES)}"
    return f"expected one of {', '.join(OWN_SCHEDULES)}, found {name!r}; {hint}"
