"""The order of a trainer's step, as a table: in which state, at which event, what is sent, stored or updated.

`StepMachine` (`machine.py`) reads the table, `StepHands` (`hands.py`) carries out its instructions, `docs/step.md`
shows it as a page and a picture (`python tools/draw_step.py`). The reasons for this order are in docs/decisions/0010,
0012 and 0013. In short: on a slow link each byte delays those behind it, so what a trainer waits for is sent first, and
what none waits for is sent when everything else has come in.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a trainer is. In a state with a key in `WAITS` it waits."""

    BETWEEN = "between steps"
    AWAITS_PLAN = "awaits a plan"
    BEGUN = "step begun"
    AWAITS_DEFERRED = "awaits deferred values"
    AWAITS_ROWS = "awaits fetched rows"
    AWAITS_EAGER = "awaits eager values"
    HOLDS_ROWS = "rows gathered"
    COMPUTING = "computing"
    GRADIENTS_SENT = "gradients sent"
    AWAITS_GRADIENTS = "awaits gradients"
    UPDATED = "rows updated"
    CHECKPOINT_EAGER = "checkpoint: awaits eager values"
    CHECKPOINT_DEFERRED = "checkpoint: awaits deferred values"
    LAST_EAGER = "end: awaits eager values"
    LAST_DEFERRED = "end: awaits deferred values"
    LAST_WRITE_BACKS = "end: awaits acknowledgements"
    OVER = "over"


WAITS = {
    State.AWAITS_PLAN: "plan",
    State.AWAITS_DEFERRED: "deferred",
    State.AWAITS_ROWS: "fetch",
    State.AWAITS_EAGER: "eager",
    State.AWAITS_GRADIENTS: "gradients",
    State.CHECKPOINT_EAGER: "deferred",
    State.CHECKPOINT_DEFERRED: "deferred",
    State.LAST_EAGER: "eager",
    State.LAST_DEFERRED: "deferred",
    State.LAST_WRITE_BACKS: "write_back",
}
"""The key under which a wait is reported (`StepDone.waits`); the oracle takes no others (`claims.WAITS`)."""


class Event(StrEnum):
    """What makes a trainer go on."""

    JOINED = "the trainer has joined"
    NEXT_ASKED = "the loop asks for the next step"
    ROWS_ASKED = "the model reads its first row"
    HERE = "what is awaited is here"
    ROWS_HANDED_OUT = "the model has its rows"
    GRADIENTS_MADE = "backward has made the gradients of a width group"
    BACKWARD_ENDED = "backward has nothing left to compute"
    STEP_ENDED = "backward has returned"
    EVALUATED = "the test batch has its logits"
    LEAVE_ASKED = "the loop leaves before the end"
    STOP_ASKED = "the process is asked to stop"
    ORACLE_RECONNECTED = "the connection to the oracle was made anew"


class Guard(StrEnum):
    """A condition on what the machine knows; of the rules for one state and event the first that holds applies."""

    ALWAYS = ""
    PLAN_HERE = "its plan is here"
    PLAN_NEEDS_WRITE_BACK = "its plan is here, and fetches what the step before writes back"
    PLANS_OVER = "there are no more plans"
    DEFERRED_HERE = "all deferred values are here"
    ROWS_HERE = "all fetched rows are here"
    EAGER_HERE = "all eager values are here"
    ALL_GRADIENTS_MADE = "it was the last group"
    GRADIENTS_HERE = "every trainer's gradients are here"
    FLUSHES = "a checkpoint or a validation comes after this step"
    NEXT_VALUES_HERE = "the next step's eager values are here already"
    WRITTEN_BACK = "every server has acknowledged"


