"""The evaluations of the validation part between training steps: who needs which batch, whose outputs are here. Pure.

After a step whose plan says so every trainer asks for the batches one by one, and sends all its outputs at the end. No
trainer goes on training before the outputs of all are here, because the others may still read rows of that step from
the servers. A request names what the trainer lacks, so a repeated one, to this process or to a restarted one, is
answered like the first. An evaluation that an earlier process has judged is in the history, and its figures are sent at
once.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bagpipe.batch import Floats
from bagpipe.config.evaluation import EvaluationConfig
from bagpipe.metrics.validations import Validation, may_stop, stops_at
from bagpipe.net.messages import NeedValidation, ValidationDone, ValidationOutputs
from bagpipe.oracle.service.actions import Action, Ignored, Send, SendPlan
from bagpipe.oracle.service.silence import Turn


@dataclass(slots=True)
class _Reader:
    """How far one trainer is."""

    peer: bytes
    here: int
    """Batches of which it has said that they have arrived."""
    next: int
    """First batch that it was not sent."""
    until: int
    """First batch that it does not want yet."""


@dataclass(slots=True)
class _Round:
    """One evaluation that is under way."""

    step: int
    readers: dict[int, _Reader] = field(default_factory=dict)
    outputs: dict[int, tuple[Floats, str]] = field(default_factory=dict)
    """Of each rank that has evaluated every batch: its outputs, and why there are none."""
    made: int = 0
    """Batches that have been made."""
    batches: deque[tuple[int, Mapping[int, Any]]] = field(default_factory=deque)
    """Those that somebody still lacks: number and each rank's frames."""


