"""How much data a job has: how many steps that makes, and whether it is enough for its trainers. Pure."""

from collections.abc import Iterator

from bagpipe.batch import Batch
from bagpipe.config.document import JobSpec
from bagpipe.errors import ConfigError


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
    """Where the number of examples was not known: an epoch's first batch is short only if it has them all."""
    first = next(batches, None)
    if first is None:
        return
    check_trainers(spec, first.num_examples)
    yield first
    yield from batches


def total_steps(spec: JobSpec, num_train_examples: int | None) -> int | None:
    """Steps of the whole run where that can be known beforehand."""
    if spec.steps is not None:
        return spec.steps
    if num_train_examples is None:
        return None
    full, rest = divmod(num_train_examples, spec.batch_size)
    return (full + (rest > 0 and not spec.data.drop_last)) * (spec.epochs or 1)
