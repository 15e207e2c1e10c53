"""Which trainer the oracle has been waiting for too long. Pure.

The oracle waits for a trainer only where it is the trainer's turn: it has the plan of its next step, or it must ask
for its first plans, or it must leave. Each such turn has a clock of its own, which begins with the turn and counts the
seconds in which the oracle listened. A trainer that has no plan, because the oracle is still planning, is never late.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bagpipe.errors import PeerLost


@dataclass(frozen=True, slots=True)
class Turn:
    """What one trainer has to do next, for at most so many seconds."""

    what: str
    """The rest of the sentence "trainer 1 did not ..."."""
    step: int
    """The step it concerns: a trainer at an earlier step holds up those at later ones."""
    seconds: float
    setting: str
    """The setting of `spec.transport` that holds this limit."""


@dataclass(slots=True)
class Silence:
    """The turn of every trainer, by rank, and since when it has lasted."""

    _turns: dict[int, Turn] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)

    def check(self, turns: Mapping[int, Turn], now: float) -> None:
        """Compare with the turns of the last check.

        Raises:
            PeerLost: a turn has lasted longer than it may; names the trainers that hold up the others.
        """
        for rank, turn in turns.items():
            if self._turns.get(rank) != turn:
                self._since[rank] = now
        self._turns = dict(turns)
        late = {rank: turn for rank, turn in turns.items() if now - self._since[rank] > turn.seconds}
        if late:
            raise PeerLost(_explain(late, turns))


def _explain(late: Mapping[int, Turn], turns: Mapping[int, Turn]) -> str:
    first = min(turn.step for turn in late.values())
    ranks = sorted(rank for rank, turn in late.items() if turn.step == first)
    turn = late[ranks[0]]
    names = ", ".join(f"trainer {rank}" for rank in ranks)
    ahead = [f"trainer {rank} is at step {other.step}" for rank, other in sorted(turns.items()) if other.step > first]
    others = f" ({', '.join(ahead)})" if ahead else ""
    return (
        f"oracle: {names} did not {turn.what} within {turn.seconds:g} s{others}; look at its log, "
        f"or raise spec.transport.{turn.setting} if that may take so long"
    )
