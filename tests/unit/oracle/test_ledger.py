"""Steps are told whole, once and in order, however their parts arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.net.messages import StepDone
from bagpipe.oracle.service.ledger import StepLedger, Told
from bagpipe.oracle.service.report import mean_loss

STEPS = 6


def told(rank: int, step: int, loss: float | None = 0.5) -> Told:
    done = StepDone(rank=rank, step=step, loss=loss, num_examples=10, seconds=0.1, waits={})
    return Told(done, np.empty(0, np.float32))


@given(
    world=st.integers(1, 3),
    repeated=st.lists(st.tuples(st.integers(0, 2), st.integers(0, STEPS - 1)), max_size=20),
    data=st.data(),
)
def test_each_step_once_and_in_order(world: int, repeated: list[tuple[int, int]], data: st.DataObject) -> None:
    """Parts of several trainers in any order, some of them twice."""
    parts = [(rank, step) for rank in range(world) for step in range(STEPS)]
    parts += [(rank % world, step) for rank, step in repeated]
    ledger = StepLedger(world, 0)
    out = [whole for part in data.draw(st.permutations(parts)) for whole in ledger.add(told(*part))]
    assert [whole.step for whole in out] == list(range(STEPS)) and ledger.missing == 0
    assert all([part.done.rank for part in whole.parts] == list(range(world)) for whole in out)


def test_a_remade_connection_loses_nothing() -> None:
    """One trainer asks for plans anew before the other has told the step: the step and its loss are kept."""
    ledger = StepLedger(2, 0)
    ledger.add(told(0, 0))
    ledger.add(told(1, 0))
    assert ledger.add(told(0, 1, loss=1.5)) == ()
    assert ledger.joined(0, told_from=0) == ()
    assert ledger.add(told(0, 1, loss=9.0)) == ()
    (last,) = ledger.add(told(1, 1, loss=1.5))
    assert last.step == 1 and mean_loss(last) == 1.5 and ledger.missing == 0


def test_a_restarted_oracle_misses_what_its_predecessor_was_told() -> None:
    """Steps that some trainer does not tell again are skipped and counted; from there on nothing is lost."""
    ledger = StepLedger(2, 0)
    assert ledger.joined(0, told_from=3) == ()
    out = [w.step for rank, step in [(0, 3), (0, 4), (0, 5)] for w in ledger.add(told(rank, step))]
    assert out == [] and ledger.missing == 0, "the other one may tell them all"
    ledger.joined(1, told_from=4)
    out = [w.step for step in (4, 5) for w in ledger.add(told(1, step))]
    assert out == [4, 5] and ledger.missing == 4


@pytest.mark.parametrize("losses", [(None, 0.5), (0.5, None)])
def test_a_loss_that_one_trainer_does_not_tell_is_not_known(losses: tuple[float | None, float | None]) -> None:
    """Half of a mean would be a number of another thing."""
    ledger = StepLedger(2, 0)
    out = [w for rank, loss in enumerate(losses) for w in ledger.add(told(rank, 0, loss))]
    assert mean_loss(out[0]) is None
