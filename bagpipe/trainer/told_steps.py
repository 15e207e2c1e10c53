"""Keeps a trainer's latest reports of finished steps, which are sent again when the oracle's connection was remade.

A `StepDone` that is on its way when a connection breaks, or when the oracle is killed, is lost, and nobody is told. The
oracle sends a trainer no plan that is more than `credit` steps beyond the last `StepDone` it has, so it may lack those
of the last `credit` steps and no earlier ones. An oracle that gets one twice ignores the second.
"""

from collections import deque
from collections.abc import Sequence

from bagpipe.batch import Floats
from bagpipe.net.connection import Connection
from bagpipe.net.messages import NeedPlans, StepDone


class ToldSteps:
    """Reports one trainer's finished steps to the oracle.

    Args:
        credit: steps for which the oracle may send plans beyond the last one it knows to be finished.
    """

    def __init__(self, oracle: Connection, *, rank: int, first_step: int, credit: int) -> None:
        self._oracle, self._rank, self._credit = oracle, rank, credit
        self._finished = first_step - 1
        self._latest: deque[tuple[StepDone, Sequence[Floats]]] = deque(maxlen=credit)

    def tell(self, done: StepDone, arrays: Sequence[Floats] = ()) -> None:
        """This trainer finished a step."""
        self._finished = done.step
        self._latest.append((done, arrays))
        self._oracle.send(done, arrays)

    def ask_for_plans(self, step: int) -> None:
        """Ask for the plans from `step` on, and tell the latest finished steps once more."""
        told_from = self._latest[0][0].step if self._latest else self._finished + 1
        need = NeedPlans(rank=self._rank, step=step, credit=self._credit, done=self._finished, told_from=told_from)
        self._oracle.send(need)
        for done, arrays in self._latest:
            self._oracle.send(done, arrays)
