"""What a member says of its progress and cannot be true holds nothing up, takes no memory and ends nothing."""

from typing import Any

import numpy as np
import pytest
from conversation_world import DEPTH, World, check_whole, run
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bagpipe.net.messages import (
    Message,
    NeedPlans,
    NeedValidation,
    Ping,
    Pong,
    Refused,
    Saved,
    StepDone,
    ValidationOutputs,
)
from bagpipe.oracle.service.actions import Ignored, Send
from bagpipe.oracle.service.claims import disbelieved, wrong_validation
from bagpipe.oracle.service.ledger import StepLedger

FAR = 2**52


def step_done(step: int) -> StepDone:
    return StepDone(rank=0, step=step, loss=1.0, num_examples=1, seconds=1.0, waits={})


LIES = (
    step_done(FAR),
    NeedPlans(rank=0, step=FAR, credit=1, done=-1, told_from=0),
    NeedPlans(rank=0, step=0, credit=1, done=FAR, told_from=0),
    NeedPlans(rank=0, step=0, credit=1, done=-1, told_from=FAR),
    NeedValidation(rank=0, step=FAR, next=0, until=4),
    ValidationOutputs(rank=0, step=FAR),
    Saved(rank=0, step=FAR),
)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_a_run_goes_on_as_if_the_lies_had_not_been_told(data: st.DataObject, trainers: int) -> None:
    """A trainer's connection carries a lie at some moments: every step is recorded, every slice scored, once."""
    world = World(trainers, steps=5, scores=2)
    original = world.talk.receive

    def lied(peer: bytes, message: Message, arrays: list[object]) -> list[object]:
        if peer.startswith(b"trainer") and data.draw(st.booleans()):
            world.act(original(peer, data.draw(st.sampled_from(LIES)), []))
        return original(peer, message, arrays)

    world.deliver = lambda role: world.act(lied(*role.sent.popleft()))  # type: ignore[method-assign]
    run(world, data, faults=1)
    check_whole(world, scores=2)


@pytest.mark.parametrize("lie", LIES, ids=[f"{number} {type(lie).__name__}" for number, lie in enumerate(LIES)])
def test_a_lie_is_counted_and_no_more(lie: Message) -> None:
    """The answer is that one message was ignored; the next true one is heard as before."""
    world = World(1, steps=4, scores=0)
    (ignored,) = world.talk.receive(b"trainer 0 0", lie, [])
    assert isinstance(ignored, Ignored) and str(FAR)[:6] in ignored.text
    assert world.talk.outbox.step_of(0) is None and world.talk.ledger.next_step == 0


LOGITS = np.zeros(3, np.float32)
CONTRADICTIONS: dict[str, tuple[Message, list[Any]]] = {
    "a step of training with outputs": (step_done(0), [LOGITS]),
    "a wait that no step has": (structs.replace(step_done(0), waits={"plan": 0.1, "made up": 0.1}), []),
    "a step of training with float64": (step_done(0), [np.zeros(3)]),
    "two arrays": (step_done(0), [LOGITS, LOGITS]),
    "a validation that was not planned": (NeedValidation(rank=0, step=0, next=0, until=4), []),
    "outputs of no validation": (ValidationOutputs(rank=0, step=0), [LOGITS]),
}
IN_EVALUATION: dict[str, tuple[Message, list[Any]]] = {
    "a step of the evaluation without outputs": (step_done(1), []),
    "whole numbers": (step_done(1), [np.zeros(3, np.int64)]),
    "more outputs than a batch has": (step_done(1), [np.zeros(10**6, np.float32)]),
}


def drained(world: World) -> World:
    """Until every plan that may be sent is at its trainer."""
    while moves := [move for move in world.moves() if move[0] in ("deliver", "take")] or world.oracle_moves():
        if isinstance(moves, list):
            world.do(*moves[0])
    return world


def refused_to_its_sender(world: World, lie: Message, arrays: list[Any]) -> None:
    (trainer,) = world.members
    counted, answer = world.talk.receive(trainer.peer, lie, arrays)
    assert isinstance(counted, Ignored) and "trainer 0" in counted.text
    assert isinstance(answer, Send) and answer.peer == trainer.peer
    assert isinstance(answer.message, Refused) and "trainer 0" in answer.message.reason


