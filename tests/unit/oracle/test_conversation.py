"""An attempt from the first Hello to the last goodbye, whatever happens to its roles, its connections and its oracle.

A small world of trainers and servers talks to the real `Conversation` through queues that a test may cut. Trainers
tell their steps by the real `ToldSteps`. What is asserted holds for every order of events that hypothesis finds.
"""

import pytest
from conversation_world import LIMITS, World, check_whole, run
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.checkpoint.store import SNAPSHOT_SECONDS
from bagpipe.errors import PeerLost
from bagpipe.net.messages import (
    Hello,
    Refused,
    Saved,
    SaveFirst,
    Wait,
)
from bagpipe.oracle.service.actions import EndAttempt, Send, TurnAway
from bagpipe.oracle.service.stages import Leaving


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), scores=st.integers(0, 3))
def test_every_step_is_done_recorded_and_scored_once(data: st.DataObject, trainers: int, scores: int) -> None:
    """Hellos, plans, reports and goodbyes in any order, every connection reset up to twice at any moment."""
    world = World(trainers, steps=6, scores=scores)
    run(world, data, faults=2)
    assert world.planned == 6 + scores
    check_whole(world, scores=scores)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), scores=st.integers(0, 3))
def test_an_oracle_replaced_at_any_moment_loses_nothing(data: st.DataObject, trainers: int, scores: int) -> None:
    """In training, between, and in the evaluation; connections are reset as well."""
    world = World(trainers, steps=6, scores=scores)
    run(world, data, faults=2, restarts=2)
    check_whole(world, scores=scores)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_an_oracle_replaced_while_the_roles_leave_misses_nobody(data: st.DataObject, trainers: int) -> None:
    """It waits for those that have something left to do, and for none that has gone."""
    world = World(trainers, steps=1, scores=1)
    run(world, data, faults=1, restarts=6, while_leaving=True)
    check_whole(world, scores=1)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3))
def test_a_stop_ends_training_early_and_whole(data: st.DataObject, trainers: int) -> None:
    """A trainer that is asked to stop ends the run for all after the same step; the evaluation is left out."""
    world = World(trainers, steps=40, scores=2)
    run(world, data, faults=0, stops=1)
    scores = len(world.scored_all) // trainers
    check_whole(world, scores=scores)
    if world.planned < 40:
        assert world.talk.stop_asked and not world.evaluating


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trainers=st.integers(1, 3), step=st.integers(0, 7))
def test_the_trainer_that_hangs_is_named(data: st.DataObject, trainers: int, step: int) -> None:
    """It stops at any step, its connection stays. Trainers that are ahead of it, or wait for plans, are not blamed."""
    world = World(trainers, steps=6, scores=2)
    hung = world.members[data.draw(st.integers(0, trainers - 1))]
    while hung.next_step < step:
        everything = [*world.moves(), ("oracle", hung)]
        move, role = data.draw(st.sampled_from(everything))
        world.oracle_moves() if move == "oracle" else world.do(move, role)
    # From here on it does nothing; the others and the oracle go on for as long as they can.
    while world.oracle_moves() or world.moves(hung=hung):
        moves = world.moves(hung=hung)
        if moves:
            world.do(*data.draw(st.sampled_from(moves)))
    world.act(world.talk.pass_time(world.now))
    patience = LIMITS.startup if step == 0 else LIMITS.step
    world.act(world.talk.pass_time(world.now + patience - 0.5))
    with pytest.raises(PeerLost, match=r"oracle: trainer .* did not") as caught:
        world.talk.pass_time(world.now + patience + 0.5)
    blamed = {role.index for role in world.members if f"trainer {role.index}" in str(caught.value).split(" did not")[0]}
    # One that waits within the same step for the hung one looks the same from here.
    assert hung.index in blamed and blamed <= {r.index for r in world.members if r.next_step == hung.next_step}


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), trainers=st.integers(1, 3), after=st.integers(0, 60), kind=st.sampled_from(["trainer", "server"])
)
def test_a_role_that_vanishes_is_named(data: st.DataObject, trainers: int, after: int, kind: str) -> None:
    """Once the job has begun: a trainer within `deadPeerSeconds`, a server when it may not come back any more."""
    world = World(trainers, steps=50, scores=0)
    victim = data.draw(st.sampled_from([role for role in world.roles if role.kind == kind]))
    for _ in range(2000):
        if world.topology_kept and after <= 0:
            break
        after -= world.topology_kept
        everything = [*world.moves(), ("oracle", victim)]
        move, role = data.draw(st.sampled_from(everything))
        world.oracle_moves() if move == "oracle" else world.do(move, role)
    limit = LIMITS.dead_peer if kind == "trainer" else LIMITS.server_return
    world.act(world.talk.pass_time(1.0, []))
    warned = world.talk.pass_time(2.0, [victim.peer])
    assert any(f"{kind} {victim.index} is gone" in str(action) for action in warned)
    world.talk.pass_time(2.0 + limit - 0.5, [victim.peer])
    with pytest.raises(PeerLost, match=f"{kind} {victim.index} at tcp://{kind}{victim.index}:1 has vanished"):
        world.talk.pass_time(2.0 + limit + 0.5, [victim.peer])


