"""The step as a machine: exact and never stuck in every schedule, and each rule of its table is needed.

Two or three machines with their deliveries, one server and the oracle's plans run in every order that hypothesis finds,
one instruction at a time, while connections are reset. Every row that is read is compared with the uncached run.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_world import world

from bagpipe.errors import BagpipeError
from bagpipe.oracle.service import claims
from bagpipe.trainer.machine import Instruction, StepFacts, StepMachine
from bagpipe.trainer.pipeline import _COUNTED
from bagpipe.trainer.step import StepWatch
from bagpipe.trainer.transitions import RELEASE, TABLE, WAITS, Do, Event, Guard, Rule, State


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    world_size=st.integers(1, 3),
    lookahead=st.sampled_from([0, 1, 2, 4]),
    depth=st.integers(0, 3),
    checkpoints=st.frozensets(st.integers(0, 7), max_size=3),
    spare=st.sampled_from([None, 0, 2]),
)
def test_no_schedule_is_stale_or_stuck(
    seed: int, world_size: int, lookahead: int, depth: int, checkpoints: frozenset[int], spare: int | None
) -> None:
    """Whatever comes when and is lost where: reads are the uncached ones, checkpoints and tables are whole."""
    more = {"world_size": world_size, "lookahead": lookahead, "depth": depth, "checkpoints": checkpoints}
    world(seed, spare=spare, **more).run()


# ── each rule is needed ───────────────────────────────────────────────────────────────────────────


def without_waiting(guard: Guard, state: State) -> tuple[Rule, ...]:
    return tuple(replace(r, guard=Guard.ALWAYS) if (r.guard, r.state) == (guard, state) else r for r in TABLE)


def without(do: Do) -> tuple[Rule, ...]:
    return tuple(replace(r, instructions=tuple(d for d in r.instructions if d is not do)) for r in TABLE)


def without_release(state: State, event: Event, guard: Guard) -> tuple[Rule, ...]:
    """The rule without what it releases; where another rule says the same without it, that one applies."""
    return tuple(
        replace(r, instructions=tuple(d for d in r.instructions if d not in RELEASE))
        if (r.state, r.event, r.guard) == (state, event, guard)
        else r
        for r in TABLE
    )


NEEDED: dict[str, tuple[tuple[Rule, ...], str, dict[str, object]]] = {
    "deferred values are awaited": (without_waiting(Guard.DEFERRED_HERE, State.AWAITS_DEFERRED), "", {"lookahead": 4}),
    "fetched rows are awaited": (without_waiting(Guard.ROWS_HERE, State.AWAITS_ROWS), "stale", {}),
    "eager values are awaited": (without_waiting(Guard.EAGER_HERE, State.AWAITS_EAGER), "stale", {}),
    "gradients are awaited": (without_waiting(Guard.GRADIENTS_HERE, State.AWAITS_GRADIENTS), "", {}),
    "a checkpoint awaits eager values": (without_waiting(Guard.EAGER_HERE, State.CHECKPOINT_EAGER), "", {}),
    "a checkpoint awaits deferred values": (
        without_waiting(Guard.DEFERRED_HERE, State.CHECKPOINT_DEFERRED),
        "",
        {"lookahead": 4},
    ),
    "a checkpoint holds rows that stay": (without(Do.COPY_STAYING), "checkpoint", {}),
    "deferred values are copied before others come in": (without(Do.COPY_DEFERRED), "", {}),
    "rows that leave are copied before others come in": (without(Do.COPY_LEAVING), "", {}),
    "no plan is awaited with a step unreported": (
        without_release(State.BETWEEN, Event.NEXT_ASKED, Guard.ALWAYS),
        "stuck",
        {"depth": 0},
    ),
    "the last step is released": (
        without_release(State.BETWEEN, Event.NEXT_ASKED, Guard.PLANS_OVER),
        "a step was not written back",
        {"ends": 6},
    ),
    "rows are requested": (without(Do.REQUEST_ROWS), "stuck", {"depth": 0}),
    "plans are asked for after a reconnect": (without(Do.ASK_FOR_PLANS), "stuck", {}),
    "steps are confirmed": (without(Do.CONFIRM), "too much is kept", {"num_steps": 20}),
    "a leaving trainer waits until the others miss nothing": (
        without(Do.LEAVE_PEERS),
        "stuck",
        {"often": 0.2, "resets": 200, "notices": 0.02},
    ),
}


@pytest.mark.parametrize("rule", NEEDED)
def test_each_rule_is_needed(rule: str) -> None:
    """With the rule taken out of the table some schedule is stale, stuck, or keeps too much."""
    table, what, more = NEEDED[rule]
    for seed in range(400):
        try:
            world(seed, table=table, **more).run()
        except (AssertionError, KeyError, IndexError) as error:
            if what in str(error):
                return
    raise AssertionError("no schedule shows it")


def test_what_the_next_step_fetches_is_written_back_first() -> None:
    """A plan that fetches what the step before writes back: it goes out when the step begins, or nothing goes on."""
    first, second = (
        StepFacts(
            step, True, False, fetches=step == 1, fetch_after=0, gradients_from=(), eager_from=(1,), deferred_from=()
        )
        for step in range(2)
    )
    machine = StepMachine(num_groups=1, first_step=0, depth=0)
    machine.plan_arrived(first)
    machine.plan_arrived(second)
    for event in (Event.NEXT_ASKED, Event.ROWS_ASKED, Event.ROWS_HANDED_OUT, Event.BACKWARD_ENDED, Event.STEP_ENDED):
        machine.happened(event)
    release = [Instruction(do, 0) for do in RELEASE]
    assert machine.happened(Event.NEXT_ASKED) == release


def test_an_event_out_of_order_is_an_error_that_says_so() -> None:
    """The table holds every order that is allowed; another one is a bug, not a surprise."""
    machine = StepMachine(num_groups=1, first_step=0, depth=0)
    with pytest.raises(BagpipeError, match="no rule for 'backward has returned' while 'between steps'"):
        machine.happened(Event.STEP_ENDED)


def test_an_interrupted_step_is_neither_updated_nor_reported() -> None:
    """Leaving in the middle of a step: nothing of it goes out but the word that this trainer leaves."""
    lone = world(0, world_size=1, checkpoints=frozenset())
    (party,) = lone.parties
    while party.machine.state is not State.COMPUTING or party.to_do:
        lone.random.choice(lone.possible())()
    assert [one.do for one in party.machine.happened(Event.LEAVE_ASKED)] == [Do.SAY_LEAVING]
    assert party.machine.state is State.OVER


def test_the_machine_needs_no_torch_and_no_socket() -> None:
    """It can be read, tested and drawn where neither is installed."""
    code = "import sys, bagpipe.trainer.machine, bagpipe.trainer.delivery; print({'torch', 'zmq'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_oracle_takes_every_wait_that_a_step_reports() -> None:
    """A name that `claims.WAITS` lacks would have every report of a step refused; one too many is never told."""
    watch = StepWatch(updated=0.0)
    watch.backward_returned()
    assert {*WAITS.values(), *_COUNTED.values(), *watch.waits} == claims.WAITS


def test_what_a_peer_says_too_much_of_is_not_kept() -> None:
    """Word of rows that no plan asks for is forgotten when its step is over, or it would stay until the run ends."""
    machine = StepMachine(num_groups=1, first_step=0, depth=0)
    machine.happened(Event.JOINED)
    for step in range(40):
        machine.plan_arrived(StepFacts(step, True, False, False, -1, (), (), ()))
        for kind in ("gradients", "eager", "deferred"):
            machine.peer_rows_arrived(kind, step, 1)
        machine.happened(Event.NEXT_ASKED)
        for event in (Event.ROWS_ASKED, Event.ROWS_HANDED_OUT):
            machine.happened(event)
        machine.gradients_made(0)
        for event in (Event.BACKWARD_ENDED, Event.STEP_ENDED):
            machine.happened(event)
    assert machine.finished >= 38 and len(machine._here) <= 9