@dataclass(slots=True)
class Validations:
    """All evaluations of an attempt.

    Args:
        history: those before it, and those that a predecessor of this process has judged.
        config: when training stops early.
        depth: batches that a trainer may be ahead of the slowest one.
    """

    num_trainers: int
    config: EvaluationConfig
    depth: int = 4
    history: list[Validation] = field(default_factory=list)
    num_batches: int = 0
    """Of the validation part; set before plans are made."""
    _expected: set[int] = field(default_factory=set)
    """Steps that are planned with an evaluation which is not in the history."""
    _round: _Round | None = None

    # ── what training asks ────────────────────────────────────────────────────────────────────────

    def planned(self, step: int) -> None:
        """This step's plan says that an evaluation follows."""
        if not self._judged(step):
            self._expected.add(step)

    @property
    def stops_at(self) -> int | None:
        """Number of steps after which training ends early, if that is known."""
        return stops_at(self.history, self.config)

    @property
    def holds_plans(self) -> bool:
        """Whether an evaluation that is to come may end training: what comes after it is not planned."""
        if self.config.early_stopping is None or not self._expected:
            return False
        return len(self._expected) > 1 or may_stop(self.history, self.config)

    @property
    def over(self) -> bool:
        """Whether every evaluation that was planned is judged."""
        return not self._expected

    def knows(self, step: int) -> bool:
        """Whether an evaluation after this step is planned, or judged."""
        return step in self._expected or self._judged(step) is not None

    # ── what trainers say ─────────────────────────────────────────────────────────────────────────

    def receive(
        self, peer: bytes, message: NeedValidation | ValidationOutputs, arrays: Sequence[Floats]
    ) -> list[Action]:
        """Answer one message."""
        if isinstance(message, NeedValidation):
            return self.need(peer, message)
        return self.outputs(peer, message, arrays)

    def need(self, peer: bytes, message: NeedValidation) -> list[Action]:
        """A trainer wants batches."""
        if (judged := self._judged(message.step)) is not None:
            return [Send(peer, self._verdict(judged))]
        if self._late(message.step):
            return []
        if why := self._early(message):
            return [why]
        current = self._current(message.step)
        if message.rank in current.outputs:
            return []  # It comes late: this trainer lacks nothing, and nobody must wait for it.
        known = current.readers.get(message.rank, _Reader(peer, message.next, message.next, message.until))
        # What a trainer has it does not lack again, so a request that comes late or twice sets nothing back.
        here, until = max(message.next, known.here), max(message.until, known.until)
        current.readers[message.rank] = _Reader(peer, here, here, until)
        return self._due(current)

    def outputs(self, peer: bytes, message: ValidationOutputs, arrays: Sequence[Floats]) -> list[Action]:
        """A trainer has evaluated every batch."""
        if (judged := self._judged(message.step)) is not None:
            return [Send(peer, self._verdict(judged))]
        if self._late(message.step):
            return []
        if why := self._early(message):
            return [why]
        current = self._current(message.step)
        current.readers[message.rank] = _Reader(peer, *[_ALL] * 3)
        current.outputs[message.rank] = (arrays[0] if arrays else _NOTHING, message.failed)
        return []

    # ── what the shell does ───────────────────────────────────────────────────────────────────────

    @property
    def current(self) -> int | None:
        """The step of the evaluation that is under way."""
        return self._round.step if self._round is not None else None

    @property
    def wants_batch(self) -> bool:
        """Whether a trainer waits for a batch that is not made."""
        current = self._round
        if current is None:
            return False
        asked = max((reader.until for reader in current.readers.values()), default=0)
        return current.made < min(asked, self.num_batches, self._lowest(current) + self.depth + 1)

    def add_batch(self, frames: Mapping[int, Any]) -> list[Action]:
        """The next batch of the evaluation that is under way, encoded for each rank."""
        current = self._round
        assert current is not None, "a batch of no evaluation"
        current.batches.append((current.made, frames))
        current.made += 1
        return self._due(current)

    @property
    def complete(self) -> bool:
        """Whether the outputs of every trainer are here."""
        return self._round is not None and len(self._round.outputs) == self.num_trainers

    def all_outputs(self) -> tuple[list[Floats], str]:
        """Of the evaluation that is under way: each rank's outputs, and the first reason why there are none."""
        assert self._round is not None, "outputs of no evaluation"
        ranked = [self._round.outputs[rank] for rank in range(self.num_trainers)]
        return [outputs for outputs, _ in ranked], next((why for _, why in ranked if why), "")

    def judged(self, validation: Validation) -> list[Action]:
        """The evaluation that is under way has its figures: tell every trainer to go on training."""
        current, self._round = self._round, None
        assert current is not None, "figures of no evaluation"
        self.history.append(validation)
        self._expected.discard(current.step)
        verdict = self._verdict(validation)
        return [Send(reader.peer, verdict) for _, reader in sorted(current.readers.items())]

    def takes_part(self, rank: int) -> bool:
        """Whether a trainer is in the evaluation that is under way."""
        return self._round is not None and rank in self._round.readers

    def turn(self, rank: int, step: int, seconds: float) -> Turn | None:
        """What this trainer, which takes part, has to do; None where it waits for others.

        Args:
            step: the one that it is at.
            seconds: in which it evaluates a batch.
        """
        if self._round is None or rank in self._round.outputs:
            return None
        reader = self._round.readers[rank]
        if reader.here == reader.next < self.num_batches:
            return None
        return Turn(f"evaluate batch {reader.here} of the validation part", step, seconds, "stepSeconds")

    # ── how ───────────────────────────────────────────────────────────────────────────────────────

    def _current(self, step: int) -> _Round:
        if self._round is None or self._round.step != step:
            self._round = _Round(step)
        return self._round

    @property
    def _next(self) -> int | None:
        """The step of the evaluation that is to be judged next; None: none is planned, as far as this process knows."""
        return min(self._expected, default=None)

    def _late(self, step: int) -> bool:
        """Whether a newer evaluation is under way, so that nobody waits for the figures of this one."""
        return self._round is not None and step < self._round.step and step != self._next

    def _early(self, message: NeedValidation | ValidationOutputs) -> Ignored | None:
        """No trainer goes on before an evaluation is judged, so what one says of a later evaluation cannot be true, and
        must not take the place of what the others have said of that one.
        """
        if self._next is None or message.step <= self._next:
            return None
        return Ignored(
            f"ignored a {type(message).__name__} of trainer {message.rank} about the evaluation after step "
            f"{message.step}: that after step {self._next} comes first"
        )

    def _judged(self, step: int) -> Validation | None:
        return next((one for one in reversed(self.history) if one.step == step + 1), None)

    def _verdict(self, validation: Validation) -> ValidationDone:
        return ValidationDone(step=validation.step - 1, validation=validation)

    def _due(self, current: _Round) -> list[Action]:
        due: list[Action] = []
        for rank, reader in current.readers.items():
            for number, frames in current.batches:
                if reader.next <= number < reader.until:
                    due.append(SendPlan(reader.peer, frames[rank]))
                    reader.next = number + 1
        lowest = self._lowest(current)
        while current.batches and current.batches[0][0] < lowest:
            current.batches.popleft()
        return due

    def _lowest(self, current: _Round) -> int:
        """Batches that have arrived at every trainer."""
        here = [reader.here for reader in current.readers.values()]
        return min(here) if len(here) == self.num_trainers else 0


_ALL = 2**53
"""More batches than any part has: where a trainer asks before the data is open, their number is not known."""
_NOTHING: Floats = np.empty(0, np.float32)
