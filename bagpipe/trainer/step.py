"""One step at a trainer: its plan, and the watch that measures what it takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bagpipe.plan import BatchPlan


@dataclass(slots=True)
class StepWatch:
    """How long a step took, and how long it waited for what. Times are `time.perf_counter`'s, lengths are seconds."""

    begun: float = field(default_factory=time.perf_counter)
    waits: dict[str, float] = field(default_factory=dict)
    """By what for: the keys that docs/step.md explains."""
    seconds: float = 0.0
    """From its begin to the end of its backward pass."""
    updated: float | None = None
    """When owned rows were updated."""
    updating: float = 0.0
    """How long that took, the wait for gradients included; with several trainers it is a part of the backward pass."""

    def backward_returned(self) -> None:
        """What backward did after owned rows were updated was to wait for the dense gradients."""
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
