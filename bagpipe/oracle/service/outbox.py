"""Decides which plan is sent to which trainer when: credit, finished steps, and plans that are sent again. Pure.

A trainer may hold plans up to `credit` steps beyond the last one it finished. A plan is kept until its
step is finished, so that one lost with a connection can be sent again. After a restart of the oracle
trainers come back one by one; plans for those that have not are kept as well, the latest ones, since
trainers are never further apart than one's credit.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

Frames = list[Any]


@dataclass(slots=True)
class _Trainer:
    """What is known of one trainer's progress."""

    peer: bytes
    credit: int
    done: int
    """Last step it finished."""
    next: int
    """First step whose plan was not sent to it."""
    plans: deque[tuple[int, Frames]]
    """Of steps it has not finished, sent or not, in order."""


@dataclass(slots=True)
class Outbox:
    """Plans on their way. `peer` is whatever the socket calls a trainer."""

    num_trainers: int
    keep_early: int
    """Plans kept for a trainer that has not come (back) yet."""
    _trainers: dict[int, _Trainer] = field(default_factory=dict)
    _early: dict[int, deque[tuple[int, Frames]]] = field(default_factory=dict)

    def join(self, rank: int, peer: bytes, *, credit: int, done: int, step: int) -> None:
        """A trainer that has finished `done` wants the plans from `step` on.

        What it has finished stays finished: a request that comes late or twice sets nothing back.
        """
        known = self._trainers.get(rank)
        done = done if known is None else max(done, known.done)
        step = max(step, done + 1)
        plans = known.plans if known is not None else self._early.pop(rank, deque())
        self._trainers[rank] = _Trainer(peer, credit, done, step, deque(plans))

    @property
    def joined(self) -> bool:
        """Whether any trainer is there."""
        return bool(self._trainers)

    @property
    def everyone(self) -> bool:
        return len(self._trainers) == self.num_trainers

    @property
    def peers(self) -> list[bytes]:
        return [t.peer for t in self._trainers.values()]

    def step_of(self, rank: int) -> int | None:
        """The step a trainer is at; None: it has not asked for plans."""
        trainer = self._trainers.get(rank)
        return None if trainer is None else trainer.done + 1

    def holds_plan(self, rank: int) -> bool:
        """Whether a trainer that is there was sent the plan of the step it is at."""
        trainer = self._trainers[rank]
        return trainer.next > trainer.done + 1

    def done(self, default: int) -> int:
        """Last step that every trainer here has finished; `default` while there is none."""
        return min((t.done for t in self._trainers.values()), default=default)

    def wants(self, rank: int, step: int) -> bool:
        """False for a plan that the trainer got from an earlier oracle process."""
        trainer = self._trainers.get(rank)
        return trainer is None or step >= trainer.next

    def add(self, rank: int, step: int, frames: Frames) -> None:
        """Keep a plan until its trainer has finished the step."""
        trainer = self._trainers.get(rank)
        plans = trainer.plans if trainer else self._early.setdefault(rank, deque(maxlen=self.keep_early))
        plans.append((step, frames))

    def finished(self, rank: int, step: int) -> bool:
        """A trainer finished a step; False if that was known."""
        trainer = self._trainers.get(rank)
        if trainer is None or step <= trainer.done:
            return False
        trainer.done = step
        while trainer.plans and trainer.plans[0][0] <= step:
            trainer.plans.popleft()
        return True

    def take_due(self) -> list[tuple[bytes, Frames]]:
        """What to send now, to whom; each plan is handed out once (again after `join`)."""
        due = []
        for trainer in self._trainers.values():
            for step, frames in trainer.plans:
                if trainer.next <= step <= trainer.done + trainer.credit:
                    due.append((trainer.peer, frames))
                    trainer.next = step + 1
        return due
