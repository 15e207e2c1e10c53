"""Collects what each trainer reports of a step, and hands out complete steps, each once and in order. Pure.

A trainer tells a finished step by `StepDone`. A connection that breaks may lose the last of these, so a trainer that
joins anew tells its latest steps once more (`NeedPlans.told_from`); what was known is ignored. Only an oracle that
was restarted misses steps for good: those that a trainer finished and told its predecessor. Which these are it knows
once every trainer has joined: none is far ahead of the others, so one that says so is not believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bagpipe.batch import Floats
from bagpipe.net.messages import StepDone


@dataclass(frozen=True, slots=True)
class Told:
    """What one trainer told about a step; `logits` `[examples of its slice]` in evaluation, else empty."""

    done: StepDone
    logits: Floats


@dataclass(frozen=True, slots=True)
class ToldStep:
    """A step that every trainer has finished; `parts` in the order of their ranks."""

    step: int
    parts: tuple[Told, ...]


@dataclass(slots=True)
class StepLedger:
    """Steps from `next_step` on, of `num_trainers` trainers."""

    num_trainers: int
    next_step: int
    """First step that has not been handed out and is not missing either."""
    missing: int = 0
    """Steps that were skipped: a predecessor of this oracle was told, and no trainer tells them again."""
    told_from: dict[int, int] = field(default_factory=dict)
    """Of each trainer that is there, the first step that it tells this process."""
    _ahead: int = 2**53
    _told: dict[int, dict[int, Told]] = field(default_factory=dict)

    def add(self, told: Told) -> tuple[ToldStep, ...]:
        """One trainer finished a step; returns the steps that are whole now, each once and in order."""
        step, rank = told.done.step, told.done.rank
        if step >= self.next_step:
            self._told.setdefault(step, {}).setdefault(rank, told)
        return self._take()

    def joined(self, rank: int, told_from: int, *, ahead: int = 2**53) -> tuple[ToldStep, ...]:
        """A trainer tells its steps from `told_from` on; what it told of earlier ones is here or missing for good.

        Args:
            ahead: steps by which that may be ahead of the first step that another trainer tells.
        """
        self.told_from[rank], self._ahead = told_from, ahead
        return self._take()

    def _take(self) -> tuple[ToldStep, ...]:
        whole = []
        while True:
            parts = self._told.get(self.next_step, {})
            if len(parts) == self.num_trainers:
                whole.append(ToldStep(self.next_step, tuple(parts[rank] for rank in range(self.num_trainers))))
                after = self.next_step + 1
            elif self._is_missing(parts):
                after = self._next_that_may_be_whole()
                self.missing += after - self.next_step
            else:
                return tuple(whole)
            self._told.pop(self.next_step, None)
            self.next_step = after

    def _is_missing(self, parts: Mapping[int, Told]) -> bool:
        if len(self.told_from) < self.num_trainers:
            return False
        last = self._last_begin()
        return any(self.next_step < min(begin, last) and rank not in parts for rank, begin in self.told_from.items())

    def _last_begin(self) -> int:
        """The first step that every trainer tells, as far as that can be true."""
        begins = self.told_from.values()
        return min(max(begins), min(begins) + self._ahead)

    def _next_that_may_be_whole(self) -> int:
        """The first step after one that is missing which is not missing as well for want of any part."""
        told = (step for step in self._told if step > self.next_step)
        last = self._last_begin()
        return min(last, min(told, default=last))
