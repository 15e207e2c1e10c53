"""The logits of the evaluation, as trainers send them: which are here, and which can still come. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bagpipe.batch import Floats
from bagpipe.errors import PeerLost
from bagpipe.net.messages import StepDone


@dataclass(slots=True)
class Scores:
    """The logits of `num_trainers` trainers."""

    num_trainers: int
    parts: dict[int, dict[int, Floats]] = field(default_factory=dict)
    """By step and rank."""
    failed: str = ""
    """Why a trainer's model gave no logits; the first reason."""

    def add(self, done: StepDone, logits: Floats) -> bool:
        """A trainer scored its slice of a step; False if that was known."""
        parts = self.parts.setdefault(done.step, {})
        if done.rank in parts:
            return False
        parts[done.rank] = logits
        self.failed = self.failed or done.failed
        return True

    def in_order(self, first_step: int) -> list[Floats]:
        """All from `first_step` on, in the order of their examples."""
        everything = sorted((step, rank) for step, parts in self.parts.items() for rank in parts if step >= first_step)
        return [self.parts[step][rank] for step, rank in everything]

    def complete(self, first_step: int, end: int, told_from: Mapping[int, int]) -> bool:
        """Whether every score of the steps from `first_step` to before `end` is here.

        Args:
            told_from: the first step that each trainer tells this process.

        Raises:
            PeerLost: a score was sent to a predecessor of this process, and was lost with it.
        """
        for step in range(first_step, end):
            for rank in set(range(self.num_trainers)) - self.parts.get(step, {}).keys():
                if step < told_from[rank]:
                    raise PeerLost(
                        f"oracle: restarted during evaluation, and the scores of step {step} were lost with its "
                        "predecessor; the evaluation must be done again"
                    )
                return False
        return True