def assembled(trainers: int = 2) -> World:
    """Every trainer has asked for plans, none is planned."""
    world = World(trainers, steps=6, scores=0)
    while not (world.topology_kept and world.talk.outbox.everyone):
        for move in world.moves():
            world.do(*move)
        if not world.topology_kept:
            world.oracle_moves()
    return world


def drain(world: World) -> None:
    """Deliver everything, and let the oracle do all it can, until only trainers can go on."""
    while True:
        moves = [move for move in world.moves() if move[0] in ("deliver", "take")]
        if not moves and not world.oracle_moves():
            return
        for move in moves:
            world.do(*move)


def test_all_steps_whose_reports_were_lost_at_once_are_told_again() -> None:
    """A trainer goes as far as its credit reaches before a reset takes all of its reports."""
    world = assembled(1)
    drain(world)
    (trainer,) = world.members
    while trainer.plans:
        world.finish_step(trainer)
    assert trainer.next_step > 2 and world.records == []
    trainer.reset()
    drain(world)
    assert world.records == list(range(trainer.next_step))


def test_a_goodbye_that_was_lost_is_said_again() -> None:
    """The connection breaks while `NoMorePlans` is on its way."""
    world = assembled(1)
    (trainer,) = world.members
    while not isinstance(world.talk.stage, Leaving):
        drain(world)
        while trainer.plans:
            world.finish_step(trainer)
        while trainer.sent:
            world.deliver(trainer)
        while not isinstance(world.talk.stage, Leaving) and world.oracle_moves():
            pass
    trainer.reset()
    drain(world)
    assert trainer.released


def test_training_is_not_over_before_its_last_report_is_here() -> None:
    """A trainer that rejoins says first that it is done, and only then what the last step came to."""
    world = World(1, steps=1, scores=0)
    drain(world)
    (trainer,) = world.members
    world.finish_step(trainer)
    trainer.reset()
    while world.records == []:
        assert not world.talk.stream_over
        world.deliver(trainer)
        if not isinstance(world.talk.stage, Leaving) and world.talk.wants_plan:
            world.oracle_moves()
    assert world.talk.stream_over and world.records == [0]


def test_an_evaluation_is_not_over_before_its_last_score_is_here() -> None:
    """A trainer that rejoins says first that it is done, and only then how it scored its last slice."""
    world = World(1, steps=1, scores=1)
    (trainer,) = world.members
    for _ in ("training", "evaluation"):
        drain(world)
        world.finish_step(trainer)
    assert world.evaluating
    trainer.reset()
    while not world.kept_scores:
        assert not world.talk.stream_over
        world.deliver(trainer)
    assert world.talk.stream_over and [float(part[0]) for part in world.talk.scores.in_order(1)] == [10.0]


def test_a_connection_that_is_remade_by_itself_has_a_new_clock() -> None:
    """The socket keeps its name over a reset: the role is there again, and may be gone as long once more."""
    world = assembled()
    peer = world.members[0].peer
    world.talk.pass_time(1.0, [peer])
    world.talk.pass_time(5.0, [])
    world.talk.pass_time(12.0, [peer])
    assert world.talk.pass_time(21.0, [peer]) == []
    with pytest.raises(PeerLost, match="trainer 0 at tcp://trainer0:1 has vanished"):
        world.talk.pass_time(23.0, [peer])


def test_slow_planning_is_held_against_nobody() -> None:
    """However long the oracle takes for a plan, a trainer that has none is not late."""
    world = assembled()
    for now in (1.0, 1e3, 1e6):
        assert world.talk.pass_time(now, []) == []


def test_a_role_that_comes_back_in_time_is_forgotten_about() -> None:
    """The server's process was killed and started again on its files: no end, and a new clock if it goes again."""
    world = assembled()
    server = world.roles[0]
    world.talk.pass_time(1.0, [server.peer])
    server.reset()
    world.deliver(server)
    world.talk.pass_time(59.0, [])
    world.talk.pass_time(60.0, [server.peer])
    assert world.talk.pass_time(119.0, [server.peer]) == []


