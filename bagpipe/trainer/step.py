"""One step at a trainer: its plan, and the watch that measures what it takes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from bagpipe.plan import BatchPlan


@dataclass(slots=True)
class StepWatch:
    """How long a step took, and how long it waited for what. Times are `time.perf_counter`'s, lengths are seconds."""

    begun: float = field(default_factory=time.perf_counter)
    waits: dict[str, float] = field(default_factory=dict)
    """Seconds by what was waited for: the keys that docs/step.md explains."""
    seconds: float = 0.0
    """From its begin to the end of its backward pass."""
    updated: float | None = None
    """When owned rows were updated."""
    updating: float = 0.0
    """How long that took, the wait for gradients included; with several trainers it is a part of the backward pass."""

    def backward_returned(self) -> None:
        """Count the time since owned rows were updated as waiting for dense gradients: backward did nothing else."""
        if self.updated is not None:
            self.waits["dense"] = time.perf_counter() - self.updated

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Count what happens inside as a wait."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.waits[what] = self.waits.get(what, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one trainer."""

    plan: BatchPlan
    watch: StepWatch


def slice_weight(plan: BatchPlan, world_size: int) -> float:
    """Factor of this slice's mean loss that makes the mean over trainers that of the global batch."""
    if plan.weights_B is None:
        return int(plan.dense_BF.shape[0]) * world_size / plan.num_examples
    total = plan.total_weight
    return float(plan.weights_B.sum(dtype=np.float64)) * world_size / total if total else 0.0


def mean_loss(parts: Sequence[BatchPlan], losses: Sequence[float]) -> float:
    """Mean loss of a slice that was gone through in parts, from the mean of each part."""
    if len(parts) == 1:
        return losses[0]
    counts = [_counts(part) for part in parts]
    total = sum(counts)
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / total if total else 0.0


def _counts(plan: BatchPlan) -> float:
    """What a slice counts in a mean: its examples, or the sum of their weights."""
    return int(plan.dense_BF.shape[0]) if plan.weights_B is None else float(plan.weights_B.sum(dtype=np.float64))


def told_loss(plan: BatchPlan, loss: float) -> float:
    """What the oracle is told: it weighs each slice by its examples, whatever their weights."""
    examples = int(plan.dense_BF.shape[0])
    if plan.weights_B is None or not examples:
        return loss
    return loss * slice_weight(plan, 1) * plan.num_examples / examples
