"""How much data a job has: how many steps that makes, and whether it is enough for its trainers. Pure."""

from collections.abc import Iterator

from msgspec import structs

from bagpipe.batch import Batch, Cursor
from bagpipe.config.document import JobSpec
from bagpipe.config.recipe import OWN_SCHEDULES, Schedule
from bagpipe.errors import ConfigError

FIRST = Cursor()
"""Where the first step of a run begins."""


def check_trainers(spec: JobSpec, examples: int) -> None:
    """`batchSize` is at least the number of trainers, so a batch below it is all there is.

    Raises:
        ConfigError: fewer examples than trainers.
    """
    trainers = spec.trainers.replicas
    if examples < trainers:
        raise ConfigError(
            f"spec.trainers.replicas: {trainers} trainers for {examples} training examples; use at most {examples}"
        )


def check_first(spec: JobSpec, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Check the number of examples at the first batch, where it was not known before: only the whole data is shorter.

    Raises:
        ConfigError: fewer examples than trainers.
    """
    first = next(batches, None)
    if first is None:
        return
    check_trainers(spec, first.num_examples)
    yield first
    yield from batches


def total_steps(
    spec: JobSpec, num_train_examples: int | None, *, trained: int = 0, cursor: Cursor = FIRST
) -> int | None:
    """Steps of the whole run where that can be known beforehand: `steps`, or fewer where `epochs` end before.

    Args:
        num_train_examples: of an epoch of the data as it is now; earlier epochs may have had others (`--new-data`).
        trained: steps that are done.
        cursor: where the next step begins.
    """
    if spec.steps is not None and spec.epochs is None:
        return spec.steps
    if num_train_examples is None:
        return spec.steps
    left = (spec.epochs or 1) - cursor.epoch
    of_epochs = trained
    if left > 0:
        of_this = _steps_of(spec, max(0, num_train_examples - cursor.position))
        of_epochs += of_this + (left - 1) * _steps_of(spec, num_train_examples)
    return of_epochs if spec.steps is None else min(spec.steps, of_epochs)


def ends_before_steps(spec: JobSpec, total: int | None) -> str | None:
    """What to tell a user whose job has both `steps` and `epochs`, and ends by the latter; None: nothing.

    Args:
        total: as `total_steps` returned it.
    """
    if spec.steps is None or spec.epochs is None or total is None or total >= spec.steps:
        return None
    return (
        f"spec.epochs: {spec.epochs} of this data end at step {total:,}, before spec.steps: {spec.steps:,}; for all of "
        "those steps take epochs out (--set epochs=null)"
    )


def _steps_of(spec: JobSpec, examples: int) -> int:
    full, rest = divmod(examples, spec.batch_size)
    return full + (rest > 0 and not spec.data.drop_last)


def settle_schedules(spec: JobSpec, steps: int | None) -> JobSpec:
    """The job with a number for every `decaySteps` that was left out: to the job's last step.

    A resumed job must have the same number, so it stands in every checkpoint.

    Raises:
        ConfigError: nobody knows how many steps the job has, or its warm-up takes them all.
    """
    embedding, optimizer = spec.embedding, spec.optimizer
    rows = _settled(embedding.optimizer.schedule, steps, "spec.embedding.optimizer.schedule")
    overrides = tuple(
        structs.replace(
            one,
            optimizer=structs.replace(
                one.optimizer,
                schedule=one.optimizer.schedule
                and _settled(one.optimizer.schedule, steps, f"spec.embedding.overrides[{number}].optimizer.schedule"),
            ),
        )
        for number, one in enumerate(embedding.overrides)
    )
    dense = _settled(optimizer.schedule, steps, "spec.optimizer.schedule")
    return structs.replace(
        spec,
        embedding=structs.replace(
            embedding, optimizer=structs.replace(embedding.optimizer, schedule=rows), overrides=overrides
        ),
        optimizer=structs.replace(optimizer, schedule=dense),
    )


def _settled(schedule: Schedule, steps: int | None, where: str) -> Schedule:
    if schedule.decay_steps is not None or "decaySteps" not in OWN_SCHEDULES.get(schedule.name, ()):
        return schedule
    if steps is None:
        raise ConfigError(f"{where}.decaySteps: missing; this data does not tell how many steps there are, so give it")
    if steps <= schedule.warmup_steps:
        raise ConfigError(
            f"{where}.warmupSteps: {schedule.warmup_steps} steps of warm-up leave none of the job's {steps} for "
            f"schedule {schedule.name}; lower it, or give decaySteps"
        )
    return structs.replace(schedule, decay_steps=steps - schedule.warmup_steps)
