"""One step in progress at a trainer: its plan, its rows, what it waited for, and what it leaves to send."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bagpipe.batch import Floats, Keys
from bagpipe.plan import BatchPlan


@dataclass(slots=True)
class Step:
    """One step in progress: its plan, its rows, and how long it waited for what."""

    plan: BatchPlan
    started: float
    waits: dict[str, float]
    _bring: Callable[["Step"], tuple[torch.Tensor, ...]]
    _rows: tuple[torch.Tensor, ...] | None = None
    gradients_sent: bool = False
    deferred: list[tuple[int, list[Floats]]] = field(default_factory=list)
    """Copies of updated rows: what goes to each peer for steps after the next."""
    leaving: list[tuple[Keys, Floats]] = field(default_factory=list)
    """Of each width group: what goes back to the servers."""
    exchanged: float | None = None
    """When the rows were updated, by `time.perf_counter`."""
    exchange_seconds: float = 0.0
    """What that took, with the wait for gradients; at more than one trainer it is a part of the backward pass."""
    loss: float | None = None
    seconds: float = 0.0
    """From its begin to the end of its backward pass."""

    @property
    def rows(self) -> tuple[torch.Tensor, ...]:
        """Weights of the distinct rows `[K, D]` of each width group; leaves whose `.grad` backward fills.

        The first to ask waits for them.
        """
        if self._rows is None:
            self._rows = self._bring(self)
        return self._rows

    def release(self) -> None:
        """Let go of the rows; nothing asks for them any more.

        Their hooks refer to the step and it to them: until Python looks for cycles, each step would keep its rows and
        their gradients, some 8 MiB on the peers' workload, and every new one would be on pages fresh from the kernel.
        """
        self._rows = ()

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.waits[what] = self.waits.get(what, 0.0) + time.perf_counter() - begun