class Do(StrEnum):
    """An instruction to the driver, for one step. `machine.py` says which step each is for."""

    SAY_HELLO = "say hello to the oracle"
    ASK_FOR_PLANS = "ask the oracle for plans"
    REQUEST_ROWS = "request this step's rows"
    REQUEST_ROWS_AHEAD = "request the rows of planned steps"
    STORE_DEFERRED = "store deferred values"
    LOAD_ROWS = "store fetched rows"
    STORE_EAGER = "store eager values"
    CONFIRM = "confirm the steps of which nothing is missing"
    GATHER_ROWS = "gather the step's rows"
    SEND_GRADIENTS = "send gradients to their owners"
    ADD_GRADIENTS = "add the others' gradients"
    UPDATE_ROWS = "update owned rows"
    SEND_EAGER = "send eager values"
    COPY_DEFERRED = "copy deferred values"
    COPY_LEAVING = "copy rows that leave"
    COPY_STAYING = "copy rows that stay"
    SEND_DEFERRED = "send deferred values"
    WRITE_BACK = "write back"
    REPORT = "report the step"
    REPORT_LOGITS = "report the logits"
    LEAVE_PEERS = "see that the other trainers miss nothing"
    SAY_LEAVING = "tell the oracle who leaves and why"
    SAY_STOP = "ask the oracle for a checkpoint and the end"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table."""

    state: State | None
    """None: in every state, which stays."""
    event: Event
    guard: Guard
    instructions: tuple[Do, ...]
    then: State | None
    """None: the state stays."""


RELEASE = (Do.SEND_DEFERRED, Do.WRITE_BACK, Do.REPORT)
"""What nobody waits for, of the last step that has ended; nothing if it has been sent."""


TABLE: tuple[Rule, ...] = (
    # ── a step begins with its plan alone ─────────────────────────────────────────────────────────
    Rule(State.BETWEEN, Event.JOINED, Guard.ALWAYS, (Do.ASK_FOR_PLANS,), None),
    # Without a cache, or with too small a one, a row is fetched in the step after it was written back.
    Rule(
        State.BETWEEN,
        Event.NEXT_ASKED,
        Guard.PLAN_NEEDS_WRITE_BACK,
        (Do.REQUEST_ROWS, *RELEASE),
        State.BEGUN,
    ),
    Rule(State.BETWEEN, Event.NEXT_ASKED, Guard.PLAN_HERE, (Do.REQUEST_ROWS,), State.BEGUN),
    Rule(State.BETWEEN, Event.NEXT_ASKED, Guard.PLANS_OVER, RELEASE, State.LAST_EAGER),
    # The oracle sends the next plan when this trainer reports: the report must not wait for the plan.
    Rule(State.BETWEEN, Event.NEXT_ASKED, Guard.ALWAYS, RELEASE, State.AWAITS_PLAN),
    Rule(State.AWAITS_PLAN, Event.HERE, Guard.PLAN_HERE, (Do.REQUEST_ROWS,), State.BEGUN),
    Rule(State.AWAITS_PLAN, Event.HERE, Guard.PLANS_OVER, (), State.LAST_EAGER),
    # ── its rows are awaited when the model reads them ────────────────────────────────────────────
    Rule(State.BEGUN, Event.ROWS_ASKED, Guard.ALWAYS, (), State.AWAITS_DEFERRED),
    Rule(State.AWAITS_DEFERRED, Event.HERE, Guard.DEFERRED_HERE, (Do.STORE_DEFERRED,), State.AWAITS_ROWS),
    Rule(State.AWAITS_ROWS, Event.HERE, Guard.ROWS_HERE, (Do.LOAD_ROWS,), State.AWAITS_EAGER),
    # Sent last, so awaited last.
    Rule(
        State.AWAITS_EAGER,
        Event.HERE,
        Guard.EAGER_HERE,
        (Do.STORE_EAGER, Do.CONFIRM, Do.GATHER_ROWS),
        State.HOLDS_ROWS,
    ),
    # Now the link is free: what the step before has held back is sent under forward.
    Rule(
        State.HOLDS_ROWS,
        Event.ROWS_HANDED_OUT,
        Guard.ALWAYS,
        (*RELEASE, Do.REQUEST_ROWS_AHEAD),
        State.COMPUTING,
    ),
    # ── gradients leave under backward, rows are updated where it ends ────────────────────────────
    Rule(State.COMPUTING, Event.GRADIENTS_MADE, Guard.ALL_GRADIENTS_MADE, (Do.SEND_GRADIENTS,), State.GRADIENTS_SENT),
    Rule(State.COMPUTING, Event.GRADIENTS_MADE, Guard.ALWAYS, (), None),
    Rule(State.COMPUTING, Event.BACKWARD_ENDED, Guard.ALWAYS, (Do.SEND_GRADIENTS,), State.AWAITS_GRADIENTS),
    Rule(State.GRADIENTS_SENT, Event.BACKWARD_ENDED, Guard.ALWAYS, (), State.AWAITS_GRADIENTS),
    # Eager values go behind the dense gradients, which are on their way. All that leaves is copied before anything
    # that arrives is stored: that makes slots safe to use again.
    Rule(
        State.AWAITS_GRADIENTS,
        Event.HERE,
        Guard.GRADIENTS_HERE,
        (Do.ADD_GRADIENTS, Do.UPDATE_ROWS, Do.SEND_EAGER, Do.COPY_DEFERRED, Do.COPY_LEAVING),
        State.UPDATED,
    ),
    # ── the rest goes out when nobody waits for anything else ─────────────────────────────────────
    Rule(State.UPDATED, Event.STEP_ENDED, Guard.FLUSHES, (Do.SEND_DEFERRED,), State.CHECKPOINT_EAGER),
    Rule(State.UPDATED, Event.STEP_ENDED, Guard.NEXT_VALUES_HERE, (*RELEASE, Do.REQUEST_ROWS_AHEAD), State.BETWEEN),
    Rule(State.UPDATED, Event.STEP_ENDED, Guard.ALWAYS, (), State.BETWEEN),
    Rule(State.CHECKPOINT_EAGER, Event.HERE, Guard.EAGER_HERE, (Do.STORE_EAGER,), State.CHECKPOINT_DEFERRED),
    Rule(
        State.CHECKPOINT_DEFERRED,
        Event.HERE,
        Guard.DEFERRED_HERE,
        (Do.STORE_DEFERRED, Do.COPY_STAYING, Do.WRITE_BACK, Do.REPORT, Do.REQUEST_ROWS_AHEAD),
        State.BETWEEN,
    ),
    Rule(State.COMPUTING, Event.EVALUATED, Guard.ALWAYS, (Do.REPORT_LOGITS,), State.BETWEEN),
    # ── the end ───────────────────────────────────────────────────────────────────────────────────
    Rule(State.LAST_EAGER, Event.HERE, Guard.EAGER_HERE, (Do.STORE_EAGER,), State.LAST_DEFERRED),
    Rule(State.LAST_DEFERRED, Event.HERE, Guard.DEFERRED_HERE, (Do.STORE_DEFERRED,), State.LAST_WRITE_BACKS),
    Rule(State.LAST_WRITE_BACKS, Event.HERE, Guard.WRITTEN_BACK, (Do.LEAVE_PEERS,), State.OVER),
    Rule(State.BETWEEN, Event.LEAVE_ASKED, Guard.ALWAYS, (*RELEASE, Do.SAY_LEAVING), State.OVER),
    # ── at any time ───────────────────────────────────────────────────────────────────────────────
    # Of a step that was interrupted nothing is updated, written back or reported.
    Rule(None, Event.LEAVE_ASKED, Guard.ALWAYS, (Do.SAY_LEAVING,), State.OVER),
    Rule(None, Event.STOP_ASKED, Guard.ALWAYS, (Do.SAY_STOP,), None),
    Rule(None, Event.ORACLE_RECONNECTED, Guard.ALWAYS, (Do.SAY_HELLO, Do.ASK_FOR_PLANS), None),
)
