"""Finds the best checkpoint of a run by a figure of the validation part (`spec.checkpoint.best`)."""

from collections.abc import Sequence
from pathlib import Path

from bagpipe.checkpoint.store import directory_of, list_checkpoints, open_checkpoint, step_of
from bagpipe.errors import CheckpointError
from bagpipe.metrics.validations import Validation, best_step


def best_checkpoint(root: Path, history: Sequence[Validation], metric: str) -> Path | None:
    """Of the complete checkpoints below `root`, the one whose evaluation was best; None where none has the figure."""
    complete = frozenset(step_of(path) for path in list_checkpoints(root))
    step = best_step(history, metric, among=complete)
    return None if step is None else directory_of(root, step)


def kept_best(root: Path, metric: str | None) -> Path | None:
    """The best complete checkpoint below `root`, by the figures that the newest one holds; None where there is none.

    Raises:
        CheckpointError: the newest one's manifest cannot be read.
    """
    complete = list_checkpoints(root)
    if metric is None or not complete:
        return None
    return best_checkpoint(root, open_checkpoint(complete[-1]).manifest.validations, metric)


def chosen_best(root: Path) -> Path:
    """The best checkpoint below `root`, by the run's own `spec.checkpoint.best`.

    Raises:
        CheckpointError: the run does not keep one, or no evaluation had the figure.
    """
    complete = list_checkpoints(root)
    if not complete:
        raise CheckpointError(f"{root}: no complete checkpoint yet; resume the run, or train for longer")
    metric = open_checkpoint(complete[-1]).manifest.spec.checkpoint.best
    if metric is None:
        raise CheckpointError(f"{root}: the run keeps no best checkpoint; set spec.checkpoint.best, for example to auc")
    found = kept_best(root, metric)
    if found is None:
        raise CheckpointError(f"{root}: no checkpoint has the figure {metric}; look at `bagpipe checkpoint ls`")
    return found