@pytest.mark.parametrize(("lie", "arrays"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_a_plan_is_refused_to_its_sender(lie: Message, arrays: list[Any]) -> None:
    """A step that counted as done and was never reported would have everybody wait for nobody, without a deadline."""
    world = drained(World(1, steps=2, scores=1))
    refused_to_its_sender(world, lie, arrays)
    assert world.talk.outbox.step_of(0) == 0 and world.talk.validations.current is None
    assert world.talk.scores.parts == {}
    world.finish_step(world.members[0])
    drained(world)
    assert world.records == [0]


@pytest.mark.parametrize(("lie", "arrays"), IN_EVALUATION.values(), ids=IN_EVALUATION)
def test_what_contradicts_an_evaluation_is_refused_to_its_sender(lie: Message, arrays: list[Any]) -> None:
    """A step of the evaluation without outputs would never be complete, and numbers of another type no outputs."""
    world = drained(World(1, steps=1, scores=1))
    world.finish_step(world.members[0])
    drained(world)
    assert world.evaluating
    refused_to_its_sender(world, lie, arrays)
    world.finish_step(world.members[0])
    drained(world)
    assert [float(one[0]) for one in world.scored_all] == [10.0]


@pytest.mark.parametrize(
    "arrays",
    [[], [LOGITS, LOGITS], [LOGITS.astype(np.int64)], [LOGITS.reshape(1, 3)], [LOGITS[0]], [np.zeros(99, np.float32)]],
    ids=["none", "two", "whole numbers", "a table", "a number", "too many"],
)
def test_outputs_of_a_validation_are_one_list_of_floats(arrays: list[Any]) -> None:
    """Whatever else comes is told to its sender, and does not end the oracle when it is judged."""
    message = ValidationOutputs(rank=1, step=4)
    right = wrong_validation(message, [LOGITS], unplanned=False, most=3)
    assert right == "" and "trainer 1" in wrong_validation(message, arrays, unplanned=False, most=3)


def test_a_ping_is_answered() -> None:
    """As messages.py says: anybody may ask whether the oracle is there, and nothing is written down about it."""
    assert World(1, steps=1, scores=0).talk.receive(b"somebody", Ping(), []) == [Send(b"somebody", Pong())]


def test_a_jump_of_the_ledger_takes_no_longer_than_a_step() -> None:
    """A restarted oracle hears of the first step that is told to it at once, however far that is."""
    ledger = StepLedger(2, 0)
    ledger.joined(0, told_from=FAR)
    ledger.joined(1, told_from=FAR)
    assert (ledger.next_step, ledger.missing) == (FAR, FAR)


def test_a_restarted_oracle_believes_no_trainer_that_is_far_ahead_of_the_others() -> None:
    """Of what the others tell, a few steps may be lost to such a lie, and not all that follow."""
    world = World(2, steps=9, scores=0)
    world.topology_kept = True
    world.start_oracle()
    ahead = world.talk.outbox.keep_early
    for rank, begin in enumerate((FAR, 100)):
        need = NeedPlans(rank=rank, step=begin, credit=1, done=begin - 1, told_from=begin)
        assert world.talk.receive(f"trainer {rank} 0".encode(), need, []) == []
    assert world.talk.ledger.next_step == 100 + ahead
    need = NeedPlans(rank=0, step=100, credit=1, done=99, told_from=FAR)
    (ignored,) = world.talk.receive(b"trainer 0 0", need, [])
    assert isinstance(ignored, Ignored) and str(FAR)[:6] in ignored.text


@given(told_from=st.integers(0, 50), planned=st.integers(0, 50), steps=st.lists(st.integers(0, 2**53), max_size=60))
def test_what_a_restarted_oracle_keeps_is_bounded(told_from: int, planned: int, steps: list[int]) -> None:
    """Whatever a trainer says that it has finished, so many steps are kept at most; those it can have finished are."""
    ahead = 4 * DEPTH + 16
    kept = [
        step
        for step in steps
        if not disbelieved(step_done(step), planned=planned, told_from=told_from, ahead=ahead, restarted=True)
    ]
    assert all(step < max(planned, told_from + ahead) for step in kept)
    assert {step for step in steps if step < told_from + ahead} <= set(kept)
    assert disbelieved(step_done(0), planned=planned, told_from=None, ahead=ahead, restarted=True)