def test_before_the_job_begins_a_vanished_role_leaves_its_place_to_another() -> None:
    """Nothing is lost with it; a process at another address takes over, and the start goes on."""
    world = World(1, steps=1, scores=0)
    trainer, server = world.members[0], world.roles[0]
    world.deliver(trainer)
    world.talk.gather(0.0)
    world.talk.pass_time(1.0, [trainer.peer])
    world.talk.pass_time(12.0, [trainer.peer])
    assert world.talk.rendezvous.missing() == "server 0, trainer 0"
    other = Hello(job="j", attempt=0, role="trainer", index=0, endpoint="tcp://elsewhere:1")
    assert world.talk.receive(b"other", other, []) == [Send(b"other", Wait(missing="server 0"))]
    world.deliver(server)
    assert world.talk.rendezvous.complete


def test_a_role_that_was_killed_before_the_job_begins_may_begin_elsewhere_at_once() -> None:
    """The listener lets another process in where the first one's connection has ended: its address is taken then,
    before anybody has noticed that the first one is gone. Once the topology is told, addresses stay as they are.
    """
    world = World(1, steps=1, scores=0)
    world.deliver(world.members[0])
    world.talk.gather(0.0)
    other = Hello(job="j", attempt=0, role="trainer", index=0, endpoint="tcp://elsewhere:1")
    assert world.talk.receive(b"other", other, []) == [Send(b"other", Wait(missing="server 0"))]
    assert world.talk.rendezvous.trainer_endpoints() == ("tcp://elsewhere:1",)
    begun = assembled(1)
    (refused,) = begun.talk.receive(b"other", other, [])
    assert isinstance(refused, TurnAway) and "already registered at tcp://trainer0:1" in refused.refused.reason


def test_who_does_not_come_is_named() -> None:
    """The start has a deadline that begins when the data is ready."""
    world = World(2, steps=1, scores=0)
    world.deliver(world.members[0])
    world.talk.pass_time(500.0, [])
    world.talk.gather(500.0)
    world.talk.pass_time(599.0, [])
    with pytest.raises(PeerLost, match=r"server 0, trainer 1 did not register within 100 s \(spec.transport.startup"):
        world.talk.pass_time(601.0, [])


def test_start_up_counts_against_its_own_limit() -> None:
    """Building and compiling before and within the first step: `startupSeconds`; later steps: `stepSeconds`."""
    world = assembled(1)
    (trainer,) = world.members
    while world.oracle_moves():
        pass
    world.talk.pass_time(0.0)
    world.talk.pass_time(LIMITS.startup - 1)
    while trainer.received:
        trainer.take()
    world.finish_step(trainer)
    world.deliver(trainer)
    world.talk.pass_time(200.0)
    world.talk.pass_time(200.0 + LIMITS.step - 1)
    with pytest.raises(PeerLost, match=r"trainer 0 did not finish step 1 within 30 s; .*transport.stepSeconds"):
        world.talk.pass_time(200.0 + LIMITS.step + 1)


def test_a_last_checkpoint_may_take_longer_than_a_step() -> None:
    """Its snapshots may meet a slow disk; a trainer that hangs there is named all the same."""
    world = assembled(1)
    world.talk.leave(0, stopped=False)
    world.talk.pass_time(0.0)
    world.talk.pass_time(LIMITS.step + SNAPSHOT_SECONDS - 1)
    with pytest.raises(PeerLost, match="trainer 0 did not finish its last checkpoint and leave"):
        world.talk.pass_time(LIMITS.step + SNAPSHOT_SECONDS + 1)


def talking(trainers: int) -> World:
    """A world whose roles have all joined and got their first plans."""
    world = World(trainers, steps=4, scores=0)
    for _ in range(20):
        for role in world.roles:
            while role.sent:
                world.deliver(role)
            while role.received:
                role.take()
        world.oracle_moves()
    return world


def test_an_attempt_that_diverges_ends_when_its_checkpoint_is_complete() -> None:
    """Or when that takes too long; without one under way it ends at once."""
    why = Refused(reason="diverged", exit_code=65, saved_first=2)
    world = talking(trainers=2)
    first, second = (role.peer for role in world.members)
    asked = world.talk.receive(second, why, [])
    assert asked == [Send(peer, SaveFirst(step=2)) for peer in world.talk.outbox.peers]
    assert {action.peer for action in asked if isinstance(action, Send)} == {first, second}
    assert world.talk.receive(first, Saved(rank=0, step=2), []) == [EndAttempt(why)]
    assert world.talk.receive(second, why, []) == [EndAttempt(why)]
    slow = talking(trainers=2)
    slow.talk.receive(second, why, [])
    assert slow.talk.pass_time(1.0) == []
    assert slow.talk.pass_time(2.0 + SNAPSHOT_SECONDS) == [EndAttempt(why)]
