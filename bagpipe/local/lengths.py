"""Checks whether a run may be resumed with another length: not if a schedule that follows from it would change."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bagpipe.config.document import JobSpec
from bagpipe.config.recipe import Schedule
from bagpipe.errors import ConfigError


def with_settled(section: Any, trained: Any) -> Any:
    """`section` with the `decaySteps` that it leaves out as in `trained`, the same section of a checkpoint's job."""
    if type(section) is not type(trained):
        return section
    if isinstance(section, Schedule):
        return msgspec.structs.replace(section, decay_steps=section.decay_steps or trained.decay_steps)
    if isinstance(section, tuple) and len(section) == len(trained):
        return tuple(with_settled(one, other) for one, other in zip(section, trained, strict=True))
    if isinstance(section, msgspec.Struct):
        names = section.__struct_fields__
        return type(section)(**{name: with_settled(getattr(section, name), getattr(trained, name)) for name in names})
    return section


def check_length(before: JobSpec, now: JobSpec, trained: JobSpec) -> None:
    """Refuse another length of a job whose schedules took their `decaySteps` from the length.

    Args:
        before: the job as it was started.
        trained: the same with every `decaySteps` a number, as its checkpoints keep it.

    Raises:
        ConfigError: names the number that keeps the schedule.
    """
    if (before.steps, before.epochs) == (now.steps, now.epochs):
        return
    for where, asked, settled in _schedules(now, trained):
        if settled is None or asked.decay_steps is not None or settled.decay_steps is None:
            continue
        if now.steps is not None and now.steps - asked.warmup_steps == settled.decay_steps:
            continue
        raise ConfigError(
            f"{where}.decaySteps: left out, it follows from the job's length, which changed; a resumed run keeps its "
            f"schedule, so give {where}.decaySteps={settled.decay_steps} (on the command line after --set)"
        )


def _schedules(now: JobSpec, trained: JobSpec) -> Iterator[tuple[str, Schedule, Schedule | None]]:
    yield "spec.optimizer.schedule", now.optimizer.schedule, trained.optimizer.schedule
    rows = now.embedding.optimizer.schedule, trained.embedding.optimizer.schedule
    yield "spec.embedding.optimizer.schedule", *rows
    for number, (one, other) in enumerate(zip(now.embedding.overrides, trained.embedding.overrides, strict=False)):
        if one.optimizer.schedule is not None:
            where = f"spec.embedding.overrides[{number}].optimizer.schedule"
            yield where, one.optimizer.schedule, other.optimizer.schedule
